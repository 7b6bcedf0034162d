"""A placement: the unit of each item of a window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sbs_opt.models.checks import IntArray, int_array
from sbs_opt.models.errors import InputError
from sbs_opt.models.window import FREE, Window

UnitArray = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False, init=False)
class Placement:
    """The unit of each item, −1 = left out of this window.

    Parameters
    ----------
    unit
        int32[n].
    """

    unit: UnitArray

    def __init__(self, unit: npt.ArrayLike) -> None:
        wide = int_array("placement.unit", unit, minimum=FREE)
        if wide.ndim != 1:
            raise InputError(f"placement.unit has shape {wide.shape}, expected one unit per item")
        if wide.size and wide.max() > np.iinfo(np.int32).max:
            raise InputError(f"placement.unit holds {wide.max()}: no window has that many units")
        narrow = wide.astype(np.int32)
        narrow.flags.writeable = False
        object.__setattr__(self, "unit", narrow)

    @classmethod
    def unchecked(cls, unit: UnitArray) -> Placement:
        """Take an int32 vector as it is, without a copy or a look at its entries, which `verify` takes anyway."""
        placement = object.__new__(cls)
        unit.flags.writeable = False
        object.__setattr__(placement, "unit", unit)
        return placement

    def __reduce__(self) -> tuple[Any, ...]:
        return Placement, (self.unit,)  # through the constructor, so that a copy is read-only too

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Placement) and np.array_equal(self.unit, other.unit)

    def __hash__(self) -> int:
        return hash(self.unit.tobytes())

    def dispatch_order(self, window: Window) -> IntArray:
        """Return the placed items, unit by unit, in the order in which the unit runs them.

        Where a resource is open, a unit runs its items shorter first (demand less savings), equal ones by index, so
        that only the longest can cross the budget; otherwise items keep their index order.

        Returns
        -------
        int64[k], indices into the window's items.
        """
        placed = np.flatnonzero(self.unit >= 0)
        length = np.zeros(len(placed), dtype=np.int64)
        if window.open_resource is not None:
            length = effective_demand(window, self.unit)[placed, window.open_resource]
        return placed[np.lexsort((placed, length, self.unit[placed]))]


def effective_demand(window: Window, unit: npt.NDArray[Any]) -> IntArray:
    """Return int64[n, R]: the demand of each item less what its unit saves for it."""
    demand = window.demand
    if window.savings is None:
        return demand
    savings = window.savings
    taken = unit[savings.item] == savings.unit
    out = demand.copy()
    out[savings.item[taken]] -= savings.value[taken]  # at most one unit per item, so no index repeats
    return out
