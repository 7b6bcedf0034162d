"""Output files appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sbs_opt.instances import atomic_write, check_writable, read_trace, read_windows
from sbs_opt.models.errors import InputError


def test_text_is_utf8_with_plain_line_feeds(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as file:
        file.write("ρ\n")
    assert (tmp_path / "a").read_bytes() == "ρ\n".encode()


def test_old_file_survives_a_failure_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")

    def fail() -> None:
        with atomic_write(target, "wb") as file:
            file.write(b"half")
            file.flush()
            assert target.read_text() == "old", "nobody sees a half-written file"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_permissions_are_those_of_the_old_file_or_of_a_plain_open(tmp_path: Path) -> None:
    """tempfile would leave every report readable by its owner only."""
    with (tmp_path / "plain").open("w"):
        pass
    with atomic_write(tmp_path / "new"):
        pass
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "new").chmod(0o640)
    with atomic_write(tmp_path / "new") as file:
        file.write("x")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_symbolic_link_is_followed_and_pipe_written_to(tmp_path: Path) -> None:
    """Replacing a device such as /dev/null by a file would break the machine."""
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_write(tmp_path / "link") as file:
        file.write("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "x"
    # A pipe stands for /dev/stdout and its like: a failing test must not be able to replace the real ones.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_writable(pipe)
        with atomic_write(pipe) as file:
            file.write("x")
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert os.read(reader, 9) == b"x"
    finally:
        os.close(reader)


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as first, atomic_write(tmp_path / "a") as second:
        first.write("first")
        second.write("second")
    assert (tmp_path / "a").read_text() == "first", "the outer block ends last"
    assert os.listdir(tmp_path) == ["a"]


def test_check_writable_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new")
    assert not (tmp_path / "new").exists(), "checking writes nothing"
    with pytest.raises(InputError, match=r"missing/a: there is no folder .*missing; create it first"):
        check_writable(tmp_path / "missing" / "a")
    with pytest.raises(InputError, match="is a folder; give the name of a file"):
        check_writable(tmp_path)
    (tmp_path / "old").write_text("")
    with pytest.raises(InputError, match=r"there is no folder .*old"):
        check_writable(tmp_path / "old" / "a")
    assert os.listdir(tmp_path) == ["old"], "the file that tries the folder is gone"
    # the superuser may write everywhere, so permission is refused here by decree
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="protected against writing"):
        check_writable(tmp_path / "old")


def test_folder_is_tried_rather_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The permissions of /proc/self and of a read-only disk let root write: the refusal came after the computing."""

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match=r"the folder .* may not be written to \(Permission denied\)"):
        check_writable(tmp_path / "new")


@pytest.mark.parametrize(("name", "said"), [("", "no file name given"), ("a\0b", "NUL")])
def test_what_names_no_file(name: str, said: str) -> None:
    for use in (check_writable, read_trace, lambda path: list(read_windows(path))):
        with pytest.raises(InputError, match=said):
            use(name)
