"""Local search on a window of any shape, in slices that keep to a budget."""

from __future__ import annotations

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.objective import Objective
from sbs_opt.models.window import FREE, Window
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.general_search_kernel import search
from sbs_opt.solvers.general_search_state import BOTTLENECK, DEMAND, LOAD, NEVER, UNIT, SearchState, begin

_FIRST_SLICE = 1000
"""Steps before the first look at the clock: how long they take is not known yet. Then twice as many each time."""


def improve(window: Window, unit: IntArray, budget: Budget, bound: int, *, polish: bool = True) -> IntArray:
    """Return a placement that no exchange of `general_search_kernel` improves, or the best one when the budget ends.

    Parameters
    ----------
    window
        The window, whatever fields it uses.
    unit
        int64[n], a placement that breaks no rule; not changed.
    budget
        Where the steps are booked. More of them never lead to a worse placement.
    bound
        The peaks are let alone once the bottleneck is at most this.
    polish
        Whether to go on with what is saved and with the spread when the bottleneck cannot be lowered.

    Returns
    -------
    int64[n], at least as good as `unit` as a whole objective.
    """
    if not window.num_items:
        return unit
    state = begin(window, unit)
    before = measured(window, state)
    finished, longest = False, _FIRST_SLICE if budget.seconds_left() is not None else NEVER
    while not finished and (allowed := budget.slice_steps()):
        steps, finished = search(state, min(allowed, longest), bound, polish)
        budget.spend(steps)
        longest *= 2
    if before < measured(window, state):  # the kernel compares spreads in floating point: trust nothing
        return unit
    unit = state.items[:, UNIT]
    return np.where(unit == window.num_units, FREE, unit)


def measured(window: Window, state: SearchState) -> Objective:
    """Return the objective of the placement in `state`, in exact integers; O((n + m)·R)."""
    m, resources = window.num_units, window.num_resources
    placed = state.items[:, UNIT] < m
    waiting = window.tier[~placed]
    amount = state.items[placed, DEMAND + resources :]
    saved = 0 if window.savings is None else int(((window.demand[placed] - amount) @ window.price).sum())
    columns = state.units[:m, LOAD : LOAD + resources].T.tolist()
    weights = window.spread_weight.tolist()
    return Objective(
        left_out=tuple(int((waiting == tier).sum()) for tier in window.tiers),
        bottleneck=int(state.register[BOTTLENECK]),
        saved=saved,
        spread=sum(w * sum(x * x for x in column) for w, column in zip(weights, columns, strict=True) if w),
    )
