"""Capture live traffic as a trace in the `sbs-jsonl` format: lengths, times and keyed block ids, never text.

One line per finished request, in the order of finishing::

    {"schema":"sbs-opt/trace/1","notes":["captured live; times count from 1763640000000000000 ns after 1970-01-01 UTC"]}
    {"arrival_s":0.250000000,"prompt_tokens":1100,"output_tokens":80,"block_tokens":512,"block_ids":[17,18],
     "placement":[0,3],"first_token_s":0.480000000,"end_s":2.100000000,"outcome":"answered"}

(the second is one line). Times are exact decimals of one origin, which later files of the same capture keep.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from sbs_opt.adapters.append_file import AppendFile
from sbs_opt.instances.files import PathLike
from sbs_opt.instances.formats.plain import SCHEMA
from sbs_opt.instances.source import shown
from sbs_opt.models.checks import INT64_MAX, IntArray
from sbs_opt.models.errors import InputError

_CAPTURED = "captured live; times count from"
_ORIGIN = re.compile(_CAPTURED + r" (\d{1,19}) ns after 1970-01-01 UTC", re.ASCII)
_OUTCOME = re.compile(r"[a-z][a-z_]{0,31}", re.ASCII)
_HEADER_START = f'{{"schema":"{SCHEMA}","notes":["{_CAPTURED} '.encode()


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """What is kept of a request. Times are Unix nanoseconds.

    Parameters
    ----------
    arrival_ns, end_ns
        When it came, and when its last byte left or it was given up.
    prompt_tokens, output_tokens
        Tokens; output as far as it got.
    outcome
        One word in lower case, underscores allowed: how it ended.
    first_token_ns
        When its first token came; None = never.
    placement
        (instance, unit of the instance); None = it was not placed.
    block_ids
        int64[k], chained keyed ids (`PrefixHasher`). Ids beyond what `prompt_tokens` can fill are left out.
    session
        A number that stands for the session, never its name; None = unknown.

    Raises
    ------
    InputError
        A number is negative or beyond int64, or `outcome` is no single word.
    """

    arrival_ns: int
    end_ns: int
    prompt_tokens: int
    output_tokens: int
    outcome: str
    first_token_ns: int | None = None
    placement: tuple[int, int] | None = None
    block_ids: IntArray | Sequence[int] = ()
    session: int | None = None

    def __post_init__(self) -> None:
        for name in ("arrival_ns", "end_ns", "prompt_tokens", "output_tokens"):
            if not 0 <= getattr(self, name) <= INT64_MAX:
                raise InputError(f"{name} = {getattr(self, name)}: must lie between 0 and 2^63 - 1")
        if not _OUTCOME.fullmatch(self.outcome):
            raise InputError(f"outcome = {shown(self.outcome)}: must be one word of a-z and underscores")


class CaptureWriter:
    """Append finished requests to a file.

    Parameters
    ----------
    path
        The file, made where it is absent; an earlier capture is continued with its origin of time. A last line that a
        crash cut off is removed.
    rotate_bytes
        A line that would make the file larger begins a new one; the old becomes `path.1`, `path.1` becomes `path.2` and
        so on. Each file is a trace by itself.
    keep
        How many old files stay, at least 1; what would be `path.<keep + 1>` is lost.
    block_tokens
        Tokens per prefix block, 0 where requests have no block ids. A file of another size is put aside as `path.1`.

    Attributes
    ----------
    torn_lines
        Cut-off lines removed on opening: 0 or 1.

    Raises
    ------
    InputError
        `path` is a file that is no capture, or that another process is writing; a parameter is outside of its range.
    OSError
        The file cannot be opened.

    Notes
    -----
    A line is one write to a descriptor that appends, so that a crash of the process leaves at most one torn line, the
    last. Who reads meanwhile finds whole lines up to the last line feed, after which a line may just be coming (file
    systems show long writes page by page). What a crash of the machine takes along is up to the file system.
    """

    def __init__(self, path: PathLike, *, rotate_bytes: int, keep: int, block_tokens: int = 0) -> None:
        limits = (("rotate_bytes", rotate_bytes, 1), ("keep", keep, 1), ("block_tokens", block_tokens, 0))
        for name, value, least in limits:
            if value < least:
                raise InputError(f"{name} = {value}: must be at least {least}")
        self._path = os.fspath(path)
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._block_tokens = block_tokens
        self._file = _file_at(self._path)
        self.torn_lines = self._file.torn_lines
        try:
            self._origin_ns, other_blocks = self._continued()
            if other_blocks:
                self._rotate()
        except BaseException:
            self._file.close()
            raise

    def arrived(self, arrival_ns: int) -> None:
        """Hear of a request that is yet to be written; nothing is to be done."""

    def write(self, request: FinishedRequest) -> None:
        """Append one request.

        Raises
        ------
        OSError
            The file system refuses, for one because it is full. The file is as it was before; later calls may succeed.
        """
        line = self._line(request)
        if self._file.size and self._file.size + len(line) > self._rotate_bytes:
            self._rotate()
        if not self._file.size:
            line = self._header() + line
        self._file.append(line)

    def close(self) -> None:
        """Close the file; nothing is buffered."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _continued(self) -> tuple[int, bool]:
        """Return the origin of times of the file, now where it is empty, and whether its blocks are of another size."""
        if not self._file.size:
            return time.time_ns(), False
        with Path(self._path).open("rb") as file:
            header, first = file.readline(), file.readline()
        try:
            origin = _ORIGIN.fullmatch(json.loads(header)["notes"][0])
            other_blocks = bool(first) and json.loads(first).get("block_tokens", 0) != self._block_tokens
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            origin = None
        if origin is None:
            raise _no_capture(self._path)
        return int(origin[1]), other_blocks

    def _rotate(self) -> None:
        coming = f"{self._path}.new"
        try:
            fresh = _file_at(coming)  # first: where this fails, nothing has moved
        except InputError as error:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), coming) from error
        try:
            if fresh.size:  # somebody else's: ours is empty until it has its place
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), coming)
            # Only up to the first gap: what a rotation that failed has moved already moves no further.
            gap = next((k for k in range(1, self._keep) if not os.path.lexists(f"{self._path}.{k}")), self._keep)
            for k in range(gap - 1, 0, -1):
                os.replace(f"{self._path}.{k}", f"{self._path}.{k + 1}")
            with suppress(FileNotFoundError):  # somebody took it away
                os.replace(self._path, f"{self._path}.1")
            os.replace(coming, self._path)
        except BaseException:
            fresh.close()
            raise
        self._file.close()
        self._file = fresh

    def _header(self) -> bytes:
        note = f"{_CAPTURED} {self._origin_ns} ns after 1970-01-01 UTC"
        return json.dumps({"schema": SCHEMA, "notes": [note]}, separators=(",", ":")).encode() + b"\n"

    def _line(self, request: FinishedRequest) -> bytes:
        fields = [
            f'"arrival_s":{self._seconds(request.arrival_ns)}',
            f'"prompt_tokens":{int(request.prompt_tokens)}',
            f'"output_tokens":{int(request.output_tokens)}',
        ]
        if request.session is not None:
            fields.append(f'"session":{int(request.session)}')
        if self._block_tokens:
            fields.append(f'"block_tokens":{self._block_tokens}')
            # Blocks are cut by an estimate of the length; a reader refuses more than the true one can fill.
            most = -(-int(request.prompt_tokens) // self._block_tokens)
            ids = np.asarray(request.block_ids, dtype=np.int64)[:most].tolist()
            if ids:
                fields.append(f'"block_ids":[{",".join(map(str, ids))}]')
        place = "null" if request.placement is None else "[{:d},{:d}]".format(*request.placement)
        first = "null" if request.first_token_ns is None else self._seconds(request.first_token_ns)
        fields += [
            f'"placement":{place}',
            f'"first_token_s":{first}',
            f'"end_s":{self._seconds(request.end_ns)}',
            f'"outcome":"{request.outcome}"',
        ]
        return f"{{{','.join(fields)}}}\n".encode()

    def _seconds(self, moment_ns: int) -> str:
        """Return seconds since the origin as an exact decimal; 0 where the clock was set back before it."""
        seconds, rest = divmod(max(0, int(moment_ns) - self._origin_ns), 1_000_000_000)
        return f"{seconds}.{rest:09d}"


def _file_at(path: str) -> AppendFile:
    return AppendFile(path, start=_HEADER_START, option="capture")


def _no_capture(path: str) -> InputError:
    return InputError(f"capture = {path}: the file exists and is no capture of ours; give another name")
