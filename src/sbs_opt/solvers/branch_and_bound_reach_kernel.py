"""Which sums the items from i on can reach: rooms between two such sums are worth the same.

A room counts only up to the greatest sum of the remaining items that fits it (range equivalence of Akram, Maas, Sanders
& Schreiber 2024). So for every i the reachable sums of the items i, i + 1, … are listed, and a room becomes its rank in
the list; two further columns say which rank in the next list it has after item i has been passed by, and after it has
been taken. A search then moves through tables, whatever the magnitude of the numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from sbs_opt.models.checks import IntArray

ENTRIES = 1 << 14
"""Entries of all lists together at most: with more, the search misses the cache oftener than the lists help it."""


class Reach(NamedTuple):
    """Reachable sums of the last items.

    Parameters
    ----------
    first
        Lists exist for the items from here on; 0 = for all.
    start
        int64[n + 1], where the list of item i begins; that of i = n is the single sum 0.
    length
        int64[n + 1], how long it is.
    value
        int64[k], the sums, ascending in each list.
    keep, take
        int32[k], rank in the next list of the room without, and after taking, item i; take is −1 where i does not fit.
    """

    first: int
    start: IntArray
    length: IntArray
    value: IntArray
    keep: npt.NDArray[np.int32]
    take: npt.NDArray[np.int32]


@njit(cache=True, nogil=True)
def reachable(size: IntArray, top: int, entries: int) -> Reach:
    """List the reachable sums up to `top`, from the last item back while they fit in `entries`; O(entries).

    Parameters
    ----------
    size
        int64[n], in the order of the search.
    top
        The largest room.
    entries
        At least 1.
    """
    n = len(size)
    start, length = np.zeros(n + 1, dtype=np.int64), np.zeros(n + 1, dtype=np.int64)
    value = np.zeros(entries, dtype=np.int64)
    keep, take = np.zeros(entries, dtype=np.int32), np.full(entries, -1, dtype=np.int32)
    length[n] = used = 1
    first = n
    for i in range(n - 1, -1, -1):
        later, many = value[start[i + 1] : start[i + 1] + length[i + 1]], length[i + 1]
        if used + 2 * many > entries:
            break
        start[i] = used
        without = with_it = 0
        while without < many or with_it < many:
            if without == many:
                here = later[with_it] + size[i]
            elif with_it == many:
                here = later[without]
            else:
                here = min(later[without], later[with_it] + size[i])
            if here > top:
                break
            value[used] = here
            if without < many and later[without] == here:
                without += 1
            if with_it < many and later[with_it] + size[i] == here:
                with_it += 1
            keep[used], take[used] = without - 1, with_it - 1
            used += 1
        length[i] = used - start[i]
        first = i
    return Reach(first, start, length, value, keep, take)


@njit(cache=True, nogil=True)
def rank_of(reach: Reach, i: int, room: int) -> int:
    """Return the rank in list i of the greatest sum that fits `room` ≥ 0; O(log)."""
    low, high = reach.start[i], reach.start[i] + reach.length[i]
    while high - low > 1:
        middle = (low + high) // 2
        if reach.value[middle] <= room:
            low = middle
        else:
            high = middle
    return int(low - reach.start[i])
