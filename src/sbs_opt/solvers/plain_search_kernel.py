"""Exchanges that lower the busiest unit of a plain window: one priced resource and nothing else.

Items go by *rank*, their position in descending order of size; `members[u, :count[u]]` holds the ranks on unit u in
ascending order, so a unit's sizes are descending. An exchange gives up to two items of the busiest unit b for up to two
of another unit v, and so moves an amount d from b to v. One with 0 < d < load_b − load_v lowers the larger of the two
loads and the spread. It *settles* b when both end at or below the target: then neither is touched again.

Settling comes first, by one item each, then by pairs; where no unit has the room, the exchange that leaves the larger
load low. The target comes down to the bound in stages: exchanges that settle above it are many, and easily found. Both
kinds are searched with two pointers over sizes in order (the 2-2 exchange of Frangioni, Necciari, Scutellà 2004, "A
multi-exchange neighborhood for minimum makespan parallel machine scheduling problems").
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.solvers.plain_kernel import RankArray

REACHED, LOCAL_OPTIMUM, OUT_OF_STEPS, ROW_FULL = 0, 1, 2, 3
"""How a search ended: at the target, where no exchange lowers the busiest unit, at the step limit, or where a row of
`members` needs more space."""

_NOBODY = -1

_STRIDE = 8
"""Ranks passed over at once on the way to a size: sizes close in value are close in rank."""

_MANY = 12
"""Items on a unit from which a search through pairs takes longer than several exchanges of single items."""


@njit(cache=True, nogil=True)
def rows_of(where: RankArray, m: int) -> tuple[RankArray, RankArray]:
    """Return `members` and `count` of a placement by rank; O(n + m)."""
    n = len(where)
    count = np.zeros(m, dtype=np.int32)
    for r in range(n):
        count[where[r]] += 1
    most = 0
    for u in range(m):
        most = max(most, count[u])
        count[u] = 0
    members = np.empty((m, most + 8 + most // 2), dtype=np.int32)
    for r in range(n):
        u = where[r]
        members[u, count[u]] = r
        count[u] += 1
    return members, count


@njit(cache=True, nogil=True, forceinline=True)
def _take_out(members: RankArray, count: RankArray, u: int, rank: int) -> None:
    k = 0
    while members[u, k] != rank:
        k += 1
    count[u] -= 1
    for j in range(k, count[u]):
        members[u, j] = members[u, j + 1]


@njit(cache=True, nogil=True, forceinline=True)
def _put_in(members: RankArray, count: RankArray, u: int, rank: int) -> None:
    k = count[u]
    while k > 0 and members[u, k - 1] > rank:
        members[u, k] = members[u, k - 1]
        k -= 1
    members[u, k] = rank
    count[u] += 1


@njit(cache=True, nogil=True, forceinline=True)
def _carry(
    size: IntArray, where: RankArray, load: IntArray, members: RankArray, count: RankArray, rank: int, to: int
) -> None:
    """Take an item to another unit; `_NOBODY` is no item."""
    if rank == _NOBODY:
        return
    u = where[rank]
    _take_out(members, count, u, rank)
    _put_in(members, count, to, rank)
    where[rank] = to
    load[u] -= size[rank]
    load[to] += size[rank]


@njit(cache=True, nogil=True, forceinline=True)
def _settle_by_one(
    size: IntArray,
    where: RankArray,
    load: IntArray,
    members: RankArray,
    count: RankArray,
    done: BoolArray,
    b: int,
    idlest: int,
    target: int,
) -> tuple[int, int, int, int]:
    """Find an item of b, and one of another unit or none, whose exchange settles b.

    Returns
    -------
    steps, item of b or −1, item of the other unit or −1, other unit
    """
    need, most_room = load[b] - target, target - load[idlest]
    steps = 0
    n = len(size)
    for k in range(count[b]):
        i = members[b, k]
        amount = size[i]
        if amount < need:
            break
        steps += 1
        if amount <= most_room:
            return steps, i, _NOBODY, idlest
        # To the first rank whose size is at most amount − need: strides, then single steps.
        j, most = i + 1, amount - need
        while j + _STRIDE < n and size[j + _STRIDE] > most:
            j += _STRIDE
        while j < n and size[j] > most:
            j += 1
        while j < n and amount - size[j] <= most_room:
            steps += 1
            v = where[j]
            if v != b and not done[v] and load[v] + amount - size[j] <= target:
                return steps, i, j, v
            j += 1
    return steps, _NOBODY, _NOBODY, _NOBODY


@njit(cache=True, nogil=True, forceinline=True)
def _lower_by_one(
    size: IntArray,
    load: IntArray,
    members: RankArray,
    count: RankArray,
    done: BoolArray,
    own: IntArray,
    row: IntArray,
    b: int,
    idlest: int,
) -> tuple[int, int, int, int]:
    """Find an exchange of one item of b for at most one of another unit that leaves the larger load low.

    Units are visited from the idlest on; the search ends when a quarter of what is possible with the next one is
    reached. Two pointers per unit, moved without a branch; O(n + m·k_b). An amount d leaves the larger load at
    (load_b + load_u + |2d − gap|)/2: hence sizes are doubled here, and `radius` is what |2d − gap| must stay below.

    Returns
    -------
    steps, item of b or −1, item of the other unit or −1, other unit
    """
    m, kb = len(load), count[b]
    best, steps = load[b], 0
    give, take, v = _NOBODY, _NOBODY, _NOBODY
    for k in range(m):
        u = idlest + k if idlest + k < m else idlest + k - m
        gap = load[b] - load[u]
        radius = 2 * best - load[b] - load[u]
        if done[u] or u == b or radius <= 0:
            continue
        if load[b] - best > gap >> 3:
            break
        ku = count[u]
        for j in range(ku):
            row[j] = 2 * size[members[u, j]]
        row[ku] = 0
        x, j, at_x, at_j, within = 0, 0, 0, 0, radius
        while x < kb and j <= ku:
            off = own[x] - gap - row[j]
            if abs(off) < within:
                within, at_x, at_j = abs(off), x, j
            short = off < 0  # a smaller item of u moves more, a smaller one of b less
            j += short
            x += not short
        steps += kb + ku
        if within < radius:
            give, take, v = members[b, at_x], (members[u, at_j] if at_j < ku else _NOBODY), u
            moved = size[give] - (size[take] if at_j < ku else 0)
            best = max(load[b] - moved, load[u] + moved)
    return steps, give, take, v


@njit(cache=True, nogil=True, forceinline=True)
def _exchange_pairs(
    size: IntArray,
    members: RankArray,
    count: RankArray,
    b: int,
    v: int,
    own: IntArray,
    row: IntArray,
    aim: int,
    radius: int,
    enough: int,
) -> tuple[int, int, int, int, int, int]:
    """Find the exchange of one or two items of b for up to two of v whose doubled amount is closest to `aim`.

    It must be less than `radius` away; the search ends at the first that is at most `enough` away. Two pointers run
    over the pairs of v for each pair of b; a missing second item is the entry beyond the row, of size 0. The pointers
    move without a branch, which would be mispredicted every other time. O(k_b²·k_v).

    Parameters
    ----------
    own
        int64[k_b + 1], the sizes on b, doubled, then 0.
    row
        Scratch of at least k_v + 1.

    Returns
    -------
    steps, distance from `aim` or `radius`, places of the items in the rows of b (two) and v (two)
    """
    kb, kv = count[b], count[v]
    for k in range(kv):
        row[k] = 2 * size[members[v, k]]
    row[kv] = 0
    steps = 0
    give, give_too, take, take_too = 0, 0, 0, 0
    for x in range(kb):
        for y in range(x + 1, kb + 1):
            pair = own[x] + own[y]
            steps += 1
            if pair <= aim - radius:
                break  # later partners give less
            away = abs(pair - aim)
            if away < radius:
                radius, give, give_too, take, take_too = away, x, y, kv, kv
            left, right = 0, kv
            excess = pair - aim
            while left < right:
                off = excess - row[left] - row[right]
                if abs(off) < radius:
                    radius, give, give_too, take, take_too = abs(off), x, y, left, right
                short = off < 0
                left += short
                right -= not short
            steps += kv
            if radius <= enough:
                return steps, radius, give, give_too, take, take_too
    return steps, radius, give, give_too, take, take_too


@njit(cache=True, nogil=True, forceinline=True)
def _busiest_and_idlest(load: IntArray, done: BoolArray) -> tuple[int, int]:
    """Return these two of the units that are not done, −1 where there are none."""
    b, idlest = -1, -1
    for u in range(len(load)):
        if not done[u]:
            if b < 0 or load[u] > load[b]:
                b = u
            if idlest < 0 or load[u] < load[idlest]:
                idlest = u
    return b, idlest


@njit(cache=True, nogil=True)
def lower_busiest(
    size: IntArray,
    where: RankArray,
    load: IntArray,
    members: RankArray,
    count: RankArray,
    done: BoolArray,
    target: int,
    max_steps: int,
) -> tuple[int, int]:
    """Exchange items until no unit exceeds `target`, no exchange helps, or the steps are used up; all in place.

    Every exchange lowers the larger of two loads, and the spread, so the makespan never rises and the search ends.

    Parameters
    ----------
    size
        int64[n], descending.
    where
        int32[n], unit by rank.
    load
        int64[m].
    members, count
        See `rows_of`.
    done
        bool[m], units that are not touched.
    target
        Load to reach.
    max_steps
        Candidates to look at. An exchange whose search they do not cover is not made, so that the exchanges of a
        shorter search are the first ones of a longer.

    Returns
    -------
    steps : int
    outcome : `REACHED`, `LOCAL_OPTIMUM`, `OUT_OF_STEPS` or `ROW_FULL`
    """
    m = len(load)
    own, row = np.empty(members.shape[1] + 1, dtype=np.int64), np.empty(members.shape[1] + 1, dtype=np.int64)
    steps = 0
    pairs_now = False
    while True:
        b, idlest = _busiest_and_idlest(load, done)
        steps += m >> 3
        if b < 0 or load[b] <= target:
            return steps, REACHED
        if steps >= max_steps:
            return steps, OUT_OF_STEPS
        need, most_room = load[b] - target, target - load[idlest]
        kb = count[b]
        for k in range(kb):
            own[k] = 2 * size[members[b, k]]
        own[kb] = 0
        give, give_too, take, take_too, v = _NOBODY, _NOBODY, _NOBODY, _NOBODY, _NOBODY
        if need <= most_room:
            spent, give, take, v = _settle_by_one(size, where, load, members, count, done, b, idlest, target)
            steps += spent
        # Where pairs are many, single items come first: a pair would settle b, but takes longer to find.
        ones_first = kb >= _MANY and not pairs_now
        if give == _NOBODY and ones_first:
            spent, give, take, v = _lower_by_one(size, load, members, count, done, own, row, b, idlest)
            steps += spent
            pairs_now = give == _NOBODY
        if give == _NOBODY and need <= most_room:
            spent, v, give, give_too, take, take_too = _lower_by_pairs(
                size, load, members, count, done, own, row, b, idlest, target, target + 1, max_steps - steps
            )
            steps += spent
        if give == _NOBODY and steps >= max_steps:
            return steps, OUT_OF_STEPS
        if give == _NOBODY and not ones_first:
            spent, give, take, v = _lower_by_one(size, load, members, count, done, own, row, b, idlest)
            steps += spent
        if give == _NOBODY:
            spent, v, give, give_too, take, take_too = _lower_by_pairs(
                size, load, members, count, done, own, row, b, idlest, target, load[b], max_steps - steps
            )
            steps += spent
            if give == _NOBODY and steps < max_steps:
                return steps, LOCAL_OPTIMUM
        if give == _NOBODY:
            return steps, OUT_OF_STEPS
        _carry(size, where, load, members, count, give, v)
        _carry(size, where, load, members, count, give_too, v)
        _carry(size, where, load, members, count, take, b)
        _carry(size, where, load, members, count, take_too, b)
        if max(count[b], count[v]) + 2 > members.shape[1]:
            return steps, ROW_FULL


@njit(cache=True, nogil=True, forceinline=True)
def _lower_by_pairs(
    size: IntArray,
    load: IntArray,
    members: RankArray,
    count: RankArray,
    done: BoolArray,
    own: IntArray,
    row: IntArray,
    b: int,
    idlest: int,
    target: int,
    best: int,
    max_steps: int,
) -> tuple[int, int, int, int, int, int]:
    """Find the exchange of up to two items each that leaves the lowest of the two loads; the first that settles b.

    Returns
    -------
    steps, other unit, two items of b, two items of the other unit
    """
    m, steps = len(load), 0
    v, give, give_too, take, take_too = _NOBODY, _NOBODY, _NOBODY, _NOBODY, _NOBODY
    kb = count[b]
    for k in range(m):
        u = idlest + k if idlest + k < m else idlest + k - m
        both = load[b] + load[u]
        radius = 2 * best - both
        if done[u] or u == b or radius <= 0:
            continue
        spent, away, x, y, z, w = _exchange_pairs(
            size, members, count, b, u, own, row, load[b] - load[u], radius, max(0, 2 * target - both)
        )
        steps += spent
        if away < radius:
            best = (both + away) // 2
            v, ku = u, count[u]
            give, give_too = members[b, x], (members[b, y] if y < kb else _NOBODY)
            take = members[u, z] if z < ku else _NOBODY
            take_too = members[u, w] if w < ku else _NOBODY
            if best <= target:
                break
        if steps >= max_steps:
            # What a shorter search finds must not depend on where it was cut: more steps would not be better always.
            return steps, _NOBODY, _NOBODY, _NOBODY, _NOBODY, _NOBODY
    return steps, v, give, give_too, take, take_too
