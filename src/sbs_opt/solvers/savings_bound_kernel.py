"""Lower bounds of the bottleneck of one resource with savings, every item placed.

Every bound is a *refutation*: a bottleneck T is possible only if all items fit into the rooms T − b_u; what refutes T
refutes all below it. An item may go to unit u only if what it adds there is at most the room of u (Lenstra, Shmoys,
Tardos 1990). A refutation prices the room of every unit at λ_u ≥ 0: each item costs at least min λ_u·p_iu over the
units that it may go to, and if these costs exceed Σ λ_u·(T − b_u), T is impossible. Two families of prices:

*Thresholds*: λ = 1 on the j least loaded units, 0 elsewhere, for every j at once. An item that may go to one of the
other units costs nothing. Without savings this is exactly the linear relaxation with the barred pairs left out, because
what a unit may take then depends on its load alone.

*Relief*: prices above 1 where more items hit a unit than it has room for, from the rule by which a fractional knapsack
is filled.

The same thresholds also *count*: the items that none but the j least loaded units may take must not be more than these
units can hold of them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sbs_opt.models.checks import IntArray
from sbs_opt.solvers.packing_bounds_kernel import counting_bound, water_level
from sbs_opt.solvers.plain_kernel import descending
from sbs_opt.solvers.savings_columns import SavingsColumns

_FINEST, _COARSEST = 1 << 16, 1 << 6
"""Fixed-point price 1: at best, and the least that is worth the work."""

_DEAREST = 1 << 6
"""Greatest price of a unit; few savings exceed 98 %."""

_MOST_LOOKS = 16
"""Prices stay 1 where a sweep would look at more hits than so many per item and hit: where items hit most units."""

_MANY_GUESTS = 64
"""Guests of a unit up to which insertion sorts them faster than a general sort."""

_NEARBY = 4
"""Thresholds on either side of the closest one that are tried by counting; all of them together gain hardly more."""

_COARSE_STEP, _FINE_STEP = 7, 13
"""The steps in which counting raises a bound: shares 2^-7, 2^-9, 2^-11 of it, less than 2^-13 not being worth it."""

_SWEEPS, _FINE = 8, 14
"""Sweeps over the crowded units end when one gains less than 2^-14 of the bound, which is after four or five."""


@njit(cache=True, nogil=True)
def savings_bound(columns: SavingsColumns) -> int:
    """Return the greatest of water level, dearest single item, counting, thresholds and relief."""
    n, m = len(columns.size), len(columns.load)
    size, load, amount, start = columns.size, columns.load, columns.hit_amount, columns.hit_start
    by_load = np.argsort(load, kind="mergesort")
    lowest = load[by_load[0]]
    least = np.empty((n, 1), dtype=np.int64)
    total = dearest = 0
    for i in range(n):
        least[i, 0] = size[i]
        alone = lowest + size[i]
        if start[i] < start[i + 1]:
            least[i, 0] = amount[start[i]]
            for k in range(start[i], start[i + 1]):
                alone = min(alone, load[columns.hit_unit[k]] + amount[k])
        total += least[i, 0]
        dearest = max(dearest, alone)
    ascending = load[by_load]
    bound = max(dearest, water_level(total, ascending))
    threshold = m
    if n and bound - ascending[m - 1] < size[0]:  # else no pair is barred
        bound, threshold = _threshold_bound(columns, by_load, bound)
    bound = counting_bound(least[descending(least), 0], ascending, bound)
    bound = _relief_bound(columns, by_load, m, bound)
    if threshold < m:
        bound = _relief_bound(columns, by_load, threshold, bound)
        bound = _threshold_counting_bound(columns, by_load, threshold, bound)
    return bound


@njit(cache=True, nogil=True)
def _threshold_bound(columns: SavingsColumns, by_load: IntArray, lower: int) -> tuple[int, int]:
    """Return the least T not below `lower` that no threshold refutes, and the threshold that comes closest to it."""
    cost = np.empty(len(columns.size), dtype=np.int64)
    refuted = lower - 1
    possible, _ = _past_refutations(columns, by_load, lower, cost)
    probe = possible - 1
    while possible - refuted > 1:
        beyond, _ = _past_refutations(columns, by_load, probe, cost)
        if beyond > probe:
            refuted, possible = probe, min(possible, beyond)
        else:
            possible = probe
        probe = (refuted + possible) // 2
    _, closest = _past_refutations(columns, by_load, possible, cost)
    return possible, closest


@njit(cache=True, nogil=True)
def _past_refutations(columns: SavingsColumns, by_load: IntArray, bottleneck: int, cost: IntArray) -> tuple[int, int]:
    """Return `bottleneck` if no threshold refutes it, else a greater value that none refutes; O(n + m + k).

    A refutation by an excess e over j units holds up to `bottleneck` + ⌈e / j⌉ − 1 at the most: as T grows the room
    grows by j and the costs never do. The second value is the threshold below m with the greatest excess per unit.
    """
    size, load, start, amount = columns.size, columns.load, columns.hit_start, columns.hit_amount
    hit_unit, hit_item, guest, guest_start = columns.hit_unit, columns.hit_item, columns.guest, columns.guest_start
    n, m = len(size), len(load)
    need = 0
    for i in range(n):
        cost[i] = size[i]
        for k in range(start[i], start[i + 1]):
            if load[hit_unit[k]] + amount[k] <= bottleneck:
                cost[i] = amount[k]  # the first is the least
                break
        need += cost[i]
    room = 0
    for u in range(m):
        room += bottleneck - load[u]
    counted, beyond, most, closest = n, bottleneck, -np.inf, m
    for j in range(m, 0, -1):
        if need > room:
            beyond = max(beyond, bottleneck + (need - room + j - 1) // j)
        if j < m and (need - room) / j > most:
            most, closest = (need - room) / j, j
        u = by_load[j - 1]  # from here on its room is free
        here = bottleneck - load[u]
        room -= here
        for g in range(guest_start[u], guest_start[u + 1]):
            k = guest[g]
            if amount[k] <= here:
                need -= cost[hit_item[k]]
                cost[hit_item[k]] = 0
        while counted > 0 and size[counted - 1] <= here:
            counted -= 1
            need -= cost[counted]
            cost[counted] = 0
    return beyond, closest


@njit(cache=True, nogil=True)
def _relief_bound(columns: SavingsColumns, by_load: IntArray, threshold: int, lower: int) -> int:
    """Raise `lower` by prices on the `threshold` least loaded units and on those that too many items hit.

    One unit after the other gets the price that is best while the others keep theirs; O(k) per sweep, insertion aside.
    """
    load = columns.load
    m = len(load)
    one = _one(columns)
    if one < _COARSEST:
        return lower
    price = np.zeros(m, dtype=np.int64)
    for j in range(threshold):
        price[by_load[j]] = one
    base = price.copy()
    crowded = np.empty(m, dtype=np.int64)
    count = most = work = 0
    for u in range(m):
        wanted = looks = 0
        for g in range(columns.guest_start[u], columns.guest_start[u + 1]):
            k = columns.guest[g]
            wanted += columns.hit_amount[k]
            looks += columns.hit_start[columns.hit_item[k] + 1] - columns.hit_start[columns.hit_item[k]]
        if wanted > lower - load[u]:
            crowded[count] = u
            count += 1
            most = max(most, columns.guest_start[u + 1] - columns.guest_start[u])
            work += looks
    if work > _MOST_LOOKS * (len(columns.size) + len(columns.guest)):
        return lower
    ratio = np.empty(most, dtype=np.int64)
    weight = np.empty(most, dtype=np.int64)
    for sweep in range(_SWEEPS):
        free = lower - load[by_load[threshold]] if threshold < m else -1
        changed = False
        for c in range(count):
            u = crowded[c]
            better = _relieving_price(columns, u, lower, free, base[u], one, price, ratio, weight)
            changed |= better != price[u]
            price[u] = better
        if not changed:
            break
        before = lower
        lower = _past_prices(columns, by_load, threshold, one, price, lower)
        if sweep > 1 and lower - before <= lower >> _FINE:
            break
    return lower


@njit(cache=True, nogil=True)
def _one(columns: SavingsColumns) -> int:
    """Return the price 1 in fixed point, as fine as 64 bits allow."""
    total = 0
    for i in range(len(columns.size)):
        total += columns.size[i]
    for u in range(len(columns.load)):
        total += columns.load[u]
    one = _FINEST
    while one and np.float64(total) * one * _DEAREST > 2.0**61:
        one >>= 1
    return one


@njit(cache=True, nogil=True)
def _relieving_price(
    columns: SavingsColumns,
    u: int,
    bottleneck: int,
    free: int,
    base: int,
    one: int,
    price: IntArray,
    ratio: IntArray,
    weight: IntArray,
) -> int:
    """Return the price at which the guests of u, dearest alternative first, just fill its room.

    An item up to size `free` costs nothing elsewhere. `ratio` and `weight` are scratch, one entry per guest.
    """
    size, load, start = columns.size, columns.load, columns.hit_start
    hit_unit, amount, guest = columns.hit_unit, columns.hit_amount, columns.guest
    room = bottleneck - load[u]
    count = wanted = 0
    for g in range(columns.guest_start[u], columns.guest_start[u + 1]):
        k = guest[g]
        if amount[k] == 0 or amount[k] > room:
            continue
        i = columns.hit_item[k]
        other = size[i] * one if size[i] > free else 0
        for h in range(start[i], start[i + 1]):
            v = hit_unit[h]
            if v != u and load[v] + amount[h] <= bottleneck:
                other = min(other, price[v] * amount[h])
        worth = other // amount[k]
        if worth > base:
            ratio[count], weight[count] = worth, amount[k]
            count += 1
            wanted += amount[k]
    if wanted <= room:
        return base
    _sort_descending(ratio[:count], weight[:count])
    k = -1
    while room >= 0:
        k += 1
        room -= weight[k]
    return int(min(ratio[k], one * _DEAREST))


@njit(cache=True, nogil=True)
def _sort_descending(key: IntArray, companion: IntArray) -> None:
    """Sort both by `key`, descending, equal ones in place."""
    if len(key) > _MANY_GUESTS:
        order = np.argsort(-key, kind="mergesort")
        key[:], companion[:] = key[order], companion[order]
        return
    for k in range(1, len(key)):
        first, second, hole = key[k], companion[k], k
        while hole > 0 and key[hole - 1] < first:
            key[hole], companion[hole] = key[hole - 1], companion[hole - 1]
            hole -= 1
        key[hole], companion[hole] = first, second


@njit(cache=True, nogil=True)
def _past_prices(
    columns: SavingsColumns, by_load: IntArray, threshold: int, one: int, price: IntArray, bottleneck: int
) -> int:
    """Return the least value from `bottleneck` on that the prices do not refute."""
    excess = _excess(columns, by_load, threshold, one, price, bottleneck)
    if excess <= 0:
        return bottleneck
    total = int(price.sum())
    refuted, possible = bottleneck, bottleneck + (excess + total - 1) // total
    if threshold == len(price) and columns.size[0] <= bottleneck - columns.load[by_load[-1]]:
        return possible  # no pair is barred, so the costs do not depend on the bottleneck
    probe = possible - 1
    while possible - refuted > 1:
        excess = _excess(columns, by_load, threshold, one, price, probe)
        if excess > 0:
            refuted, possible = probe, min(possible, probe + (excess + total - 1) // total)
        else:
            possible = probe
        probe = (refuted + possible) // 2
    return possible


@njit(cache=True, nogil=True)
def _excess(
    columns: SavingsColumns, by_load: IntArray, threshold: int, one: int, price: IntArray, bottleneck: int
) -> int:
    """Return what the items cost at least less what the room is worth; the bottleneck is impossible above zero."""
    size, load, start = columns.size, columns.load, columns.hit_start
    hit_unit, amount = columns.hit_unit, columns.hit_amount
    free = bottleneck - load[by_load[threshold]] if threshold < len(load) else -1
    excess = 0
    for i in range(len(size)):
        cost = size[i] * one if size[i] > free else 0
        for k in range(start[i], start[i + 1]):
            u = hit_unit[k]
            if load[u] + amount[k] <= bottleneck:
                cost = min(cost, price[u] * amount[k])
        excess += cost
    for u in range(len(load)):
        excess -= price[u] * (bottleneck - load[u])
    return excess


@njit(cache=True, nogil=True)
def _threshold_counting_bound(columns: SavingsColumns, by_load: IntArray, threshold: int, lower: int) -> int:
    """Raise `lower` by counting at thresholds near `threshold`; O(n + k) for each of those and each value tried.

    What is refuted this way need not be an interval, so the steps go from coarse to fine.
    """
    step = max(1, lower >> _COARSE_STEP)
    while step > lower >> _FINE_STEP:
        if _counting_refutes(columns, by_load, threshold, lower + step - 1):
            lower += step
        else:
            step >>= 2
    return lower


@njit(cache=True, nogil=True)
def _counting_refutes(columns: SavingsColumns, by_load: IntArray, threshold: int, bottleneck: int) -> bool:
    """Tell whether for some j near `threshold` more items need the j least loaded units than these can hold."""
    size, load, start = columns.size, columns.load, columns.hit_start
    hit_unit, amount = columns.hit_unit, columns.hit_amount
    n, m = len(size), len(load)
    position = np.empty(m, dtype=np.int64)
    for q in range(m):
        position[by_load[q]] = q
    needs = np.empty(n, dtype=np.int64)  # the least j for which an item needs one of the j least loaded units
    fitting = m
    for i in range(n - 1, -1, -1):
        while fitting > 0 and bottleneck - load[by_load[fitting - 1]] < size[i]:
            fitting -= 1
        needs[i] = fitting
        for k in range(start[i], start[i + 1]):
            if load[hit_unit[k]] + amount[k] <= bottleneck:
                needs[i] = max(needs[i], position[hit_unit[k]] + 1)
    for j in range(max(1, threshold - _NEARBY), min(m, threshold + _NEARBY) + 1):
        if _more_than_fit(columns, by_load, j, needs, bottleneck):
            return True
    return False


@njit(cache=True, nogil=True)
def _more_than_fit(columns: SavingsColumns, by_load: IntArray, j: int, needs: IntArray, bottleneck: int) -> bool:
    """Tell whether the items that need the j least loaded units are more than fit, each unit filled smallest first."""
    size, load, guest, amount = columns.size, columns.load, columns.guest, columns.hit_amount
    hit_item, guest_start = columns.hit_item, columns.guest_start
    n = len(size)
    smallest = np.empty(n, dtype=np.int64)
    count = 0
    for i in range(n - 1, -1, -1):
        if needs[i] <= j:
            smallest[count] = i
            count += 1
    taken = np.full(n, -1, dtype=np.int64)  # the unit where an item was taken as a hit, before its turn by size
    held = 0
    for q in range(j):
        u = by_load[q]
        room, next_hit, next_other = bottleneck - load[u], guest_start[u], 0
        while held < count:
            while next_hit < guest_start[u + 1] and needs[hit_item[guest[next_hit]]] > j:
                next_hit += 1
            while next_other < count and taken[smallest[next_other]] == u:
                next_other += 1
            hit = amount[guest[next_hit]] if next_hit < guest_start[u + 1] else room + 1
            other = size[smallest[next_other]] if next_other < count else room + 1
            room -= min(hit, other)
            if room < 0:
                break
            held += 1
            if hit <= other:
                taken[hit_item[guest[next_hit]]] = u
                next_hit += 1
            else:
                next_other += 1
    return held < count
