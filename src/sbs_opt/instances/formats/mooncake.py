"""Mooncake JSON lines (kvcache-ai/Mooncake, FAST'25 release): milliseconds, chained ids of 512-token blocks."""

from __future__ import annotations

from typing import Any

from sbs_opt.instances.columns import Columns
from sbs_opt.instances.formats.base import TraceFormat, TraceText, ignored_note, json_records, refuse_quoted
from sbs_opt.instances.parsing import Fail, arrival, whole_number
from sbs_opt.instances.source import shown

BLOCK_TOKENS = 512

_NUMBERS = ("timestamp", "input_length", "output_length")
_FIELDS = frozenset({*_NUMBERS, "hash_ids"})
_MILLISECOND_NS = 1_000_000


def _read(text: TraceText) -> Columns:
    columns = Columns(block_tokens=BLOCK_TOKENS)
    others: set[str] = set()
    for fail, record in json_records(text):
        refuse_quoted(record, _NUMBERS, fail)
        stamp = whole_number(record.get("timestamp"), "timestamp", fail)
        prompt = whole_number(record.get("input_length"), "input_length", fail)
        output = whole_number(record.get("output_length"), "output_length", fail)
        blocks = _blocks(record, prompt, fail)
        columns.add(arrival(stamp * _MILLISECOND_NS, "timestamp", fail), prompt, output, blocks)
        if len(record) > len(_FIELDS):
            others |= record.keys() - _FIELDS
    columns.notes += ignored_note(others)
    return columns


def _blocks(record: dict[str, Any], prompt: int, fail: Fail) -> list[int]:
    blocks = record.get("hash_ids")
    if type(blocks) is not list or not set(map(type, blocks)) <= {int}:
        raise fail("hash_ids", f"{shown(blocks)} is not a list of whole numbers")
    expected = -(-prompt // BLOCK_TOKENS)
    if len(blocks) != expected:
        raise fail(
            "hash_ids",
            f"holds {len(blocks)} ids, but input_length {prompt} makes {expected} blocks of {BLOCK_TOKENS} tokens (the "
            "last may be partial); mend the row, or convert the file to sbs-jsonl with its own block_tokens",
        )
    return blocks


MOONCAKE = TraceFormat(
    "mooncake",
    "JSON lines: timestamp (ms), input_length, output_length, hash_ids (512-token blocks)",
    "jsonl",
    matches=lambda names: {"timestamp", "input_length", "output_length"} <= names,
    read=_read,
    coarse_stamps=True,
)
