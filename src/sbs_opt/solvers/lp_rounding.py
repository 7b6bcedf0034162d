"""Rounding of the linear relaxation, for units that save different amounts for an item (R‖Cmax)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.models.verify import verify
from sbs_opt.models.window import FREE, Window
from sbs_opt.solvers.bounds import Relaxation
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.greedy import LongestFirst
from sbs_opt.solvers.pairs import allowed_pairs, amounts
from sbs_opt.solvers.protocol import Solution

_WHOLE = 1e-6
"""How far from 0 or 1 a variable of the linear program may be and still count as whole."""


class LpRounding:
    """Lenstra, Shmoys and Tardos 1990: at most twice the optimum, with savings and with initial loads.

    For a makespan T, item i may go to unit u only where load_u + amount_iu ≤ T. The least T at which that relaxation
    has a solution is at most the optimum. A vertex of it splits so few items that each can be given to a unit of its
    own: one item more on a unit with load at most T, and that item alone fits below T. Of this placement and that of
    `lpt` the better is returned.

    One linear program with up to n·m columns for each halving of T: a yardstick, with a proof of its ratio, rather than
    a fast solver (`two_phase` is that). It is solved in floating point, so no bound is claimed. A step is a column of a
    linear program; with too few for the first one the answer is that of `lpt`.
    """

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the better of rounding and `lpt`; start and seed change nothing."""
        budget = Budget(budget_s, budget_steps)
        first = LongestFirst().solve(window, budget_s=None, budget_steps=None, start=None, seed=seed)
        budget.spend(first.steps)
        unit, best = first.unit.astype(np.int64), verify(window, first.unit)
        price = int(window.price[0])
        if window.num_items == 0 or price == 0:
            return Solution(unit, steps=budget.spent)
        amount, allowed = amounts(window)[:, :, 0], allowed_pairs(window, amounts(window))
        lower, upper = Relaxation.of(window).bound(best.left_out) // price, best.bottleneck // price
        while lower < upper and budget.slice_steps():
            middle = (lower + upper) // 2
            fits = allowed & (window.load[:, 0] + amount <= middle)
            budget.spend(int(fits.sum()) + 1)
            share = _shares(window, amount, fits, middle)
            if share is None:
                lower = middle + 1
                continue
            upper = middle
            rounded = _rounded(share, allowed)
            if (objective := verify(window, rounded)) < best:
                unit, best = rounded, objective
        return Solution(unit, steps=budget.spent, limit=budget.limit)


def _shares(window: Window, amount: IntArray, fits: BoolArray, makespan: int) -> npt.NDArray[Any] | None:
    """Return float[n, m], a vertex of the relaxation at a makespan, or None where it has no solution."""
    n, m = fits.shape
    if not fits.any(axis=1).all() or (window.load[:, 0] > makespan).any():
        return None
    item, unit = np.nonzero(fits)
    column = np.arange(len(item))
    each = csr_array(coo_array((np.ones(len(item)), (item, column)), shape=(n, len(item))))
    # Rows are scaled to the makespan, so that the tolerances of the solver are relative to it.
    scaled = amount[item, unit] / max(makespan, 1)
    room = (makespan - window.load[:, 0]) / max(makespan, 1)
    loads = csr_array(coo_array((scaled, (unit, column)), shape=(m, len(item))))
    found = linprog(
        np.zeros(len(item)), A_ub=loads, b_ub=room, A_eq=each, b_eq=np.ones(n), bounds=(0, 1), method="highs-ds"
    )
    if found.status != 0:
        return None
    share = np.zeros((n, m))
    share[item, unit] = found.x
    return share


def _rounded(share: npt.NDArray[Any], allowed: BoolArray) -> IntArray:
    """Give whole items to their units, and each split one to a unit of its own that has a part of it."""
    unit = np.where(share.max(axis=1) > 1 - _WHOLE, share.argmax(axis=1), FREE)
    split = np.flatnonzero(unit == FREE)
    parts = csr_array((share[split] > _WHOLE).astype(np.int8))
    matched = maximum_bipartite_matching(parts, perm_type="column")
    # At a vertex all are matched; rounding errors of the solver must not leave an item out.
    unit[split] = np.where(matched >= 0, matched, np.where(allowed, share, -1.0)[split].argmax(axis=1))
    return unit
