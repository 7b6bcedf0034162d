"""Improve a placement of one resource by dividing the items of a few units anew, each time as well as possible.

The busiest unit is paired with another one and their items are divided so that the greater of the two loads is least:
a subset-sum problem, solved exactly by meeting in the middle (Horowitz & Sahni 1974). When no pair helps, the items of
the busiest and two other units are divided anew by enumeration. Moves and swaps are special cases. Re-dividing pairs is
an idea of Alvim & Ribeiro 2004 and of Frangioni, Necciari & Scutellà 2004; here with unequal loads and with triples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from sbs_opt.models.checks import IntArray

PAIR_ITEMS = 16
"""Items of a pair that are divided anew; of more, some stay where they are, and which do changes from try to try."""

TRIPLE_ITEMS = 12
"""A triple with more items is not tried."""

CURSOR_LENGTH = 4


class _Holding(NamedTuple):
    """Who holds what: total and held are int64[m], unit and following int64[n]; head[u] starts the chain of unit u."""

    size: IntArray
    unit: IntArray
    total: IntArray
    held: IntArray
    head: IntArray
    following: IntArray


@njit(cache=True, nogil=True)
def _holding(size: IntArray, load: IntArray, unit: IntArray) -> _Holding:
    n, m = len(size), len(load)
    total, held = load.copy(), np.zeros(m, dtype=np.int64)
    head, following = np.full(m, -1, dtype=np.int64), np.empty(n, dtype=np.int64)
    for i in range(n - 1, -1, -1):
        u = unit[i]
        total[u] += size[i]
        held[u] += 1
        following[i], head[u] = head[u], i
    return _Holding(size, unit, total, held, head, following)


@njit(cache=True, nogil=True)
def _items_of(holding: _Holding, u: int, wanted: int, turn: int, item: IntArray, count: int) -> int:
    """Append `wanted` items of unit u to item[count:], evenly spaced over its chain; return the new count."""
    held = holding.held[u]
    i = holding.head[u]
    for k in range(held):
        # Counted from `turn` on, every held / wanted-th one; rotating by turn, all have their day.
        place = (k + turn) % held
        if (place * wanted) // held != ((place + 1) * wanted) // held:
            item[count] = i
            count += 1
        i = holding.following[i]
    return count


@njit(cache=True, nogil=True)
def _assign(holding: _Holding, item: IntArray, choice: IntArray, count: int) -> None:
    """Move item[k] to unit choice[k], for all k < count."""
    head, following = holding.head, holding.following
    for k in range(count):
        i = item[k]
        u = holding.unit[i]
        if head[u] == i:
            head[u] = following[i]
        else:
            j = head[u]
            while following[j] != i:
                j = following[j]
            following[j] = following[i]
        holding.total[u] -= holding.size[i]
        holding.held[u] -= 1
    for k in range(count):
        i, u = item[k], choice[k]
        if head[u] < 0 or i < head[u]:
            following[i] = head[u]
            head[u] = i
        else:  # a chain stays in index order: then it does not depend on how it came about, nor on slices
            j = head[u]
            while following[j] >= 0 and following[j] < i:
                j = following[j]
            following[i] = following[j]
            following[j] = i
        holding.unit[i] = u
        holding.total[u] += holding.size[i]
        holding.held[u] += 1


@njit(cache=True, nogil=True)
def _subset_sums(size: IntArray, item: IntArray, first: int, last: int, sums: IntArray, masks: IntArray) -> int:
    """Write the sums of all subsets of item[first:last], ascending, and their masks; return how many there are."""
    sums[0] = masks[0] = 0
    count = 1
    for k in range(first, last):
        extra, bit = size[item[k]], 1 << (k - first)
        # Merge the lists without and with the item from the top, so that nothing is overwritten before it is read.
        without, with_it = count - 1, count - 1
        for w in range(2 * count - 1, -1, -1):
            if with_it < 0 or (without >= 0 and sums[without] > sums[with_it] + extra):
                sums[w], masks[w] = sums[without], masks[without]
                without -= 1
            else:
                sums[w], masks[w] = sums[with_it] + extra, masks[with_it] | bit
                with_it -= 1
        count *= 2
    return count


@njit(cache=True, nogil=True)
def _divide_pair(holding: _Holding, a: int, b: int, turn: int, item: IntArray, choice: IntArray) -> tuple[int, int]:
    """Choose units for items of a and b so that their loads differ least; return their number (0 = no gain) and steps.

    Of more than `PAIR_ITEMS` items, some stay where they are; `turn` says which.
    """
    size, total, held = holding.size, holding.total, holding.held
    of_a = min(held[a], max(PAIR_ITEMS // 2, PAIR_ITEMS - held[b]))
    of_b = min(held[b], PAIR_ITEMS - of_a)
    count = _items_of(holding, a, of_a, turn, item, 0)
    count = _items_of(holding, b, of_b, turn, item, count)
    pool_a = pool_b = 0
    for k in range(count):
        if k < of_a:
            pool_a += size[item[k]]
        else:
            pool_b += size[item[k]]
    # Unit a keeps what is not in the pool and gets x of it: loads differ by |2x − twice|.
    twice = (total[b] - pool_b) - (total[a] - pool_a) + pool_a + pool_b
    half = count // 2
    low, low_mask = np.empty(1 << half, dtype=np.int64), np.empty(1 << half, dtype=np.int64)
    high, high_mask = np.empty(1 << (count - half), dtype=np.int64), np.empty(1 << (count - half), dtype=np.int64)
    in_low = _subset_sums(size, item, 0, half, low, low_mask)
    in_high = _subset_sums(size, item, half, count, high, high_mask)
    best, mask = abs(total[a] - total[b]), -1
    j = in_high - 1
    for i in range(in_low):
        while True:
            off = 2 * (low[i] + high[j]) - twice
            if abs(off) < best:
                best, mask = abs(off), low_mask[i] | (high_mask[j] << half)
            if off <= 0 or j == 0:
                break
            j -= 1
    for k in range(count):
        choice[k] = a if (mask >> k) & 1 else b
    return (count if mask >= 0 else 0), 2 * (in_low + in_high)


@njit(cache=True, nogil=True)
def _divide_triple(
    holding: _Holding, a: int, b: int, c: int, sums: IntArray, item: IntArray, choice: IntArray
) -> tuple[int, int]:
    """Choose units for all items of a, b and c to the least makespan; return their number (0 = no gain) and steps.

    Every subset that unit a could take is completed by every subset of the others for unit b, where it can pay.
    """
    size, held = holding.size, holding.held
    limit = max(holding.total[a], holding.total[b], holding.total[c]) - 1
    count = held[a] + held[b] + held[c]
    if count > TRIPLE_ITEMS or holding.total[a] + holding.total[b] + holding.total[c] > 3 * limit:
        return 0, 1
    filled = _items_of(holding, a, held[a], 0, item, 0)
    filled = _items_of(holding, b, held[b], 0, item, filled)
    _items_of(holding, c, held[c], 0, item, filled)
    sums[0] = 0
    for k in range(count):
        for mask in range(1 << k):
            sums[(1 << k) + mask] = sums[mask] + size[item[k]]
    everything = (1 << count) - 1
    pool = sums[everything]
    base_a, base_b, base_c = holding.total[a], holding.total[b], holding.total[c]
    for k in range(count):
        u, s = holding.unit[item[k]], size[item[k]]
        base_a -= s if u == a else 0
        base_b -= s if u == b else 0
        base_c -= s if u == c else 0
    best_a, best_b, steps = -1, -1, everything
    for mask_a in range(everything + 1):
        first, left = base_a + sums[mask_a], pool - sums[mask_a]
        if first > limit or left + base_b + base_c > 2 * limit:
            continue
        rest = everything ^ mask_a
        mask_b = rest
        while first <= limit:
            steps += 1
            makespan = max(first, base_b + sums[mask_b], base_c + left - sums[mask_b])
            if makespan <= limit:
                limit, best_a, best_b = makespan - 1, mask_a, mask_b
            if mask_b == 0:
                break
            mask_b = (mask_b - 1) & rest
    if best_a < 0:
        return 0, steps
    for k in range(count):
        choice[k] = a if (best_a >> k) & 1 else (b if (best_b >> k) & 1 else c)
    return count, steps


@njit(cache=True, nogil=True)
def repartition(
    size: IntArray, load: IntArray, unit: IntArray, lower: int, max_steps: int, cursor: IntArray
) -> tuple[int, int, bool]:
    """Lower the makespan until it is `lower`, no pair or triple with the busiest unit helps, or the steps are used up.

    Called again with the same `unit` and `cursor` it goes on where it stopped, so that slices add up to one long run; a
    slice ends with the try that reaches `max_steps`. A try costs some 2^(k/2) steps for a pair of k items and 2^k or
    more for a triple; to find that a placement is a local optimum takes m pairs and O(m²) triples.

    Parameters
    ----------
    size, load
        int64[n] and int64[m], in any order.
    unit
        int64[n], a whole placement, improved in place.
    lower
        A lower bound of the makespan.
    max_steps
        Sums formed or compared.
    cursor
        int64[CURSOR_LENGTH], zeros at first: the next pair, the next triple (rank sum, first rank), and tries made.

    Returns
    -------
    makespan : of the placement
    steps : taken
    stuck : whether nothing is left to try
    """
    m = len(load)
    holding = _holding(size, load, unit)
    total = holding.total
    item, choice = np.empty(len(size), dtype=np.int64), np.empty(len(size), dtype=np.int64)
    sums = np.empty(1 << TRIPLE_ITEMS, dtype=np.int64)
    steps = 0
    a, rank = int(np.argmax(total)), np.argsort(total, kind="mergesort")
    while total[a] > lower:
        if steps >= max_steps:
            return total[a], steps, False
        count, taken = 0, 0
        if cursor[0] < m:
            b = rank[cursor[0]]
            cursor[0] += 1
            if b != a and total[a] + total[b] <= 2 * (total[a] - 1):
                count, taken = _divide_pair(holding, a, b, cursor[3], item, choice)
                cursor[3] += 1
        else:
            if cursor[2] >= (cursor[1] + 1) // 2:  # the next rank sum; the first rank is the smaller one
                cursor[1] += 1
                cursor[2] = max(0, cursor[1] - m + 1)
            if cursor[1] > 2 * m - 3:
                return total[a], steps, True
            b, c = rank[cursor[2]], rank[cursor[1] - cursor[2]]
            cursor[2] += 1
            if a not in (b, c):
                count, taken = _divide_triple(holding, a, b, c, sums, item, choice)
        steps += taken + 1
        if count > 0:
            _assign(holding, item, choice, count)
            a, rank = int(np.argmax(total)), np.argsort(total, kind="mergesort")
            cursor[:3] = 0
    return total[a], steps, True
