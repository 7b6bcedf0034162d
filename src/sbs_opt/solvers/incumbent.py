"""The placement that a search starts from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.objective import Objective
from sbs_opt.models.verify import verify
from sbs_opt.models.window import FREE, Window
from sbs_opt.solvers.greedy import LongestFirst


class Incumbent(NamedTuple):
    """A verified placement and what it took to find it.

    Parameters
    ----------
    unit
        int64[n], −1 = left out.
    objective
        Recomputed by `verify`.
    steps
        Steps of the construction.
    """

    unit: IntArray
    objective: Objective
    steps: int


def quick_start(window: Window, start: IntArray | None, seed: int) -> Incumbent:
    """Return the better of `start` and `lpt`, as whole objectives.

    The construction always runs to its end: a larger budget of the search that follows then means a better answer.
    """
    found = LongestFirst().solve(window, budget_s=None, budget_steps=None, start=None, seed=seed)
    unit, objective = found.unit.astype(np.int64, copy=False), verify(window, found.unit)
    if start is not None and (given := verify(window, start)) < objective:
        unit, objective = start, given
    return Incumbent(unit, objective, found.steps)


def nothing_placed(window: Window) -> Incumbent:
    """Return the placement that leaves everything out; every window has it."""
    unit = np.full(window.num_items, FREE, dtype=np.int64)
    return Incumbent(unit, verify(window, unit), 0)
