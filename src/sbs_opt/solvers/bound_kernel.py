"""What each item costs at best, were it alone in the window."""

from __future__ import annotations

import numpy as np
from numba import njit

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.solvers.columns import Columns
from sbs_opt.solvers.greedy_kernel import clear_savings, fits, increase_on, set_savings


@njit(cache=True, nogil=True)
def alone(columns: Columns) -> tuple[BoolArray, IntArray, IntArray]:
    """Measure each item over the units that its pin allows and on which it fits alone; O((n·m + k)·R), k savings.

    Returns
    -------
    possible : bool[n], whether there is such a unit
    increase : int64[n], least rise of the bottleneck above that of the initial loads; 0 where impossible
    least : int64[n, R], lower bound of demand less savings, resource by resource; 0 where impossible
    """
    n, (m, resources) = columns.demand.shape[0], columns.load.shape
    possible = np.zeros(n, dtype=np.bool_)
    increase = np.zeros(n, dtype=np.int64)
    least = np.zeros((n, resources), dtype=np.int64)
    longest = np.zeros(m, dtype=np.int64)
    crosses = np.zeros(m, dtype=np.bool_)
    saving = np.zeros((m, resources), dtype=np.int64)
    for i in range(n):
        set_savings(columns, i, saving)
        first, last = 0, m
        if columns.pinned[i] >= 0:
            first, last = columns.pinned[i], columns.pinned[i] + 1
        best = -1
        for u in range(first, last):
            rise = increase_on(columns, i, u, columns.load, columns.peak, saving)
            if (best < 0 or rise < best) and fits(columns, i, u, columns.load, longest, crosses, saving):
                best = rise
                if best == 0:
                    break
        if best >= 0:
            possible[i], increase[i] = True, best
            _least_amounts(columns, i, longest, crosses, saving, least)
        clear_savings(columns, i, saving)
    return possible, increase, least


@njit(cache=True, nogil=True)
def _least_amounts(
    columns: Columns, i: int, longest: IntArray, crosses: BoolArray, saving: IntArray, least: IntArray
) -> None:
    """Write the row of item i; only a unit that saves something can be below the demand."""
    for r in range(least.shape[1]):
        least[i, r] = columns.demand[i, r]
    if columns.saving_start.shape[0]:
        for k in range(columns.saving_start[i], columns.saving_start[i + 1]):
            u = columns.saving_unit[k]
            if (columns.pinned[i] < 0 or columns.pinned[i] == u) and fits(
                columns, i, u, columns.load, longest, crosses, saving
            ):
                for r in range(least.shape[1]):
                    least[i, r] = min(least[i, r], columns.demand[i, r] - columns.saving_value[k, r])
