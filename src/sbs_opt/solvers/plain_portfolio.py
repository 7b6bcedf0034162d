"""The route of `auto` through a plain window: what is tried, in which order, and when it is enough."""

from __future__ import annotations

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import FREE, Window
from sbs_opt.solvers.branch_and_bound import BranchAndBound
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.plain_search import (
    RankedPlacement,
    divided_anew,
    filled,
    improve,
    packed,
    place_and_search,
    ranked,
    units_of,
)
from sbs_opt.solvers.plain_search_kernel import OUT_OF_STEPS
from sbs_opt.solvers.protocol import Solution

_FEW_PER_UNIT, _MANY_PER_UNIT = 3, 6
"""Without a budget a second start, by MULTIFIT or by exact filling, is made only where it pays: up to so few items per
unit, or from so many on."""


def solve_plain(window: Window, budget: Budget, start: IntArray | None, patient: bool) -> Solution:
    """Solve a window of one priced resource and nothing else.

    Parameters
    ----------
    window
        The window.
    budget
        What may be spent.
    start
        The caller's placement, or None.
    patient
        Whether the caller gave a budget, so that all of it may be used.
    """
    unit, makespan, fields, steps, outcome = place_and_search(window.demand, window.load, budget.slice_steps())
    budget.spend(steps)
    bound, by, limit = fields[4], "local_search", None
    if makespan > bound or outcome == OUT_OF_STEPS:
        route = _Route(window, budget, RankedPlacement(*fields))
        if outcome != OUT_OF_STEPS or improve(route.best, budget):
            route.go(start, patient)
        unit, bound, by = units_of(route.best.order, route.best.where), route.best.bound, route.by
        limit = budget.limit
    return Solution(unit, int(window.price[0]) * bound, True, budget.spent, limit, by, cheap_bounds=True)


class _Route:
    """The best placement so far and what found it.

    The stages and their order depend on the window and on `patient` alone, and one that the budget does not cover ends
    the route: so a larger budget goes the same way, only further, and never ends at a worse placement.
    """

    def __init__(self, window: Window, budget: Budget, best: RankedPlacement) -> None:
        self.window, self.budget, self.best, self.by = window, budget, best, "local_search"

    def go(self, start: IntArray | None, patient: bool) -> None:
        """Try one thing after the other until the bound is met or the budget ends."""
        n, m = self.window.num_items, self.window.num_units
        if start is not None and not (start == FREE).any() and self.goes_on():
            self.take(ranked(self.window, start), "start")
        if (patient or n <= _FEW_PER_UNIT * m) and self.goes_on():
            self.take(packed(self.window, self.budget), "multifit")
        if (patient or n >= _MANY_PER_UNIT * m) and self.goes_on():
            other = filled(self.window, self.best, self.budget)
            if other is None:
                self.budget.limit = self.budget.limit or "steps"
                return
            self.take(other, "exact_fill")
        if patient and self.goes_on():
            self.take(divided_anew(self.window, self.best, self.budget), "repartition")
        if patient and self.goes_on():
            self.prove()

    def goes_on(self) -> bool:
        """Tell whether there is something left to gain, and a budget to gain it with."""
        return int(self.best.load.max()) > self.best.bound and self.budget.slice_steps() > 0

    def prove(self) -> None:
        """Leave the rest of the budget to branch and bound, which has searches of its own and raises the bound."""
        found = BranchAndBound().solve(
            self.window,
            budget_s=self.budget.seconds_left(),
            budget_steps=self.budget.steps_left(),
            start=units_of(self.best.order, self.best.where).astype(np.int64),
            seed=0,
        )
        self.budget.spend(found.steps)
        self.budget.limit = found.limit
        self.best = self.best._replace(bound=max(self.best.bound, found.bound // int(self.window.price[0])))
        self.take(ranked(self.window, found.unit)._replace(bound=self.best.bound), "branch_and_bound")

    def take(self, other: RankedPlacement, name: str) -> None:
        """Search on from another placement and keep what comes of it where that is better, the spread included."""
        improve(other, self.budget)
        if other.rank() < self.best.rank():
            self.best, self.by = other, name
