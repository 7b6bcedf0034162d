"""What several test modules of this room need."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import FREE, Savings, Window


def plain(sizes: npt.ArrayLike, loads: npt.ArrayLike, **given: Any) -> Window:
    """Return a window of one resource from flat lists."""
    demand, load = np.asarray(sizes, dtype=np.int64), np.asarray(loads, dtype=np.int64)
    return Window(demand=demand.reshape(-1, 1), load=load.reshape(-1, 1), **given)


def permuted(window: Window, items: IntArray, units: IntArray) -> Window:
    """Return the same problem with item `items[k]` at position k and unit `units[k]` at position k."""
    new_item, new_unit = np.argsort(items), np.argsort(units)
    pinned = window.pinned[items]
    savings = window.savings
    if savings is not None:
        savings = Savings(new_item[savings.item], new_unit[savings.unit], savings.value)
    return Window(
        demand=window.demand[items],
        load=window.load[units],
        price=window.price,
        spread_weight=window.spread_weight,
        limit=window.limit[units],
        open_resource=window.open_resource,
        crossing=window.crossing[items],
        group=window.group[units],
        tier=window.tier[items],
        pinned=np.where(pinned == FREE, FREE, new_unit[pinned]),
        savings=savings,
    )


def least_makespan(sizes: list[int], loads: list[int]) -> int:
    """Return the optimum of one resource without limits, from the set of all load vectors that can be reached."""
    reached = {tuple(sorted(loads))}
    for size in sizes:
        reached = {
            tuple(sorted((*state[:u], state[u] + size, *state[u + 1 :]))) for state in reached for u in range(len(loads))
        }
    return min(state[-1] for state in reached)
