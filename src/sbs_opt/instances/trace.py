"""`read_trace`: a captured or generated file becomes `Requests`."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from importlib import resources
from itertools import islice

from sbs_opt.instances.files import PathLike
from sbs_opt.instances.formats import FORMATS
from sbs_opt.instances.formats.base import TraceFormat, TraceText, csv_header, json_records
from sbs_opt.instances.formats.plain import SBS_JSONL
from sbs_opt.instances.source import iterate_rows, shown, trace_error
from sbs_opt.instances.spread import quantum, spread
from sbs_opt.models.errors import TraceError
from sbs_opt.models.requests import Requests

SAMPLE = "sample"
"""The name under which `read_trace` gives the bundled, generated trace."""


@dataclass(frozen=True)
class Trace:
    """Requests with their origin.

    Parameters
    ----------
    requests
        Sorted by arrival; request i has id i.
    name
        The file's name, or "sample".
    format
        Name of the format it was read as.
    notes
        Plain sentences: what the file says of itself, then what reading it changed or left alone.
    """

    requests: Requests
    name: str
    format: str
    notes: tuple[str, ...]


def list_formats() -> tuple[TraceFormat, ...]:
    """Return the formats that `read_trace` knows, in the order in which they are tried."""
    return FORMATS


def read_trace(path: PathLike, *, format: str | None = None, seed: int = 0) -> Trace:  # noqa: A002  # --format
    """Read a trace, plain or compressed with gzip or zstd (known by its content, not by its name).

    Arrivals keep the start that the file gives them. Rows that are out of order are sorted, stably; exact duplicates
    are requests like any other. Stamps of formats known to be rounded to a coarse grid are spread over its step.

    Parameters
    ----------
    path
        A file, or "sample" for the bundled generated trace (a file of that name is "./sample").
    format
        A name of `list_formats()`; by default the names of the fields in the first row decide.
    seed
        Of the spreading of coarse stamps; without effect on other traces.

    Returns
    -------
    Trace
        With at least one request. Time and memory are linear in the file (n log n where it must be sorted).

    Raises
    ------
    InputError
        `path` is empty or holds a NUL character.
    TraceError
        One line that names the file and, where they are known, row (1-based line) and field, and says how to mend it.
    """
    name = os.fspath(path)
    asked = None if format is None else _named(name, format)
    if name == SAMPLE:
        if asked not in (None, SBS_JSONL):
            raise trace_error(name, None, None, f"the bundled trace is {SBS_JSONL.name}, not {format}; leave it out")
        with resources.as_file(resources.files(__package__) / "data" / "sample.jsonl.gz") as sample:
            return replace(read_trace(sample, format=SBS_JSONL.name), name=SAMPLE)
    rows = iterate_rows(path)
    text = TraceText(name, list(islice(rows, 1)))
    if not text.rows:
        raise text.error(None, None, "is empty; give a file that holds requests")
    chosen = asked or _detected(text)
    text.rows.extend(rows)  # only now: a large file of another kind is refused by its first row
    columns = chosen.read(text)
    if not columns.arrival_ns:
        raise text.error(text.rows[-1][0], None, "is the last row and no request came; give a file that holds requests")
    requests, notes = columns.to_requests()
    repeated = len(text.rows) - len({line for _, line in text.rows})
    if repeated:
        notes.append(f"kept rows that repeat another exactly: {repeated}")
    if chosen.coarse_stamps:
        requests, spread_notes = _spread(requests, seed)
        notes += spread_notes
    return Trace(requests, os.path.basename(name), chosen.name, tuple(notes))


def _spread(requests: Requests, seed: int) -> tuple[Requests, list[str]]:
    unit = 1_000_000  # the stamps are whole milliseconds
    step = quantum(requests.arrival_ns // unit)
    if not step:
        return requests, []
    arrival = spread(requests.arrival_ns, step * unit, seed=seed)
    note = (
        f"stamps come in steps of about {step} ms: arrivals spread uniformly over the step that follows each stamp "
        f"(seed {seed}), file order kept"
    )
    return replace(requests, arrival_ns=arrival), [note]


def _named(path: str, name: str) -> TraceFormat:
    for candidate in FORMATS:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in FORMATS)
    raise trace_error(path, None, None, f"format {shown(name)} is unknown; known formats: {known}")


def _detected(text: TraceText) -> TraceFormat:
    row, line = text.rows[0]
    is_json = line.lstrip().startswith(("{", "["))
    names = frozenset(next(json_records(text))[1]) if is_json else frozenset(csv_header(line))
    if "schema" in names and "demand" in names:
        raise text.error(row, None, "is a scheduling window, not a request: solve and bench read such files")
    for candidate in FORMATS:
        if candidate.shape == ("jsonl" if is_json else "csv") and candidate.matches(names):
            return candidate
    raise _unknown(text, row, sorted(names))


def _unknown(text: TraceText, row: int, names: list[str]) -> TraceError:
    known = ", ".join(candidate.name for candidate in FORMATS)
    problem = f"its fields {shown(', '.join(names))} fit no known format ({known}); convert it, or name one of them"
    return text.error(row, None, problem)
