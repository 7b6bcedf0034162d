"""The default solver: the cheapest route to the certificate that the budget allows."""

from __future__ import annotations

from dataclasses import replace

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import FREE, Window
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.greedy import LongestFirst
from sbs_opt.solvers.multifit import pack
from sbs_opt.solvers.plain_kernel import is_plain
from sbs_opt.solvers.plain_search import (
    SORT_STEPS,
    RankedPlacement,
    divide_anew,
    improve,
    place_and_search,
    ranked,
    ranked_longest_first,
    units_of,
)
from sbs_opt.solvers.plain_search_kernel import OUT_OF_STEPS
from sbs_opt.solvers.protocol import Solution

DEFAULT_STEPS = 2_000_000
"""Steps when the caller gives neither budget: some milliseconds, which only windows of many thousand items need."""

_CERTIFY_S = 6e-6
"""What checking and certifying the answer takes of a wall-clock budget, and as much again for every 2,000 items."""

_FEW_PER_UNIT = 3
"""Up to so many items per unit a second start, by MULTIFIT, is worth its time even without a budget."""


class Auto:
    """Constructions first, then local search, then exact search, until the bound is met or the budget ends.

    Without a budget it stops where local search does. A step is one candidate looked at, or a quarter of an item that
    is sorted and placed.
    """

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the best placement found, with what is proved of it."""
        if budget_s is not None:
            budget_s = max(0.0, budget_s - _CERTIFY_S * (1 + window.num_items / 2000))
        budget = Budget(budget_s, budget_steps, DEFAULT_STEPS)
        patient = budget_s is not None or budget_steps is not None
        if is_plain(window):
            return _plain(window, budget, start, patient)
        found = LongestFirst().solve(window, budget_s=budget_s, budget_steps=budget_steps, start=start, seed=seed)
        return replace(found, solver="lpt")


def _plain(window: Window, budget: Budget, start: IntArray | None, patient: bool) -> Solution:
    """Solve a window of one priced resource and nothing else."""
    unit, makespan, fields, steps, outcome = place_and_search(window.demand, window.load, budget.slice_steps())
    budget.spend(steps)
    bound = fields[4]
    by = "local_search"
    if makespan > bound or outcome == OUT_OF_STEPS:
        best = RankedPlacement(*fields)
        if outcome != OUT_OF_STEPS or improve(best, budget):
            best, by = _further(window, best, budget, start, patient)
        unit = units_of(best.order, best.where)
    return Solution(unit, int(window.price[0]) * bound, True, budget.spent, budget.limit, by, cheap_bounds=True)


def _further(
    window: Window, best: RankedPlacement, budget: Budget, start: IntArray | None, patient: bool
) -> tuple[RankedPlacement, str]:
    """Search from other starts than the longest first; return the best placement and what found it."""
    by = "local_search"
    starts: list[tuple[str, IntArray | None]] = []
    if start is not None and (start != FREE).all():
        starts.append(("start", start))
    if patient or window.num_items <= _FEW_PER_UNIT * window.num_units:
        starts.append(("multifit", None))
    for name, unit in starts:
        if best.load.max() == best.bound or not budget.slice_steps():
            break
        budget.spend(SORT_STEPS * window.num_items)
        if unit is None:
            other = ranked_longest_first(window)
            pack(window, other, budget)
        else:
            other = ranked(window, unit)
        improve(other, budget)
        if other.load.max() < best.load.max():
            best, by = other, f"{name}+local_search"
    if patient and divide_anew(window, best, budget):
        by += "+repartition"
    return best, by
