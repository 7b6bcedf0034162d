"""Local search over every field of a window: exchanges between two units, most important part of the objective first.

Phases, each over the pairs of units that changed since they were last found to hold nothing:

1. what is left out goes to a unit, alone or for an item of a younger tier;
2. the same where a placed item makes room by going to another unit;
3. an item goes to a unit that saves something for it, alone or for an item of that unit;
4. the unit that sets a peak gives an item, alone or for another;
5. the same with up to two items each way;
6. any unit gives an item to any other, alone or for another; those left out count as a unit.

An exchange is carried out when the objective as a whole improves. A phase that changed something leads back to the
first; when none does, the placement is a local optimum.
"""

from __future__ import annotations

from sbs_opt.solvers.general_search_compile import inlined, kernel
from sbs_opt.solvers.general_search_exchange import (
    ANY,
    INSERTS,
    RELIEVES,
    SAVES,
    Change,
    exchange,
    fill_pairs,
    fill_row,
    fill_rows,
    find_others,
    left_out_change,
    may_take,
    rank_rows,
    weigh,
)
from sbs_opt.solvers.general_search_state import (
    AFTER,
    ASCENDING,
    BARRED,
    BOTTLENECK,
    CHANGED,
    CLOCK,
    DEEP_ITEMS,
    FELL,
    GROUP,
    HEAD,
    HERE,
    IMPROVED,
    INDEX,
    ITEM,
    LEFT,
    LOAD,
    NEVER,
    ORDER,
    PHASE,
    PIN,
    RIGHT,
    ROSE,
    ROTATION,
    ROW,
    SAVED_ITEM,
    SAVING_UNIT,
    TIER,
    TRIED,
    UNIT,
    SearchState,
)

_INSERT, _EJECT, _SAVE, _RELIEVE, _RELIEVE_DEEP, _LEVEL, _END = range(7)
_NONE, _INTERRUPTED = -1, -2


@kernel
def search(state: SearchState, max_steps: int, target: int, polish: bool) -> tuple[int, bool]:
    """Improve the placement in `state` until `max_steps` or a local optimum; can be called again to go on.

    Where it stops does not depend on how the steps are sliced.

    Parameters
    ----------
    state
        The window and the placement, which is changed.
    max_steps
        No row of exchanges is begun once so many steps are taken. A step is an exchange considered; a row or a pair of
        units that is passed over takes one too.
    target
        Peaks are not lowered any further once the bottleneck is at most this.
    polish
        Whether to go on with savings and spread when the bottleneck cannot be lowered.

    Returns
    -------
    steps : int
    finished : whether there is nothing left to improve
    """
    steps = 0
    while steps < max_steps:
        u, v = _next_pair(state, target, polish)
        if u < 0:
            return steps, True
        if state.register[PHASE] == _EJECT:
            steps += _eject(state, u, v)
        else:
            steps += _examine(state, u, v, max_steps - steps)
    return steps, False


@kernel
def _next_pair(state: SearchState, target: int, polish: bool) -> tuple[int, int]:
    """Return the pair in hand or the next one that may hold an improvement, (−1, −1) = none."""
    register = state.register
    while register[PHASE] < _END:
        size = _pairs_in_phase(state, target, polish)
        while register[INDEX] < size:
            u, v = _pair_at(state, register[PHASE], register[INDEX])
            if register[ROW] > 0 or _is_due(state, register[PHASE], u, v):
                return u, v
            register[INDEX] += 1
        register[INDEX] = 0
        register[PHASE] = _INSERT if register[IMPROVED] else register[PHASE] + 1
        register[IMPROVED] = 0
    return -1, -1


@inlined
def _pairs_in_phase(state: SearchState, target: int, polish: bool) -> int:
    phase, m = state.register[PHASE], len(state.units) - 1
    above = state.register[BOTTLENECK] > target
    if phase == _INSERT:
        return m if state.units[m, HEAD] >= 0 else 0
    if phase == _EJECT:
        return m * m if state.units[m, HEAD] >= 0 else 0
    if phase == _SAVE:
        return len(state.savings) if above or polish else 0
    if phase == _LEVEL:
        return (m + 1) * m if polish else m
    return state.tried.shape[1] * m if above else 0


@inlined
def _pair_at(state: SearchState, phase: int, index: int) -> tuple[int, int]:
    m, resources = len(state.units) - 1, len(state.price)
    if phase == _SAVE:
        return state.items[state.savings[index, SAVED_ITEM], UNIT], state.savings[index, SAVING_UNIT]
    if phase in (_RELIEVE, _RELIEVE_DEEP):
        slot = index // m
        return state.tops[slot // resources, slot % resources, 3], (index % m + state.register[ROTATION]) % m
    return index // m if phase == _EJECT else m - index // m, index % m


@inlined
def _is_due(state: SearchState, phase: int, u: int, v: int) -> bool:
    """Tell whether the pair at the present index is worth examining."""
    units, m, index = state.units, len(state.units) - 1, state.register[INDEX]
    if phase in (_INSERT, _EJECT):
        seen = state.checked[1, u, v]
        return bool(u != v and seen < max(units[u, CHANGED], units[v, CHANGED], units[m, CHANGED]))
    if phase == _SAVE:
        pin = state.items[state.savings[index, SAVED_ITEM], PIN]
        return u not in (v, m) and pin in (-1, v) and _is_stale(state, u, v, state.savings[index, TRIED])
    if phase == _LEVEL:
        if u <= v or (units[u, HEAD] < 0 and (u == m or units[v, HEAD] < 0)):
            return False
        return _is_stale(state, u, v, state.checked[0, u, v])
    slot = index // m
    if u < 0 or u == v or units[u, HEAD] < 0 or state.price[slot % len(state.price)] == 0:
        return False
    tried, top = state.tried[phase - _RELIEVE, slot], 2 * u + _is_tied(state, slot)
    if tried[m] != top:
        tried[m] = top
        for w in range(m):
            tried[w] = 0
    return bool(tried[v] < max(units[u, CHANGED], units[v, CHANGED], state.register[ROSE]))


@inlined
def _is_tied(state: SearchState, slot: int) -> bool:
    """Tell whether several units set the peak, so that relieving one of them does not lower it."""
    g, r = slot // len(state.price), slot % len(state.price)
    return bool(state.tops[g, r, 4] >= 0 and state.tops[g, r, 1] == state.tops[g, r, 0])


@inlined
def _is_stale(state: SearchState, u: int, v: int, seen: int) -> bool:
    """Tell whether a pair that held no improvement when the clock showed `seen` may hold one now.

    Between units that have not changed, exchanges turn good only when some peak rose, so that they no longer raise it,
    or, where one of the two sets a peak, when the loads below that peak fell.
    """
    units = state.units
    if seen < units[u, CHANGED] or seen < units[v, CHANGED] or seen < state.register[ROSE]:
        return True
    if seen >= state.register[FELL]:
        return False
    for w in (u, v):
        if w < len(units) - 1:
            for r in range(len(state.price)):
                if state.price[r] > 0 and units[w, LOAD + r] == state.tops[units[w, GROUP], r, 0]:
                    return True
    return False


@kernel
def _examine(state: SearchState, u: int, v: int, max_steps: int) -> int:
    """Carry out the best exchange of the pair, if any improves; returns the steps taken.

    When `max_steps` are taken before the end of the pair, it stays in hand.
    """
    register = state.register
    phase, index = register[PHASE], register[INDEX]
    relieves = phase in (_RELIEVE, _RELIEVE_DEEP)
    slot = index // (len(state.units) - 1)
    if phase == _SAVE:
        rows_left = 2
        fill_row(state, LEFT, 1, state.savings[index, SAVED_ITEM], u, v)
    else:
        rows_left = fill_rows(state, LEFT, u, v, _news(state, phase, u, v))
    rows_right = fill_rows(state, RIGHT, v, u, -1)
    if phase == _RELIEVE_DEEP:
        if max(rows_left, rows_right) > DEEP_ITEMS + 1:
            rows_left = 0
        else:
            rows_left, rows_right = fill_pairs(state, LEFT, rows_left), fill_pairs(state, RIGHT, rows_right)
    find_others(state, u, v)
    resource, goal = -1, ANY
    if relieves:
        resource = slot % len(state.price)
        rank_rows(state, rows_right, resource)
        if not _is_tied(state, slot):
            goal = RELIEVES
    elif phase == _SAVE:
        goal = SAVES
    elif phase == _INSERT:
        goal = INSERTS
    steps, a, b = _best_exchange(state, u, v, rows_left, rows_right, resource, goal, max_steps)
    if a == _INTERRUPTED:
        return steps
    if a == _NONE:
        _mark_tried(state, phase, index, u, v)
        register[INDEX] += 1
        return steps + 1
    exchange(state, u, v, a, b)
    register[IMPROVED] = 1
    if relieves:
        # To begin with the next unit each time spreads what the peaks give away.
        register[INDEX], register[ROTATION] = 0, v + 1
    return steps + 1


@inlined
def _news(state: SearchState, phase: int, u: int, v: int) -> int:
    """Return the clock since which items of u matter: where v and the peaks are as they were, only new arrivals do."""
    if u < len(state.units) - 1:
        return -1
    if phase == _INSERT:
        seen = state.checked[1, u, v]
        return seen if seen >= state.units[v, CHANGED] else -1
    seen = state.checked[0, u, v]
    return -1 if _is_stale(state, v, v, seen) else seen


@inlined
def _mark_tried(state: SearchState, phase: int, index: int, u: int, v: int) -> None:
    """Note that a pair holds no improvement."""
    clock = state.register[CLOCK]
    if phase == _SAVE:
        state.savings[index, TRIED] = clock
    elif phase in (_RELIEVE, _RELIEVE_DEEP):
        state.tried[phase - _RELIEVE, index // (len(state.units) - 1), v] = clock
    else:
        state.checked[1 if phase == _INSERT else 0, u, v] = clock


@kernel
def _best_exchange(
    state: SearchState, u: int, v: int, rows_left: int, rows_right: int, resource: int, goal: Change, max_steps: int
) -> tuple[int, int, int]:
    """Look for the best exchange that beats `goal`; returns the steps and the two rows, or why there are none.

    With a resource, only among exchanges that relieve unit u, which sets its peak: they take less than they give, and
    where both units are of one group they leave the other below the peak. Of the rows of v, sorted by what they take
    off, a short run remains for each row of u.

    After an interruption the rows before it are looked at again, free of charge, so that the outcome is the same.
    """
    rows, register, there = state.rows, state.register, HERE + len(state.price)
    is_insertion = u == len(state.units) - 1
    best, best_a, best_b = goal, _NONE, _NONE
    steps, cheaper, room = 0, 0, NEVER
    if resource >= 0:
        for b in range(rows_right):
            cheaper = max(cheaper, rows[RIGHT, b, HERE + resource] - rows[RIGHT, b, there + resource])
        if state.units[u, GROUP] == state.units[v, GROUP]:
            room = state.units[u, LOAD + resource] - state.units[v, LOAD + resource]
    first = 0 if resource < 0 and register[PHASE] != _SAVE else 1
    for a in range(first, rows_left):
        if steps >= max_steps:
            register[ROW] = a
            return steps, _INTERRUPTED, _INTERRUPTED
        is_new = a >= register[ROW]
        begin = 1 if a == 0 else 0
        given = rows[LEFT, a, HERE + resource]
        if resource >= 0:
            begin = _first_above(state, rows_right, rows[LEFT, a, there + resource] - room)
            steps += is_new
        for k in range(begin, rows_right):
            b = k
            if resource >= 0:
                if state.ranked[ASCENDING, k] - cheaper >= given:
                    break
                b = state.ranked[ORDER, k]
                if rows[RIGHT, b, there + resource] >= given:
                    continue
            rank = left_out_change(state, a, b) if is_insertion else 0
            if rank > best.left_out:
                continue
            steps += is_new
            better, change = weigh(state, u, v, a, b, rank, best)
            if better:
                best, best_a, best_b = change, a, b
    register[ROW] = 0
    return steps, best_a, best_b


@inlined
def _first_above(state: SearchState, count: int, value: int) -> int:
    """Return the first of the ranked rows of v that takes more than a value off it."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if state.ranked[ASCENDING, middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _eject(state: SearchState, w: int, v: int) -> int:
    """Let an item that is left out onto unit v by sending one of v's to unit w, if possible; returns the steps.

    What that costs is left to the other phases.
    """
    items, out, register = state.items, len(state.units) - 1, state.register
    steps = 1
    j = state.units[v, HEAD]
    while j >= 0:
        if items[j, PIN] < 0 and items[j, BARRED] < max(state.units[v, CHANGED], state.units[out, CHANGED]):
            steps += 1
            fill_row(state, RIGHT, 1, j, v, w)
            if may_take(state, w, RIGHT, 1, 0):
                waiting = fill_rows(
                    state, LEFT, out, v, items[j, BARRED] if items[j, BARRED] >= state.units[v, CHANGED] else -1
                )
                steps += waiting
                a = _oldest_that_fits(state, v, waiting)
                if a != _NONE:
                    exchange(state, w, v, 0, 1)
                    exchange(state, out, v, a, 0)
                    register[IMPROVED] = 1
                    return steps
                items[j, BARRED] = register[CLOCK]
        j = items[j, AFTER]
    state.checked[1, w, v] = register[CLOCK]
    register[INDEX] += 1
    return steps


@kernel
def _oldest_that_fits(state: SearchState, v: int, waiting: int) -> int:
    """Return a row of items left out, of the oldest tier, that v may take once it has given row 1, or `_NONE`."""
    best, oldest = _NONE, NEVER
    for a in range(1, waiting):
        tier = state.items[state.rows[LEFT, a, ITEM], TIER]
        if tier < oldest and may_take(state, v, LEFT, a, 1):
            best, oldest = a, tier
    return best
