"""The largest differencing method."""

from __future__ import annotations

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import Window
from sbs_opt.solvers.differencing_kernel import difference
from sbs_opt.solvers.plain_search import SORT_STEPS, ranked_longest_first, units_of
from sbs_opt.solvers.protocol import Solution


class Differencing:
    """Karmarkar and Karp's method for several units (1982), with the initial loads as one more partial placement.

    It balances well where a unit takes many items; where it takes few, `lpt` and `multifit` are better. A step is a
    slot of a partial placement that is looked at; the construction always runs to its end. O(n log n + n·m) at most.
    """

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the placement; budgets, start and seed change nothing."""
        placement = ranked_longest_first(window)
        steps = difference(placement.size, window.load[:, 0], placement.where)
        return Solution(
            units_of(placement.order, placement.where),
            placement.bound * int(window.price[0]),
            steps=SORT_STEPS * window.num_items + steps,
            cheap_bounds=True,
        )
