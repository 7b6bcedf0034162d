"""Tell whether the items of a window are equally large, wherever they may go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.models.placement import effective_demand
from sbs_opt.models.window import FREE
from sbs_opt.solvers.flow_settled import Settled

_PLENTY = 2**40
"""More items than any window has."""


@dataclass(frozen=True, slots=True, eq=False)
class EqualSizes:
    """What one item adds to a unit, where that is the same for every active item that may go there.

    Parameters
    ----------
    size
        int64[m, R], 0 in resources that do not matter.
    saved
        int64[m], the priced savings of an item without pin.
    room
        int64[m], how many items the limits allow.
    slot
        bool[m], whether one more may go there when one of them may cross the open limit.
    """

    size: IntArray
    saved: IntArray
    room: IntArray
    slot: BoolArray

    @classmethod
    def of(cls, settled: Settled) -> EqualSizes | None:
        """Measure the active items, or return None where two of them add different amounts to one unit."""
        window, active = settled.window, settled.active
        pinned = window.pinned[active]
        free, tied = active[pinned == FREE], active[pinned != FREE]
        at = window.pinned[tied]
        amount = effective_demand(window, window.pinned)[tied] * settled.matters
        size = np.zeros_like(window.load)
        saved = np.zeros(len(size), dtype=np.int64)
        if len(free):
            demand = window.demand[free] * settled.matters
            if (demand != demand[0]).any():
                return None
            size[:] = demand[0]
            if not _subtract_common_savings(settled, free, size):
                return None
            saved = (demand[0] - size) @ window.price
        else:
            size[at] = amount
        if (size[at] != amount).any():
            return None
        return cls(size, saved, *_room(settled, size))


def _subtract_common_savings(settled: Settled, free: IntArray, size: IntArray) -> bool:
    """Reduce `size` where a unit saves the same for every free item; tell whether that covers all their savings."""
    savings = settled.window.savings
    if savings is None:
        return True
    value = savings.value * settled.matters
    pairs = np.isin(savings.item, free) & value.any(axis=1)
    unit, value = savings.unit[pairs], value[pairs]
    left = size[unit] - value
    size[unit] = left
    count = np.bincount(unit, minlength=len(size))
    return bool(np.isin(count, (0, len(free))).all() and (size[unit] == left).all())


def _room(settled: Settled, size: IntArray) -> tuple[IntArray, BoolArray]:
    """Return how many items the limits allow on each unit, and where a crossing one finds one more place."""
    left = settled.window.limit - settled.load
    each = np.maximum(size, 1)
    count = np.where(size > 0, np.maximum(left // each, 0), _PLENTY)
    slot = np.zeros(len(size), dtype=np.bool_)
    r = settled.window.open_resource
    if r is not None:
        crossed = np.where(left[:, r] > 0, (left[:, r] - 1) // each[:, r] + 1, 0)
        others = np.delete(count, r, axis=1).min(axis=1, initial=_PLENTY)
        slot = (size[:, r] > 0) & (crossed > count[:, r]) & (others > count[:, r])
    room = count.min(axis=1)
    most = len(settled.active)
    return np.minimum(room, most), slot & (room < most)
