"""The compiled part of `verify`; nothing of it is shared with a solver."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from sbs_opt.models.checks import BoolArray, IntArray

_MOST = 2.0**62
_UNLIMITED = np.iinfo(np.int64).max


@njit(cache=True, nogil=True)
def judge_plain(
    unit: npt.NDArray[np.int32], demand: IntArray, load: IntArray, price: IntArray, weight: IntArray
) -> tuple[int, int, int]:
    """Judge a placement of a window of one resource and one group without limits, pins and savings; O(n + m).

    Returns
    -------
    left_out, bottleneck : int
    spread : int, −1 when a unit does not exist or the spread exceeds 2⁶²
    """
    m = load.shape[0]
    total = load[:, 0].copy()
    left_out = 0
    for i in range(unit.shape[0]):
        u = unit[i]
        if u == -1:
            left_out += 1
        elif u < 0 or u >= m:
            return 0, 0, -1
        else:
            total[u] += demand[i, 0]
    peak, roughly, spread = 0, 0.0, 0
    for u in range(m):
        peak = max(peak, total[u])
        roughly += np.float64(total[u]) * np.float64(total[u])
    if roughly * max(weight[0], 1) >= _MOST:
        return 0, 0, -1
    for u in range(m):
        spread += total[u] * total[u]
    return left_out, price[0] * peak, weight[0] * spread


@njit(cache=True, nogil=True)
def judge(
    unit: npt.NDArray[np.int32],
    demand: IntArray,
    load: IntArray,
    price: IntArray,
    limit: IntArray,
    open_resource: int,
    crossing: BoolArray,
    group: IntArray,
    num_groups: int,
    tier: IntArray,
    num_tiers: int,
    pinned: IntArray,
    saving_item: IntArray,
    saving_unit: IntArray,
    saving_value: IntArray,
) -> tuple[bool, IntArray, int, int, IntArray]:
    """Judge a placement of any window; O((n + m)·R + k).

    Returns
    -------
    obeyed : bool, whether every rule is kept; the rest holds only then
    left_out : int64[T], per tier
    bottleneck, saved : int
    load : int64[m, R] after the placement
    """
    n, (m, resources) = demand.shape[0], load.shape
    left_out = np.zeros(num_tiers, dtype=np.int64)
    total = load.copy()
    added = demand.copy()
    saved = 0
    for k in range(saving_item.shape[0]):
        i = saving_item[k]
        if unit[i] == saving_unit[k]:
            for r in range(resources):
                added[i, r] -= saving_value[k, r]
                saved += price[r] * saving_value[k, r]
    for i in range(n):
        u = unit[i]
        if u == -1:
            left_out[tier[i]] += 1
        elif u < 0 or u >= m or (pinned[i] >= 0 and pinned[i] != u):
            return False, left_out, 0, 0, total
        else:
            for r in range(resources):
                total[u, r] += added[i, r]
    obeyed = _limits_kept(unit, added, load, total, limit, open_resource, crossing)
    peak = np.zeros((num_groups, resources), dtype=np.int64)
    for u in range(m):
        for r in range(resources):
            peak[group[u], r] = max(peak[group[u], r], total[u, r])
    bottleneck = 0
    for g in range(num_groups):
        for r in range(resources):
            bottleneck += price[r] * peak[g, r]
    return obeyed, left_out, bottleneck, saved, total


@njit(cache=True, nogil=True)
def _limits_kept(
    unit: npt.NDArray[np.int32],
    added: IntArray,
    load: IntArray,
    total: IntArray,
    limit: IntArray,
    open_resource: int,
    crossing: BoolArray,
) -> bool:
    """Tell whether every unit keeps its limits; one that is given nothing of a resource keeps that limit."""
    (m, resources), n = load.shape, unit.shape[0]
    over_open = False
    for u in range(m):
        for r in range(resources):
            if limit[u, r] != _UNLIMITED and total[u, r] > load[u, r] and total[u, r] > limit[u, r]:
                if r != open_resource:
                    return False
                over_open = True
    if not over_open:
        return True
    r = open_resource
    longest = np.zeros(m, dtype=np.int64)
    for i in range(n):
        if unit[i] >= 0:
            longest[unit[i]] = max(longest[unit[i]], added[i, r])
    crosses = np.zeros(m, dtype=np.bool_)
    for i in range(n):
        if unit[i] >= 0 and crossing[i] and added[i, r] == longest[unit[i]]:
            crosses[unit[i]] = True
    for u in range(m):
        over = total[u, r] > load[u, r] and total[u, r] > limit[u, r]
        if over and (not crosses[u] or total[u, r] - longest[u] >= limit[u, r]):
            return False
    return True
