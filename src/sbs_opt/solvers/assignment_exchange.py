"""Units exchange one item each, all at once, by an assignment."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.models.window import FREE, Window
from sbs_opt.solvers.assignment_kernel import exchange_costs, put
from sbs_opt.solvers.columns import columns_of
from sbs_opt.solvers.flow_exact import Best
from sbs_opt.solvers.flow_network import Flows

_PATIENCE = 10
"""Exchanges without an improvement before the search ends."""

_MOST_ENTRIES = 2_000_000
"""About a second."""


def exchange(window: Window, flows: Flows, best: Best, seed: int) -> None:
    """Improve the best placement by multi-exchanges (Frangioni, Necciari, Scutellà 2004).

    One item of each unit is drawn; an assignment sends them back, at most one to a unit, so that the sum of a high
    power of the priced loads is least: the best of m! exchanges in O(m³). Ends after `_PATIENCE` in a row that found
    nothing better, after about `_MOST_ENTRIES` entries of matrices, or with the budget.
    """
    columns = columns_of(window)
    weight = window.price.astype(np.float64)
    total = float((window.demand.sum(axis=0) + window.load.sum(axis=0)) @ weight)
    weight *= window.num_units / max(total, 1.0)  # loads near 1, so that their powers stay in range
    movable = np.flatnonzero(window.pinned == FREE)
    draw = np.random.default_rng(seed)
    entries = window.num_units**2
    failures = 0
    for _ in range(_PATIENCE + _MOST_ENTRIES // entries):
        if failures == _PATIENCE or not flows.afford(entries):
            return
        unit = best.unit.copy()
        items = _one_of_each(unit, movable, draw)
        others = np.flatnonzero(unit != FREE)
        others = others[~np.isin(others, items)]
        load = window.load.copy()
        longest, crosses = np.zeros(len(load), dtype=np.int64), np.zeros(len(load), dtype=np.bool_)
        put(columns, others, unit[others], load, longest, crosses)
        cost = exchange_costs(columns, items, weight, load, longest, crosses)
        fits: BoolArray = np.isfinite(cost)
        top = float(cost.max(where=fits, initial=0.0))
        row, column = linear_sum_assignment(np.where(fits, cost, (top + 1.0) * (len(load) + 1)))
        row, column = row[fits[row, column]], column[fits[row, column]]
        unit[items] = FREE
        unit[items[row]] = column
        before = best.objective
        best.offer(unit)
        failures = 0 if best.objective < before else failures + 1


def _one_of_each(unit: IntArray, movable: IntArray, draw: np.random.Generator) -> IntArray:
    """Draw an item of each unit that has one to move."""
    placed = movable[unit[movable] != FREE]
    placed = placed[draw.permutation(len(placed))]
    _, first = np.unique(unit[placed], return_index=True)
    chosen: IntArray = placed[first]
    return chosen
