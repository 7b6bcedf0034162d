"""Which item may go to which unit, and what it adds there: the columns of every exact model."""

from __future__ import annotations

import numpy as np

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.models.window import FREE, Window


def amounts(window: Window) -> IntArray:
    """Return int64[n, m, R]: what each item adds to each unit, demand less savings; O(n·m·R)."""
    amount = np.repeat(window.demand[:, None, :], window.num_units, axis=1)
    if window.savings is not None:
        amount[window.savings.item, window.savings.unit] -= window.savings.value
    return amount


def allowed_pairs(window: Window, amount: IntArray) -> BoolArray:
    """Return bool[n, m]: the pin allows the unit and the item fits there alone; O(n·m·R)."""
    over: BoolArray = (amount > 0) & (amount > window.limit - window.load)
    if window.open_resource is not None:
        r = window.open_resource
        over[:, :, r] &= ~(window.crossing[:, None] & (window.load[:, r] < window.limit[:, r]))
    pinned = window.pinned[:, None]
    allowed: BoolArray = ~np.any(over, axis=2) & ((pinned == FREE) | (pinned == np.arange(window.num_units)))
    return allowed
