"""Local search in a window with savings: lower the busiest unit, then save more, then spread the load.

State lives in arrays, so a run may stop at any block and go on later with the very same trajectory.

*Lower the busiest unit.* An ejection chain takes an item of the busiest unit to another one, which may eject an item to
a third, which may eject an item in turn; it is accepted when every unit that it touches ends below the present
bottleneck, and of the chains in a block the one whose highest touched unit ends lowest is taken. Blocks in order:
chains with the least loaded unit, and exchanges with smaller items, whatever unit holds them; chains of two and
exchanges of up to two items with each unit, the least loaded first; chains of three. Chains that only make fewer units
critical are undone unless the bottleneck falls in the end, so the placement as a whole never becomes worse.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from sbs_opt.models.checks import IntArray
from sbs_opt.solvers.savings_columns import SavingsColumns
from sbs_opt.solvers.savings_construct_kernel import amount_on

NOBODY = -1

DONE, OUT_OF_STEPS = 0, 1

SAVE, LOWER, SPREAD = 0, 1, 2
"""Phases of a round."""

PHASE, LEVEL, BLOCK, ITEM, BEST, TRAIL, CHANGED, STEPS = range(8)
"""Slots of `Search.cursor`."""

_MANY = 24
"""Items of a unit from which pairs are made."""

NEAR, PAIRS, TRIPLES = 0, 1, 2
"""Levels of the search for a chain."""


class Search(NamedTuple):
    """A placement with what the search keeps of it.

    Parameters
    ----------
    unit
        int64[n].
    amount
        int64[n], what each item adds to its unit.
    load
        int64[m].
    head, after, before
        int64[m], int64[n], int64[n]: the items of each unit as a doubly linked list; pinned ones are in none.
    by_load, place
        int64[m], the units in ascending order of load, and each unit's position there.
    here
        int64[n], what each item would add to the unit that is being relieved.
    trail
        int64[t, 2], item and former unit of the relocations since the bottleneck last fell.
    path
        int64[4, 2], item and unit of each link of the best chain so far.
    cursor
        int64[8], where the search stands.
    """

    unit: IntArray
    amount: IntArray
    load: IntArray
    head: IntArray
    after: IntArray
    before: IntArray
    by_load: IntArray
    place: IntArray
    here: IntArray
    trail: IntArray
    path: IntArray
    cursor: IntArray


@njit(cache=True, nogil=True)
def start_search(columns: SavingsColumns, given: IntArray) -> Search:
    """Return the state for a placement in which every item has a unit; O(n + m log m + k)."""
    n, m = len(columns.size), len(columns.load)
    unit = given.copy()
    amount = np.empty(n, dtype=np.int64)
    load = columns.load.copy()
    head = np.full(m, NOBODY, dtype=np.int64)
    after = np.full(n, NOBODY, dtype=np.int64)
    before = np.full(n, NOBODY, dtype=np.int64)
    for i in range(n):
        u = unit[i]
        amount[i] = amount_on(columns, i, u)
        load[u] += amount[i]
        if columns.pinned[i] == NOBODY:
            after[i] = head[u]
            if head[u] != NOBODY:
                before[head[u]] = i
            head[u] = i
    by_load = np.argsort(load, kind="mergesort")
    place = np.empty(m, dtype=np.int64)
    for k in range(m):
        place[by_load[k]] = k
    cursor = np.zeros(8, dtype=np.int64)
    cursor[BEST] = load[by_load[m - 1]]
    return Search(
        unit,
        amount,
        load,
        head,
        after,
        before,
        by_load,
        place,
        columns.size.copy(),
        np.empty((4 * m + 4, 2), dtype=np.int64),
        np.empty((4, 2), dtype=np.int64),
        cursor,
    )


@njit(cache=True, nogil=True)
def _settle_order(s: Search, u: int) -> bool:
    """Let unit u pass neighbours in `by_load` that are on the wrong side; False when there was none."""
    by_load, place, load = s.by_load, s.place, s.load
    k = first = place[u]
    while k + 1 < len(by_load) and load[by_load[k + 1]] < load[u]:
        by_load[k] = by_load[k + 1]
        place[by_load[k]] = k
        k += 1
    while k > 0 and load[by_load[k - 1]] > load[u]:
        by_load[k] = by_load[k - 1]
        place[by_load[k]] = k
        k -= 1
    by_load[k] = u
    place[u] = k
    return bool(k != first)


@njit(cache=True, nogil=True)
def relocate(columns: SavingsColumns, s: Search, i: int, to: int) -> None:
    """Take item i to another unit; loads, lists and order follow."""
    u = s.unit[i]
    s.load[u] -= s.amount[i]
    s.amount[i] = amount_on(columns, i, to)
    s.load[to] += s.amount[i]
    if s.before[i] == NOBODY:
        s.head[u] = s.after[i]
    else:
        s.after[s.before[i]] = s.after[i]
    if s.after[i] != NOBODY:
        s.before[s.after[i]] = s.before[i]
    s.before[i], s.after[i] = NOBODY, s.head[to]
    if s.head[to] != NOBODY:
        s.before[s.head[to]] = i
    s.head[to] = i
    s.unit[i] = to


@njit(cache=True, nogil=True)
def reorder(s: Search, a: int, b: int, c: int, d: int) -> None:
    """Put up to four units whose loads changed where they belong."""
    # A unit out of place can stop another on its way; the others stay in order, so in the end all are.
    moved = True
    while moved:
        moved = _settle_order(s, a) | _settle_order(s, b) | _settle_order(s, c) | _settle_order(s, d)


@njit(cache=True, nogil=True)
def lowest_but(s: Search, a: int, b: int) -> int:
    """Return the least loaded unit other than a and b, or a where there is none."""
    for k in range(min(3, len(s.by_load))):
        u = int(s.by_load[k])
        if u not in (a, b):
            return u
    return a


@njit(cache=True, nogil=True)
def by_moving(columns: SavingsColumns, s: Search, busiest: int, best: int) -> tuple[int, int, int]:
    """Search one item of the busiest unit for the least loaded unit or for one that it hits.

    Returns
    -------
    best : int, the least bottleneck of the units that a chain touches, as given where none is lower
    length : links of that chain, which is in `path`; 0 = none
    steps : candidates evaluated
    """
    length, steps = 0, 0
    lowest = s.by_load[0]
    i = s.head[busiest]
    while i != NOBODY:
        steps += 1
        left = s.load[busiest] - s.amount[i]
        reached = max(left, s.load[lowest] + columns.size[i])
        if lowest != busiest and reached < best:
            best, length, s.path[0, 0], s.path[0, 1] = reached, 1, i, lowest
        for k in range(columns.hit_start[i], columns.hit_start[i + 1]):
            v = columns.hit_unit[k]
            reached = max(left, s.load[v] + columns.hit_amount[k])
            if v != busiest and reached < best:
                best, length, s.path[0, 0], s.path[0, 1] = reached, 1, i, v
        i = s.after[i]
    return best, length, steps


@njit(cache=True, nogil=True)
def by_neighbours(
    columns: SavingsColumns, s: Search, busiest: int, best: int, least: int, aim: int
) -> tuple[int, int, int]:
    """Search exchanges of an item of the busiest unit with one smaller by at least `least`; neither is where it hits.

    The first that takes both units to `aim` or below is good enough.
    """
    length, steps = 0, 0
    size, amount, unit, load = columns.size, s.amount, s.unit, s.load  # local names: Numba counts references to fields
    full, low, n = load[busiest], load[s.by_load[0]], len(size)
    i = s.head[busiest]
    while i != NOBODY:
        if amount[i] == size[i]:
            near = i
            while near + 8 < n and size[i] - size[near + 8] < least:
                near += 8
            for j in range(near + 1, n):
                less = size[i] - size[j]
                if low + less >= best:
                    break
                steps += 1
                v = unit[j]
                reached = max(full - less, load[v] + less)  # what the two might hit comes on top
                if reached < best and amount[j] == size[j] and v != busiest:
                    best, length = reached, 2
                    s.path[0, 0], s.path[0, 1], s.path[1, 0], s.path[1, 1] = i, v, j, busiest
                    if best <= aim:
                        return best, length, steps
        i = s.after[i]
    return best, length, steps


@njit(cache=True, nogil=True)
def by_pairs(columns: SavingsColumns, s: Search, busiest: int, v: int, best: int) -> tuple[int, int, int]:
    """Search chains i → v, j of v → the busiest unit, a unit that j hits, or the least loaded one."""
    length, steps = 0, 0
    lowest = lowest_but(s, v, busiest)
    i = s.head[busiest]
    while i != NOBODY:
        left, full = s.load[busiest] - s.amount[i], s.load[v] + amount_on(columns, i, v)
        j = s.head[v]
        while j != NOBODY:
            steps += 1
            base = max(left, full - s.amount[j])
            if base < best:
                steps += columns.hit_start[j + 1] - columns.hit_start[j]
                to, reached = busiest, max(base, left + s.here[j])
                if lowest != v and max(base, s.load[lowest] + columns.size[j]) < reached:
                    to, reached = lowest, max(base, s.load[lowest] + columns.size[j])
                for k in range(columns.hit_start[j], columns.hit_start[j + 1]):
                    w = columns.hit_unit[k]
                    if w not in (v, busiest) and max(base, s.load[w] + columns.hit_amount[k]) < reached:
                        to, reached = w, max(base, s.load[w] + columns.hit_amount[k])
                if reached < best:
                    best, length = reached, 2
                    s.path[0, 0], s.path[0, 1], s.path[1, 0], s.path[1, 1] = i, v, j, to
            j = s.after[j]
        i = s.after[i]
    return best, length, steps


@njit(cache=True, nogil=True)
def by_sets(columns: SavingsColumns, s: Search, busiest: int, v: int, best: int, aim: int) -> tuple[int, int, int]:
    """Search exchanges of up to two items of the busiest unit for up to two of v (Frangioni, Necciari, Scutellà 2004).

    The first that takes both units to `aim` or below is good enough. O(q² log q) for q items on a unit.
    """
    length, steps = 0, 0
    first, out, into = _sets(columns, s, busiest, v)
    theirs, theirs_out, theirs_into = _sets(columns, s, v, busiest)
    order = np.argsort(out, kind="mergesort")
    ascending = out[order]
    full, other = s.load[busiest], s.load[v]
    for b in range(len(theirs)):
        at = np.searchsorted(ascending, full + theirs_into[b] - best, side="right")
        most = best - 1 - other + theirs_out[b]  # of what comes, where it hits nothing
        for position in range(at, len(order)):
            if ascending[position] > most:
                break
            steps += 1
            a = order[position]
            reached = max(full - out[a] + theirs_into[b], other - theirs_out[b] + into[a])
            if reached < best:
                best, length = reached, 0
                for i in first[a]:
                    if i != NOBODY:
                        s.path[length, 0], s.path[length, 1] = i, v
                        length += 1
                for j in theirs[b]:
                    if j != NOBODY:
                        s.path[length, 0], s.path[length, 1] = j, busiest
                        length += 1
                if best <= aim:
                    return best, length, steps + len(order)
    return best, length, steps + len(order)


@njit(cache=True, nogil=True)
def _sets(columns: SavingsColumns, s: Search, u: int, v: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return int64[q, 2], the sets of up to two items of u, and what each adds to u and would add to v."""
    member = np.empty(_MANY, dtype=np.int64)
    amount = np.empty(_MANY, dtype=np.int64)
    count = 0
    i = s.head[u]
    while i != NOBODY and count < _MANY:
        member[count], amount[count] = i, amount_on(columns, i, v)
        count += 1
        i = s.after[i]
    total = 1 + count + count * (count - 1) // 2
    items = np.full((total, 2), NOBODY, dtype=np.int64)
    out = np.zeros(total, dtype=np.int64)
    into = np.zeros(total, dtype=np.int64)
    q = 1
    for x in range(count):
        items[q, 0], out[q], into[q] = member[x], s.amount[member[x]], amount[x]
        q += 1
        for y in range(x):
            items[q, 0], items[q, 1] = member[x], member[y]
            out[q] = s.amount[member[x]] + s.amount[member[y]]
            into[q] = amount[x] + amount[y]
            q += 1
    return items, out, into


@njit(cache=True, nogil=True)
def by_triples(columns: SavingsColumns, s: Search, busiest: int, v: int, i: int, best: int) -> tuple[int, int, int]:
    """Search chains i → v, j of v → w, g of w → anywhere that `by_pairs` looks, back to v included."""
    length, steps = 0, 0
    left, full = s.load[busiest] - s.amount[i], s.load[v] + amount_on(columns, i, v)
    j = s.head[v]
    while j != NOBODY:
        base = max(left, full - s.amount[j])
        if base < best:
            for w in s.by_load:
                if w == v:
                    continue
                kept = left if w == busiest else s.load[w]
                received = kept + (s.here[j] if w == busiest else amount_on(columns, j, w))
                g = s.head[w]
                while g != NOBODY:
                    steps += 1
                    if g != i and max(base, received - s.amount[g]) < best:
                        to, reached = _end_of_chain(
                            columns, s, g, busiest, v, w, left, full - s.amount[j], max(base, received - s.amount[g])
                        )
                        if reached < best:
                            best, length = reached, 3
                            s.path[0, 0], s.path[0, 1] = i, v
                            s.path[1, 0], s.path[1, 1] = j, w
                            s.path[2, 0], s.path[2, 1] = g, to
                    g = s.after[g]
        j = s.after[j]
    return best, length, steps


@njit(cache=True, nogil=True, inline="always")
def _end_of_chain(
    columns: SavingsColumns, s: Search, g: int, busiest: int, v: int, w: int, left: int, in_v: int, base: int
) -> tuple[int, int]:
    """Return the best unit for g, ejected from w, and the bottleneck of the units touched.

    `left` and `in_v` are the loads of the busiest unit and of v at this point; `base` is the bottleneck so far.
    """
    to, reached = v, max(base, in_v + amount_on(columns, g, v))
    if w != busiest and max(base, left + s.here[g]) < reached:
        to, reached = busiest, max(base, left + s.here[g])
    for k in range(min(4, len(s.by_load))):
        u = s.by_load[k]
        if u not in (v, w, busiest):
            if max(base, s.load[u] + columns.size[g]) < reached:
                to, reached = u, max(base, s.load[u] + columns.size[g])
            break
    for k in range(columns.hit_start[g], columns.hit_start[g + 1]):
        u = columns.hit_unit[k]
        if u not in (v, w, busiest) and max(base, s.load[u] + columns.hit_amount[k]) < reached:
            to, reached = u, max(base, s.load[u] + columns.hit_amount[k])
    return to, reached
