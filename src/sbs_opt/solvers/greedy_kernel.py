"""Place items one by one, in a given order, each on the unit that a rule likes best."""

from __future__ import annotations

import numpy as np
from numba import njit

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.solvers.columns import Columns

LEAST_LOADED = 0
"""Rule: the unit with the least priced load, Σ_r λ_r·load."""

LEAST_INCREASE = 1
"""Rule: the unit that raises the bottleneck least, then adds least spread, then has the least priced load."""


@njit(cache=True, nogil=True)
def fits(
    columns: Columns,
    i: int,
    u: int,
    load: IntArray,
    longest: IntArray,
    crosses: BoolArray,
    saving: IntArray,
) -> bool:
    """Tell whether unit u may take item i on top of what `load`, `longest` and `crosses` say it has been given.

    `longest[u]` is the greatest amount of the open resource given so far, `crosses[u]` whether an item of that very
    amount may cross: a unit runs shorter items first, so only the longest decides, and one of equal ones is enough.
    """
    for r in range(load.shape[1]):
        amount = columns.demand[i, r] - saving[u, r]
        if amount <= 0:
            continue
        total = load[u, r] + amount
        if total <= columns.limit[u, r]:
            continue
        if r != columns.open_resource:
            return False
        top = max(amount, longest[u])
        may_cross = (amount == top and columns.crossing[i]) or (longest[u] == top and crosses[u])
        if not may_cross or total - top >= columns.limit[u, r]:
            return False
    return True


@njit(cache=True, nogil=True)
def set_savings(columns: Columns, i: int, saving: IntArray) -> None:
    """Write what each unit saves for item i into `saving`[m, R], which is zero elsewhere."""
    if columns.saving_start.shape[0]:
        for k in range(columns.saving_start[i], columns.saving_start[i + 1]):
            for r in range(saving.shape[1]):
                saving[columns.saving_unit[k], r] = columns.saving_value[k, r]


@njit(cache=True, nogil=True)
def clear_savings(columns: Columns, i: int, saving: IntArray) -> None:
    """Undo `set_savings`."""
    if columns.saving_start.shape[0]:
        for k in range(columns.saving_start[i], columns.saving_start[i + 1]):
            for r in range(saving.shape[1]):
                saving[columns.saving_unit[k], r] = 0


@njit(cache=True, nogil=True)
def increase_on(columns: Columns, i: int, u: int, load: IntArray, peak: IntArray, saving: IntArray) -> int:
    """Return by how much item i on unit u raises the bottleneck, Σ_r λ_r·max(0, load + added − peak of the group)."""
    total = 0
    for r in range(load.shape[1]):
        above = load[u, r] + columns.demand[i, r] - saving[u, r] - peak[columns.group[u], r]
        if above > 0:
            total += columns.price[r] * above
    return total


@njit(cache=True, nogil=True)
def _best_unit(
    columns: Columns,
    i: int,
    rule: int,
    load: IntArray,
    peak: IntArray,
    longest: IntArray,
    crosses: BoolArray,
    saving: IntArray,
) -> int:
    """Return the unit for item i: least (increase, spread increment, priced load, index) that fits, or −1."""
    first, last = 0, load.shape[0]
    if columns.pinned[i] >= 0:
        first, last = columns.pinned[i], columns.pinned[i] + 1
    best, best_increase, best_spread, best_priced = -1, 0, 0.0, 0
    for u in range(first, last):
        increase, spread, priced = 0, 0.0, 0
        if rule == LEAST_INCREASE:
            increase = increase_on(columns, i, u, load, peak, saving)
            if best >= 0 and increase > best_increase:
                continue
            for r in range(load.shape[1]):
                added = np.float64(columns.demand[i, r] - saving[u, r])
                spread += columns.weight[r] * (added * (2.0 * np.float64(load[u, r]) + added))
        for r in range(load.shape[1]):
            priced += columns.price[r] * load[u, r]
        if best >= 0 and (increase, spread, priced) >= (best_increase, best_spread, best_priced):
            continue
        if fits(columns, i, u, load, longest, crosses, saving):
            best, best_increase, best_spread, best_priced = u, increase, spread, priced
    return best


@njit(cache=True, nogil=True)
def round_robin(columns: Columns) -> IntArray:
    """Place items in index order, each on the next unit after the last one that was given an item and may take it.

    O(n·m·R) at most, O((n + k)·R) where everything fits, k savings. Returns int64[n], −1 where nothing fits.
    """
    n, (m, resources) = columns.demand.shape[0], columns.load.shape
    unit = np.full(n, -1, dtype=np.int64)
    load = columns.load.copy()
    longest = np.zeros(m, dtype=np.int64)
    crosses = np.zeros(m, dtype=np.bool_)
    saving = np.zeros((m, resources), dtype=np.int64)
    turn = 0
    for i in range(n):
        set_savings(columns, i, saving)
        for k in range(m):
            u = (turn + k) % m
            if 0 <= columns.pinned[i] != u:
                continue
            if fits(columns, i, u, load, longest, crosses, saving):
                unit[i] = u
                _book(columns, i, u, load, longest, crosses, saving)
                if columns.pinned[i] < 0:
                    turn = u + 1
                break
        clear_savings(columns, i, saving)
    return unit


@njit(cache=True, nogil=True)
def _book(
    columns: Columns, i: int, u: int, load: IntArray, longest: IntArray, crosses: BoolArray, saving: IntArray
) -> None:
    """Add item i to what unit u has been given."""
    for r in range(load.shape[1]):
        amount = columns.demand[i, r] - saving[u, r]
        load[u, r] += amount
        if r == columns.open_resource and amount > 0 and amount >= longest[u]:
            crosses[u] = columns.crossing[i] or (amount == longest[u] and crosses[u])
            longest[u] = amount


@njit(cache=True, nogil=True)
def greedy(columns: Columns, order: IntArray, rule: int) -> tuple[IntArray, IntArray, IntArray, int]:
    """Place the items of `order`, one after the other; O(n·m·R).

    Parameters
    ----------
    columns
        The window.
    order
        int64[k], distinct items; an item that is not in it is left out.
    rule
        `LEAST_LOADED` or `LEAST_INCREASE`.

    Returns
    -------
    unit : int64[n], −1 where nothing fits
    load : int64[m, R] afterwards
    peak : int64[G, R] afterwards
    saved : Σ price × savings of the placed items
    """
    n, (m, resources) = columns.demand.shape[0], columns.load.shape
    unit = np.full(n, -1, dtype=np.int64)
    load = columns.load.copy()
    peak = columns.peak.copy()
    longest = np.zeros(m, dtype=np.int64)
    crosses = np.zeros(m, dtype=np.bool_)
    saving = np.zeros((m, resources), dtype=np.int64)
    saved = 0
    for i in order:
        set_savings(columns, i, saving)
        u = _best_unit(columns, i, rule, load, peak, longest, crosses, saving)
        if u >= 0:
            unit[i] = u
            _book(columns, i, u, load, longest, crosses, saving)
            for r in range(resources):
                peak[columns.group[u], r] = max(peak[columns.group[u], r], load[u, r])
                saved += columns.price[r] * saving[u, r]
        clear_savings(columns, i, saving)
    return unit, load, peak, saved
