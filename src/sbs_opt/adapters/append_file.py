"""A file of JSON lines that only grows, by whole blocks of lines."""

from __future__ import annotations

import errno
import os

from sbs_opt.instances.files import PathLike, check_name
from sbs_opt.models.errors import InputError

_READ_BYTES = 1 << 16


class AppendFile:
    """Append blocks of lines to a file that no other process writes.

    Parameters
    ----------
    path
        The file, made where it is absent and continued where it is there. A last line that a crash cut off is removed.
    start
        How every line begins: a file that begins otherwise is somebody else's.
    option
        What the caller's user knows the file by; named in errors.

    Attributes
    ----------
    torn_lines
        Cut-off lines removed on opening: 0 or 1.

    Raises
    ------
    InputError
        `path` is another kind of file, or another process is writing it.
    OSError
        The file cannot be opened.

    Notes
    -----
    A block is one write to a descriptor that appends: a crash of the process leaves at most one torn line, the last.
    """

    def __init__(self, path: PathLike, *, start: bytes, option: str) -> None:
        import fcntl  # POSIX alone has it

        check_name(path)
        self._path = os.fspath(path)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"{option} = {self._path}: another process writes to it; give each its own file"
                ) from error
            begin = os.pread(self._descriptor, len(start), 0)
            if begin != start[: len(begin)]:
                raise InputError(
                    f"{option} = {self._path}: the file exists and is no {option} of ours; give another name"
                )
            size = os.fstat(self._descriptor).st_size
            self._size = self._end_of_whole_lines(size)
            self.torn_lines = int(self._size < size)
            if self.torn_lines:
                os.ftruncate(self._descriptor, self._size)
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._size

    def append(self, block: bytes) -> None:
        """Append whole lines.

        Raises
        ------
        OSError
            The file system refuses, for one because it is full. What was in the file stays; later calls may succeed.
        """
        found = os.fstat(self._descriptor).st_size
        if found > self._size:  # what a failed write left and could not take back then
            os.ftruncate(self._descriptor, self._size)
        self._size = min(self._size, found)  # smaller where somebody emptied the file
        written = os.write(self._descriptor, block)
        if written < len(block):  # the disk filled up in the middle: take the piece back
            os.ftruncate(self._descriptor, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
        self._size += written

    def close(self) -> None:
        """Close the file; nothing is buffered."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _end_of_whole_lines(self, end: int) -> int:
        """Return the size of the file up to its last line feed."""
        while end:
            begin = max(0, end - _READ_BYTES)
            feed = os.pread(self._descriptor, end - begin, begin).rfind(b"\n")
            if feed >= 0:
                return begin + feed + 1
            end = begin
        return 0
