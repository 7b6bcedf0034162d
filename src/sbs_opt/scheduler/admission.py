"""Admission: which of the waiting requests go into the next batch of an instance, and in which order."""

from __future__ import annotations

import numpy as np

from sbs_opt.models.checks import IntArray


def all_waiting(
    urgency: IntArray, windows: IntArray, tokens: IntArray, budget: int, room: int, num_units: int
) -> IntArray:
    """Admit everything while there is room [R, staggered batch scheduling, arXiv 2512.16134, 2025].

    Carried-over requests first, oldest first, then new ones, longest first.

    Parameters
    ----------
    urgency, windows, tokens
        int64[n], of the waiting requests, the most urgent first and the oldest first within a class: class (smaller is
        more urgent), windows left out of so far, and uncached tokens.
    budget
        Tokens that a pass may run on one unit. A longer request uses up that much in this pass and no more.
    room, num_units
        Tokens that may still start on the instance, and its units.

    Returns
    -------
    int64[k], indices of the admitted requests in the order in which they are to be placed.
    """
    carried = windows > 0
    order = np.lexsort((np.arange(len(tokens)), np.where(carried, 0, -tokens), ~carried, urgency))
    return _while_room(order, np.minimum(tokens, budget), room, num_units)


def by_age(urgency: IntArray, windows: IntArray, tokens: IntArray, budget: int, room: int, num_units: int) -> IntArray:
    """Admit the oldest requests until their tokens use up the room; parameters and return as `all_waiting`."""
    used = np.minimum(tokens, budget)
    before = np.cumsum(used) - used
    return np.arange(int(np.searchsorted(before, max(room, 1), side="left")))


def in_arrival_order(
    urgency: IntArray, windows: IntArray, tokens: IntArray, budget: int, room: int, num_units: int
) -> IntArray:
    """Admit everything in arrival order while there is room; parameters and return as `all_waiting`."""
    return _while_room(np.arange(len(tokens)), np.minimum(tokens, budget), room, num_units)


def _while_room(order: IntArray, used: IntArray, room: int, num_units: int) -> IntArray:
    # Each unit takes requests until its room is gone: beyond the room plus one longest request per unit nothing fits.
    total = np.cumsum(used[order])
    longest = np.maximum.accumulate(used[order])
    enough = np.flatnonzero(total >= room + num_units * longest)
    return order[: enough[0] + 1] if len(enough) else order


ADMISSION = {"all": all_waiting, "by_age": by_age, "in_order": in_arrival_order}
