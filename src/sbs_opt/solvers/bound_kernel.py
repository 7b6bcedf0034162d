"""What each item costs at best, were it alone in the window."""

from __future__ import annotations

import numpy as np
from numba import njit

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.solvers.columns import Columns
from sbs_opt.solvers.greedy_kernel import clear_savings, fits, increase_on, set_savings


@njit(cache=True, nogil=True)
def alone(columns: Columns) -> tuple[BoolArray, IntArray]:
    """Tell which items fit on a unit alone, and what they add at least; O((n + k)·R) where most fit, k savings.

    Returns
    -------
    possible : bool[n], whether a unit that the pin allows has the room
    least : int64[n, R], lower bound of demand less savings, resource by resource; 0 where impossible
    """
    n, (m, resources) = columns.demand.shape[0], columns.load.shape
    possible = np.zeros(n, dtype=np.bool_)
    least = np.zeros((n, resources), dtype=np.int64)
    longest = np.zeros(m, dtype=np.int64)
    crosses = np.zeros(m, dtype=np.bool_)
    saving = np.zeros((m, resources), dtype=np.int64)
    for i in range(n):
        set_savings(columns, i, saving)
        first, last = _units_of(columns, i)
        for u in range(first, last):
            if fits(columns, i, u, columns.load, longest, crosses, saving):
                possible[i] = True
                _least_amounts(columns, i, longest, crosses, saving, least)
                break
        clear_savings(columns, i, saving)
    return possible, least


@njit(cache=True, nogil=True)
def _units_of(columns: Columns, i: int) -> tuple[int, int]:
    """Return the range of units that the pin of item i allows."""
    if columns.pinned[i] >= 0:
        return columns.pinned[i], columns.pinned[i] + 1
    return 0, columns.load.shape[0]


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


@njit(cache=True, nogil=True)
def rises(columns: Columns, possible: BoolArray, floor: int) -> IntArray:
    """Return int64[n], by how much each item alone raises the bottleneck at least; exact where that exceeds `floor`.

    An item is done with as soon as one unit takes it for `floor` or less; `floor` follows the greatest found, unless it
    is negative: then every entry is exact. O((n·m + k)·R), about O((n + k)·R) with a floor.
    """
    n, (m, resources) = columns.demand.shape[0], columns.load.shape
    increase = np.zeros(n, dtype=np.int64)
    longest = np.zeros(m, dtype=np.int64)
    crosses = np.zeros(m, dtype=np.bool_)
    saving = np.zeros((m, resources), dtype=np.int64)
    likely = 0
    for i in range(n):
        if not possible[i]:
            continue
        set_savings(columns, i, saving)
        first, last = _units_of(columns, i)
        best = -1
        # The unit that was best for the item before is looked at first.
        for k in range(first - 1, last):
            u = k if k >= first else min(max(likely, first), last - 1)
            rise = increase_on(columns, i, u, columns.load, columns.peak, saving)
            if (best < 0 or rise < best) and fits(columns, i, u, columns.load, longest, crosses, saving):
                best, likely = rise, u
                if best <= max(floor, 0):
                    break
        increase[i] = best
        if floor >= 0:
            floor = max(floor, best)
        clear_savings(columns, i, saving)
    return increase
