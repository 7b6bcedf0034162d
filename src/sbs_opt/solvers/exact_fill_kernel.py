"""Fill the units one after the other up to a wanted makespan, each as exactly as possible.

A list schedule spreads what is left over, so that in the end every unit is a little off. Here a unit takes a set of
items whose sum meets its room exactly, or nearly so, and keeps the waste for the units after it; the large items go
first, so that the last units choose among the small ones, whose sums are dense. From about three items to a unit on
this reaches the water level itself, which proves the placement optimal. After the minimum bin slack heuristic of Gupta
& Ho 1999 and Fleszar & Hindi 2002, with unequal rooms and with a two-pointer scan for the last two items of a set.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sbs_opt.models.checks import IntArray

SCANS_PER_UNIT = 1000
"""Sets of large items tried for a unit, each completed by its best pair, before the best set so far is taken."""


@njit(cache=True, nogil=True)
def _best_pair(
    size: IntArray, after: IntArray, before: IntArray, first: int, last: int, room: int
) -> tuple[int, int, int, int]:
    """Return the greatest sum ≤ room of at most two items of the chain first … last, the items (−1 = none), and moves.

    The chain is in descending order of size, so two pointers from both ends see every pair that can be best; O(chain).
    """
    n = len(size)
    large, moves = first, 1
    while large < n and size[large] > room:
        large = after[large]
        moves += 1
    if large >= n:
        return 0, -1, -1, moves
    best, one, two = size[large], large, -1
    small = after[large]
    if small >= n or best == room:
        return best, one, two, moves
    if best + size[small] <= room:
        return best + size[small], one, small, moves
    small = last
    while large != small:
        moves += 1
        total = size[large] + size[small]
        if total > room:
            large = after[large]
            continue
        if total > best:
            best, one, two = total, large, small
            if best == room:
                break
        small = before[small]
    return best, one, two, moves


@njit(cache=True, nogil=True)
def _fill_unit(
    size: IntArray,
    after: IntArray,
    before: IntArray,
    first: int,
    last: int,
    room: int,
    waste: int,
    max_steps: int,
    chosen: IntArray,
    prefix: IntArray,
) -> tuple[int, int, int]:
    """Choose items for one unit: the largest that fits, and the first set found that leaves at most `waste`.

    Depth first over sets of large items, each completed by its best pair. Writes the items to `chosen`; returns how
    many, their sum, and the moves made.
    """
    n = len(size)
    seed, moves = first, 1
    while seed < n and size[seed] > room:
        seed = after[seed]
        moves += 1
    if seed >= n:
        return 0, 0, moves
    prefix[0] = seed
    depth, left = 1, room - size[seed]
    best, count = -1, 0
    for _ in range(SCANS_PER_UNIT):
        rest = after[prefix[depth - 1]]
        pair, one, two, taken = _best_pair(size, after, before, rest, last, left)
        moves += taken
        if room - left + pair > best:
            best, count = room - left + pair, depth
            chosen[:depth] = prefix[:depth]
            for item in (one, two):
                if item >= 0:
                    chosen[count] = item
                    count += 1
            if best >= room - waste:
                break
        if moves >= max_steps:
            break
        while rest < n and size[rest] > left:
            rest = after[rest]
            moves += 1
        while rest >= n and depth > 1:  # nothing more fits: replace the last item by the next smaller one
            depth -= 1
            dropped = prefix[depth]
            left += size[dropped]
            rest = after[dropped]
            while rest < n and size[rest] == size[dropped]:
                rest = after[rest]
        if rest >= n:
            break
        prefix[depth] = rest
        depth += 1
        left -= size[rest]
    return count, best, moves


@njit(cache=True, nogil=True)
def exact_fill(
    size: IntArray, load: IntArray, makespan: int, turn: int, max_steps: int, unit: IntArray
) -> tuple[int, int]:
    """Try to place all items so that no unit exceeds `makespan`; always writes a whole placement.

    The units are filled in the order turn, turn + 1, … (modulo m). When the waste is used up or `max_steps` is reached,
    the items that are left go to the least loaded unit, largest first, and the makespan reached is the greater.

    Parameters
    ----------
    size
        int64[n], descending.
    load
        int64[m], ascending.
    makespan
        Wanted; at least the greatest load.
    turn
        Which unit is filled first; another one gives another placement.
    max_steps
        Moves of a pointer over the items after which the exact filling ends.
    unit
        int64[n], receives the unit of each item.

    Returns
    -------
    makespan : reached
    steps : moves made
    """
    n, m = len(size), len(load)
    after = np.arange(1, n + 2)
    before = np.arange(-1, n)
    chosen = np.empty(n + 2, dtype=np.int64)
    prefix = np.empty(n + 2, dtype=np.int64)
    total = load.copy()
    unit[:] = -1
    first, last, steps = 0, n - 1, 0
    waste = np.float64(m) * makespan  # m·makespan need not fit 64 bits
    for u in range(m):
        waste -= load[u]
    for i in range(n):
        waste -= size[i]
    for k in range(m):
        if first >= n or waste < 0 or steps >= max_steps:
            break
        u = (turn + k) % m
        room = makespan - load[u]
        count, mass, moves = _fill_unit(
            size, after, before, first, last, room, int(waste / (m - k)), max_steps - steps, chosen, prefix
        )
        steps += moves
        waste -= room - mass
        total[u] += mass
        for item in chosen[:count]:
            unit[item] = u
            above, below = before[item], after[item]
            if above >= 0:
                after[above] = below
            else:
                first = below
            if below < n:
                before[below] = above
            else:
                last = above
    while first < n:
        least = np.argmin(total)
        unit[first] = least
        total[least] += size[first]
        first = after[first]
    return total.max(), steps
