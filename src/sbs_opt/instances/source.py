"""The text of a file: decompressed by its content, split into numbered rows, with errors that name them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sbs_opt.instances.files import PathLike, check_name
from sbs_opt.models.errors import TraceError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_READ_BYTES = 1 << 20
_SHOWN_CHARACTERS = 60


def trace_error(path: PathLike, row: int | None, field: str | None, problem: str) -> TraceError:
    """Return the one-line error of a file: where (file, 1-based line, field), then what is wrong and how to mend it."""
    where = os.fspath(path)
    where += f", row {row}" if row is not None else ""
    where += f", field {field}" if field is not None else ""
    return TraceError(f"{where}: {problem}")


def shown(value: object) -> str:
    """Return `value` for an error: quoted, on one line and cut where it is long."""
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


class RepeatedKeyError(ValueError):
    """A JSON object that gives one key twice; its text is the key."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the JSON object of `pairs` (an `object_pairs_hook`), refusing a repeated key: one value would be lost."""
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedKeyError(next(name for name in names if names.count(name) > 1))
    return record


def iterate_rows(path: PathLike) -> Iterator[tuple[int, str]]:
    """Yield (1-based row, line) of a UTF-8 text file, plain, gzip or zstd; blank lines are passed over.

    Only line feeds end a line, a carriage return before one belongs to it, and the last line needs neither.

    Raises
    ------
    InputError
        `path` can name no file.
    TraceError
        The file cannot be opened, is not text, or its compressed stream is damaged or cut off.
    """
    check_name(path)
    rest = b""
    row = 0
    for chunk in _decompressed(path):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            row += 1
            if line := line.removesuffix(b"\r"):
                yield row, _decoded(path, row, line)
    if rest := rest.removesuffix(b"\r"):
        yield row + 1, _decoded(path, row + 1, rest)


def _decoded(path: PathLike, row: int, line: bytes) -> str:
    try:
        text = line.decode("utf-8-sig" if row == 1 else "utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise trace_error(path, row, None, "is not UTF-8 text; give a CSV or JSON lines file, plain or as .gz or .zst")
    return text


def _decompressed(path: PathLike) -> Iterator[bytes]:
    try:
        with Path(path).open("rb") as file:
            chunks = iter(lambda: file.read(_READ_BYTES), b"")
            first = next(chunks, b"")
            decoder = _decoder_for(first)
            if decoder is None:
                yield first
                yield from chunks
                return
            yield from _through(decoder, first, chunks, path)
    except OSError as error:
        raise trace_error(path, None, None, f"cannot be read ({error.strerror}); give a readable file") from error


def _decoder_for(start: bytes) -> Callable[[], Any] | None:
    if start.startswith(_GZIP):
        return lambda: zlib.decompressobj(wbits=31)
    if start.startswith(_ZSTD):
        import zstandard

        return lambda: zstandard.ZstdDecompressor().decompressobj()
    return None


def _through(new_decoder: Callable[[], Any], first: bytes, chunks: Iterator[bytes], path: PathLike) -> Iterator[bytes]:
    # Both formats may hold several frames end to end; both decoders share eof and unused_data.
    decoder = new_decoder()
    chunk = first
    try:
        while chunk:
            if decoder.eof:
                decoder = new_decoder()
            yield decoder.decompress(chunk)
            chunk = decoder.unused_data or next(chunks, b"")
    except OSError:
        raise
    except Exception as error:  # zlib.error and zstandard.ZstdError have no common base below Exception
        raise trace_error(path, None, None, f"compressed data is damaged ({error}); fetch the file again") from error
    if not decoder.eof:
        raise trace_error(path, None, None, "compressed data ends early; fetch the file again")
