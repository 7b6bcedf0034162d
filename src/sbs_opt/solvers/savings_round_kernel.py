"""Rounds of the local search for savings: save more, lower the busiest unit, spread the load, until nothing helps.

Every phase goes block by block and keeps its place in `Search.cursor`, so that a run cut at a step limit goes on as if
it had not been cut. What a cut leaves half done, the chains since the bottleneck last fell, is undone by `finish`.
"""

from __future__ import annotations

from numba import njit

from sbs_opt.solvers.savings_columns import SavingsColumns
from sbs_opt.solvers.savings_construct_kernel import amount_on
from sbs_opt.solvers.savings_search_kernel import (
    BEST,
    BLOCK,
    CHANGED,
    ITEM,
    LEVEL,
    LOWER,
    NEAR,
    NOBODY,
    PAIRS,
    PHASE,
    SAVE,
    SPREAD,
    STEPS,
    TRAIL,
    TRIPLES,
    Search,
    by_moving,
    by_neighbours,
    by_pairs,
    by_sets,
    by_triples,
    lowest_but,
    relocate,
    reorder,
)

_MOST_FOR_TRIPLES = 256
"""Items up to which chains of three are searched: their number grows with the square, and what they gain falls."""


@njit(cache=True, nogil=True)
def run(columns: SavingsColumns, s: Search, bound: int, limit: int) -> bool:
    """Go on until the placement is a local optimum (True) or `limit` steps are done in all (False).

    Parameters
    ----------
    columns, s
        The window and the placement, changed in place.
    bound
        A lower bound of the bottleneck: where it is met, only savings and spread remain.
    limit
        Steps since `start_search`; a block that has begun is finished.
    """
    cursor = s.cursor
    while cursor[STEPS] < limit:
        if cursor[PHASE] == LOWER:
            ended = _lower(columns, s, bound, limit)
        elif cursor[PHASE] == SAVE:
            ended = _save(columns, s, limit)
        else:
            ended = _spread(columns, s, limit)
        if not ended:
            return False
        cursor[LEVEL] = cursor[BLOCK] = cursor[ITEM] = 0
        cursor[BEST] = s.load[s.by_load[-1]]  # saving more or spreading may have lowered it by itself
        if cursor[PHASE] == SPREAD:
            if not cursor[CHANGED]:
                return True
            cursor[CHANGED] = 0
            cursor[PHASE] = SAVE
        else:
            cursor[PHASE] += 1
    return False


@njit(cache=True, nogil=True)
def finish(columns: SavingsColumns, s: Search) -> None:
    """Undo what has not lowered the bottleneck."""
    while s.cursor[TRAIL]:
        s.cursor[TRAIL] -= 1
        i, to = s.trail[s.cursor[TRAIL]]
        u = s.unit[i]
        relocate(columns, s, i, to)
        reorder(s, u, to, u, to)


@njit(cache=True, nogil=True)
def _lower(columns: SavingsColumns, s: Search, bound: int, limit: int) -> bool:
    """Lower the busiest unit; True when that is over."""
    cursor = s.cursor
    while True:
        busiest = s.by_load[-1]
        if s.load[busiest] <= bound:
            break
        if cursor[STEPS] >= limit:
            return False
        length = _block(columns, s, busiest, bound)
        if length:
            _follow(columns, s, busiest, length)
            cursor[LEVEL], cursor[CHANGED] = NEAR, 1
        elif cursor[LEVEL] > TRIPLES:
            break
    finish(columns, s)
    return True


@njit(cache=True, nogil=True)
def _block(columns: SavingsColumns, s: Search, busiest: int, bound: int) -> int:
    """Search one block for a chain; returns its length, or 0 with the cursor at the next block."""
    cursor = s.cursor
    best = s.load[busiest]
    for g in range(columns.guest_start[busiest], columns.guest_start[busiest + 1]):
        k = columns.guest[g]
        s.here[columns.hit_item[k]] = columns.hit_amount[k]
    others = len(s.load) - 1
    length = 0
    if cursor[LEVEL] == NEAR:
        best, length, steps = by_moving(columns, s, busiest, best)
        cursor[STEPS] += steps + 1
        if others:
            best, found, steps = by_pairs(columns, s, busiest, s.by_load[0], best)
            length = found if found else length
            cursor[STEPS] += steps
        if length == 0:
            aim = bound + (best - bound) // 2
            best, length, steps = by_neighbours(columns, s, busiest, best, best - aim, aim)
            cursor[STEPS] += steps
        if length == 0:
            best, length, steps = by_neighbours(columns, s, busiest, best, 1, bound)
            cursor[STEPS] += steps
        cursor[LEVEL], cursor[BLOCK] = PAIRS, 0
    elif cursor[LEVEL] == PAIRS:
        if cursor[BLOCK] < others:
            v = s.by_load[cursor[BLOCK]]
            best, length, steps = by_pairs(columns, s, busiest, v, best)
            cursor[STEPS] += steps
            if length == 0:
                best, length, steps = by_sets(columns, s, busiest, v, best, bound + (best - bound) // 2)
                cursor[STEPS] += steps
            cursor[BLOCK] += 1
        else:
            level = TRIPLES if len(s.unit) <= _MOST_FOR_TRIPLES else TRIPLES + 1
            cursor[LEVEL], cursor[BLOCK], cursor[ITEM] = level, 0, s.head[busiest]
    elif cursor[BLOCK] < others and cursor[ITEM] != NOBODY:
        best, length, steps = by_triples(columns, s, busiest, s.by_load[cursor[BLOCK]], cursor[ITEM], best)
        cursor[STEPS] += steps
        cursor[ITEM] = s.after[cursor[ITEM]]
        if cursor[ITEM] == NOBODY:
            cursor[BLOCK], cursor[ITEM] = cursor[BLOCK] + 1, s.head[busiest]
    else:
        cursor[LEVEL] = TRIPLES + 1
    for g in range(columns.guest_start[busiest], columns.guest_start[busiest + 1]):
        i = columns.hit_item[columns.guest[g]]
        s.here[i] = columns.size[i]
    return length


@njit(cache=True, nogil=True)
def _follow(columns: SavingsColumns, s: Search, busiest: int, length: int) -> None:
    """Carry out the chain in `path`, and keep how to undo it until the bottleneck falls."""
    cursor = s.cursor
    for link in range(length):
        i = s.path[link, 0]
        s.trail[cursor[TRAIL], 0], s.trail[cursor[TRAIL], 1] = i, s.unit[i]
        cursor[TRAIL] += 1
        relocate(columns, s, i, s.path[link, 1])
    last = length - 1
    reorder(s, busiest, s.path[0, 1], s.path[min(1, last), 1], s.path[last, 1])
    top = s.load[s.by_load[-1]]
    if top < cursor[BEST]:
        cursor[BEST], cursor[TRAIL] = top, 0


@njit(cache=True, nogil=True)
def _save(columns: SavingsColumns, s: Search, limit: int) -> bool:
    """Take items to units that save more for them, as far as no load rises above the bottleneck; True when over.

    `BLOCK` counts the hits since the last success, `ITEM` is the next hit.
    """
    cursor = s.cursor
    hits = len(columns.hit_item)
    while cursor[BLOCK] < hits:
        if cursor[STEPS] >= limit:
            return False
        k = cursor[ITEM] % hits
        cursor[ITEM] = k + 1
        cursor[BLOCK] += 1
        cursor[STEPS] += 1
        i = columns.hit_item[k]
        if columns.hit_amount[k] < s.amount[i] and _save_by(columns, s, k):
            cursor[BLOCK], cursor[CHANGED] = 0, 1
    return True


@njit(cache=True, nogil=True)
def _save_by(columns: SavingsColumns, s: Search, k: int) -> bool:
    """Give hit k to its item, if need be ejecting one item that loses less; False when that cannot be."""
    i, u, top = columns.hit_item[k], columns.hit_unit[k], s.load[s.by_load[-1]]
    v = s.unit[i]
    gain = s.amount[i] - columns.hit_amount[k]
    if s.load[u] + columns.hit_amount[k] <= top:
        relocate(columns, s, i, u)
        reorder(s, u, v, u, v)
        return True
    item, to, best = NOBODY, NOBODY, 0
    j = s.head[u]
    while j != NOBODY:
        s.cursor[STEPS] += 1
        if s.load[u] + columns.hit_amount[k] - s.amount[j] <= top:
            amount = amount_on(columns, j, v)
            if s.load[v] - s.amount[i] + amount <= top and gain + s.amount[j] - amount > best:
                item, to, best = j, v, gain + s.amount[j] - amount
            w = lowest_but(s, u, v)
            if w != u and s.load[w] + columns.size[j] <= top and gain + s.amount[j] - columns.size[j] > best:
                item, to, best = j, w, gain + s.amount[j] - columns.size[j]
            for h in range(columns.hit_start[j], columns.hit_start[j + 1]):
                w, amount = columns.hit_unit[h], columns.hit_amount[h]
                if w not in (u, v) and s.load[w] + amount <= top and gain + s.amount[j] - amount > best:
                    item, to, best = j, w, gain + s.amount[j] - amount
        j = s.after[j]
    if item == NOBODY:
        return False
    relocate(columns, s, i, u)
    relocate(columns, s, item, to)
    reorder(s, u, v, to, u)
    return True


@njit(cache=True, nogil=True)
def _spread(columns: SavingsColumns, s: Search, limit: int) -> bool:
    """Level pairs of units without losing savings; True when over.

    An exchange of two items that hit nothing where they are, or the move of one, keeps the sum of two loads or lowers
    it; the spread falls when the greater of the two loads does. `BLOCK` counts the units since the last success.
    """
    cursor = s.cursor
    m = len(s.load)
    while cursor[BLOCK] < m:
        if cursor[STEPS] >= limit:
            return False
        u = s.by_load[m - 1 - cursor[BLOCK]]
        cursor[BLOCK] += 1
        length, steps = _level(columns, s, u)
        cursor[STEPS] += steps + 1
        if length:
            for link in range(length):
                relocate(columns, s, s.path[link, 0], s.path[link, 1])
            reorder(s, u, s.path[0, 1], u, s.path[0, 1])
            cursor[BLOCK], cursor[CHANGED] = 0, 1
    return True


@njit(cache=True, nogil=True)
def _level(columns: SavingsColumns, s: Search, u: int) -> tuple[int, int]:
    """Search a move or an exchange of u that lowers the greater of two loads; its length, or 0, and the steps."""
    best, length, steps = s.load[u], 0, 0
    lowest = s.by_load[0]
    i = s.head[u]
    while i != NOBODY:
        steps += 1
        reached = max(s.load[u] - s.amount[i], s.load[lowest] + columns.size[i])
        if s.amount[i] == columns.size[i] and reached < best:
            best, length, s.path[0, 0], s.path[0, 1] = reached, 1, i, lowest
        i = s.after[i]
    best, found, further = by_neighbours(columns, s, u, best, 1, 0)
    return (found if found else length), steps + further
