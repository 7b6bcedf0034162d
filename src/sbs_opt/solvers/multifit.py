"""MULTIFIT: the makespan as the capacity of a bin packing problem."""

from __future__ import annotations

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import Window
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.plain_search import packed, units_of
from sbs_opt.solvers.protocol import Solution


class Multifit:
    """First-fit decreasing into the least capacity that halving finds (Coffman, Garey, Johnson 1978).

    The heaviest loaded unit is filled first, the capacity is halved to the last integer, and `lpt` is the placement to
    beat. At most 13/11 times the optimum on empty units (Yue 1990), 6/5 with initial loads (MULTIFIT with containing
    kernels; filling the lightest first reaches 1.349).

    A step is an item packed or passed over; the first placement, by `lpt`, always comes about, and a packing that has
    begun is finished. O(n log n) for each halving.
    """

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the best packing that the budget covers; start and seed change nothing."""
        budget = Budget(budget_s, budget_steps)
        placement = packed(window, budget)
        return Solution(
            units_of(placement.order, placement.where),
            placement.bound * int(window.price[0]),
            steps=budget.spent,
            limit=budget.limit,
            cheap_bounds=True,
        )
