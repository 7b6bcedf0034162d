"""The largest differencing method on a plain window (Karmarkar & Karp 1982, for several units)."""

from __future__ import annotations

import numpy as np
from numba import njit

from sbs_opt.models.checks import IntArray
from sbs_opt.solvers.plain_kernel import RankArray

_NONE = -1


@njit(cache=True, nogil=True)
def difference(size: IntArray, load: IntArray, where: RankArray) -> int:
    """Place all items by repeatedly combining the two partial placements with the largest differences.

    A partial placement is a list of *slots* in descending order of amount; slots beyond its end are empty. Every item
    starts as a placement of one slot, and the initial loads are one of m slots, whose units stay with them. Combining
    puts the largest amounts of one on the smallest of the other; where both together have at most m slots, nothing
    meets, and the lists merge. O(n log n + k·m log m) for k combinations of more than m slots, about n/m of them.

    Parameters
    ----------
    size
        int64[n], descending.
    load
        int64[m].
    where
        int32[n], written: the unit of each rank.

    Returns
    -------
    int, the slots visited
    """
    n, m = len(size), len(load)
    # Slots 0 … m − 1 hold the loads, slot m + rank an item. `head` and `tail` chain the items of a slot.
    amount = np.empty(m + n, dtype=np.int64)
    after = np.full(m + n, _NONE, dtype=np.int32)  # next slot of the same partial placement
    head = np.full(m + n, _NONE, dtype=np.int32)
    tail = np.full(m + n, _NONE, dtype=np.int32)
    chain = np.full(n, _NONE, dtype=np.int32)
    of_unit = np.full(m + n, _NONE, dtype=np.int32)
    first = np.empty(n + 1, dtype=np.int32)  # slots of each partial placement: first, last, number
    last = np.empty(n + 1, dtype=np.int32)
    slots = np.ones(n + 1, dtype=np.int32)
    heap = np.empty(n + 1, dtype=np.int32)
    gap = np.empty(n + 1, dtype=np.int64)
    for rank in range(n):
        amount[m + rank] = size[rank]
        head[m + rank] = tail[m + rank] = rank
        first[rank] = last[rank] = m + rank
        heap[rank] = rank
        gap[rank] = size[rank] if m > 1 else 0
    heaviest = np.argsort(-load, kind="mergesort")
    for k in range(m):
        u = heaviest[k]
        amount[u], of_unit[u] = load[u], u
        after[u] = heaviest[k + 1] if k + 1 < m else _NONE
    first[n], last[n], slots[n] = heaviest[0], heaviest[m - 1], m
    gap[n] = load[heaviest[0]] - load[heaviest[m - 1]]
    heap[n] = n
    _rise(heap, gap, n)
    scratch = np.empty(m, dtype=np.int64)
    visited = 0
    for left in range(n, 0, -1):  # `left` + 1 partial placements remain
        a = heap[0]
        heap[0] = heap[left]
        _sink(heap, gap, left, 0)
        b = heap[0]
        if slots[a] + slots[b] <= m:
            visited += _merge(a, b, amount, after, first, last)
            slots[a] += slots[b]
        else:
            visited += _overlay(a, b, m, amount, after, head, tail, chain, of_unit, first, last, slots, scratch)
        gap[a] = amount[first[a]] - (amount[last[a]] if slots[a] == m else 0)
        heap[0] = a
        _sink(heap, gap, left, 0)
    slot = first[heap[0]]
    while slot != _NONE:
        rank = head[slot]
        while rank != _NONE:
            where[rank] = of_unit[slot]
            rank = chain[rank]
        slot = after[slot]
    return visited


@njit(cache=True, nogil=True)
def _before(gap: IntArray, a: int, b: int) -> bool:
    return gap[a] > gap[b] or (gap[a] == gap[b] and a < b)


@njit(cache=True, nogil=True)
def _rise(heap: RankArray, gap: IntArray, hole: int) -> None:
    a = heap[hole]
    while hole > 0 and _before(gap, a, heap[(hole - 1) // 2]):
        heap[hole] = heap[(hole - 1) // 2]
        hole = (hole - 1) // 2
    heap[hole] = a


@njit(cache=True, nogil=True)
def _sink(heap: RankArray, gap: IntArray, length: int, hole: int) -> None:
    a = heap[hole]
    child = 2 * hole + 1
    while child < length:
        if child + 1 < length and _before(gap, heap[child + 1], heap[child]):
            child += 1
        if not _before(gap, heap[child], a):
            break
        heap[hole] = heap[child]
        hole, child = child, 2 * child + 1
    heap[hole] = a


@njit(cache=True, nogil=True)
def _merge(a: int, b: int, amount: IntArray, after: RankArray, first: RankArray, last: RankArray) -> int:
    """Merge the slots of b into those of a, in descending order; returns the slots visited."""
    if amount[last[a]] >= amount[first[b]]:  # as when items follow a full placement one by one
        after[last[a]] = first[b]
        last[a] = last[b]
        return 1
    x, y, visited = first[a], first[b], 0
    if amount[x] >= amount[y]:
        x = after[x]
    else:
        first[a] = y
        y = after[y]
    end = first[a]
    while x >= 0 and y >= 0:
        visited += 1
        if amount[x] >= amount[y]:
            after[end], end, x = x, x, after[x]
        else:
            after[end], end, y = y, y, after[y]
    if y != _NONE:
        after[end] = y
        last[a] = last[b]
    else:
        after[end] = x
    return visited


@njit(cache=True, nogil=True)
def _overlay(
    a: int,
    b: int,
    m: int,
    amount: IntArray,
    after: RankArray,
    head: RankArray,
    tail: RankArray,
    chain: RankArray,
    of_unit: RankArray,
    first: RankArray,
    last: RankArray,
    slots: RankArray,
    scratch: IntArray,
) -> int:
    """Put the smallest slots of b, smallest on largest, onto the smallest of a, so that m are left, in order.

    Only the slots that received something can be out of place: they are sorted, and merged with the others.
    """
    overlap = slots[a] + slots[b] - m
    x = first[a]
    for k in range(slots[a]):
        scratch[k] = x
        x = after[x]
    untouched = slots[a] - overlap
    y = first[b]
    for _ in range(slots[b] - overlap):
        y = after[y]
    for k in range(overlap):  # y goes on in descending order, so its partners ascend: from the last of a upwards
        x = scratch[slots[a] - 1 - k]
        amount[x] += amount[y]
        if head[y] != _NONE:
            if head[x] == _NONE:
                head[x] = head[y]
            else:
                chain[tail[x]] = head[y]
            tail[x] = tail[y]
        if of_unit[y] != _NONE:
            of_unit[x] = of_unit[y]
        y = after[y]
    changed = scratch[untouched : untouched + overlap].copy()
    if overlap > 1:
        changed = changed[np.argsort(-amount[changed], kind="mergesort")]
    # Three descending lists become one: the untouched slots of a, those of b, and the changed ones.
    y, end, i, j = first[b], _NONE, 0, 0
    left_of_b = slots[b] - overlap
    for _ in range(m):
        best = _NONE
        if i < untouched:
            best = scratch[i]
        if left_of_b > 0 and (best == _NONE or amount[y] > amount[best]):
            best = y
        if j < overlap and (best == _NONE or amount[changed[j]] > amount[best]):
            best = changed[j]
        if i < untouched and best == scratch[i]:
            i += 1
        elif left_of_b > 0 and best == y:
            y = after[y]
            left_of_b -= 1
        else:
            j += 1
        if end == _NONE:
            first[a] = best
        else:
            after[end] = best
        end = best
    after[end] = _NONE
    last[a], slots[a] = end, m
    return m + int(overlap)
