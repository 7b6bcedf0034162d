"""Solved windows: one row each, and how they went taken together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sbs_opt.models.placement import Placement
from sbs_opt.models.window import Window
from sbs_opt.reports.numbers import count, duration, milliseconds, percent
from sbs_opt.solvers.result import Result

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN_ROWS = 20


def solution_row(index: int, result: Result) -> dict[str, Any]:
    """Return the row of `solve --json`; all but `wall_s` is the same for the same window, seed and budget in steps."""
    objective = result.objective
    return {
        "window": index,
        "solver": result.stats.solver,
        "status": result.status,
        "left_out": list(objective.left_out),
        "bottleneck": objective.bottleneck,
        "bound": result.bound,
        "gap": result.gap,
        "saved": objective.saved,
        "spread": objective.spread,
        "wall_s": result.stats.wall_s,
        "steps": result.stats.steps,
        "limit": result.limit,
    }


def window_row(index: int, window: Window, placement: Placement) -> dict[str, Any]:
    """Return the row of `windows --json`: the size of a window and what the policy placed of it."""
    return {
        "window": index,
        "items": window.num_items,
        "units": window.num_units,
        "resources": window.num_resources,
        "savings": len(window.savings) if window.savings is not None else 0,
        "placed": int((placement.unit >= 0).sum()),
    }


def solution_tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """Yield what to print for solved windows: the first of them one by one, then all in sum."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=0, header_style="dim")
    table.add_column("window", justify="right")
    for name in ("solver", "status"):
        table.add_column(name)
    saves = any(row["saved"] for row in rows)
    for name in ("left out", "bottleneck", "bound", "gap", *(["saved"] if saves else []), "wall ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:_SHOWN_ROWS]:
        status = row["status"] + (f" ({row['limit']})" if row["limit"] else "")
        table.add_row(
            str(row["window"]),
            row["solver"],
            status,
            count(sum(row["left_out"])),
            count(row["bottleneck"]),
            count(row["bound"]),
            percent(row["gap"]),
            *([count(row["saved"])] if saves else []),
            milliseconds(row["wall_s"]),
        )
    yield table
    if len(rows) > _SHOWN_ROWS:
        yield f"… and {count(len(rows) - _SHOWN_ROWS)} more windows; --json has all of them"
    if any(row["limit"] for row in rows):
        yield "(time), (steps): that budget ended the search for a better bottleneck, more savings or less spread"
    yield _in_sum(rows)


def _in_sum(rows: Sequence[Mapping[str, Any]]) -> str:
    gaps, walls = ([row[name] for row in rows] for name in ("gap", "wall_s"))
    statuses = ", ".join(f"{count(n)} {status}" for status, n in sorted(Counter(r["status"] for r in rows).items()))
    left_out = sum(sum(row["left_out"]) for row in rows)
    p50, p99 = (duration(float(np.percentile(walls, p))) for p in (50, 99))
    mean_gap = percent(float(np.mean(gaps)))
    return (
        f"{count(len(rows))} windows: {statuses}; {count(left_out)} items left out; gap {mean_gap} in the mean, "
        f"{percent(max(gaps))} at most; wall time {p50} at p50, {p99} at p99"
    )
