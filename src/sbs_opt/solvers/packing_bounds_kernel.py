"""Lower bounds of the makespan of one resource when the units start with unequal loads.

Every bound here is a *refutation*: a makespan T is possible only if all items fit into the rooms T − b_u that the loads
b_u leave below T, a bin packing problem with bins of unequal size. What refutes T refutes all below it, so the bound is
one more than the greatest T refuted. The entry point, for sizes in descending and loads in ascending order, is

``plain_bound(size: int64[n], load: int64[m]) -> int``

which takes microseconds and is meant for every call; the stronger and slower bound by Lagrangian duality, which also
lifts to the sums that the items can reach at all, is in `branch_and_bound_dual_kernel`. The caller sees to it that
Σ size + Σ load < 2^62, as `Window` does.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sbs_opt.models.checks import IntArray


@njit(cache=True, nogil=True)
def water_level(total: int, load: IntArray) -> int:
    """Return the least T ≥ max load with Σ_u max(0, T − b_u) ≥ total: the makespan, were the items a fluid; O(m).

    Valid with loads because whatever the placement, unit u takes no more than T − b_u (Graham 1966 for b = 0).

    Parameters
    ----------
    total
        Σ of the sizes.
    load
        int64[m], ascending.
    """
    m = len(load)
    below = level = 0
    for k in range(1, m + 1):
        below += load[k - 1]
        level = -((-(total + below)) // k)
        if k == m or level <= load[k]:
            break
    return int(max(level, load[m - 1]))


@njit(cache=True, nogil=True)
def _counts_suffice(before: IntArray, j: int, most: int, load: IntArray, makespan: int) -> bool:
    """Tell whether the units could hold j items below `makespan`, were each as small as the smallest of the j largest.

    `before[i]` is the sum of the i largest sizes, `most` an upper bound of the items on one unit.
    """
    held, k = 0, most
    for u in range(len(load)):
        room = makespan - load[u]
        while k > 0 and before[j] - before[j - k] > room:
            k -= 1
        held += k
        if held >= j:
            return True
        if k == 0:
            break
    return False


@njit(cache=True, nogil=True)
def counting_bound(size: IntArray, load: IntArray, lower: int) -> int:
    """Raise `lower` by the counting argument: the pigeonhole bounds L_k for unequal loads.

    Of the j largest items a unit with room r holds at most as many as there are among the j smallest-first prefix sums
    S_1 ≤ S_2 ≤ … (the k smallest of these j items) not above r. If these counts sum to less than j, T is refuted. So
    the bound is the greatest over j of the j-th smallest of all b_u + S_k(j). With b = 0 and j = k·m + 1 this is L_k,
    the k + 1 smallest of the k·m + 1 largest (Dell'Amico & Martello 1995), and j = 1 is the largest item on the least
    loaded unit. Valid with loads because each unit is counted with its own room.

    A j is skipped in O(1) when it cannot raise the bound: S_k ≤ k·S_K / K for k ≤ K, so unit u holds at least
    ⌊room·K / S_K⌋, in sum more than (Σ room)·K / S_K − m. O(n) plus O(m + n/m) for each j that is not skipped.

    Parameters
    ----------
    size
        int64[n], descending.
    load
        int64[m], ascending.
    lower
        A lower bound that is at least the greatest load.
    """
    n, m = len(size), len(load)
    before = np.empty(n + 1, dtype=np.int64)
    before[0] = 0
    for i in range(n):
        before[i + 1] = before[i] + size[i]
    room = np.float64(m) * lower
    for u in range(m):
        room -= load[u]
    most = 0
    for j in range(1, n + 1):
        while most < j and before[j] - before[j - most - 1] <= lower - load[0]:
            most += 1
        if most == j:
            continue
        first_too_much = np.float64(before[j] - before[j - most - 1])
        if room * (most + 1) >= (j + m) * first_too_much * (1.0 + 1e-9):
            continue
        if _counts_suffice(before, j, most, load, lower):
            continue
        refuted, possible = lower, load[0] + before[j]
        while possible - refuted > 1:
            middle = refuted + (possible - refuted) // 2
            if _counts_suffice(before, j, j, load, middle):
                possible = middle
            else:
                refuted = middle
        room += np.float64(m) * (possible - lower)
        lower = possible
    return lower


@njit(cache=True, nogil=True)
def _mass_fits(before: IntArray, load: IntArray, makespan: int, loss: IntArray) -> bool:
    """Tell whether, for every j, j items could have the mass of the j largest within the rooms below `makespan`."""
    n, m = len(before) - 1, len(load)
    room = fill = fills = 0
    for u in range(m - 1, -1, -1):
        here = makespan - load[u]
        room += here
        while fill <= n and before[fill] < here:
            fill += 1
        fills += fill
        loss[u] = here - before[fill - 1] if fill > 0 else 0
    further = before[fill - 1] - before[fill - 2] if fill > 1 else before[n]  # the last fill is the greatest
    j = min(n, fills)
    smallest = before[j] - before[j - 1] if j > 0 else 0
    if fills <= n:
        most = before[j]
        for u in range(m):
            most += max(0, min(loss[u], further) - smallest)
        if most <= room:
            return True
    loss.sort()
    less = fills - j
    lost = further * max(0, less - m)
    for k in range(min(less, m)):
        lost += min(loss[k], further)
    while before[j] + lost <= room:
        if j == 0 or before[j] - before[j - 1] >= further:  # from here on an item weighs more than its loss
            return True
        lost += min(loss[less], further) if less < m else further
        less += 1
        j -= 1
    return False


@njit(cache=True, nogil=True)
def mass_bound(size: IntArray, load: IntArray, lower: int) -> int:
    """Raise `lower` by the mass that j items can have: a unit that gets too few of them stays partly empty.

    c items have at most the mass top_c of the c largest, so a unit with room r that gets c of them holds at most
    min(r, top_c), which is concave in c. Let f(r) be the least c with top_c ≥ r. If the j largest items are packed and
    j < Σ_u f(r_u), units must go short of f(r_u) by Σ_u f(r_u) − j items in all; the first such item costs a unit
    r − top_{f−1}, any further one at least the size at place max f − 1. T is refuted when for some j the j largest
    items together exceed Σ_u r_u less the cheapest such losses. Valid with loads because each unit counts with its own
    room. What a unit holds never shrinks as T grows, so the refuted values are an interval, found by doubling and
    bisection.

    It closes most of the gap where sizes are nearly equal and every unit gets k or k + 1 items, as in the families NU
    of Frangioni, Necciari & Scutellà 2004. O(n + m log m) for each T tried; one T in O(n + m) where it does not help.
    Windows with m·T ≥ 2^62 keep `lower`.

    Parameters
    ----------
    size
        int64[n], descending.
    load
        int64[m], ascending.
    lower
        A lower bound that is at least the greatest load and the water level.
    """
    n, m = len(size), len(load)
    before = np.empty(n + 1, dtype=np.int64)
    before[0] = 0
    for i in range(n):
        before[i + 1] = before[i] + size[i]
    highest = 2.0**61 / m
    if load[m - 1] + before[n] >= highest:
        return lower
    loss = np.empty(m, dtype=np.int64)
    if _mass_fits(before, load, lower, loss):
        return lower
    refuted, step = lower, 1
    while not _mass_fits(before, load, refuted + step, loss):
        refuted += step
        step *= 2
    possible = refuted + step
    while possible - refuted > 1:
        middle = refuted + (possible - refuted) // 2
        if _mass_fits(before, load, middle, loss):
            possible = middle
        else:
            refuted = middle
    return possible


@njit(cache=True, nogil=True)
def plain_bound(size: IntArray, load: IntArray) -> int:
    """Return the greatest of water level, largest item on the least loaded unit, counting and mass bound.

    Parameters
    ----------
    size
        int64[n], descending.
    load
        int64[m], ascending, m ≥ 1.
    """
    total = 0
    for i in range(len(size)):
        total += size[i]
    return mass_bound(size, load, counting_bound(size, load, water_level(total, load)))
