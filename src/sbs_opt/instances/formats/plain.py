"""Our own plain formats, `sbs-csv` and `sbs-jsonl`: the same fields as columns or as JSON lines (docs/formats.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from sbs_opt.instances.columns import Columns
from sbs_opt.instances.files import PathLike, atomic_write, compressed
from sbs_opt.instances.formats.base import (
    DecimalText,
    TraceFormat,
    TraceText,
    csv_header,
    csv_records,
    json_records,
    refuse_quoted,
)
from sbs_opt.instances.parsing import Fail, arrival, decimal_seconds_to_ns, whole_number
from sbs_opt.instances.source import shown
from sbs_opt.models.requests import Requests

SCHEMA = "sbs-opt/trace/1"

_TIMES = ("arrival_ns", "arrival_s")
_LENGTHS = ("prompt_tokens", "output_tokens")
_OPTIONAL = ("session", "block_tokens", "block_ids")
_NUMBERS = (*_TIMES, *_LENGTHS, "block_tokens")
_ID = re.compile(r"-?\d{1,40}", re.ASCII)  # hashes may be unsigned 64-bit or wider
_KNOWN = (*_TIMES, *_LENGTHS, *_OPTIONAL)

CAPTURED = ("placement", "first_token_s", "end_s", "outcome")
"""What a capture of live traffic also tells of a request, in JSON lines: not of its arrival, so no reader needs it."""


class _Rows:
    """Checks and collects the rows of either format."""

    def __init__(self) -> None:
        self.columns = Columns()
        self._rounded = 0

    def add(self, fail: Fail, row: Sequence[Any], *, in_seconds: bool) -> None:
        """Append (arrival, prompt_tokens, output_tokens, session, block_tokens, block_ids)."""
        time, prompt, output, session, block_tokens, blocks = row
        if in_seconds:
            time_ns, rounded = decimal_seconds_to_ns(time, "arrival_s", fail)
            self._rounded += rounded
        else:
            time_ns = arrival(whole_number(time, "arrival_ns", fail), "arrival_ns", fail)
        prompt = whole_number(prompt, "prompt_tokens", fail)
        output = whole_number(output, "output_tokens", fail)
        if block_tokens not in ("", None):
            self._set_block_tokens(whole_number(block_tokens, "block_tokens", fail), fail)
        self._check_blocks(len(blocks), prompt, fail)
        self.columns.add(time_ns, prompt, output, blocks, session)

    def _set_block_tokens(self, block_tokens: int, fail: Fail) -> None:
        known = self.columns.block_tokens
        if block_tokens == 0:
            raise fail("block_tokens", "is 0; leave it out where there are no prefix blocks")
        if known and known != block_tokens:
            raise fail("block_tokens", f"is {block_tokens}, earlier rows say {known}; one file has one block size")
        self.columns.block_tokens = block_tokens

    def _check_blocks(self, count: int, prompt: int, fail: Fail) -> None:
        if not count:
            return
        size = self.columns.block_tokens
        if not size:
            raise fail("block_tokens", "is missing; prefix blocks need their size in tokens")
        if count > -(-prompt // size):
            raise fail(
                "block_ids",
                f"holds {count} ids, but {prompt} prompt tokens fill at most {-(-prompt // size)} blocks of {size}",
            )

    def finish(self) -> Columns:
        """Return the columns."""
        if self._rounded:
            self.columns.notes.append(f"rounded to a nanosecond: {self._rounded} arrivals had finer digits")
        return self.columns


def _one_time(names: Iterable[str], fail: Fail) -> str:
    present = [name for name in _TIMES if name in names]
    if not present:
        raise fail("arrival_ns", "is missing, so is arrival_s: the file has no times; compare needs arrival times")
    if len(present) > 1:
        raise fail("arrival_ns", "is given and so is arrival_s; keep one of the two")
    return present[0]


def _refuse_unknown(names: Iterable[str], fail: Fail) -> None:
    for name in names:
        if name not in _KNOWN:
            raise fail(name, f"is unknown; known fields: {', '.join(_KNOWN)}")


def _read_csv(text: TraceText) -> Columns:
    row, header = text.rows[0]
    fail_header = text.fail_at(row)
    time = _one_time(csv_header(header), fail_header)
    others, rows = csv_records(text, (time, *_LENGTHS), _OPTIONAL)
    _refuse_unknown(others, fail_header)
    collected = _Rows()
    for fail, (stamp, prompt, output, session, block_tokens, ids) in rows:
        collected.add(
            fail,
            (stamp, prompt, output, session or None, block_tokens, _csv_blocks(ids, fail)),
            in_seconds=time == "arrival_s",
        )
    return collected.finish()


def _csv_blocks(text: str, fail: Fail) -> list[int]:
    blocks = text.split()
    for block in blocks:
        if not _ID.fullmatch(block):
            raise fail("block_ids", f"{shown(block)} is no whole number; write ids with spaces between them")
    return list(map(int, blocks))


def _read_jsonl(text: TraceText) -> Columns:
    collected = _Rows()
    time = ""
    for number, (fail, record) in enumerate(json_records(text)):
        if number == 0 and "schema" in record:
            collected.columns.notes += _header_notes(record, fail)
            continue
        time = time or _one_time(record, fail)
        _refuse_unknown((name for name in record if name not in CAPTURED), fail)
        refuse_quoted(record, _NUMBERS, fail)
        if _one_time(record, fail) != time:
            raise fail(time, "is missing, earlier rows have it; use one unit of time throughout")
        collected.add(
            fail,
            (
                record[time],
                record.get("prompt_tokens"),
                record.get("output_tokens"),
                _session(record.get("session"), fail),
                record.get("block_tokens"),
                _json_blocks(record.get("block_ids"), fail),
            ),
            in_seconds=time == "arrival_s",
        )
    return collected.finish()


def _header_notes(record: dict[str, Any], fail: Fail) -> list[str]:
    if record["schema"] != SCHEMA:
        raise fail("schema", f"is {shown(record['schema'])}; known schemas of traces: {SCHEMA}")
    notes = record.get("notes", [])
    if type(notes) is not list or not all(isinstance(note, str) for note in notes):
        raise fail("notes", "must be a list of strings")
    unknown = sorted(record.keys() - {"schema", "notes"})
    if unknown:
        raise fail(unknown[0], "is unknown in the first record; known fields: schema, notes")
    return notes


def _session(value: Any, fail: Fail) -> Any:
    if value is None or type(value) is int or (isinstance(value, str) and not isinstance(value, DecimalText)):
        return value
    raise fail("session", f"{shown(value)} must be a name or a whole number")


def _json_blocks(value: Any, fail: Fail) -> list[int]:
    if value is None:
        return []
    if type(value) is not list or not set(map(type, value)) <= {int}:
        raise fail("block_ids", f"{shown(value)} is not a list of whole numbers")
    return value


def write_trace(path: PathLike, requests: Requests, notes: Iterable[str] = ()) -> None:
    """Write `requests` as sbs-jsonl, compressed where `path` ends in .gz or .zst; the same requests, the same bytes.

    Parameters
    ----------
    path
        Target; it appears complete or not at all.
    requests
        What to write; an unknown session and empty blocks are left out.
    notes
        Plain sentences kept in the first record and given back by `read_trace`.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    with atomic_write(path, "wb") as file, compressed(file, path) as out:
        for record in _records(requests, notes):
            out.write(json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")


def _records(requests: Requests, notes: Iterable[str]) -> Iterable[dict[str, Any]]:
    yield {"schema": SCHEMA, "notes": list(notes)}
    ids = requests.block_id.tolist()
    offset = requests.block_offset.tolist()
    columns = zip(
        requests.arrival_ns.tolist(),
        requests.prompt_tokens.tolist(),
        requests.output_tokens.tolist(),
        requests.session.tolist(),
        offset[:-1],
        offset[1:],
        strict=True,
    )
    for time, prompt, output, session, start, end in columns:
        record: dict[str, Any] = {"arrival_ns": time, "prompt_tokens": prompt, "output_tokens": output}
        if session >= 0:
            record["session"] = session
        if requests.block_tokens:
            record["block_tokens"] = requests.block_tokens
        if end > start:
            record["block_ids"] = ids[start:end]
        yield record


def _matches(names: frozenset[str]) -> bool:
    return set(_LENGTHS) <= names


SBS_CSV = TraceFormat(
    "sbs-csv",
    "CSV: arrival_ns or arrival_s, prompt_tokens, output_tokens; optional session, block_tokens, block_ids",
    "csv",
    matches=_matches,
    read=_read_csv,
)

SBS_JSONL = TraceFormat(
    "sbs-jsonl",
    "JSON lines with the fields of sbs-csv; block_ids is a list; a first record may carry schema and notes",
    "jsonl",
    matches=lambda names: _matches(names) or "schema" in names,
    read=_read_jsonl,
)
