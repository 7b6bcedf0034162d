"""What a bench says: a row per run for programs, and how each solver did under each budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sbs_opt.reports.json_rows import envelope
from sbs_opt.reports.numbers import ABSENT, count, duration, milliseconds, percentage, significant
from sbs_opt.reports.solutions import solution_row
from sbs_opt.solvers.bench import Bench, Run

UNSUPPORTED = "UNSUPPORTED"
"""Status of a row whose solver does not take the window."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One solver under one budget, over the windows.

    Parameters
    ----------
    windows, refused
        How many it solved, and how many it does not take.
    optimal
        Share of the solved windows that it proved optimal itself.
    best
        Share of the solved windows whose whole objective no other run betters.
    left_out_more
        Windows of which another run leaves out less; they have no gap.
    gap_mean, gap_max
        To the best bound that any run proved of the window; None where there is nothing to compare.
    wall_s_p50, wall_s_p99
        Seconds in `solve`, checks included; None where nothing was solved.
    """

    solver: str
    budget_s: float | None
    windows: int
    refused: int
    optimal: float | None
    best: float | None
    left_out_more: int
    gap_mean: float | None
    gap_max: float | None
    wall_s_p50: float | None
    wall_s_p99: float | None

    @property
    def name(self) -> str:
        """The solver with its budget."""
        return self.solver if self.budget_s is None else f"{self.solver} ({1e3 * self.budget_s:g} ms)"

    @property
    def comparable(self) -> bool:
        """Whether it solved every window and left out no more than the best."""
        return not self.refused and not self.left_out_more


def summaries(bench: Bench) -> tuple[Summary, ...]:
    """Return how each solver did under each budget, in the order in which they were asked for."""
    cells: dict[tuple[str, float | None], list[Run]] = {}
    for run in bench.runs:
        cells.setdefault((run.solver, run.budget_s), []).append(run)
    return tuple(_summary(bench, *cell, runs) for cell, runs in cells.items())


def _summary(bench: Bench, solver: str, budget_s: float | None, runs: Sequence[Run]) -> Summary:
    solved = [(run.result, bench.yardsticks[run.window]) for run in runs if run.result is not None]
    every_gap = [yardstick.gap(result) for result, yardstick in solved]
    gaps = [gap for gap in every_gap if gap is not None]
    walls = [result.stats.wall_s for result, _ in solved]

    def share(hits: list[bool]) -> float | None:
        return sum(hits) / len(hits) if hits else None

    return Summary(
        solver=solver,
        budget_s=budget_s,
        windows=len(solved),
        refused=len(runs) - len(solved),
        optimal=share([result.status == "OPTIMAL" for result, _ in solved]),
        best=share([result.objective == yardstick.objective for result, yardstick in solved]),
        left_out_more=len(every_gap) - len(gaps),
        gap_mean=float(np.mean(gaps)) if gaps else None,
        gap_max=max(gaps, default=None),
        wall_s_p50=float(np.percentile(walls, 50)) if walls else None,
        wall_s_p99=float(np.percentile(walls, 99)) if walls else None,
    )


def frontier(rows: Sequence[Summary]) -> tuple[Summary, ...]:
    """Return those that no other one beats in both mean gap and median time, fastest first."""
    timed = [(row.wall_s_p50, row.gap_mean, row) for row in rows if row.comparable]
    known = [(wall, gap, row) for wall, gap, row in timed if wall is not None and gap is not None]
    kept: list[Summary] = []
    least = float("inf")
    for _, gap, row in sorted(known, key=lambda entry: entry[:2]):
        if gap < least:
            kept.append(row)
            least = gap
    return tuple(kept)


def bench_json(bench: Bench, windows: str) -> dict[str, Any]:
    """Return the JSON object of a bench; `windows` names the file. Only the wall times differ from run to run."""
    rows = [_row(bench, run) for run in bench.runs]
    return envelope("bench", bench.seed, rows, windows=windows, summary=[asdict(row) for row in summaries(bench)])


def _row(bench: Bench, run: Run) -> dict[str, Any]:
    if run.result is None:
        names = ("left_out", "bottleneck", "bound", "gap", "saved", "spread", "wall_s", "steps", "limit")
        found = {"status": UNSUPPORTED, **dict.fromkeys((*names, "best_bound", "best_gap", "ran"))}
    else:
        yardstick = bench.yardsticks[run.window]
        gap = yardstick.gap(run.result)
        found = solution_row(run.window, run.result)
        found |= {"best_bound": None if gap is None else yardstick.bound, "best_gap": gap, "ran": found.pop("solver")}
    return {
        "window": run.window,
        "solver": run.solver,
        "budget_s": run.budget_s,
        **found,
        "refusal": run.refusal or None,
    }


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of every summary, for the terminal and for the page.

    Parameters
    ----------
    head
        The two lines of its header.
    meaning
        A sentence for a reader who does not know it.
    texts
        One per summary.
    optional
        Whether it is left out where it says nothing.
    """

    head: tuple[str, str]
    meaning: str
    texts: tuple[str, ...]
    optional: bool = False


def columns(rows: Sequence[Summary]) -> tuple[Column, ...]:
    """Return the columns of the table; a column in which there is nothing to say is left out."""

    def gap(value: float | None) -> str:
        return ABSENT if value is None else significant(100 * value)

    every = (
        Column(
            ("budget", "ms"),
            "wall time allowed per window; – is the solver's own default",
            tuple(ABSENT if row.budget_s is None else f"{1e3 * row.budget_s:g}" for row in rows),
            optional=True,
        ),
        Column(("", "windows"), "windows solved", tuple(count(row.windows) for row in rows)),
        Column(
            ("not", "taken"),
            "windows that the solver does not take",
            tuple(count(row.refused) for row in rows),
            optional=True,
        ),
        Column(
            ("OPTIMAL", "%"),
            "share of the solved windows that the solver proved optimal itself",
            tuple(percentage(row.optimal) for row in rows),
        ),
        Column(
            ("best", "%"),
            "share of the solved windows whose whole objective no other run betters",
            tuple(percentage(row.best) for row in rows),
        ),
        Column(
            ("left out", "more"),
            "windows of which another run leaves out less; they have no gap",
            tuple(count(row.left_out_more) for row in rows),
            optional=True,
        ),
        Column(
            ("gap mean", "%"),
            "mean distance to the best bound that any run proved of the window",
            tuple(gap(row.gap_mean) for row in rows),
        ),
        Column(("gap max", "%"), "the greatest such distance", tuple(gap(row.gap_max) for row in rows)),
        Column(
            ("time p50", "ms"),
            "half of the windows took no longer, checks included",
            tuple(milliseconds(row.wall_s_p50) for row in rows),
        ),
        Column(
            ("p99", "ms"), "99 % of the windows took no longer", tuple(milliseconds(row.wall_s_p99) for row in rows)
        ),
    )
    return tuple(column for column in every if not column.optional or not set(column.texts) <= {"0", ABSENT})


def in_short(rows: Sequence[Summary]) -> str:
    """Return the frontier as a sentence."""
    kept = frontier(rows)
    if not kept:
        return "No solver took every window and left out as little as the best, so none is ranked."
    said = "; ".join(
        f"{row.name}: {significant(100 * (row.gap_mean or 0))} % in {duration(row.wall_s_p50 or 0)}" for row in kept
    )
    ranked = sum(row.comparable for row in rows)
    fair = "took every window and left out no more than the best"
    among = "Nothing here" if ranked == len(rows) else f"Of the {ranked} of {len(rows)} runs that {fair}, none"
    return f"{among} is both faster and closer (median time, mean gap) than {said}."


NOTES = (
    "Gaps are to the best bound that any of these runs proved of the window, so solvers are held against the same "
    "figure; a gap is what is not proved, not what is lost.",
    "Times are those of solve, its checks included. Each solver was run once on each kind of window before anything "
    "was measured, so loading compiled code is in no figure; then the solvers took turns on each window.",
)
"""What a reader must know."""
