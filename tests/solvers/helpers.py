"""What several test modules of this room need."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import FREE, UNLIMITED, Savings, Window
from sbs_opt.solvers.protocol import FIELDS, Solver
from sbs_opt.solvers.registry import solver_info
from sbs_opt.testing.strategies import windows


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
            tuple(sorted((*state[:u], state[u] + size, *state[u + 1 :])))
            for state in reached
            for u in range(len(loads))
        }
    return min(state[-1] for state in reached)


@st.composite
def open_windows(draw: st.DrawFn) -> Window:
    """Draw windows where what may cross an open limit decides most of the time."""
    n, m = draw(st.integers(3, 6)), draw(st.integers(1, 2))
    sizes = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    crossing = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    limit = draw(st.lists(st.integers(2, 9), min_size=m, max_size=m))
    return plain(sizes, [0] * m, limit=np.reshape(limit, (m, 1)), open_resource=0, crossing=crossing)


def dense_window(seed: int) -> Window:
    """Return a generated window that uses every field at once, with small numbers, so that ties and limits bind."""
    draw = np.random.default_rng(seed)
    n, m, resources = int(draw.integers(3, 6)), int(draw.integers(2, 4)), int(draw.integers(1, 4))
    demand = draw.integers(0, 5, (n, resources))
    pairs = draw.permutation(n * m)[: int(draw.integers(1, n))]
    return Window(
        demand=demand,
        load=draw.integers(0, 5, (m, resources)),
        price=draw.integers(0, 3, resources),
        spread_weight=draw.integers(0, 3, resources),
        limit=np.where(draw.random((m, resources)) < 0.3, UNLIMITED, draw.integers(0, 13, (m, resources))),
        open_resource=int(draw.integers(resources)),
        crossing=draw.random(n) < 0.6,
        group=draw.integers(0, 2, m),
        tier=draw.integers(0, 2, n),
        pinned=np.where(draw.random(n) < 0.8, FREE, draw.integers(0, m, n)),
        savings=Savings(pairs // m, pairs % m, draw.integers(0, demand[pairs // m] + 1)),
    )


dense_windows = st.integers(0, 2**32 - 1).map(dense_window)
"""Hypothesis prefers simple windows; here the fields meet each other in every example."""

every_kind = windows(max_placements=700) | open_windows() | dense_windows
"""Windows that brute force can settle."""


def windows_for(solver: str | Solver) -> st.SearchStrategy[Window]:
    """Return windows that brute force can settle, of the fields that a solver handles."""
    fields = solver_info(solver).capabilities & frozenset(FIELDS) if isinstance(solver, str) else frozenset(FIELDS)
    if fields == frozenset(FIELDS):
        return every_kind
    return windows(max_placements=700, fields=fields) | windows(4, 8, min_units=2, max_units=2, fields=fields)
