"""The window problem as a CP-SAT model: which variables and constraints, and nothing about the search."""

from __future__ import annotations

from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import FREE, UNLIMITED, Window
from sbs_opt.solvers.columns import Columns, columns_of
from sbs_opt.solvers.pairs import allowed_pairs, amounts


class WindowModel:
    """A CP-SAT model of one window, extended stage by stage.

    x[i, u] says that unit u takes item i; there is no variable where the pin forbids it or the item does not fit alone.

    An open resource r of unit u with budget L: y[c, u] ≤ x[c, u] marks the one item that may cross, Σ_c y[c, u] ≤ 1,
    and load + Σ p·x − Σ p·y + Σ y ≤ L says "within the budget" without a crosser and "less than L before the crosser
    starts" with one. The crosser must not be shorter than an item that may not cross: for such an item j,
    x[j, u] + Σ of y[c, u] over shorter c ≤ 1. (A longer item that may cross is itself a valid crosser.)
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.columns: Columns = columns_of(window)
        self.model = cp_model.CpModel()
        self.amount = amounts(window)
        self._allowed = allowed_pairs(window, self.amount)
        n, m = self._allowed.shape
        self._x: dict[tuple[int, int], Any] = {
            (i, u): self.model.new_bool_var("") for i, u in np.argwhere(self._allowed).tolist()
        }
        self._rows = [np.flatnonzero(self._allowed[:, u]) for u in range(m)]
        self._placed = [_total([self._x[i, u] for u in np.flatnonzero(self._allowed[i]).tolist()]) for i in range(n)]
        for i in range(n):
            self.model.add(self._placed[i] <= 1)
        for u in range(m):
            for r in range(window.num_resources):
                self._add_limit(u, r)
        self._peaks: dict[tuple[int, int], Any] = {}

    def _add_limit(self, u: int, r: int) -> None:
        limit, load = int(self.window.limit[u, r]), int(self.window.load[u, r])
        rows = self._rows[u]
        rows = rows[self.amount[rows, u, r] > 0]
        added = self.amount[rows, u, r]
        if limit == UNLIMITED or len(rows) == 0 or load + int(added.sum()) <= limit:
            return  # a limit below the load binds only what is added, and nothing can be
        used = _weighted([self._x[i, u] for i in rows.tolist()], added)
        if r != self.window.open_resource:
            self.model.add(used <= limit - load)
            return
        crossers = np.flatnonzero(self.window.crossing[rows])
        y = {int(k): self.model.new_bool_var("") for k in crossers}
        for k, variable in y.items():
            self.model.add_implication(variable, self._x[int(rows[k]), u])
        self.model.add_at_most_one(y.values())
        relief = _weighted(list(y.values()), added[crossers] - 1)
        self.model.add(used - relief <= limit - load)
        for k in np.flatnonzero(~self.window.crossing[rows]).tolist():
            shorter = [variable for c, variable in y.items() if added[c] < added[k]]
            if shorter:
                self.model.add_at_most_one([self._x[int(rows[k]), u], *shorter])

    def left_out(self, tier: int) -> Any:
        """Return the expression that counts the items of a tier which are left out."""
        members = np.flatnonzero(self.window.tier == tier).tolist()
        return len(members) - _total([self._placed[i] for i in members])

    def bottleneck(self, upper: int) -> Any:
        """Return the bottleneck as an expression; adds the peaks, which may not exceed what `upper` allows."""
        base, price = self.columns.peak, self.window.price.tolist()
        slack = upper - int((base @ self.window.price).sum())
        groups = range(len(base))
        for g in groups:
            for r, cost in enumerate(price):
                if cost > 0:
                    low = int(base[g, r])
                    self._peaks[g, r] = self.model.new_int_var(low, low + slack // cost, "")
        for u, g in enumerate(self.columns.group.tolist()):
            x = [self._x[i, u] for i in self._rows[u].tolist()]
            for r, cost in enumerate(price):
                if cost > 0:
                    added = _weighted(x, self.amount[self._rows[u], u, r])
                    self.model.add(added + int(self.window.load[u, r]) <= self._peaks[g, r])
        total = sum(price[r] * peak for (_, r), peak in self._peaks.items())
        # With nothing priced the bottleneck is constant, and CP-SAT wants an expression.
        return total if self._peaks else cp_model.LinearExpr.sum([self.model.new_constant(0)])

    def saved(self) -> Any:
        """Return the priced savings of the placed items as an expression."""
        savings = self.window.savings
        if savings is None:
            return _total([])
        value = savings.value @ self.window.price
        rows = zip(savings.item.tolist(), savings.unit.tolist(), value.tolist(), strict=True)
        return _total([v * self._x[i, u] for i, u, v in rows if v and (i, u) in self._x])

    def hint(self, unit: IntArray) -> None:
        """Tell the search about a placement."""
        self.model.clear_hints()  # type: ignore[no-untyped-call]
        for (i, u), variable in self._x.items():
            self.model.add_hint(variable, int(unit[i] == u))

    def read(self, solver: cp_model.CpSolver) -> IntArray:
        """Return the placement that the search found."""
        unit = np.full(self.window.num_items, FREE, dtype=np.int64)
        for (i, u), variable in self._x.items():
            if solver.boolean_value(variable):
                unit[i] = u
        return unit


def _total(terms: list[Any]) -> Any:
    return cp_model.LinearExpr.sum(terms)


def _weighted(terms: list[Any], weights: IntArray) -> Any:
    return cp_model.LinearExpr.weighted_sum(terms, weights.tolist())
