"""What the exchanges of a plain window are aimed at: the bound, in stages, then the other units, level by level."""

from __future__ import annotations

import numpy as np
from numba import njit

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.solvers.plain_kernel import RankArray
from sbs_opt.solvers.plain_search_kernel import (
    LOCAL_OPTIMUM,
    OUT_OF_STEPS,
    REACHED,
    ROW_FULL,
    lower_busiest,
    rows_of,
)

_TIGHTENING = 2
"""A stage comes closer to the bound by this power of two."""


@njit(cache=True, nogil=True)
def lower_in_stages(
    size: IntArray, where: RankArray, load: IntArray, done: BoolArray, bound: int, max_steps: int
) -> tuple[int, int]:
    """Lower the busiest unit towards `bound`, each stage a quarter as far above it as the one before; all in place.

    Returns
    -------
    steps : int
    outcome : `REACHED`, `LOCAL_OPTIMUM` or `OUT_OF_STEPS`
    """
    members, count = rows_of(where, len(load))
    peak = 0
    for u in range(len(load)):
        if not done[u]:
            peak = max(peak, load[u])
    above = (peak - bound) >> _TIGHTENING
    steps = 0
    while True:
        spent, outcome = lower_busiest(size, where, load, members, count, done, bound + above, max_steps - steps)
        steps += spent
        if outcome == ROW_FULL:
            members, count = rows_of(where, len(load))
        elif outcome != REACHED or above <= 0:
            return steps, outcome
        else:
            above >>= _TIGHTENING


@njit(cache=True, nogil=True)
def level_out(size: IntArray, where: RankArray, load: IntArray, max_steps: int) -> tuple[int, int]:
    """Lower the units that are not as busy as the busiest: leximax, level by level; all in place.

    A unit with one item or none, busier than the rest would be if its work were a fluid, cannot be helped: it is
    *pinned*. The others are a window of their own, with a bound of its own, and so on while that pins further units.

    Returns
    -------
    steps : int
    outcome : as of the last level
    """
    m = len(load)
    done = np.zeros(m, dtype=np.bool_)
    steps, free_before = 0, m + 1
    while True:
        level, free = _pin(where, load, done)
        peak = level
        for u in range(m):
            if not done[u]:
                peak = max(peak, load[u])
        if free == 0 or peak == level:
            return steps, REACHED
        if free == free_before:
            return steps, LOCAL_OPTIMUM
        free_before = free
        spent, outcome = lower_in_stages(size, where, load, done, level, max_steps - steps)
        steps += spent
        if outcome == OUT_OF_STEPS:
            return steps, outcome


@njit(cache=True, nogil=True)
def _pin(where: RankArray, load: IntArray, done: BoolArray) -> tuple[int, int]:
    """Mark pinned units as done until none is left.

    Returns
    -------
    level : int, mean load of the others, rounded up
    free : int, how many they are
    """
    m = len(load)
    held = np.zeros(m, dtype=np.int32)
    for rank in range(len(where)):
        held[where[rank]] += 1
    while True:
        total, free = 0, 0
        for u in range(m):
            if not done[u]:
                total += load[u]
                free += 1
        if free == 0:
            return 0, 0
        found = False
        for u in range(m):
            if not done[u] and held[u] <= 1 and load[u] > total // free:
                done[u] = found = True
        if not found:
            return -(-total // free), free
