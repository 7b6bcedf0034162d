"""Window files: versioned JSON lines, one window a line (docs/formats.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from sbs_opt.instances.files import PathLike, atomic_write, compressed
from sbs_opt.instances.source import RepeatedKeyError, iterate_rows, shown, trace_error, unique_keys
from sbs_opt.models.errors import InputError, TraceError
from sbs_opt.models.window import FREE, UNLIMITED, Savings, Window

SCHEMA = "sbs-opt/window/1"

_FIELDS = (
    "demand",
    "load",
    "price",
    "spread_weight",
    "limit",
    "open_resource",
    "crossing",
    "group",
    "tier",
    "pinned",
    "savings",
)
_TWICE = "is given twice in one object; keep one of the two"
_SAVINGS_FIELDS = ("item", "unit", "value")


def write_windows(path: PathLike, windows: Iterable[Window]) -> None:
    """Write windows, one a line, compressed where `path` ends in .gz or .zst; the same windows, the same bytes.

    A field at its default is left out; an unlimited resource is written as null. The file appears complete or not at
    all, also when `windows` raises halfway.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    with atomic_write(path, "wb") as file, compressed(file, path) as out:
        for window in windows:
            out.write(json.dumps(window_record(window), separators=(",", ":")).encode() + b"\n")


def read_windows(path: PathLike) -> Iterator[Window]:
    """Yield the windows of a file, plain or compressed with gzip or zstd; reads as it goes, one window in memory.

    Raises
    ------
    TraceError
        While iterating: file, row (1-based line) and field, in one line; an unknown schema or field lists the known.
    """
    for row, line in iterate_rows(path):
        try:
            record = json.loads(line, object_pairs_hook=unique_keys)
        except RepeatedKeyError as error:
            raise trace_error(path, row, str(error), _TWICE) from error
        except (ValueError, RecursionError) as error:
            problem = f"is not valid JSON ({error}); if the file was cut off, write it again"
            raise trace_error(path, row, None, problem) from error
        try:
            window = _window(record)
        except InputError as error:
            raise trace_error(path, row, None, str(error)) from error
        yield window


def window_record(window: Window) -> dict[str, Any]:
    """Return the JSON object of a window: `schema` and every field that is not at its default."""
    n, m, resources = window.num_items, window.num_units, window.num_resources
    record: dict[str, Any] = {"schema": SCHEMA, "demand": window.demand.tolist(), "load": window.load.tolist()}
    defaults = {
        "price": np.ones(resources, np.int64),
        "spread_weight": window.price,
        "limit": np.full((m, resources), UNLIMITED),
        "crossing": np.ones(n, np.bool_),
        "group": np.zeros(m, np.int64),
        "tier": np.zeros(n, np.int64),
        "pinned": np.full(n, FREE),
    }
    for name, default in defaults.items():
        array = getattr(window, name)
        if not np.array_equal(array, default):
            record[name] = array.tolist()
    if "limit" in record:
        record["limit"] = [[None if cap == UNLIMITED else cap for cap in row] for row in record["limit"]]
    if window.open_resource is not None:
        record["open_resource"] = window.open_resource
    if window.savings is not None:
        record["savings"] = {name: getattr(window.savings, name).tolist() for name in _SAVINGS_FIELDS}
    return record


def _window(record: Any) -> Window:
    if type(record) is not dict:
        raise TraceError(f"holds {shown(record)}; each line must be one JSON object")
    schema = record.pop("schema", None)
    if schema != SCHEMA:
        raise TraceError(f"schema {shown(schema)} is unknown; known schemas of windows: {SCHEMA}")
    _only("a window", record, _FIELDS)
    for name in ("demand", "load"):
        if name not in record:
            raise TraceError(f"{name} is missing; every window needs it")
    if isinstance(record.get("limit"), list):
        record["limit"] = [_unlimited(row) for row in record["limit"]]
    if record.get("savings") is not None:
        record["savings"] = _savings(record["savings"])
    return Window(**record)


def _unlimited(row: Any) -> Any:
    return [UNLIMITED if cap is None else cap for cap in row] if isinstance(row, list) else row


def _savings(record: Any) -> Savings:
    if type(record) is not dict:
        raise TraceError(f"savings holds {shown(record)}; it must be an object of {', '.join(_SAVINGS_FIELDS)}")
    _only("savings", record, _SAVINGS_FIELDS)
    for name in _SAVINGS_FIELDS:
        if name not in record:
            raise TraceError(f"savings.{name} is missing; savings need {', '.join(_SAVINGS_FIELDS)}")
    return Savings(**record)


def _only(what: str, record: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in record:
        if name not in known:
            raise TraceError(f"{shown(name)} is no field of {what}; known fields: {', '.join(known)}")
