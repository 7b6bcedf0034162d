"""MULTIFIT on a plain window: first-fit decreasing into capacity T, the least T found by halving."""

from __future__ import annotations

import numpy as np
from numba import njit

from sbs_opt.models.checks import IntArray
from sbs_opt.solvers.plain_kernel import RankArray


@njit(cache=True, nogil=True)
def _next_waiting(following: RankArray, rank: int) -> int:
    """Return the first rank from `rank` on that is not packed, compressing the path."""
    root = rank
    while following[root] != root:
        root = following[root]
    while following[rank] != root:
        following[rank], rank = root, following[rank]
    return root


@njit(cache=True, nogil=True)
def first_fit(size: IntArray, load: IntArray, heaviest: IntArray, capacity: int, where: RankArray) -> tuple[bool, int]:
    """Pack items, largest first, each into the first unit with room below `capacity`.

    Done unit by unit, which gives the same packing: a unit takes, in descending order, all it has room for of what the
    units before it left. A search in the sorted sizes skips what is too large. O(n log n), whatever m.

    Parameters
    ----------
    size
        int64[n], descending.
    load
        int64[m].
    heaviest
        int64[m], units in the order in which they are filled.
    capacity
        Makespan to keep.
    where
        int32[n], written: the unit of each rank.

    Returns
    -------
    fits : bool
    steps : int
    """
    n = len(size)
    following = np.arange(n + 1).astype(np.int32)
    packed, steps = 0, 0
    for u in heaviest:
        room = capacity - load[u]
        rank = _next_waiting(following, 0)
        while rank < n:
            steps += 1
            if size[rank] <= room:
                where[rank] = u
                room -= size[rank]
                following[rank] = rank + 1
                packed += 1
                rank = _next_waiting(following, rank + 1)
            else:
                low, high = rank + 1, n
                while low < high:
                    middle = (low + high) >> 1
                    if size[middle] > room:
                        low = middle + 1
                    else:
                        high = middle
                rank = _next_waiting(following, low)
        if packed == n:
            return True, steps
    return packed == n, steps


@njit(cache=True, nogil=True)
def multifit(
    size: IntArray, load: IntArray, lower: int, upper: int, where: RankArray, max_steps: int
) -> tuple[int, int, int]:
    """Halve between `lower` and `upper` until first fit succeeds at one capacity and fails just below; O(n log n) each.

    The heaviest loaded unit is filled first: with the lightest first the ratio is worse (1.349 instead of 6/5).

    Parameters
    ----------
    size
        int64[n], descending.
    load
        int64[m].
    lower
        No makespan is below it.
    upper
        Makespan of the placement in `where`.
    where
        int32[n], unit by rank; replaced by each better packing.
    max_steps
        No further packing starts beyond it.

    Returns
    -------
    lower : int, capacities below it failed
    upper : int, the makespan of the placement in `where`
    steps : int
    """
    heaviest = np.argsort(-load, kind="mergesort")
    trial = np.empty(len(size), dtype=np.int32)
    total = np.empty_like(load)
    steps = 0
    while lower < upper and steps < max_steps:
        capacity = lower + (upper - lower) // 2
        fits, spent = first_fit(size, load, heaviest, capacity, trial)
        steps += spent
        if fits:
            total[:] = load
            for rank in range(len(size)):
                total[trial[rank]] += size[rank]
            upper = total.max()
            where[:] = trial
        else:
            lower = capacity + 1
    return lower, upper, steps
