"""Place a window of one priced resource with savings in two phases, and search on from there."""

from __future__ import annotations

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.verify import verify
from sbs_opt.models.window import FREE, Window
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.greedy import LongestFirst
from sbs_opt.solvers.protocol import Solution
from sbs_opt.solvers.savings_columns import is_one_column, savings_columns
from sbs_opt.solvers.savings_search import constructed, default_steps, improve_by_rank, solve_in_steps


class TwoPhase:
    """Hits by saving per demand, then the rest by best fit or longest first; then a local search.

    For one resource, one group and no limits. A step is an item placed or refused, or a candidate of the search. The
    construction always runs to its end; without a budget the search is short. Without savings it is the better of
    `lpt` and MULTIFIT, improved. The better of `start` and the construction is what the search goes on from.

    The bound is the greatest of water level, dearest single item, counting, and prices of the units (see
    `savings_bound_kernel`): within some hundredths of a percent of the linear relaxation where items are many per
    unit, and above it where they are few.
    """

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the placement with its bound; the seed changes nothing."""
        if not is_one_column(window):  # nothing is priced
            return LongestFirst().solve(window, budget_s=budget_s, budget_steps=budget_steps, start=start, seed=seed)
        price = int(window.price[0])
        if budget_s is None and start is None:
            unit, bound, steps, ended = solve_in_steps(window, budget_steps)
            return Solution(unit, price * bound, True, steps, None if ended else "steps", cheap_bounds=True)
        budget = Budget(budget_s, budget_steps)
        columns = savings_columns(window)
        by_rank, bound, steps = constructed(columns)
        if budget_s is None and budget_steps is None:
            budget = Budget(None, steps + default_steps(window.num_items))
        budget.spend(steps)
        if start is not None and (start != FREE).all():
            first = np.empty_like(by_rank)
            first[columns.item] = by_rank
            if verify(window, start) < verify(window, first):
                by_rank = start[columns.item]
        unit = np.empty(window.num_items, dtype=np.int32)
        unit[columns.item] = improve_by_rank(columns, by_rank, budget, bound)
        return Solution(unit, price * bound, True, budget.spent, budget.limit, cheap_bounds=True)
