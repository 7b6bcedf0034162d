"""Azure LLM inference CSV (Azure/AzurePublicDataset): ISO stamps, lengths, no prefixes."""

from __future__ import annotations

from sbs_opt.instances.columns import Columns
from sbs_opt.instances.formats.base import TraceFormat, TraceText, csv_records, ignored_note
from sbs_opt.instances.parsing import iso_to_ns, whole_number

_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def _read(text: TraceText) -> Columns:
    columns = Columns()
    others, rows = csv_records(text, _COLUMNS)
    zoned: bool | None = None
    for fail, (stamp, prompt, output) in rows:
        nanoseconds, has_zone = iso_to_ns(stamp, "TIMESTAMP", fail)
        if zoned is None:
            zoned = has_zone
        elif zoned != has_zone:
            raise fail("TIMESTAMP", "some stamps name a time zone and some do not; write all of them the same way")
        columns.add(
            nanoseconds,
            whole_number(prompt, "ContextTokens", fail),
            whole_number(output, "GeneratedTokens", fail),
        )
    if zoned is False:
        columns.notes.append("stamps without a time zone read as UTC; arrivals count from 1970")
    columns.notes += ignored_note(others)
    return columns


AZURE = TraceFormat(
    "azure",
    "CSV: TIMESTAMP (ISO date), ContextTokens, GeneratedTokens",
    "csv",
    matches=lambda names: set(_COLUMNS) <= names,
    read=_read,
)
