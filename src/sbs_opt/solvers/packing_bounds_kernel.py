"""Lower bounds of the makespan of one resource when the units start with unequal loads.

Every bound here is a *refutation*: a makespan T is possible only if all items fit into the rooms T − b_u that the loads
b_u leave below T, a bin packing problem with bins of unequal size. What refutes T refutes all below it, so the bound is
one more than the greatest T refuted. Two entry points, both for sizes in descending and loads in ascending order:

``plain_bound(size, load) -> int``
    water level, largest item and counting argument; microseconds, meant for every call.
``lifted_bound(size, load, lower, upper, scratch) -> int``
    raises a lower bound by the sums that the items can reach at all; tens to hundreds of microseconds.

The caller sees to it that Σ size + Σ load < 2^62, as `Window` does.
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
    below = 0
    for k in range(1, m + 1):
        below += load[k - 1]
        level = -((-(total + below)) // k)
        if k == m or level <= load[k]:
            return max(level, load[m - 1])
    return 0


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
def plain_bound(size: IntArray, load: IntArray) -> int:
    """Return the greatest of water level, largest item on the least loaded unit, and counting bound; O(n + m) or so.

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
    return counting_bound(size, load, water_level(total, load))
