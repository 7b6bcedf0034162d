"""Construct a placement of a window with savings in two phases: hits by ratio, then the rest.

The first phase accepts hits by descending saving / size while the unit stays below a ceiling: the greedy rule of the
fractional knapsack problem (Dantzig 1957) that each unit solves, namely of what to relieve the others.

The second phase is best fit decreasing into the rooms that a target leaves, where the least target is searched as in
MULTIFIT (Coffman, Garey, Johnson 1978); or list scheduling, longest first, each item where it ends lowest (Graham
1969). An item that hits a unit may still go there: of the units with enough room it takes the one where room + excess ·
amount added is least, so a hit must save more than it leaves idle.

Where items are few per unit a large item needs a unit almost to itself, and a hit accepted early costs that unit. So
for such windows each target is also tried with a first phase for the smaller items only, and with none.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sbs_opt.models.checks import IntArray
from sbs_opt.solvers.savings_columns import SavingsColumns

_NOWHERE = -1

_COARSE, _FINE = 9, 10
"""The search for a target goes up by 2^-9 of the bound at first, and does not tell targets apart closer than 2^-10."""

_EXCESS = 2.0
"""Of .5, 1, 2, 5 and 20 the one with the least mean gap at two items per unit; the others are within .3 %."""

_FEW_PER_UNIT = 3.25
"""Up to so many items per unit the first phase is also tried for smaller items only, and left out."""

_SMALLER = 0.3
"""Share of the target up to which an item counts as small there."""


@njit(cache=True, nogil=True)
def construct(columns: SavingsColumns, bound: int) -> tuple[IntArray, int]:
    """Return the best placement of the variants, and the items placed or refused.

    O(k + n log m) for list scheduling and O(k + n·m) at worst for each target, of which there are up to about ten.

    Parameters
    ----------
    columns
        The window.
    bound
        A lower bound of the bottleneck.

    Returns
    -------
    unit : int64[n], by rank
    steps : int
    """
    n = len(columns.size)
    fitted, attempts = least_fit(columns, bound)
    found = attempts > 0 and fitted[0] != _NOWHERE
    if found and n > _FEW_PER_UNIT * len(columns.load) and len(columns.hit_item) > 0:
        return fitted, n * attempts  # the first way has not been seen to be better there
    listed = two_phases(columns, bound)
    if found and loads_of(columns, fitted).max() <= loads_of(columns, listed).max():
        return fitted, n * (attempts + 1)
    return listed, n * (attempts + 1)


@njit(cache=True, nogil=True)
def two_phases(columns: SavingsColumns, ceiling: int) -> IntArray:
    """Return int64[n]: hits by ratio while the load stays within `ceiling`, then longest first; O(k + n log m)."""
    n, m = len(columns.size), len(columns.load)
    unit = columns.pinned.copy()
    load = columns.load.copy()
    for k in columns.by_ratio:
        i, u = columns.hit_item[k], columns.hit_unit[k]
        if unit[i] == _NOWHERE and load[u] + columns.hit_amount[k] <= ceiling:
            unit[i] = u
            load[u] += columns.hit_amount[k]
    heap = np.argsort(load, kind="mergesort")  # sorted is a heap; stable, so equal loads stay in index order
    key = load[heap]
    where = np.empty(m, dtype=np.int64)
    for slot in range(m):
        where[heap[slot]] = slot
    for i in range(n):
        if unit[i] != _NOWHERE:
            continue
        best, total = heap[0], key[0] + columns.size[i]
        for k in range(columns.hit_start[i], columns.hit_start[i + 1]):
            u = columns.hit_unit[k]
            if key[where[u]] + columns.hit_amount[k] <= total:
                best, total = u, key[where[u]] + columns.hit_amount[k]
        unit[i] = best
        _sink(heap, key, where, best, total)
    return unit


@njit(cache=True, nogil=True, inline="always")
def _sink(heap: IntArray, key: IntArray, where: IntArray, u: int, total: int) -> None:
    """Give unit u a greater load and restore the heap: `key` ascending from the root, `where` the slot of each unit."""
    m = len(heap)
    hole = where[u]
    child = 2 * hole + 1
    while child < m:
        if child + 1 < m and key[child + 1] < key[child]:
            child += 1
        if total <= key[child]:
            break
        heap[hole], key[hole] = heap[child], key[child]
        where[heap[hole]] = hole
        hole, child = child, 2 * child + 1
    heap[hole], key[hole], where[u] = u, total, hole


@njit(cache=True, nogil=True)
def least_fit(columns: SavingsColumns, bound: int) -> tuple[IntArray, int]:
    """Search the least target between `bound` and twice that at which best fit places all.

    Returns
    -------
    unit : int64[n], by rank; −1 at the first item where no target was met
    attempts : int, how often the items were packed
    """
    n, m = len(columns.size), len(columns.load)
    best = np.full(max(n, 1), _NOWHERE, dtype=np.int64)
    bits = attempts = 0
    while m >> bits:
        bits += 1
    if bound >> (61 - bits):  # room and unit would not fit one number
        return best, attempts
    unit = np.empty(n, dtype=np.int64)
    room = np.empty(m, dtype=np.int64)
    key = np.empty(m, dtype=np.int64)
    few = n <= _FEW_PER_UNIT * m
    variants = 3 if few else 1
    low, high, step = bound, 2 * bound + 1, max(1, bound >> _COARSE)
    target = bound if few else bound + step  # with few items per unit the bound itself is often met
    while low < high:
        met = False
        for variant in range(variants):
            attempts += 1
            most = target if variant == 0 else (int(_SMALLER * target) if variant == 1 else -1)
            met = _fit(columns, target, most, bits, unit, room, key)
            if met:
                break
        if met:
            best[:n] = unit
            high = target - room.min()
        else:
            low = target + 1 + (bound >> _FINE)
        step *= 2
        target = (low + high) // 2 if best[0] != _NOWHERE else min(low + step, high)
    return best, attempts


@njit(cache=True, nogil=True)
def _fit(
    columns: SavingsColumns, target: int, most: int, bits: int, unit: IntArray, room: IntArray, key: IntArray
) -> bool:
    """Pack the rooms below `target`, hits of items up to `most` first; False as soon as an item fits nowhere.

    `key` holds the rooms in ascending order, each shifted by `bits` to make place for the index of its unit.
    """
    n, m = len(columns.size), len(columns.load)
    size, start = columns.size, columns.hit_start
    hit_item, hit_unit, amount = columns.hit_item, columns.hit_unit, columns.hit_amount
    for u in range(m):
        room[u] = target - columns.load[u]
    for i in range(n):
        unit[i] = columns.pinned[i]
    if most >= 0:
        for k in columns.by_ratio:
            i, u = hit_item[k], hit_unit[k]
            if unit[i] == _NOWHERE and amount[k] <= room[u] and size[i] <= most:
                unit[i] = u
                room[u] -= amount[k]
    for u in range(m):
        key[u] = room[u] << bits | u
    key.sort()
    for i in range(n):
        if unit[i] != _NOWHERE:
            continue
        slot = np.searchsorted(key, size[i] << bits)
        best, added, score = _NOWHERE, size[i], np.inf
        if slot < m:
            best = key[slot] & ((1 << bits) - 1)
            score = room[best] + _EXCESS * added
        for k in range(start[i], start[i + 1]):
            u = hit_unit[k]
            if room[u] >= amount[k] and room[u] + _EXCESS * amount[k] < score:
                best, added, score = u, amount[k], room[u] + _EXCESS * amount[k]
        if best == _NOWHERE:
            return False
        if added < size[i]:
            slot = np.searchsorted(key, room[best] << bits | best)
        unit[i] = best
        room[best] -= added
        changed = room[best] << bits | best
        while slot > 0 and key[slot - 1] > changed:
            key[slot] = key[slot - 1]
            slot -= 1
        key[slot] = changed
    return True


@njit(cache=True, nogil=True, inline="always")
def amount_on(columns: SavingsColumns, i: int, u: int) -> int:
    """Return what item i adds to unit u."""
    amount = columns.size[i]
    for k in range(columns.hit_start[i], columns.hit_start[i + 1]):
        if columns.hit_unit[k] == u:
            amount = columns.hit_amount[k]
    return int(amount)  # one return, and inlined by Numba: a call would count references to every array


@njit(cache=True, nogil=True)
def loads_of(columns: SavingsColumns, unit: IntArray) -> IntArray:
    """Return int64[m], the loads of a placement that leaves nothing out; O(n + m + k)."""
    load = columns.load.copy()
    for i in range(len(columns.size)):
        load[unit[i]] += amount_on(columns, i, unit[i])
    return load
