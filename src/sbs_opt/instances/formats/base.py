"""What a trace format is, and the two shapes of row that all of them have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from sbs_opt.instances.columns import Columns
from sbs_opt.instances.parsing import Fail
from sbs_opt.instances.source import RepeatedKeyError, shown, trace_error, unique_keys
from sbs_opt.models.errors import TraceError


@dataclass(frozen=True)
class TraceText:
    """A trace file as (1-based row, line) pairs without blank lines; `path` is for errors."""

    path: str
    rows: list[tuple[int, str]]

    def fail_at(self, row: int) -> Fail:
        """Return the maker of errors of one row."""
        return partial(self.error, row)

    def error(self, row: int | None, field: str | None, problem: str) -> TraceError:
        """Return the one-line error that names file, row and field."""
        return trace_error(self.path, row, field, problem)


@dataclass(frozen=True)
class TraceFormat:
    """One way of writing a trace.

    Parameters
    ----------
    name
        What `--format` takes.
    description
        One line for `list formats`.
    shape
        "csv" or "jsonl".
    matches
        Whether a file of this shape whose first row has these field names is meant to be of this format.
    read
        Turns the rows into columns, or raises `TraceError`.
    coarse_stamps
        Whether its captures are known to round arrivals to a grid, so that they are spread where one is found.
    """

    name: str
    description: str
    shape: Literal["csv", "jsonl"]
    matches: Callable[[frozenset[str]], bool]
    read: Callable[[TraceText], Columns]
    coarse_stamps: bool = False


class DecimalText(str):
    """A JSON number with a fraction or an exponent, kept as written: no binary rounding."""

    __slots__ = ()


_DECODER = json.JSONDecoder(parse_float=DecimalText, object_pairs_hook=unique_keys)


def json_records(text: TraceText) -> Iterator[tuple[Fail, dict[str, Any]]]:
    """Yield (maker of errors, object) of each JSON line."""
    for row, line in text.rows:
        try:
            record = _DECODER.decode(line)
        except RepeatedKeyError as error:
            raise text.error(row, str(error), "is given twice in one object; keep one of the two") from error
        except (ValueError, RecursionError) as error:
            problem = (
                f"is not valid JSON ({error}); each line must be one object: if the file was cut off, fetch it again "
                "or delete the row"
            )
            raise text.error(row, None, problem) from error
        if type(record) is not dict:
            raise text.error(row, None, f"holds {shown(record)}; each line must be one JSON object")
        yield text.fail_at(row), record


def refuse_quoted(record: dict[str, Any], names: tuple[str, ...], fail: Fail) -> None:
    """Raise where one of the numbers at `names` is written as text: JSON has numbers, and a quoted one is a mistake."""
    for name in names:
        value = record.get(name)
        if type(value) is str:  # not DecimalText, a number that the decoder left as written
            raise fail(name, f"{shown(value)} is text; write the number without quotes")


def csv_header(line: str) -> list[str]:
    """Return the column names of a CSV header."""
    return [name.strip() for name in line.split(",")]


def csv_records(
    text: TraceText, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> tuple[list[str], Iterator[tuple[Fail, list[str]]]]:
    """Return (other columns of the header, iterator of (maker of errors, cells)).

    Cells come in the order of `required` then `optional`; an optional column that the file lacks yields "". Cells are
    split at commas: no quoting, which none of the formats uses.
    """
    row, header = text.rows[0]
    names = csv_header(header)
    for name in names:
        if names.count(name) > 1:
            raise text.error(row, name, "names two columns; name each column once")
    for name in required:
        if name not in names:
            raise text.error(row, name, f"is no column of the header {shown(header)}; add it or choose another format")
    # An absent column is read from the empty cell that _cells appends.
    take = [names.index(name) if name in names else len(names) for name in (*required, *optional)]
    others = [name for name in names if name not in required and name not in optional]
    return others, _cells(text, names, take)


def _cells(text: TraceText, names: list[str], take: list[int]) -> Iterator[tuple[Fail, list[str]]]:
    width = len(names)
    for row, line in text.rows[1:]:
        cells = line.split(",")
        if len(cells) < width:
            problem = "is missing: the row has too few columns; if the file was cut, fetch it again or delete the row"
            raise text.error(row, names[len(cells)], problem)
        if len(cells) > width:
            raise text.error(row, None, f"has {len(cells)} columns, the header has {width}; remove the surplus")
        cells.append("")
        yield text.fail_at(row), [cells[k].strip() for k in take]


def ignored_note(names: set[str] | list[str]) -> list[str]:
    """Return the note on fields that the format does not know and the reader passed over."""
    return [f"ignored fields: {', '.join(sorted(shown(name) for name in names))}"] if names else []
