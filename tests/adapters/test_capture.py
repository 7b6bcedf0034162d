"""A capture is a trace: nothing lost by rotation, crashes or a full disk, and nothing in it that is text."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.adapters import append_file
from sbs_opt.adapters.capture import CaptureWriter, FinishedRequest
from sbs_opt.cli.main import main
from sbs_opt.instances import read_trace
from sbs_opt.instances.formats.plain import CAPTURED
from sbs_opt.models.errors import InputError
from tests.cli.conftest import FLEET

SECOND = 1_000_000_000
ORIGIN = 1_763_640_000 * SECOND


@pytest.fixture(autouse=True)
def _fixed_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: ORIGIN)


def request_number(k: int, **changes: Any) -> FinishedRequest:
    arrival = ORIGIN + k * SECOND // 8 + k
    fields: dict[str, Any] = {
        "arrival_ns": arrival, "end_ns": arrival + 2 * SECOND, "prompt_tokens": 100 + k, "output_tokens": k % 7,
        "outcome": "answered", "first_token_ns": arrival + SECOND // 4, "placement": (k % 3, k % 32),
    }  # fmt: skip
    return FinishedRequest(**(fields | changes))


def writer(path: Path, **changes: Any) -> CaptureWriter:
    return CaptureWriter(path, **({"rotate_bytes": 1 << 20, "keep": 3} | changes))


def rows_of(path: Path) -> list[dict[str, Any]]:
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(header)["schema"] == "sbs-opt/trace/1"
    return [json.loads(row) for row in rows]


def test_a_capture_reads_as_the_trace_that_was_served(tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    with writer(path, block_tokens=32) as out:
        for k in (1, 0, 2):  # in the order of finishing
            out.write(request_number(k, block_ids=np.array([2**63 - 1, 7, k]), session=k // 2))
    trace = read_trace(path)
    assert trace.requests.arrival_ns.tolist() == [0, SECOND // 8 + 1, SECOND // 4 + 2]
    assert trace.requests.prompt_tokens.tolist() == [100, 101, 102]
    assert trace.requests.output_tokens.tolist() == [0, 1, 2]
    assert trace.requests.block_tokens == 32
    assert np.diff(trace.requests.block_offset).tolist() == [3, 3, 3]
    assert trace.requests.session.tolist() == [0, 0, 1]
    assert any(str(ORIGIN) in note for note in trace.notes)


def test_a_line_holds_the_placement_and_what_became_of_it(tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    with writer(path) as out:
        out.write(request_number(0))
        out.write(request_number(1, placement=None, first_token_ns=None, outcome="rejected_overload"))
    first, second = rows_of(path)
    assert [first[name] for name in CAPTURED] == [[0, 0], 0.25, 2, "answered"]
    assert [second[name] for name in CAPTURED] == [None, None, 2.125000001, "rejected_overload"]
    assert '"arrival_s":0.125000001' in path.read_text(encoding="utf-8")  # exact: never through a binary float


def test_compare_replays_a_capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(FLEET, encoding="utf-8")
    with writer(Path("live.jsonl"), block_tokens=64) as out:
        for k in range(60):
            out.write(request_number(k, block_ids=[5, k], output_tokens=1 + k % 7))
    command = ["compare", "live.jsonl", "--deployment", "small.toml", "--policies", "phase_aware", "--load", "0.5"]
    assert main([*command, "--json", "out.json"]) == 0
    (row,) = json.loads(Path("out.json").read_text(encoding="utf-8"))["rows"]
    assert row["answered"] == row["requests"] > 0


def test_blocks_beyond_the_true_length_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    with writer(path, block_tokens=64) as out:
        out.write(request_number(0, prompt_tokens=65, block_ids=[1, 2, 3, 4]))
        out.write(request_number(1, prompt_tokens=0, block_ids=[1]))
    assert [row.get("block_ids") for row in rows_of(path)] == [[1, 2], None]
    assert len(read_trace(path).requests) == 2


@given(
    st.lists(st.tuples(*[st.integers(0, 2**62)] * 3, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)), max_size=5)
)
def test_any_request_can_be_read_back(tmp_path_factory: pytest.TempPathFactory, numbers: list[tuple[int, ...]]) -> None:
    path = tmp_path_factory.mktemp("capture") / "live.jsonl"
    with writer(path) as out:
        for arrival, first, end, prompt, output in numbers:
            out.write(FinishedRequest(arrival, end, prompt, output, "answered", first_token_ns=first))
    if numbers:
        trace = read_trace(path)
        assert sorted(trace.requests.arrival_ns.tolist()) == sorted(max(0, row[0] - ORIGIN) for row in numbers)
        assert sorted(trace.requests.prompt_tokens.tolist()) == sorted(row[3] for row in numbers)


def test_a_torn_last_line_is_cut_off_and_told(tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    with writer(path) as out:
        assert out.torn_lines == 0
        for k in range(5):
            out.write(request_number(k))
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in (last + 1, len(whole) - 1, last):
        path.write_bytes(whole[:cut])
        with writer(path) as out:
            assert out.torn_lines == int(cut != last)
            assert path.read_bytes() == whole[:last]
            out.write(request_number(4))
        assert path.read_bytes() == whole


def test_a_tail_longer_than_one_reading_is_cut_off_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append_file, "_READ_BYTES", 16)
    path = tmp_path / "live.jsonl"
    with writer(path) as out:
        out.write(request_number(0))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"arrival_s":' + b"1" * 100)
    with writer(path) as out:
        assert out.torn_lines == 1
    assert path.read_bytes() == whole


def test_a_torn_header_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    path.write_bytes(b'{"schema":"sbs-opt/tr')
    with writer(path) as out:
        assert out.torn_lines == 1
        out.write(request_number(0))
    assert len(rows_of(path)) == 1


def test_a_capture_goes_on_with_its_origin_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "live.jsonl"
    with writer(path) as out:
        out.write(request_number(0))
    monkeypatch.setattr(time, "time_ns", lambda: ORIGIN + 3600 * SECOND)
    with writer(path) as out:
        out.write(request_number(8))
    assert [row["arrival_s"] for row in rows_of(path)] == [0, 1.000000008]


@pytest.mark.parametrize("rotate_bytes", [1, 700, 2000])
def test_rotation_loses_nothing(tmp_path: Path, rotate_bytes: int) -> None:
    path = tmp_path / "live.jsonl"
    with writer(path, rotate_bytes=rotate_bytes, keep=100) as out:
        for k in range(40):
            out.write(request_number(k))
    files = sorted(tmp_path.iterdir(), key=lambda file: int(file.name.removeprefix("live.jsonl").strip(".") or 0))
    assert len(files) > 2
    newest_first = [row["prompt_tokens"] for file in files for row in reversed(rows_of(file))]
    assert newest_first == [100 + k for k in reversed(range(40))]
    for file in files:
        assert file.stat().st_size <= max(rotate_bytes, 400)
        read_trace(file)
    starts = {file.read_text(encoding="utf-8").splitlines()[0] for file in files}
    assert len(starts) == 1  # times of all files count from one origin


def test_rotation_keeps_so_many_files(tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    with writer(path, rotate_bytes=1, keep=2) as out:
        for k in range(10):
            out.write(request_number(k))
    assert {file.name for file in tmp_path.iterdir()} == {"live.jsonl", "live.jsonl.1", "live.jsonl.2"}
    assert [rows_of(tmp_path / f"live.jsonl{end}")[0]["prompt_tokens"] for end in ("", ".1", ".2")] == [109, 108, 107]


def test_another_block_size_begins_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    for size in (64, 64, 32):
        with writer(path, block_tokens=size) as out:
            out.write(request_number(size, block_ids=[1]))
    assert [row["block_tokens"] for row in rows_of(path)] == [32]
    assert [row["block_tokens"] for row in rows_of(tmp_path / "live.jsonl.1")] == [64, 64]
    read_trace(path)


def test_who_reads_meanwhile_finds_whole_lines_up_to_the_last_line_feed(tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    seen: list[bytes] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(path.read_bytes())

    with writer(path, rotate_bytes=1 << 30, block_tokens=1) as out:
        reader = threading.Thread(target=read)
        reader.start()
        for k in range(200):
            out.write(request_number(k, prompt_tokens=2000, output_tokens=k, block_ids=np.arange(1000) + 2**40))
        done.set()
        reader.join()
    assert seen
    for data in seen:
        rows = [json.loads(line) for line in data.split(b"\n")[1:-1]]
        assert [row["output_tokens"] for row in rows] == list(range(len(rows)))
        assert all(len(row["block_ids"]) == 1000 for row in rows)


@pytest.mark.parametrize("fits", [0, 1, 50])
def test_a_full_disk_is_an_error_and_the_file_still_parses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    path = tmp_path / "live.jsonl"
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if not fits:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:fits])

    with writer(path) as out:
        out.write(request_number(0))
        monkeypatch.setattr(os, "write", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space left") as raised:
                out.write(request_number(1))
            assert raised.value.errno == errno.ENOSPC
            assert len(read_trace(path).requests) == 1
        monkeypatch.setattr(os, "write", write)
        out.write(request_number(2))
    assert [row["prompt_tokens"] for row in rows_of(path)] == [100, 102]


def test_a_rotation_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "live.jsonl"
    open_file = os.open

    def no_descriptors(*arguments: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with writer(path, rotate_bytes=1, keep=8) as out:
        for k in range(4):
            out.write(request_number(k))
        monkeypatch.setattr(os, "open", no_descriptors)
        for _ in range(10):  # each attempt had moved the old files on, until they were gone
            with pytest.raises(OSError, match="Too many"):
                out.write(request_number(4))
        monkeypatch.setattr(os, "open", open_file)
        out.write(request_number(5))
    found = [row["prompt_tokens"] for file in sorted(tmp_path.iterdir()) for row in rows_of(file)]
    assert sorted(found) == [100, 101, 102, 103, 105]


def test_a_file_of_others_in_the_way_of_a_rotation_stays(tmp_path: Path) -> None:
    path, other = tmp_path / "live.jsonl", tmp_path / "live.jsonl.new"
    other.write_text("somebody else's", encoding="utf-8")
    with writer(path, rotate_bytes=1) as out:
        out.write(request_number(0))
        with pytest.raises(FileExistsError):
            out.write(request_number(1))
        assert other.read_text(encoding="utf-8") == "somebody else's"
        other.unlink()
        out.write(request_number(2))
    found = [row["prompt_tokens"] for file in sorted(tmp_path.iterdir()) for row in rows_of(file)]
    assert sorted(found) == [100, 102]


@pytest.mark.parametrize("failing", range(4))
def test_a_rename_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    path = tmp_path / "live.jsonl"
    rename, calls = os.replace, itertools.count()

    def fails_once(*arguments: Any) -> None:
        if next(calls) % 4 == failing:
            raise OSError(errno.EIO, "Input/output error")
        rename(*arguments)

    with writer(path, rotate_bytes=1, keep=8) as out:
        for k in range(3):
            out.write(request_number(k))
        monkeypatch.setattr(os, "replace", fails_once)
        with pytest.raises(OSError, match="Input/output"):
            out.write(request_number(3))
        monkeypatch.setattr(os, "replace", rename)
        out.write(request_number(4))
    found = [row["prompt_tokens"] for file in sorted(tmp_path.iterdir()) for row in rows_of(file)]
    assert sorted(found) == [100, 101, 102, 104]


def test_a_process_that_is_killed_leaves_a_file_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    program = """
import itertools, sys
from sbs_opt.adapters.capture import CaptureWriter, FinishedRequest
out = CaptureWriter(sys.argv[1], rotate_bytes=1 << 30, keep=1)
for k in itertools.count():
    out.write(FinishedRequest(k, k, k, 1, "answered"))
"""
    with subprocess.Popen([sys.executable, "-c", program, str(path)]) as process:
        while not path.exists() or path.stat().st_size < 20_000:
            assert process.poll() is None
        process.kill()
    before = path.read_bytes().count(b"\n") - 1
    with writer(path) as out:
        out.write(request_number(0))
    rows = rows_of(path)
    assert [row["prompt_tokens"] for row in rows] == [*range(before), 100]


@pytest.mark.parametrize(
    "content",
    [
        b"precious notes\n",
        b"precious",
        b'{"schema":"sbs-opt/trace/1","notes":["mine"]}\n{"arrival_s":1,"prompt_tokens":1,"output_tokens":1}',
        b'{"schema":"sbs-opt/trace/1","notes":["captured live; times count from noon"]}\n',
    ],
)
def test_a_file_that_is_no_capture_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no capture of ours"):
        writer(path)
    assert path.read_bytes() == content


def test_two_writers_of_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    with writer(path), pytest.raises(InputError, match="another process writes"):
        writer(path)
    writer(path).close()


@pytest.mark.parametrize("outcome", ["", "Answered", "two words", 'a"b', "x" * 40, "naïve"])
def test_an_outcome_is_one_word_so_that_no_text_slips_in(outcome: str) -> None:
    with pytest.raises(InputError, match="outcome"):
        request_number(0, outcome=outcome)


def test_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prompt_tokens = -1"):
        request_number(0, prompt_tokens=-1)
    with pytest.raises(InputError, match="keep = 0"):
        writer(tmp_path / "live.jsonl", keep=0)
    with pytest.raises(InputError, match="rotate_bytes = 0"):
        writer(tmp_path / "live.jsonl", rotate_bytes=0)


def test_only_the_owner_may_read_a_capture(tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    writer(path).close()
    assert path.stat().st_mode & 0o077 == 0
