"""Local search on a plain window, in slices that keep to a budget."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from sbs_opt.models.checks import IntArray
from sbs_opt.models.placement import UnitArray
from sbs_opt.models.window import Window
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.exact_fill_kernel import exact_fill
from sbs_opt.solvers.multifit_kernel import multifit
from sbs_opt.solvers.packing_bounds_kernel import plain_bound
from sbs_opt.solvers.plain_kernel import RankArray, descending, longest_first, sorted_values
from sbs_opt.solvers.plain_levels_kernel import level_out, lower_in_stages
from sbs_opt.solvers.plain_search_kernel import OUT_OF_STEPS, REACHED
from sbs_opt.solvers.repartition_kernel import STATE_LENGTH, repartition

SORT_STEPS = 4
"""Steps booked for each item that is sorted and placed: about the time of as many candidates."""


_FILL_STEPS = 250
"""Steps for each item that exact filling may take; where it succeeds it rarely needs more."""


class RankedPlacement(NamedTuple):
    """A placement of a plain window by rank, the position of an item in descending order of size.

    Parameters
    ----------
    order
        int32[n], item by rank.
    size
        int64[n], descending.
    where
        int32[n], unit by rank.
    load
        int64[m], afterwards.
    bound
        No makespan is below it.
    """

    order: RankArray
    size: IntArray
    where: RankArray
    load: IntArray
    bound: int

    def rank(self) -> tuple[int, int]:
        """Return makespan and spread, in exact integers, to compare two placements of a window by."""
        return int(self.load.max()), sum(x * x for x in self.load.tolist())


def ranked_longest_first(window: Window) -> RankedPlacement:
    """Place longest first, without a search."""
    return RankedPlacement(*_longest_first(window.demand, window.load))


def ranked(window: Window, unit: IntArray | UnitArray) -> RankedPlacement:
    """Rank a placement that leaves nothing out."""
    return RankedPlacement(*_rank(window.demand, window.load, descending(window.demand), unit.astype(np.int32)))


def improve(placement: RankedPlacement, budget: Budget) -> bool:
    """Search from a placement, in place, until nothing is left to do (returns True) or the budget ends."""
    while allowed := budget.slice_steps():
        steps, outcome = _search(placement.size, placement.where, placement.load, placement.bound, allowed)
        budget.spend(max(1, steps))
        if outcome != OUT_OF_STEPS:
            return True
    return False


def packed(window: Window, budget: Budget) -> RankedPlacement:
    """Place by MULTIFIT; what the budget does not cover is as `lpt` places it."""
    placement = ranked_longest_first(window)
    budget.spend(SORT_STEPS * window.num_items)
    lower, upper = placement.bound, int(placement.load.max())
    load = window.load[:, 0]
    while lower < upper and (allowed := budget.slice_steps()):
        lower, upper, steps = multifit(placement.size, load, lower, upper, placement.where, allowed)
        budget.spend(max(1, steps))
    _recount(window, placement)
    return placement


def filled(window: Window, like: RankedPlacement, budget: Budget) -> RankedPlacement | None:
    """Fill the units exactly up to the bound; None where the budget does not cover that: half of it is worth nothing.

    Parameters
    ----------
    window, budget
        As elsewhere.
    like
        A placement of the same window, for its order and its bound.
    """
    steps = _FILL_STEPS * window.num_items
    if budget.slice_steps() < steps:
        return None
    lightest = np.argsort(window.load[:, 0], kind="stable")
    unit = np.empty(window.num_items, dtype=np.int64)
    _, spent = exact_fill(like.size, window.load[lightest, 0], like.bound, 0, steps, unit)
    budget.spend(spent)
    placement = like._replace(where=lightest[unit].astype(np.int32), load=np.empty_like(like.load))
    _recount(window, placement)
    return placement


def _recount(window: Window, placement: RankedPlacement) -> None:
    """Work the loads out again, after the units have changed."""
    placement.load[:] = window.load[:, 0]
    np.add.at(placement.load, placement.where, placement.size)


def divided_anew(window: Window, like: RankedPlacement, budget: Budget) -> RankedPlacement:
    """Divide the items of two or three units anew until that helps no more; returns a placement of its own.

    It is the one that had the least makespan first: where several units are the busiest, the divisions that lower some
    of them may spread the load worse, and count only when the last of them has been lowered.
    """
    makespan = int(like.load.max())
    unit = like.where.astype(np.int64)
    best = unit.copy()
    state = np.zeros(STATE_LENGTH, dtype=np.int64)
    stuck = False
    while not stuck and makespan > like.bound and (allowed := budget.slice_steps()):
        reached, steps, stuck = repartition(like.size, window.load[:, 0], unit, makespan - 1, allowed, state)
        budget.spend(max(1, steps))
        if reached < makespan:
            makespan, stuck = reached, False
            best[:] = unit
    placement = like._replace(where=best.astype(np.int32), load=np.empty_like(like.load))
    _recount(window, placement)
    return placement


@njit(cache=True, nogil=True)
def _rank(
    demand: IntArray, load: IntArray, order: RankArray, unit: UnitArray
) -> tuple[RankArray, IntArray, RankArray, IntArray, int]:
    """Return the fields of `RankedPlacement`."""
    size, ascending = sorted_values(demand, order, load)
    where = np.empty(len(order), dtype=np.int32)
    total = load[:, 0].copy()
    for rank in range(len(order)):
        where[rank] = unit[order[rank]]
        total[where[rank]] += size[rank]
    return order, size, where, total, plain_bound(size, ascending)


@njit(cache=True, nogil=True)
def _longest_first(demand: IntArray, load: IntArray) -> tuple[RankArray, IntArray, RankArray, IntArray, int]:
    order = descending(demand)
    return _rank(demand, load, order, longest_first(order, demand, load))


@njit(cache=True, nogil=True)
def _search(size: IntArray, where: RankArray, load: IntArray, bound: int, max_steps: int) -> tuple[int, int]:
    """Lower the busiest unit to the bound, then the others level by level; in place.

    Returns
    -------
    steps : int
    outcome : `REACHED` or `LOCAL_OPTIMUM` when nothing is left to do, else `OUT_OF_STEPS`
    """
    steps = 0
    while True:
        nobody = np.zeros(len(load), dtype=np.bool_)
        spent, outcome = lower_in_stages(size, where, load, nobody, bound, max_steps - steps)
        steps += spent
        if outcome == OUT_OF_STEPS:
            return steps, outcome
        before = where.copy()
        spent, levelled = level_out(size, where, load, max_steps - steps)
        steps += spent
        if levelled == OUT_OF_STEPS:
            return steps, levelled
        # Levelling the others may have opened a way to lower the busiest after all.
        if outcome == REACHED or np.array_equal(before, where):
            return steps, outcome


@njit(cache=True, nogil=True)
def place_and_search(
    demand: IntArray, load: IntArray, max_steps: int
) -> tuple[UnitArray, int, tuple[RankArray, IntArray, RankArray, IntArray, int], int, int]:
    """Place longest first and search: all of `auto` in one call where that is enough.

    Returns
    -------
    unit : int32[n]
    makespan : int
    placement : the fields of `RankedPlacement`
    steps, outcome : int
    """
    placement = _longest_first(demand, load)
    order, size, where, total, bound = placement
    sorting = SORT_STEPS * len(order)
    steps, outcome = _search(size, where, total, bound, max_steps - sorting)
    return units_of(order, where), total.max(), placement, steps + sorting, outcome


@njit(cache=True, nogil=True)
def units_of(order: RankArray, where: RankArray) -> UnitArray:
    """Return int32[n], the unit of each item."""
    unit = np.empty(len(order), dtype=np.int32)
    for rank in range(len(order)):
        unit[order[rank]] = where[rank]
    return unit
