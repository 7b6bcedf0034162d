"""The default solver: picks what suits the window."""

from __future__ import annotations

from dataclasses import replace

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import Window
from sbs_opt.solvers.greedy import LongestFirst
from sbs_opt.solvers.protocol import Solution


class Auto:
    """Runs `lpt`; the result's statistics name both."""

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return what `lpt` returns, marked as found by it."""
        found = LongestFirst().solve(window, budget_s=budget_s, budget_steps=budget_steps, start=start, seed=seed)
        return replace(found, solver="lpt")
