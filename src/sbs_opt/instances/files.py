"""Files written whole or not at all, and checked before hours of computing."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any, Literal, overload

from sbs_opt.models.errors import InputError

PathLike = str | os.PathLike[str]


def check_name(path: PathLike) -> None:
    """Raise `InputError` where `path` can name no file: it is empty or holds a NUL character."""
    name = os.fspath(path)
    if not name:
        raise InputError("no file name given; an empty one names no file")
    if "\0" in name:
        raise InputError(f"{name!r}: holds a NUL character, which no file name may; give another name")


def check_writable(path: PathLike) -> None:
    """Raise where a file at `path` could not be written; call it before computing.

    A temporary file is made in the folder and removed: what the permissions say is not what the superuser, a read-only
    file system or /proc does.

    Raises
    ------
    InputError
        The folder does not exist or may not be written to, or `path` is a folder, a protected file or no name.
    """
    check_name(path)
    target = Path(os.path.realpath(path))
    folder = target.parent
    if target.is_dir():
        raise InputError(f"{os.fspath(path)}: is a folder; give the name of a file in it")
    if not folder.is_dir():
        raise InputError(f"{os.fspath(path)}: there is no folder {folder}; create it first")
    if target.exists() and not os.access(target, os.W_OK):
        raise InputError(f"{os.fspath(path)}: the file is protected against writing; choose another name")
    if not _is_replaceable(target):
        return
    try:
        temporary, descriptor = _temporary_beside(target)
    except OSError as error:
        raise InputError(
            f"{os.fspath(path)}: the folder {folder} may not be written to ({error.strerror}); choose another one"
        ) from error
    os.close(descriptor)
    temporary.unlink()


@overload
def atomic_write(path: PathLike, mode: Literal["w"] = "w") -> AbstractContextManager[IO[str]]: ...
@overload
def atomic_write(path: PathLike, mode: Literal["wb"]) -> AbstractContextManager[IO[bytes]]: ...
def atomic_write(path: PathLike, mode: Literal["w", "wb"] = "w") -> Any:
    """Open a file that takes the place of `path` when the block ends well; text is UTF-8 with plain line feeds.

    What was there stays untouched when the block raises, and no temporary file is left. Whoever opens `path` sees the
    old content or the new one, never a part. A device or pipe is written to directly.

    Parameters
    ----------
    path
        The file to write; a symbolic link is followed.
    mode
        "w" for text, "wb" for bytes.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    return _atomic_write(Path(os.path.realpath(path)), mode)


@contextmanager
def _atomic_write(target: Path, mode: str) -> Iterator[IO[Any]]:
    text = {} if mode == "wb" else {"encoding": "utf-8", "newline": "\n"}
    if not _is_replaceable(target):
        with open(target, mode, **text) as file:  # type: ignore[call-overload]  # mode and text agree
            yield file
        return
    temporary, descriptor = _temporary_beside(target)
    try:
        with open(descriptor, mode, **text) as file:  # type: ignore[call-overload]
            yield file
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _is_replaceable(target: Path) -> bool:
    return target.is_file() or not target.exists()


def _temporary_beside(target: Path) -> tuple[Path, int]:
    # os.open rather than tempfile: the new file gets the user's usual permissions instead of 0600.
    for attempt in count():
        temporary = target.with_name(f".{target.name}.{os.getpid()}-{attempt}.tmp")
        try:
            return temporary, os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
    raise AssertionError  # count() does not end


@contextmanager
def compressed(file: IO[bytes], path: PathLike) -> Iterator[IO[bytes]]:
    """Yield a writer into `file` that compresses as the suffix of `path` says (.gz, .zst, else not at all).

    Equal content gives equal bytes: no time and no name is stored.
    """
    suffix = Path(path).suffix
    if suffix == ".gz":
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=9, mtime=0) as out:
            yield out  # type: ignore[misc]  # a GzipFile is an IO[bytes] in all but its stub
    elif suffix == ".zst":
        import zstandard

        with zstandard.ZstdCompressor(level=10).stream_writer(file, closefd=False) as out:
            yield out
    else:
        yield file
