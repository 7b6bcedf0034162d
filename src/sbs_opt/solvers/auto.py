"""The default solver: the cheapest route to the certificate that the budget allows."""

from __future__ import annotations

from dataclasses import replace

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import Window
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.greedy import LongestFirst
from sbs_opt.solvers.plain_kernel import is_plain
from sbs_opt.solvers.plain_portfolio import solve_plain
from sbs_opt.solvers.protocol import Solution

DEFAULT_STEPS = 2_000_000
"""Steps when the caller gives neither budget: some milliseconds, which only windows of many thousand items need."""

_CERTIFY_S = 6e-6
"""What checking and certifying the answer takes of a wall-clock budget, and as much again for every 2,000 items."""


class Auto:
    """Constructions first, then local search, then exact search, until the bound is met or the budget ends.

    Without a budget it stops where local search does. A step is one candidate looked at, or a quarter of an item that
    is sorted and placed.
    """

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the best placement found, with what is proved of it."""
        patient = budget_s is not None or budget_steps is not None
        if budget_s is not None:
            budget_s = max(0.0, budget_s - _CERTIFY_S * (1 + window.num_items / 2000))
        if is_plain(window):
            return solve_plain(window, Budget(budget_s, budget_steps, DEFAULT_STEPS), start, patient)
        found = LongestFirst().solve(window, budget_s=budget_s, budget_steps=budget_steps, start=start, seed=seed)
        return replace(found, solver="lpt")
