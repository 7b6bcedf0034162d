"""The log of a router or simulator: how long each prefill pass took, and what its busiest rank ran."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sbs_opt.calibration.tables import PathLike, write_rows
from sbs_opt.models.checks import INT64_MAX, IntArray, expect_shape, int_array
from sbs_opt.models.cost.protocols import PrefillTiming
from sbs_opt.models.errors import InputError, TraceError


@dataclass(frozen=True, slots=True, eq=False)
class PassLog:
    """Measured prefill passes of one instance; int64[n] each.

    Every pass waits for its slowest rank: only the busiest rank's tokens explain its time, the barrier hides the
    others but for what they add to the experts' load.

    Parameters
    ----------
    pass_ns
        Length of the pass in nanoseconds, at least 1.
    pairs, new_tokens, context_tokens
        Of the busiest rank, Σ over its chunks of c·p + c·(c + 1)/2, of c and of c + p, for c new tokens over p cached
        ones; no pass has fewer pairs or context tokens than new tokens.
    mean_new_tokens
        New tokens per rank in the mean of all ranks, rounded.

    Raises
    ------
    InputError
        Columns of unequal length, or a value that no pass can have.
    """

    pass_ns: IntArray
    pairs: IntArray
    new_tokens: IntArray
    context_tokens: IntArray
    mean_new_tokens: IntArray

    def __post_init__(self) -> None:
        for name in COLUMNS:
            object.__setattr__(self, name, int_array(name, getattr(self, name), minimum=None))
            expect_shape(name, getattr(self, name), (np.size(self.pass_ns),), "one entry per pass")
        broken = _broken_rule({name: getattr(self, name) for name in COLUMNS})
        if broken is not None:
            name, row, rule = broken
            raise InputError(f"{name}[{row}] = {getattr(self, name)[row]}: {rule}")

    def __len__(self) -> int:
        return len(self.pass_ns)

    @classmethod
    def of_units(
        cls,
        pass_ns: npt.ArrayLike,
        pairs: npt.ArrayLike,
        new_tokens: npt.ArrayLike,
        context_tokens: npt.ArrayLike,
        cost: PrefillTiming,
    ) -> PassLog:
        """Return the log of passes of which every rank's sums are known; `cost.unit_ns` says which rank is busiest.

        Parameters
        ----------
        pass_ns
            int64[n], nanoseconds.
        pairs, new_tokens, context_tokens
            int64[n, m], the sums of each of m ranks.
        cost
            Its scale does not matter, so a profile that is yet to be fitted will do.
        """
        measured, new = int_array("pass_ns", pass_ns), int_array("new_tokens", new_tokens)
        if new.ndim != 2 or not new.shape[1]:
            raise InputError(f"new_tokens has shape {new.shape}, expected one row per pass and one column per rank")
        expect_shape("pass_ns", measured, new.shape[:1], "one entry per pass")
        sums = {"pairs": int_array("pairs", pairs), "context_tokens": int_array("context_tokens", context_tokens)}
        for name, values in sums.items():
            expect_shape(name, values, new.shape, "passes × ranks")
        rows = zip(sums["pairs"], new, sums["context_tokens"], strict=True)
        busiest = np.array([int(cost.unit_ns(*row).argmax()) for row in rows], dtype=np.int64)
        at = np.arange(len(new)), busiest
        mean = np.rint(new.mean(axis=1)).astype(np.int64)
        return cls(measured, sums["pairs"][at], new[at], sums["context_tokens"][at], mean)


COLUMNS = tuple(field.name for field in fields(PassLog))
_KNOWN = ("pass_ns", "pass_s", *COLUMNS[1:])


def _broken_rule(columns: Mapping[str, IntArray]) -> tuple[str, int, str] | None:
    """Return (column, row, rule) of the first value that no pass can have, or None."""
    for name, values in columns.items():
        least = 1 if name == "pass_ns" else 0
        if values.size and values.min() < least:
            return name, int((values < least).argmax()), f"must be at least {least}"
    for name in ("pairs", "context_tokens"):
        short = columns[name] < columns["new_tokens"]
        if short.any():
            return name, int(short.argmax()), "must be at least new_tokens; is it of the same rank?"
    return None


def read_pass_log(path: PathLike, *, prompt_tokens: int = 1024) -> PassLog:
    """Read a log of passes from CSV with a header.

    Columns `pass_ns` (or `pass_s`, in seconds) and `new_tokens` are needed. Where others are missing it is assumed:

    - `context_tokens`: as `new_tokens`, so no prefix was cached;
    - `pairs`: prompts of `prompt_tokens` and one shorter, prefixes (if any) shared evenly between new tokens;
    - `mean_new_tokens`: as `new_tokens`, so ranks were balanced.

    Each of these assumptions that does not hold biases the fit: log the column where you can.

    Parameters
    ----------
    path
        The file.
    prompt_tokens
        Length of a prompt where pairs are missing, at least 1.

    Raises
    ------
    TraceError
        A column is missing or unknown, or a value is impossible; names the file, the row (line) and the field.
    OSError
        The file cannot be read.
    """
    if isinstance(prompt_tokens, bool) or not isinstance(prompt_tokens, int) or prompt_tokens < 1:
        raise InputError(f"prompt_tokens = {prompt_tokens!r}: must be a whole number of at least 1")
    lines: list[int] = []
    rows: list[tuple[int, ...]] = []
    for line, cells in _records(Path(path)):
        lines.append(line)
        rows.append(_row(cells, prompt_tokens, f"{path}: row {line}"))
    if not rows:
        raise TraceError(f"{path}: holds no passes; a header and one row per pass are expected")
    table = np.array(rows, dtype=np.int64)
    columns = dict(zip(COLUMNS, table.T, strict=True))
    broken = _broken_rule(columns)
    if broken is not None:
        name, row, rule = broken
        raise TraceError(f"{path}: row {lines[row]}: {name} = {columns[name][row]}: {rule}")
    return PassLog(**columns)


def _records(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line, cells by column) of every row."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            header = [name.strip() for name in next(reader, [])]
            _check_header(header, f"{path}: row 1")
            for cells in reader:
                if len(cells) not in {0, len(header)}:
                    raise TraceError(
                        f"{path}: row {reader.line_num}: {header[min(len(cells), len(header) - 1)]}: "
                        f"{len(cells)} cells where the header has {len(header)}"
                    )
                if cells:
                    yield reader.line_num, dict(zip(header, cells, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise TraceError(f"{path}: row {reader.line_num + 1}: is not CSV in UTF-8: {error}") from error


def _check_header(header: list[str], where: str) -> None:
    for name in header:
        if name not in _KNOWN:
            raise TraceError(f"{where}: {name}: unknown column; known columns: {', '.join(_KNOWN)}")
        if header.count(name) > 1:
            raise TraceError(f"{where}: {name}: is given twice")
    if "pass_ns" in header and "pass_s" in header:
        raise TraceError(f"{where}: pass_ns: is given and so is pass_s; keep one of the two")
    if "pass_ns" not in header and "pass_s" not in header:
        raise TraceError(f"{where}: pass_ns: is missing, so is pass_s; log how long each pass took")
    if "new_tokens" not in header:
        raise TraceError(f"{where}: new_tokens: is missing; log the new tokens of the busiest rank")


def _row(cells: dict[str, str], prompt_tokens: int, where: str) -> tuple[int, ...]:
    """Return one row of the log in the order of `COLUMNS`, assumptions filled in."""
    given = {name: _number(name, text, where) for name, text in cells.items()}
    new = given["new_tokens"]
    context = given.get("context_tokens", new)
    pairs = given["pairs"] if "pairs" in given else _pairs_of_prompts(new, context, prompt_tokens)
    time = given["pass_ns"] if "pass_ns" in given else given["pass_s"]
    row = time, pairs, new, context, given.get("mean_new_tokens", new)
    for name, value in zip(COLUMNS, row, strict=True):
        if abs(value) > INT64_MAX:
            raise TraceError(f"{where}: {name} = {value}: does not fit a signed 64-bit integer")
    return row


def _pairs_of_prompts(new: int, context: int, prompt_tokens: int) -> int:
    """Return Σ c·p + c·(c + 1)/2 for prompts of equal length, of which the last one may be shorter."""
    prompts, rest = divmod(max(new, 0), prompt_tokens)  # what is negative is refused later, by its own name
    causal = prompts * (prompt_tokens * (prompt_tokens + 1) // 2) + rest * (rest + 1) // 2
    return causal + new * max(context - new, 0) // max(prompts + (rest > 0), 1)


def _number(name: str, text: str, where: str) -> int:
    """Return a whole number; seconds become nanoseconds."""
    try:
        return round(float(text) * 1e9) if name == "pass_s" else int(text)
    except (ValueError, OverflowError):  # round() refuses NaN with the one and infinity with the other
        kind = "number of seconds" if name == "pass_s" else "whole number"
        raise TraceError(f"{where}: {name} = {text!r}: is no {kind}") from None


def write_pass_log(log: PassLog, path: PathLike) -> None:
    """Write a log as CSV that `read_pass_log` gives back; a failed write leaves the old file and raises `OSError`."""
    write_rows(path, COLUMNS, np.column_stack([getattr(log, name) for name in COLUMNS]).tolist())
