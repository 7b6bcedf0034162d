"""What a search may still spend, in steps and in seconds; handed from stage to stage."""

from __future__ import annotations

import time

from sbs_opt.solvers.protocol import Limit

_UNBOUNDED = 2**62
_FIRST_RATE = 100e6
"""Steps per second assumed before any were measured; searches are faster, so the first slice ends early."""

_TOO_SHORT_S = 2e-6
"""A slice shorter than this is not worth the call."""


class Budget:
    """Steps and seconds left.

    A kernel cannot look at the clock, so under a wall-clock budget it runs in slices: `slice_steps` says how many steps
    fit into the time that is left, by the rate measured so far, and `spend` books what was taken.

    Parameters
    ----------
    budget_s
        Seconds from now, or None.
    budget_steps
        Steps, or None.
    default_steps
        Taken where neither budget is given; None = unbounded.
    """

    __slots__ = ("_began", "_deadline", "_steps", "limit", "spent")

    def __init__(self, budget_s: float | None, budget_steps: int | None, default_steps: int | None = None) -> None:
        self._began = self._deadline = 0.0
        if budget_s is not None:
            self._began = time.perf_counter()
            self._deadline = self._began + budget_s
        elif budget_steps is None:
            budget_steps = default_steps
        self._steps = _UNBOUNDED if budget_steps is None else budget_steps
        self.limit: Limit | None = None
        """What ran out first, or None."""
        self.spent = 0
        """Steps booked."""

    def slice_steps(self) -> int:
        """Return how many steps may be taken before asking again; 0 sets `limit`."""
        left = self._steps - self.spent
        if left <= 0:
            self.limit = self.limit or "steps"
            return 0
        if self._deadline:
            now = time.perf_counter()
            left_s = self._deadline - now
            if left_s < _TOO_SHORT_S:
                self.limit = self.limit or "time"
                return 0
            rate = self.spent / (now - self._began) if self.spent > 1000 else _FIRST_RATE
            left = min(left, max(1, int(rate * left_s)))
        return left

    def spend(self, steps: int) -> None:
        """Book steps that were taken."""
        self.spent += steps

    def seconds_left(self) -> float | None:
        """Return the wall-clock time left, at least 0, or None without a deadline."""
        return max(0.0, self._deadline - time.perf_counter()) if self._deadline else None

    def steps_left(self) -> int | None:
        """Return the steps left, at least 0, or None where they are unbounded."""
        return None if self._steps == _UNBOUNDED else max(0, self._steps - self.spent)
