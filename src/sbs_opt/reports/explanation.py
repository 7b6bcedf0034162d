"""Why a placement costs what it costs: every unit before and after, what binds, and what the bound is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.placement import effective_demand
from sbs_opt.models.window import UNLIMITED, Window
from sbs_opt.reports.numbers import count, percent
from sbs_opt.solvers.bounds import Relaxation
from sbs_opt.solvers.result import Result

if TYPE_CHECKING:
    from rich.console import RenderableType


_PROOFS = {
    "already_there": "what is there before anything is placed",
    "water_level": "the water level: all work spread evenly",
    "single_item": "the dearest single item",
    "unit_prices": "what each unit would have to be paid for its share, the dual of the linear relaxation",
    "counting": "counting how many of the largest items the units can hold",
}
"""The relaxations in words, plainest first: the first that reaches what is proved is named as the proof."""


def explain(window: Window, result: Result) -> dict[str, Any]:
    """Return an account of a result, ready for JSON. O((n + m)·R), and what `lower_bound` takes.

    Returns
    -------
    dict
        `units`: load before and after per resource, items in dispatch order, resources at their limit;
        `binding`: per group and priced resource the unit that sets the peak, with its share of the bottleneck;
        `bound`: what is there before anything is placed, the bound of each relaxation of `sbs_opt.solvers.bounds` by
        name, and the best that was proved;
        `left_out`: the items left out.
    """
    unit = result.placement.unit
    placed = np.flatnonzero(unit >= 0)
    after = window.load.copy()
    np.add.at(after, unit[placed], effective_demand(window, unit)[placed])
    order = result.placement.dispatch_order(window)
    units = [
        {
            "unit": u,
            "group": int(window.group[u]),
            "items": order[unit[order] == u].tolist(),
            "before": window.load[u].tolist(),
            "after": after[u].tolist(),
            "at_limit": [r for r in range(window.num_resources) if UNLIMITED > window.limit[u, r] <= after[u, r]],
        }
        for u in range(window.num_units)
    ]
    return {
        "units": units,
        "binding": _binding(window, after),
        "bound": {
            "already_there": sum(part["cost"] for part in _binding(window, window.load)),
            **Relaxation.of(window).parts(result.objective.left_out),
            "proved": result.bound,
        },
        "left_out": np.flatnonzero(unit < 0).tolist(),
    }


def _binding(window: Window, load: IntArray) -> list[dict[str, int]]:
    parts = []
    for group in np.unique(window.group).tolist():
        members = np.flatnonzero(window.group == group)
        for r in np.flatnonzero(window.price).tolist():
            unit = int(members[np.argmax(load[members, r])])
            peak, price = int(load[unit, r]), int(window.price[r])
            where = {"group": group, "resource": r, "unit": unit}
            parts.append({**where, "peak": peak, "price": price, "cost": peak * price})
    return parts


def explanation_tables(index: int, result: Result, account: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield what to print of an account: the units in a table, then what binds and the bound in sentences."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    yield Text(f"\nwindow {index}: {result.status}, bottleneck {count(result.objective.bottleneck)}", style="bold")
    table = Table(box=box.SIMPLE_HEAD, padding=0, header_style="dim")
    for name in ("unit", "group"):
        table.add_column(name, justify="right")
    for r in range(len(account["units"][0]["before"])):
        table.add_column(f"resource {r}\nbefore → after", justify="right")
    table.add_column("items", overflow="fold")
    table.add_column("binds")
    for row in account["units"]:
        peaks = [f"peak of {p['resource']}" for p in account["binding"] if p["unit"] == row["unit"]]
        limits = [f"limit of {r}" for r in row["at_limit"]]
        loads = [f"{count(a)} → {count(b)}" for a, b in zip(row["before"], row["after"], strict=True)]
        items = " ".join(map(str, row["items"]))
        table.add_row(str(row["unit"]), str(row["group"]), *loads, items, ", ".join(peaks + limits))
    yield table
    yield Text("\n".join(_sentences(result, account)))


def _sentences(result: Result, account: Mapping[str, Any]) -> Iterator[str]:
    costs = " + ".join(
        f"{count(p['price'])} × {count(p['peak'])} (group {p['group']}, resource {p['resource']}, unit {p['unit']})"
        for p in account["binding"]
    )
    yield f"bottleneck {count(result.objective.bottleneck)} = {costs or '0: no resource has a price'}"
    bound = account["bound"]
    proof = next(
        (words for name, words in _PROOFS.items() if bound.get(name) == bound["proved"]), "the solver's search"
    )
    yield f"bound {count(bound['proved'])}, from {proof}; gap {percent(result.gap)}"
    for name, words in _PROOFS.items():
        if name in bound:
            yield f"  {words}: {count(bound[name])}"
    if account["left_out"]:
        yield f"left out: items {' '.join(map(str, account['left_out']))}"
