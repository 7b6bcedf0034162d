"""Improve a placement of one resource by dividing the items of a few units anew, each time as well as possible.

`repartition` pairs the busiest unit with another one and divides their items so that the loads differ least: a
subset-sum problem, solved exactly by meeting in the middle (Horowitz & Sahni 1974). When no pair helps, it takes the
busiest and two other units and tries every division; moves and swaps are special cases. Re-dividing pairs is an idea of
Alvim & Ribeiro 2004 and of Frangioni, Necciari & Scutellà 2004; here with unequal loads and with triples.

`wander` leaves such a local optimum: it aims at a makespan below the best, re-divides random triples so that what
exceeds the aim never grows, and takes any of the divisions that tie.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from sbs_opt.models.checks import IntArray

PAIR_ITEMS = 16
"""Items of a pair that are divided anew; of more, some stay where they are, and which do changes from try to try."""

PAIR_TURNS = 16
"""How often each pair is tried, with other items each time, where most pairs have too many."""

TRIPLE_ITEMS = 12
"""Items of a triple that are divided anew; `repartition` passes over triples with more."""

STATE_LENGTH = 4


class _Holding(NamedTuple):
    """Who holds what: total and held are int64[m], unit and following int64[n]; head[u] starts the chain of unit u.

    Chains are in index order, so that they do not depend on how a placement came about, nor on slices.
    """

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
    following, held, i = holding.following, holding.held[u], holding.head[u]
    for k in range(held):
        # Every held / wanted-th one, counted from `turn` on: as `turn` grows, all have their day.
        place = (k + turn) % held
        if (place * wanted) // held != ((place + 1) * wanted) // held:
            item[count] = i
            count += 1
        i = following[i]
    return count


@njit(cache=True, nogil=True)
def _assign(holding: _Holding, item: IntArray, choice: IntArray, count: int) -> None:
    """Move item[k] to unit choice[k], for all k < count."""
    size, unit, total, held = holding.size, holding.unit, holding.total, holding.held
    head, following = holding.head, holding.following
    for k in range(count):
        i, u, v = item[k], unit[item[k]], choice[k]
        if u == v:
            continue
        if head[u] == i:
            head[u] = following[i]
        else:
            j = head[u]
            while following[j] != i:
                j = following[j]
            following[j] = following[i]
        if head[v] < 0 or i < head[v]:
            following[i] = head[v]
            head[v] = i
        else:
            j = head[v]
            while following[j] >= 0 and following[j] < i:
                j = following[j]
            following[i] = following[j]
            following[j] = i
        unit[i] = v
        total[u] -= size[i]
        total[v] += size[i]
        held[u] -= 1
        held[v] += 1


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
def _random(state: IntArray) -> int:
    """Return a number of 31 bits and move state[3] on (Knuth's linear congruential generator)."""
    state[3] = state[3] * np.int64(6364136223846793005) + np.int64(1442695040888963407)
    return int((state[3] >> 33) & 0x7FFFFFFF)


@njit(cache=True, nogil=True)
def _divide_triple(
    holding: _Holding,
    a: int,
    b: int,
    c: int,
    aim: int,
    most: int,
    sums: IntArray,
    item: IntArray,
    choice: IntArray,
    state: IntArray,
) -> tuple[int, int]:
    """Choose units for items of a, b and c at least cost, at most `most`; return their number (0 = none) and steps.

    All items when they are few, else a third of `TRIPLE_ITEMS` of each unit, others each time. The cost is what the
    loads exceed `aim` by, in sum; where nothing does, it is makespan − aim. Of divisions that cost the same, other than
    the present one, a random one is taken. Every subset that a could get is completed by every subset of the rest for
    b, as long as that can pay.
    """
    size, unit, held = holding.size, holding.unit, holding.held
    if holding.total[a] + holding.total[b] + holding.total[c] - 3 * aim > max(most, 0):
        return 0, 1
    each = TRIPLE_ITEMS if held[a] + held[b] + held[c] <= TRIPLE_ITEMS else TRIPLE_ITEMS // 3
    turn = _random(state)
    count = _items_of(holding, a, min(each, held[a]), turn, item, 0)
    count = _items_of(holding, b, min(each, held[b]), turn, item, count)
    count = _items_of(holding, c, min(each, held[c]), turn, item, count)
    sums[0] = present_a = present_b = 0
    for k in range(count):
        bit, here = 1 << k, unit[item[k]]
        for mask in range(bit):
            sums[bit + mask] = sums[mask] + size[item[k]]
        present_a |= bit if here == a else 0
        present_b |= bit if here == b else 0
    everything = (1 << count) - 1
    pool = sums[everything]
    # Rooms below the aim, were all items taken away.
    room_a = aim - holding.total[a] + sums[present_a]
    room_b = aim - holding.total[b] + sums[present_b]
    room_c = aim - holding.total[c] + pool - sums[present_a] - sums[present_b]
    best_a, best_b, ties, steps = -1, -1, 0, everything
    for mask_a in range(everything + 1):
        over_a, left = sums[mask_a] - room_a, pool - sums[mask_a]
        if max(over_a, 0) + max(left - room_b - room_c, 0) > max(most, 0) or over_a > most:
            continue
        rest = everything ^ mask_a
        mask_b = rest
        while True:
            steps += 1
            over_b, over_c = sums[mask_b] - room_b, left - sums[mask_b] - room_c
            cost = max(over_a, over_b, over_c)
            if cost > 0:
                cost = max(over_a, 0) + max(over_b, 0) + max(over_c, 0)
            if cost <= most and not (mask_a == present_a and mask_b == present_b):
                ties = ties + 1 if cost == most else 1
                most = cost
                if ties == 1 or _random(state) % ties == 0:
                    best_a, best_b = mask_a, mask_b
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
    size: IntArray, load: IntArray, unit: IntArray, lower: int, max_steps: int, state: IntArray
) -> tuple[int, int, bool]:
    """Lower the makespan until it is `lower`, no pair or triple with the busiest unit helps, or the steps are used up.

    Called again with the same `unit` and `state` it goes on where it stopped, so that slices add up to one long run; a
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
    state
        int64[STATE_LENGTH], zeros at first: the next pair, the next triple (rank sum, first rank), random numbers.

    Returns
    -------
    makespan : of the placement
    steps : taken
    stuck : whether nothing is left to try
    """
    n, m = len(size), len(load)
    holding = _holding(size, load, unit)
    total = holding.total
    item, choice = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    sums = np.empty(1 << TRIPLE_ITEMS, dtype=np.int64)
    pairs = m if 2 * n <= PAIR_ITEMS * m else m * PAIR_TURNS
    steps = 0
    a, rank = int(np.argmax(total)), np.argsort(total, kind="mergesort")
    while total[a] > lower:
        if steps >= max_steps:
            return total[a], steps, False
        count, taken = 0, 0
        if state[0] < pairs:
            b = rank[state[0] % m]
            state[0] += 1
            if b != a and total[a] + total[b] <= 2 * (total[a] - 1):
                count, taken = _divide_pair(holding, a, b, _random(state), item, choice)
        else:
            if state[2] >= (state[1] + 1) // 2:  # the next rank sum; the first rank is the smaller one
                state[1] += 1
                state[2] = max(0, state[1] - m + 1)
            if state[1] > 2 * m - 3:
                return total[a], steps, True
            b, c = rank[state[2]], rank[state[1] - state[2]]
            state[2] += 1
            if a not in (b, c) and holding.held[a] + holding.held[b] + holding.held[c] <= TRIPLE_ITEMS:
                count, taken = _divide_triple(holding, a, b, c, total[a] - 1, 0, sums, item, choice, state)
        steps += taken + 1
        if count > 0:
            _assign(holding, item, choice, count)
            a, rank = int(np.argmax(total)), np.argsort(total, kind="mergesort")
            state[:3] = 0
    return total[a], steps, True


@njit(cache=True, nogil=True)
def wander(
    size: IntArray, load: IntArray, unit: IntArray, present: IntArray, lower: int, max_steps: int, state: IntArray
) -> tuple[int, int]:
    """Look for a placement below the makespan of `unit` by re-dividing random triples, until `lower` or the steps end.

    The aim is one below the best makespan. A triple contains a unit above the aim; a division is taken when what
    exceeds the aim does not grow. Called again with the same arrays it goes on where it stopped.

    Parameters
    ----------
    size, load, lower, max_steps
        As in `repartition`.
    unit
        int64[n], the best placement, replaced by each better one.
    present
        int64[n], where the search stands; a copy of `unit` at first.
    state
        int64[STATE_LENGTH]; only the random numbers are used.

    Returns
    -------
    makespan : of `unit`
    steps : taken
    """
    n, m = len(size), len(load)
    holding = _holding(size, load, present)
    total = holding.total
    best_total = load.copy()
    for i in range(n):
        best_total[unit[i]] += size[i]
    best = best_total.max()
    item, choice = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    sums = np.empty(1 << TRIPLE_ITEMS, dtype=np.int64)
    above = np.empty(m, dtype=np.int64)
    steps = 0
    while best > lower and steps < max_steps and m >= 3:
        aim, count = best - 1, 0
        for u in range(m):
            if total[u] > aim:
                above[count] = u
                count += 1
        if count == 0:
            best, unit[:] = total.max(), present
            continue
        a, b, c = above[_random(state) % count], _random(state) % m, _random(state) % m
        if a in (b, c) or b == c:
            continue
        excess = total[a] - aim + max(0, total[b] - aim) + max(0, total[c] - aim)
        count, taken = _divide_triple(holding, a, b, c, aim, excess, sums, item, choice, state)
        steps += taken + m
        _assign(holding, item, choice, count)
    return best, steps
