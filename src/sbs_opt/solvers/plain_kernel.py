"""Longest processing time first on a plain window: one priced resource, one group, no limits, pins or savings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from sbs_opt.models.checks import IntArray
from sbs_opt.models.placement import UnitArray
from sbs_opt.models.window import Window
from sbs_opt.solvers.packing_bounds_kernel import plain_bound

RankArray = npt.NDArray[np.int32]
"""One entry per rank, the position of an item in descending order of size."""

_DIGIT_BITS = 11


def is_plain(window: Window) -> bool:
    """Tell whether nothing but the loads of one priced resource matters."""
    return not window.fields_in_use and bool(window.price[0] > 0)


@njit(cache=True, nogil=True)
def descending(size: IntArray) -> npt.NDArray[np.int32]:
    """Return int32[n], the rows of `size`[n, 1] in descending order, ties to the lowest index.

    Radix sort from the least significant digit; O(n) per digit of `_DIGIT_BITS` bits at most.
    """
    n = size.shape[0]
    order = np.empty(n, dtype=np.int32)
    top = 0
    for i in range(n):
        order[i] = i
        top |= size[i, 0]
    bits = 0
    while top >> bits:
        bits += 1
    if bits == 0 or n < 2:
        return order
    passes = (bits + _DIGIT_BITS - 1) // _DIGIT_BITS
    width = (bits + passes - 1) // passes
    if n < 48:
        for k in range(1, n):
            i, hole = order[k], k
            while hole > 0 and size[order[hole - 1], 0] < size[i, 0]:
                order[hole] = order[hole - 1]
                hole -= 1
            order[hole] = i
        return order
    other = np.empty(n, dtype=np.int32)
    count = np.empty(1 << width, dtype=np.int32)
    mask = (1 << width) - 1
    for shift in range(0, bits, width):
        count[:] = 0
        for i in range(n):
            count[mask - ((size[i, 0] >> shift) & mask)] += 1
        first = 0
        for digit in range(mask + 1):
            here = count[digit]
            count[digit] = first
            first += here
        for k in range(n):
            i = order[k]
            digit = mask - ((size[i, 0] >> shift) & mask)
            other[count[digit]] = i
            count[digit] += 1
        order, other = other, order
    return order


@njit(cache=True, nogil=True)
def longest_first(order: npt.NDArray[np.int32], size: IntArray, load: IntArray) -> UnitArray:
    """Place items in `order` on the least loaded unit, ties to the lowest index, from a heap; O(n log m).

    The plain case of `greedy` with `LEAST_INCREASE`.

    Parameters
    ----------
    order
        int32[n], all items.
    size, load
        int64[n, 1] and int64[m, 1].

    Returns
    -------
    int32[n], the unit of each item.
    """
    n, m = order.shape[0], load.shape[0]
    unit = np.empty(n, dtype=np.int32)
    bits, total = 0, 0
    while m >> bits:
        bits += 1
    for u in range(m):
        total = max(total, load[u, 0])
    for i in range(n):
        total += size[i, 0]
    if total >> (62 - bits):
        _from_wide_heap(order, size, load, unit)
        return unit
    # Load and unit packed into one number compare as one: the load first, then the index.
    low = (1 << bits) - 1
    heap = np.empty(2 * m + 2, dtype=np.int64)
    for u in range(m):
        heap[u] = load[u, 0] << bits | u
    heap[:m].sort()  # sorted is a heap
    for u in range(m, 2 * m + 2):
        heap[u] = np.iinfo(np.int64).max  # a missing child is never chosen
    for k in range(n):
        i = order[k]
        top = heap[0]
        unit[i] = top & low
        key = top + (size[i, 0] << bits)
        hole, child = 0, 1
        while child < m:
            child += heap[child + 1] < heap[child]
            below = heap[child]
            if key <= below:
                break
            heap[hole] = below
            hole, child = child, 2 * child + 1
        heap[hole] = key
    return unit


@njit(cache=True, nogil=True)
def _from_wide_heap(order: npt.NDArray[np.int32], size: IntArray, load: IntArray, unit: UnitArray) -> None:
    """Do the same where load and index together exceed 62 bits."""
    m = load.shape[0]
    heap = np.argsort(load[:, 0], kind="mergesort")
    key = load[:, 0][heap]
    for i in order:
        top, total = heap[0], key[0] + size[i, 0]
        unit[i] = top
        hole, child = 0, 1
        while child < m:
            right = child + 1
            if right < m and (key[right] < key[child] or (key[right] == key[child] and heap[right] < heap[child])):
                child = right
            if total < key[child] or (total == key[child] and top < heap[child]):
                break
            heap[hole], key[hole] = heap[child], key[child]
            hole, child = child, 2 * child + 1
        heap[hole], key[hole] = top, total


@njit(cache=True, nogil=True)
def sorted_values(size: IntArray, order: npt.NDArray[np.int32], load: IntArray) -> tuple[IntArray, IntArray]:
    """Return the sizes in `order` and the loads in ascending order, as vectors."""
    sizes = np.empty(len(order), dtype=np.int64)
    for k in range(len(order)):
        sizes[k] = size[order[k], 0]
    loads = load[:, 0].copy()
    loads.sort()
    return sizes, loads


@njit(cache=True, nogil=True)
def place_longest_first(size: IntArray, load: IntArray) -> tuple[UnitArray, int]:
    """Sort, place and bound; O(n log m).

    Returns
    -------
    unit : int32[n]
    bound : int, of the makespan
    """
    order = descending(size)
    sizes, loads = sorted_values(size, order, load)
    return longest_first(order, size, load), plain_bound(sizes, loads)


@njit(cache=True, nogil=True)
def sort_and_bound(size: IntArray, load: IntArray, drop: int) -> int:
    """Return `plain_bound` without the `drop` largest items."""
    sizes, loads = sorted_values(size, descending(size), load)
    return plain_bound(sizes[drop:], loads)
