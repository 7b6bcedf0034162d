"""Local search: from a construction to a placement that no move, swap or exchange of two items improves."""

from __future__ import annotations

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import FREE, Window
from sbs_opt.solvers import plain_search, savings_search
from sbs_opt.solvers.bounds import Relaxation
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.general_search import improve
from sbs_opt.solvers.incumbent import quick_start
from sbs_opt.solvers.plain_kernel import is_plain
from sbs_opt.solvers.protocol import Solution
from sbs_opt.solvers.savings_bounds import quick_bound
from sbs_opt.solvers.savings_columns import is_one_column


class LocalSearch:
    """Exchanges between two units, as long as the objective as a whole improves; from the better of `start` and `lpt`.

    What is left out comes first (insertion, exchange for an item of a younger tier, ejection to a third unit), then the
    bottleneck (up to two items each way between the unit that sets a peak and another), then savings and spread. The
    answer cannot be improved by inserting, moving or swapping single items, unless a budget ended the search.

    A step is an exchange considered, plus those of `lpt`, which always runs to its end. By default the search ends by
    itself, in a local optimum. In one resource and one group, without limits, pins and savings, that is within
    2 − 2/(m + 1) of the optimum on empty units, whatever it started from (Finn & Horowitz 1979; Schuurman & Vredeveld
    2007).
    """

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the local optimum that is reached within the budget; the seed changes nothing."""
        budget = Budget(budget_s, budget_steps)
        first = quick_start(window, start, seed)
        budget.spend(first.steps)
        unit = _head_start(window, first.unit, budget)
        relaxation = Relaxation.of(window)
        unit = improve(window, unit, budget, relaxation.bound(left_out(window, unit)))
        out = left_out(window, unit)
        return Solution(
            unit,
            relaxation.bound(out),
            out == relaxation.forced_out,
            budget.spent,
            budget.limit,
            cheap_bounds=True,
        )


def _head_start(window: Window, unit: IntArray, budget: Budget) -> IntArray:
    """Search first with the kernels for one resource, where they apply: they lower the bottleneck ten times faster."""
    if (unit == FREE).any() or not is_one_column(window):
        return unit
    if is_plain(window):
        placement = plain_search.ranked(window, unit)
        plain_search.improve(placement, budget)
        return plain_search.units_of(placement.order, placement.where).astype(np.int64)
    return savings_search.improve(window, unit, budget, quick_bound(window) // int(window.price[0]))


def left_out(window: Window, unit: IntArray) -> tuple[int, ...]:
    """Return how many items of each tier a placement leaves out."""
    waiting = window.tier[unit == FREE]
    return tuple(int((waiting == tier).sum()) for tier in window.tiers)
