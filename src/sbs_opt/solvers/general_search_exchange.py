"""Exchanges between two units: what each may give, whether limits allow it, what it changes, and carrying it out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sbs_opt.solvers.general_search_compile import inlined, kernel
from sbs_opt.solvers.general_search_state import (
    AFTER,
    ARRIVED,
    ASCENDING,
    CHANGED,
    CLOCK,
    CROSSES,
    DEMAND,
    FIRST,
    GAIN,
    GROUP,
    HEAD,
    HERE,
    ITEM,
    LEFT,
    LOAD,
    NEVER,
    OPEN,
    ORDER,
    PIN,
    PRICED,
    RIGHT,
    SECOND,
    SIZE,
    TIER,
    VALUE,
    SearchState,
    find_tops,
    link,
    saving_row,
    unlink,
)

_NO_TIER = 2**20
_ROUNDING = 2.0**-51


class Change(NamedTuple):
    """What an exchange does to each part of the objective, in the order in which they are compared.

    Parameters
    ----------
    left_out
        Negative = better, 0 = the same.
    bottleneck
        Its difference.
    gain
        Difference of what is saved; larger is better.
    spread
        Difference of the spread, in floating point.
    """

    left_out: int
    bottleneck: int
    gain: int
    spread: float


ANY = Change(0, 0, 0, 0.0)
"""What an exchange must beat to improve the objective."""

INSERTS = Change(-1, 0, 0, 0.0)
"""What it must beat to improve what is left out."""

SAVES = Change(0, 0, 0, -np.inf)
"""What it must beat to improve more than the spread."""

RELIEVES = Change(0, 0, NEVER, -np.inf)
"""What it must beat to improve the bottleneck, or what is left out."""


@inlined
def fill_row(state: SearchState, side: int, k: int, i: int, u: int, v: int) -> None:
    """Write row k of a side: item i from unit u to unit v, either of which may be the unit of those left out."""
    items, row = state.items, state.rows[side, k]
    resources, out = len(state.price), len(state.units) - 1
    row[ITEM], row[FIRST], row[SECOND] = i, k, 0
    old = saving_row(state, i, u)
    new = saving_row(state, i, v)
    row[GAIN] = (state.savings[new, PRICED] if new >= 0 else 0) - (state.savings[old, PRICED] if old >= 0 else 0)
    for r in range(resources):
        row[HERE + r] = items[i, DEMAND + resources + r]
        there = items[i, DEMAND + r] if v < out else 0
        row[HERE + resources + r] = there - (state.savings[new, VALUE + r] if new >= 0 else 0)


@inlined
def fill_rows(state: SearchState, side: int, u: int, v: int, since: int) -> int:
    """Write the items of unit u that may go to unit v and arrived after `since`; return the rows, row 0 included."""
    out = len(state.units) - 1
    k = 1
    i = state.units[u, HEAD]
    while i >= 0:
        if state.items[i, ARRIVED] > since and (v == out or state.items[i, PIN] in (-1, v)):
            fill_row(state, side, k, i, u, v)
            k += 1
        i = state.items[i, AFTER]
    return k


@kernel
def fill_pairs(state: SearchState, side: int, singles: int) -> int:
    """Add the pairs of the items in rows 1 … singles − 1; return the number of rows."""
    rows = state.rows[side]
    k = singles
    for a in range(1, singles):
        for b in range(a + 1, singles):
            rows[k, FIRST], rows[k, SECOND], rows[k, GAIN] = a, b, rows[a, GAIN] + rows[b, GAIN]
            for r in range(HERE, rows.shape[1]):
                rows[k, r] = rows[a, r] + rows[b, r]
            k += 1
    return k


@kernel
def rank_rows(state: SearchState, count: int, resource: int) -> None:
    """Fill `ranked` for the rows of the second unit; O(count²), but without a branch, which no sort comes near."""
    size, ascending, order = state.ranked[SIZE], state.ranked[ASCENDING], state.ranked[ORDER]
    for k in range(count):
        size[k], order[k] = state.rows[RIGHT, k, HERE + resource], -1
    for k in range(count):
        rank = np.uint64(0)
        for other in range(np.uint64(count)):  # unsigned, or Numba looks for negative indices
            rank += np.uint64(size[other] < size[k])
        while order[rank] >= 0:
            rank += np.uint64(1)
        ascending[rank], order[rank] = size[k], k


@inlined
def find_others(state: SearchState, u: int, v: int) -> None:
    """Fill `others` for a pair of units; O(R)."""
    for side in range(2):
        g = state.units[v if side else u, GROUP]
        for r in range(len(state.price)):
            state.others[side, r] = 0
            for k in range(3):
                w = state.tops[g, r, 3 + k]
                if w >= 0 and w not in (u, v):
                    state.others[side, r] = state.tops[g, r, k]
                    break


@kernel
def may_take(state: SearchState, u: int, side: int, b: int, a: int) -> bool:
    """Tell whether unit u may take row b of a side once it has given row a of the other; O(R).

    At an open limit that is crossed O(items of u). What remains of a legal set is legal, so only a resource to which
    something is added can be in the way.
    """
    resources = len(state.price)
    for r in range(resources):
        added = state.rows[side, b, HERE + resources + r]
        total = state.units[u, LOAD + r] + added - state.rows[1 - side, a, HERE + r]
        limit = state.units[u, LOAD + resources + r]
        if added <= 0 or total <= limit:
            continue
        if r != state.register[OPEN] or not _may_cross(state, u, side, b, a, total - limit):
            return False
    return True


@kernel
def _may_cross(state: SearchState, u: int, side: int, b: int, a: int, excess: int) -> bool:
    """Tell whether the longest item that unit u would have may cross the open limit and is longer than `excess`."""
    taken, given, items = state.rows[side], state.rows[1 - side], state.items
    resources, r = len(state.price), state.register[OPEN]
    longest, crosses = np.int64(0), np.int64(0)
    for k in (taken[b, FIRST], taken[b, SECOND]):
        length = taken[k, HERE + resources + r] if k > 0 else np.int64(-1)
        if length >= longest:
            crosses = items[taken[k, ITEM], CROSSES] | (crosses if length == longest else 0)
            longest = length
    first, second = given[given[a, FIRST], ITEM], given[given[a, SECOND], ITEM]
    i = state.units[u, HEAD]
    while i >= 0:
        length = items[i, DEMAND + resources + r]
        if length >= longest and i not in (first, second):
            crosses = items[i, CROSSES] | (crosses if length == longest else 0)
            longest = length
        i = items[i, AFTER]
    return bool(crosses != 0 and longest > excess)


@inlined
def left_out_change(state: SearchState, a: int, b: int) -> int:
    """Return how putting the item of row a in and that of row b out ranks: negative = better, 0 = equal."""
    inserted, removed = state.rows[LEFT, a, ITEM], state.rows[RIGHT, b, ITEM]
    new = int(state.items[inserted, TIER]) if inserted >= 0 else _NO_TIER
    old = int(state.items[removed, TIER]) if removed >= 0 else _NO_TIER
    if new == old:
        return 0
    return (new - _NO_TIER) * (_NO_TIER + 1) - old if new < old else _NO_TIER


@inlined
def weigh(state: SearchState, u: int, v: int, a: int, b: int, left_out: int, best: Change) -> tuple[bool, Change]:
    """Return whether giving row a of u for row b of v is legal and beats `best`, and what it changes; O(R).

    The spread counts as better only by more than rounding can have done, so what is accepted is better in exact
    numbers too. Its difference is taken as a product of sums and differences of loads, which are exact integers:
    where nothing is saved on the way and there is one resource, the sign is always right.
    """
    units, rows, tops, others = state.units, state.rows, state.tops, state.others
    resources = len(state.price)
    there = HERE + resources
    gu, gv = units[u, GROUP], units[v, GROUP]
    bottleneck = 0
    for r in range(resources):
        price = state.price[r]
        if price > 0:
            peak_u = max(others[0, r], units[u, LOAD + r] - rows[0, a, HERE + r] + rows[1, b, there + r])
            peak_v = max(others[1, r], units[v, LOAD + r] - rows[1, b, HERE + r] + rows[0, a, there + r])
            if gu == gv:
                bottleneck += price * (max(peak_u, peak_v) - tops[gu, r, 0])
            else:
                bottleneck += price * (peak_u - tops[gu, r, 0] + peak_v - tops[gv, r, 0])
    tied = left_out == best.left_out and bottleneck == best.bottleneck
    gain = rows[0, a, GAIN] + rows[1, b, GAIN]
    if (left_out == best.left_out and bottleneck > best.bottleneck) or (tied and gain < best.gain):
        return False, best
    spread = size = 0.0
    for r in range(resources):
        weight = state.weight[r]
        if weight > 0:
            added_u = rows[1, b, there + r] - rows[0, a, HERE + r]
            added_v = rows[0, a, there + r] - rows[1, b, HERE + r]
            twice_v = 2 * units[v, LOAD + r] + added_v
            shifted = weight * (np.float64(added_u) * np.float64(2 * units[u, LOAD + r] + added_u - twice_v))
            created = weight * (np.float64(added_u + added_v) * np.float64(twice_v))
            spread += shifted + created
            size += abs(shifted) + abs(created)
    if tied and gain == best.gain and spread >= best.spread - size * (resources + 4) * _ROUNDING:
        return False, best
    if may_take(state, u, RIGHT, b, a) and may_take(state, v, LEFT, a, b):
        return True, Change(left_out, bottleneck, gain, spread)
    return False, best


@kernel
def exchange(state: SearchState, u: int, v: int, a: int, b: int) -> None:
    """Give row a of u for row b of v, tick the clock and bring the peaks up to date; O(m·R)."""
    rows, units = state.rows, state.units
    state.register[CLOCK] += 1
    for k in (rows[LEFT, a, FIRST], rows[LEFT, a, SECOND]):
        _carry(state, LEFT, k, u, v)
    for k in (rows[RIGHT, b, FIRST], rows[RIGHT, b, SECOND]):
        _carry(state, RIGHT, k, v, u)
    gu, gv = units[u, GROUP], units[v, GROUP]
    if u < len(units) - 1:
        find_tops(state, gu)
    if gv != gu and v < len(units) - 1:
        find_tops(state, gv)


@inlined
def _carry(state: SearchState, side: int, k: int, u: int, v: int) -> None:
    if k == 0:
        return
    resources, i, clock = len(state.price), state.rows[side, k, ITEM], state.register[CLOCK]
    unlink(state, i)
    link(state, i, v)
    state.units[v, CHANGED] = clock
    if u < len(state.units) - 1:  # who leaves those left out makes nothing possible that was not
        state.units[u, CHANGED] = clock
    for r in range(resources):
        state.items[i, DEMAND + resources + r] = state.rows[side, k, HERE + resources + r]
        state.units[u, LOAD + r] -= state.rows[side, k, HERE + r]
        state.units[v, LOAD + r] += state.rows[side, k, HERE + resources + r]
