"""The window problem as a mixed-integer linear programme, for every solver that takes a matrix.

Columns, in this order:

* x[i, u] ∈ {0, 1}: unit u takes item i; only where the pin allows it and the item fits alone;
* those of an open limit (`milp_open_limit`);
* T[r, g] ≥ 0: by how much the load of group g rises above its initial peak in the priced resource r.

Solvers work with tolerances, so small numbers are worth having: all amounts of a row are divided by their greatest
common divisor, exactly, and its bound is rounded down.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import FREE, Window
from sbs_opt.solvers.columns import Columns, columns_of
from sbs_opt.solvers.exact_search import Bottleneck, LeftOut, Stage
from sbs_opt.solvers.milp_open_limit import OpenLimit
from sbs_opt.solvers.milp_rows import FloatArray, Programme, Rows, labelled_rows, no_bound, stacked
from sbs_opt.solvers.pairs import allowed_pairs, amounts

_WHOLE_RANGE = 10_000
"""Greatest range of columns T that are said to be whole. With ranges of 10^5 HiGHS has proved false optima, with real
columns it has not; in small ranges it has failed with real columns, and proves sooner with whole ones."""


class _Rise(NamedTuple):
    """Columns T[r, ·] of one resource: the first one, and how many units of load T = 1 means."""

    resource: int
    first: int
    divisor: int


class _Objective(NamedTuple):
    """The value of a stage: offset + scale · Σ cost·z[column]."""

    column: IntArray
    cost: FloatArray
    offset: int
    scale: int


class MilpModel:
    """The programme of one window, stage by stage; its fixed part is built once, in O(n·m·R)."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._columns: Columns = columns_of(window)
        amount = amounts(window)
        allowed = allowed_pairs(window, amount)
        self._item, self._unit = np.nonzero(allowed)
        self._amount: IntArray = amount[self._item, self._unit]
        self._width = len(self._item)
        self._must_place = np.zeros(window.num_items)
        self._rows: list[Rows] = []
        self._open: OpenLimit | None = None
        self._rises: list[_Rise] = []
        self._most_bottleneck = 0
        for r in range(window.num_resources):
            self._add_limit(r)

    def _add_limit(self, r: int) -> None:
        """Bound what the units take of resource r, where all of it together would be too much."""
        window = self._window
        added = self._amount[:, r]
        total = np.zeros(window.num_units, dtype=np.int64)
        np.add.at(total, self._unit, added)
        room = window.limit[:, r] - window.load[:, r]
        x = np.flatnonzero((added > 0) & (total > room)[self._unit])
        if not len(x):
            return
        unit, added = self._unit[x], added[x]
        if r == window.open_resource:
            self._open = OpenLimit(x, unit, added, window.crossing[self._item[x]], room, self._width)
            self._rows += self._open.rows
            self._width = self._open.width
            return
        divisor = np.zeros(window.num_units, dtype=np.int64)
        np.gcd.at(divisor, unit, added)
        upper = (room // np.maximum(divisor, 1)).astype(np.float64)
        self._rows.append(labelled_rows(unit, x, added // divisor[unit], no_bound(len(room)), upper))

    def programme(self, stage: Stage, low: int, high: int) -> Programme:
        """Return the programme that minimises the value of a stage, known to lie in [low, high]."""
        if isinstance(stage, Bottleneck):
            self._most_bottleneck = high
        objective = self._objective(stage)
        cost, lower, upper = np.zeros(self._width), np.zeros(self._width), np.ones(self._width)
        cost[objective.column] = objective.cost
        whole = np.ones(self._width, dtype=np.bool_)
        if self._open is not None:
            whole[self._open.shorter] = False
        rising = np.zeros(self._width, dtype=np.bool_)
        for rise in self._rises:
            price = int(self._window.price[rise.resource])
            columns = slice(rise.first, rise.first + len(self._columns.peak))
            upper[columns] = (self._most_bottleneck - self._initial_bottleneck()) // (price * rise.divisor)
            rising[columns] = True
        whole[rising] = upper[rising].max(initial=0) <= _WHOLE_RANGE
        between = _between(objective, low, high)
        if len(objective.column) == 1 and isinstance(stage, Bottleneck):  # a narrow column makes a credible bound
            lower[objective.column] = between[0].lower / objective.cost
            upper[objective.column] = between[0].upper / objective.cost
            between = []
        lower[whole], upper[whole] = np.ceil(lower[whole]), np.floor(upper[whole])
        rows = stacked([self._assignment(), *self._rows, *between])
        return Programme(cost, lower, upper, whole, rows, objective.offset, objective.scale)

    def fix(self, stage: Stage, value: int) -> None:
        """Demand from now on that what is left out of a tier is `value`, or that the bottleneck is at most that."""
        if isinstance(stage, Bottleneck):
            self._most_bottleneck = value
            self._rows += _between(self._objective(stage), None, value)
            return
        objective = self._objective(stage)
        possible = np.unique(self._item[objective.column])
        if objective.offset - value == len(possible):  # stronger than a row over the whole tier
            self._must_place[possible] = 1
        else:
            self._rows += _between(objective, value, value)

    def start(self, unit: IntArray) -> FloatArray:
        """Return float64[columns] of a feasible placement."""
        values = np.zeros(self._width)
        values[: len(self._item)] = unit[self._item] == self._unit
        if self._open is not None:
            self._open.complete(values)
        taken = np.flatnonzero(values[: len(self._item)])
        load = self._window.load.copy()
        np.add.at(load, self._unit[taken], self._amount[taken])
        peak = self._columns.peak.copy()
        np.maximum.at(peak, self._columns.group, load)
        for rise in self._rises:
            risen = (peak - self._columns.peak)[:, rise.resource] // rise.divisor
            values[rise.first : rise.first + len(risen)] = risen
        return values

    def read(self, values: FloatArray) -> IntArray:
        """Return the placement that a solver's values say, rounded: int64[n]."""
        unit = np.full(self._window.num_items, FREE, dtype=np.int64)
        taken = np.flatnonzero(values[: len(self._item)] > 0.5)
        unit[self._item[taken]] = self._unit[taken]
        return unit

    def _assignment(self) -> Rows:
        x = np.arange(len(self._item))
        return labelled_rows(self._item, x, np.ones_like(x), self._must_place, np.ones(self._window.num_items))

    def _objective(self, stage: Stage) -> _Objective:
        if isinstance(stage, LeftOut):
            tier = self._window.tiers[stage.position]
            members = np.flatnonzero(self._window.tier[self._item] == tier)
            return _Objective(members, np.full(len(members), -1.0), int((self._window.tier == tier).sum()), 1)
        if isinstance(stage, Bottleneck):
            return self._bottleneck()
        return self._minus_saved()

    def _initial_bottleneck(self) -> int:
        return int((self._columns.peak @ self._window.price).sum())

    def _bottleneck(self) -> _Objective:
        if not self._rises:
            for r in np.flatnonzero(self._window.price).tolist():
                self._add_rise(r)
        first = np.array([rise.first for rise in self._rises], dtype=np.int64)
        price = np.array([self._window.price[rise.resource] * rise.divisor for rise in self._rises], dtype=np.int64)
        groups = len(self._columns.peak)
        column = (first[:, None] + np.arange(groups)).reshape(-1)
        return _reduced(column, np.repeat(price, groups), self._initial_bottleneck())

    def _add_rise(self, r: int) -> None:
        """Add T[r, ·] and the rows that keep the loads below it."""
        added, group = self._amount[:, r], self._columns.group
        x = np.flatnonzero(added)
        if not len(x):
            return
        gap = self._columns.peak[group, r] - self._window.load[:, r]
        divisor = int(np.gcd.reduce(np.concatenate([added, gap])))
        units = np.unique(self._unit[x])
        self._rows.append(
            labelled_rows(
                np.concatenate([self._unit[x], units]),
                np.concatenate([x, self._width + group[units]]),
                np.concatenate([added[x] // divisor, np.full(len(units), -1)]),
                no_bound(len(gap)),
                (gap // divisor).astype(np.float64),
            )
        )
        self._rises.append(_Rise(r, self._width, divisor))
        self._width += len(self._columns.peak)

    def _minus_saved(self) -> _Objective:
        savings = self._window.savings
        if savings is None:
            return _reduced(np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
        pairs = np.full((self._window.num_items, self._window.num_units), -1)
        pairs[self._item, self._unit] = np.arange(len(self._item))
        column = pairs[savings.item, savings.unit]
        value = savings.value @ self._window.price
        of_use = (column >= 0) & (value > 0)
        return _reduced(column[of_use], -value[of_use], 0)


def _reduced(column: IntArray, cost: IntArray, offset: int) -> _Objective:
    scale = int(np.gcd.reduce(cost)) if len(cost) else 1
    return _Objective(column, (cost // scale).astype(np.float64), offset, scale)


def _between(objective: _Objective, low: int | None, high: int) -> list[Rows]:
    """Return the row that keeps the value of an objective in [low, high], if it has terms.

    The value is whole, so half a unit of slack lets no other value in, and it keeps the row away from the tolerances:
    solvers have called a row infeasible that a point met exactly.
    """
    if not len(objective.column):
        return []
    lower = -np.inf if low is None else -((objective.offset - low) // objective.scale) - 0.5
    upper = (high - objective.offset) // objective.scale + 0.5
    label = np.zeros_like(objective.column)
    return [labelled_rows(label, objective.column, objective.cost, np.array([lower]), np.array([upper]))]
