"""What the general local search knows of a placement: loads, the items of each unit, and who sets each peak.

Few wide tables instead of many narrow arrays: a kernel pays for each array that it hands to another, in time and in
compilation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import UNLIMITED, Window
from sbs_opt.solvers.columns import columns_of
from sbs_opt.solvers.general_search_compile import inlined, kernel

UNIT, AFTER, BEFORE, ARRIVED, BARRED, TIER, PIN, CROSSES, FIRST_SAVING, END_SAVING, DEMAND = range(11)
"""Columns of `SearchState.items`."""

HEAD, GROUP, CHANGED, LOAD = range(4)
"""Columns of `SearchState.units`."""

SAVED_ITEM, SAVING_UNIT, TRIED, PRICED, VALUE = range(5)
"""Columns of `SearchState.savings`."""

ITEM, FIRST, SECOND, GAIN, HERE = range(5)
"""Columns of `SearchState.rows`."""

CLOCK, ROSE, FELL, BOTTLENECK, OPEN, PHASE, INDEX, ROW, IMPROVED, ROTATION = range(10)
"""Places in `SearchState.register`."""

LEFT, RIGHT = 0, 1
"""The two tables in `SearchState.rows`."""

SIZE, ASCENDING, ORDER = range(3)
"""The lines of `SearchState.ranked`."""

NEVER = 2**62
"""Beyond every amount, tier and bottleneck."""

DEEP_ITEMS = 30
"""Units that hold more items than this exchange them one by one only: their pairs would be too many to try."""


class SearchState(NamedTuple):
    """A window and a placement under search; n items, m units, R resources, G groups, k savings.

    Left-out items live on unit m: it has no load, adds to no peak and takes everything, so leaving an item out,
    inserting it and exchanging it with a placed one are moves and swaps like any other.

    Parameters
    ----------
    items
        int64[n, 10 + 2R]: unit; the items after and before it on the list of its unit, −1 = none; clock of its arrival
        there; clock at which it was found that nothing left out fits there in its place; tier, 0 = oldest; pin; whether
        it may cross; its rows of `savings`; then R times the demand, and R times what it adds where it is now.
    units
        int64[m + 1, 3 + 2R]: first item of its list; group, of which unit m has its own; clock of its last change, for
        unit m of the last arrival; then R times the load, and R times the limit.
    tops
        int64[G + 1, R, 6]: the three greatest loads of a group, and the units that have them, −1 = none. Enough to know
        the peak that any two units leave behind.
    price, weight
        int64[R]; float64[R], the weight of load² in the last part of the objective.
    savings
        int64[k, 4 + R]: item; unit; clock at which bringing the two together was found to improve nothing; Σ price ×
        value; then R times the value.
    checked
        int64[2, m + 1, m + 1]: clock at which a pair of units was found to hold no improvement; clock at which unit v
        was found to admit nothing that is left out, by itself (row m) or once one of its items went to unit w (row w).
    tried
        int64[2, G·R, m + 1], for exchanges of single items and of up to two: clock at which the unit that sets a peak
        was found to have no relief from another unit; last, which unit that was, and whether it was tied.
    rows
        int64[2, rows, 4 + 2R], what each unit of a pair may give to the other. Row 0 is nothing, then single items,
        then pairs of them: the item; the rows of the single items that it is made of, 0 = none; Σ price × savings
        there less that here; then R times what it adds to the unit that gives, and R times to the one that takes.
    ranked
        int64[3, rows]: what the rows of the second unit take off it of one resource; the same ascending; and the row of
        each.
    others
        int64[2, R], the greatest loads of the groups of a pair of units outside the pair.
    register
        int64[10]: a clock that ticks with each exchange; when a peak last rose; when one of the three greatest loads
        last fell; the bottleneck; the open resource. Then where the search stands: phase, position in the phase, the
        row at which a pair was interrupted, whether the phase improved anything, and the unit after the one that last
        relieved a peak.
    """

    items: IntArray
    units: IntArray
    tops: IntArray
    price: IntArray
    weight: npt.NDArray[np.float64]
    savings: IntArray
    checked: IntArray
    tried: IntArray
    rows: IntArray
    ranked: IntArray
    others: IntArray
    register: IntArray


def begin(window: Window, unit: IntArray) -> SearchState:
    """Return the state of a placement that breaks no rule, −1 = left out; O((n + G·m)·R + m² + k log k)."""
    columns = columns_of(window)
    n, (m, resources) = window.num_items, window.load.shape
    groups, deep = len(columns.peak), min(n, DEEP_ITEMS)
    rows = max(n, deep * (deep + 1) // 2) + 1
    # Where nothing has a weight the spread says nothing; that of the priced load still tells peaks of fewer units.
    weight = columns.weight if columns.weight.any() else window.price.astype(np.float64)
    state = SearchState(
        items=np.zeros((n, DEMAND + 2 * resources), dtype=np.int64),
        units=np.zeros((m + 1, LOAD + 2 * resources), dtype=np.int64),
        tops=np.zeros((groups + 1, resources, 6), dtype=np.int64),
        price=window.price,
        weight=weight,
        savings=np.zeros((len(columns.saving_unit), VALUE + resources), dtype=np.int64),
        checked=np.zeros((2, m + 1, m + 1), dtype=np.int64),
        tried=np.zeros((2, groups * resources, m + 1), dtype=np.int64),
        rows=np.zeros((2, rows, HERE + 2 * resources), dtype=np.int64),
        ranked=np.zeros((3, rows), dtype=np.int64),
        others=np.zeros((2, resources), dtype=np.int64),
        register=np.zeros(10, dtype=np.int64),
    )
    items, units, savings = state.items, state.units, state.savings
    items[:, TIER] = np.unique(window.tier, return_inverse=True)[1]
    items[:, PIN], items[:, CROSSES] = window.pinned, window.crossing
    items[:, DEMAND : DEMAND + resources] = window.demand
    units[:, HEAD] = -1
    units[:m, GROUP], units[m, GROUP] = columns.group, groups
    units[:m, LOAD : LOAD + resources] = window.load
    units[:m, LOAD + resources :], units[m, LOAD + resources :] = window.limit, UNLIMITED
    state.tops[:, :, 3:] = state.tried[:, :, m] = state.rows[:, 0, ITEM] = -1
    if len(savings):
        items[:, FIRST_SAVING], items[:, END_SAVING] = columns.saving_start[:-1], columns.saving_start[1:]
        savings[:, SAVED_ITEM] = np.repeat(np.arange(n), np.diff(columns.saving_start))
        savings[:, SAVING_UNIT], savings[:, VALUE:] = columns.saving_unit, columns.saving_value
        savings[:, PRICED] = columns.saving_value @ window.price
    state.register[OPEN] = columns.open_resource
    _place(state, unit)
    return state


@kernel
def _place(state: SearchState, unit: IntArray) -> None:
    """Put items that are nowhere yet on their units; O(n·R + G·m·R)."""
    resources, out = len(state.price), len(state.units) - 1
    state.register[CLOCK] = 1
    for i in range(len(unit) - 1, -1, -1):
        u = unit[i] if unit[i] >= 0 else out
        link(state, i, u)
        row = saving_row(state, i, u)
        for r in range(resources):
            if u < out:
                amount = state.items[i, DEMAND + r] - (state.savings[row, VALUE + r] if row >= 0 else 0)
                state.items[i, DEMAND + resources + r] = amount
                state.units[u, LOAD + r] += amount
    for u in range(out + 1):
        state.units[u, CHANGED] = 1
    for g in range(len(state.tops) - 1):
        find_tops(state, g)


@inlined
def saving_row(state: SearchState, i: int, u: int) -> int:
    """Return the row of what unit u saves for item i, −1 = nothing."""
    for k in range(state.items[i, FIRST_SAVING], state.items[i, END_SAVING]):
        if state.savings[k, SAVING_UNIT] == u:
            return k
    return -1


@inlined
def link(state: SearchState, i: int, u: int) -> None:
    """Put item i, which is on no list, on the list of unit u."""
    items, follower = state.items, state.units[u, HEAD]
    items[i, UNIT], items[i, AFTER], items[i, BEFORE] = u, follower, -1
    items[i, ARRIVED] = state.register[CLOCK]
    if follower >= 0:
        items[follower, BEFORE] = i
    state.units[u, HEAD] = i


@inlined
def unlink(state: SearchState, i: int) -> None:
    """Take item i off its unit's list."""
    items = state.items
    before, follower = items[i, BEFORE], items[i, AFTER]
    if before >= 0:
        items[before, AFTER] = follower
    else:
        state.units[items[i, UNIT], HEAD] = follower
    if follower >= 0:
        items[follower, BEFORE] = before


@kernel
def find_tops(state: SearchState, g: int) -> None:
    """Find the three greatest loads of group g anew and note what rose and fell; O(m·R)."""
    units, tops, register = state.units, state.tops, state.register
    for r in range(len(state.price)):
        first = second = third = 0
        at_first = at_second = at_third = -1
        for u in range(len(units) - 1):
            if units[u, GROUP] != g:
                continue
            load = units[u, LOAD + r]
            if at_first < 0 or load > first:
                third, at_third, second, at_second, first, at_first = second, at_second, first, at_first, load, u
            elif at_second < 0 or load > second:
                third, at_third, second, at_second = second, at_second, load, u
            elif at_third < 0 or load > third:
                third, at_third = load, u
        if state.price[r] > 0:
            register[BOTTLENECK] += state.price[r] * (first - tops[g, r, 0])
            if first > tops[g, r, 0]:
                register[ROSE] = register[CLOCK]
            if first < tops[g, r, 0] or second < tops[g, r, 1] or third < tops[g, r, 2]:
                register[FELL] = register[CLOCK]
        tops[g, r, 0], tops[g, r, 1], tops[g, r, 2] = first, second, third
        tops[g, r, 3], tops[g, r, 4], tops[g, r, 5] = at_first, at_second, at_third
