"""A window of one priced resource with savings, as the kernels read it: largest item first, hits by item and by unit.

A *hit* is a pair of item and unit whose saving is above zero; elsewhere an item adds its size. A pinned item has no
choice: what it adds is load, and it stays behind as an item of size 0 without hits that nobody moves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import FREE, Savings, Window
from sbs_opt.solvers.plain_kernel import descending

_RATIO_STEPS = 1 << 21
"""Savings are ordered by the share of the demand that they save, in so many steps."""


class SavingsColumns(NamedTuple):
    """Arrays of one window; n items, m units, k hits. Items go by *rank*, their position in descending order of size.

    Parameters
    ----------
    item
        int64[n], the window's index of each rank.
    size
        int64[n], what an item adds where it hits nothing, descending; 0 for a pinned item.
    load
        int64[m], the initial loads, pinned items included.
    pinned
        int64[n], the unit an item is pinned to, or −1.
    hit_start
        int64[n + 1]; the hits of item i are start[i] … start[i + 1] − 1, the least amount first.
    hit_item, hit_unit, hit_amount
        int64[k], item, unit, and what the item adds there: size less saving.
    guest_start, guest
        int64[m + 1] and int64[k]; the hits of unit u are guest[start[u]] … guest[start[u + 1] − 1], the least amount
        first.
    by_ratio
        int64[k], the hits in descending order of saving / size: per unit of load they relieve others most.
    """

    item: IntArray
    size: IntArray
    load: IntArray
    pinned: IntArray
    hit_start: IntArray
    hit_item: IntArray
    hit_unit: IntArray
    hit_amount: IntArray
    guest_start: IntArray
    guest: IntArray
    by_ratio: IntArray


_NONE = np.zeros(0, dtype=np.int64)
_NO_SAVINGS = Savings(_NONE, _NONE, np.zeros((0, 1), dtype=np.int64))


def is_one_column(window: Window) -> bool:
    """Tell whether the window has one priced resource, one group and no limits; pins and savings may be in use."""
    return bool(window.fields_in_use <= {"pinned", "savings"}) and int(window.price[0]) > 0


def savings_columns(window: Window) -> SavingsColumns:
    """Prepare a window of one resource for the kernels; O(n + m + k)."""
    return prepare(window.demand, window.load, window.pinned, *saving_arrays(window))


def saving_arrays(window: Window) -> tuple[IntArray, IntArray, IntArray]:
    """Return item, unit and value of the savings, empty where there are none."""
    savings = _NO_SAVINGS if window.savings is None else window.savings
    return savings.item, savings.unit, savings.value


@njit(cache=True, nogil=True)
def prepare(
    demand: IntArray, initial: IntArray, pinned: IntArray, item: IntArray, unit: IntArray, value: IntArray
) -> SavingsColumns:
    """Do the work of `savings_columns`."""
    n, m = demand.shape[0], initial.shape[0]
    amount, load = demand.copy(), initial[:, 0].copy()
    hits_of = np.zeros(n, dtype=np.int64)
    for k in range(len(item)):
        if pinned[item[k]] == unit[k]:
            amount[item[k], 0] -= value[k, 0]
        hits_of[item[k]] += pinned[item[k]] == FREE and value[k, 0] > 0
    for i in range(n):
        if pinned[i] != FREE:
            load[pinned[i]] += amount[i, 0]
            amount[i, 0] = 0
    order = descending(amount)
    rank = np.empty(n, dtype=np.int64)
    size = np.empty(n, dtype=np.int64)
    pinned_by_rank = np.empty(n, dtype=np.int64)
    hit_start = np.zeros(n + 1, dtype=np.int64)
    for r in range(n):
        i = order[r]
        rank[i] = r
        size[r] = amount[i, 0]
        pinned_by_rank[r] = pinned[i]
        hit_start[r + 1] = hit_start[r] + hits_of[i]
    hit_item, hit_unit, hit_amount = _by_item(rank, size, pinned, hit_start, item, unit, value)
    guest_start, guest = _by_unit(hit_unit, hit_amount, m)
    ratio = np.empty((len(hit_item), 1), dtype=np.int64)
    for k in range(len(hit_item)):
        ratio[k, 0] = np.int64(_RATIO_STEPS * (1.0 - np.float64(hit_amount[k]) / np.float64(size[hit_item[k]])))
    return SavingsColumns(
        order.astype(np.int64),
        size,
        load,
        pinned_by_rank,
        hit_start,
        hit_item,
        hit_unit,
        hit_amount,
        guest_start,
        guest,
        descending(ratio).astype(np.int64),
    )


@njit(cache=True, nogil=True)
def _by_item(
    rank: IntArray, size: IntArray, pinned: IntArray, start: IntArray, item: IntArray, unit: IntArray, value: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Return item, unit and amount of each hit, the hits of an item in ascending order of amount."""
    n = len(size)
    hit_item = np.empty(start[n], dtype=np.int64)
    hit_unit = np.empty(start[n], dtype=np.int64)
    hit_amount = np.empty(start[n], dtype=np.int64)
    end = start[:n].copy()
    for k in range(len(item)):
        if pinned[item[k]] == FREE and value[k, 0] > 0:
            r = rank[item[k]]
            hole, amount = end[r], size[r] - value[k, 0]
            hit_item[hole] = r
            end[r] += 1
            while hole > start[r] and hit_amount[hole - 1] > amount:  # insertion: an item hits few units
                hit_unit[hole], hit_amount[hole] = hit_unit[hole - 1], hit_amount[hole - 1]
                hole -= 1
            hit_unit[hole], hit_amount[hole] = unit[k], amount
    return hit_item, hit_unit, hit_amount


@njit(cache=True, nogil=True)
def _by_unit(hit_unit: IntArray, hit_amount: IntArray, m: int) -> tuple[IntArray, IntArray]:
    """Return where the hits of each unit start, and the hits, in ascending order of amount."""
    start = np.zeros(m + 1, dtype=np.int64)
    for u in hit_unit:
        start[u + 1] += 1
    for u in range(m):
        start[u + 1] += start[u]
    guest = np.empty(len(hit_unit), dtype=np.int64)
    end = start[:m].copy()
    for k in descending(hit_amount.reshape(-1, 1))[::-1]:
        guest[end[hit_unit[k]]] = k
        end[hit_unit[k]] += 1
    return start, guest
