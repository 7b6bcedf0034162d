"""Cheap lower bounds of the bottleneck, for a given number of items left out of each tier.

Four relaxations, of which the greatest counts:

*Water level* (Graham 1966, with initial loads). Resource by resource, the work that must be placed is poured over the
units as if it were a fluid: first into the room below each group's present peak, the rest into the largest group, where
raising the level by one costs the same and takes the most.

*Single item*. Some item must be placed, and even alone on its best unit it raises the bottleneck by so much.

*Counting* (one resource, one group; the pigeonhole bounds L_k with initial loads, see `packing_bounds_kernel`). The
units can hold only so many of the j largest items.

*Unit prices* (one resource, one group, no limits, nothing left out; with pins or savings). Nearly the dual of the
linear relaxation: see `savings_bound_kernel`.

All grant the adversary the choice of what is left out: of each tier the most expensive items are dropped, in each
relaxation anew. An item that fits on no unit alone is left out of every placement, so it uses up one of the drops.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.models.errors import InputError
from sbs_opt.models.window import Window
from sbs_opt.solvers.bound_kernel import alone, rises
from sbs_opt.solvers.columns import Columns, columns_of
from sbs_opt.solvers.packing_bounds_kernel import water_level
from sbs_opt.solvers.plain_kernel import is_plain, sort_and_bound
from sbs_opt.solvers.savings_bounds import linear_bound, quick_bound
from sbs_opt.solvers.savings_columns import is_one_column

Method = Literal["cheap", "lp"]


class Relaxation(ABC):
    """What the bounds need to know of a window, measured once."""

    forced_out: tuple[int, ...]
    """Per tier, the items that fit on no unit alone: a lower bound of every placement's `left_out`."""

    @staticmethod
    def of(window: Window) -> Relaxation:
        """Measure a window; O((n·m + k)·R), and O(n + m log m) for one resource without further fields."""
        return _Plain.measured(window) if is_plain(window) and window.one_tier else _General.measured(window)

    def bound(self, left_out: tuple[int, ...]) -> int:
        """Return a lower bound of the bottleneck of every placement with this `left_out` tuple.

        Raises
        ------
        InputError
            When no placement can have that tuple for a reason that is plain to see: its length, or an entry below
            `forced_out` or above the number of items in the tier.
        """
        return max(self.parts(left_out).values())

    @abstractmethod
    def parts(self, left_out: tuple[int, ...]) -> dict[str, int]:
        """Return the bound of each relaxation by name; raises as `bound` does."""


@dataclass(frozen=True, slots=True, eq=False)
class _Plain(Relaxation):
    """One priced resource and nothing else."""

    forced_out: tuple[int, ...]
    _window: Window

    @classmethod
    def measured(cls, window: Window) -> _Plain:
        return cls((0,) * len(window.tiers), window)

    def bound(self, left_out: tuple[int, ...]) -> int:
        drop = self._checked(left_out)
        return int(self._window.price[0]) * sort_and_bound(self._window.demand, self._window.load, drop)

    def parts(self, left_out: tuple[int, ...]) -> dict[str, int]:
        drop, price = self._checked(left_out), int(self._window.price[0])
        size, load = np.sort(self._window.demand[:, 0])[::-1][drop:], np.sort(self._window.load[:, 0])
        largest = int(size[0]) if len(size) else 0
        return {
            "water_level": price * water_level(int(size.sum()), load),
            "single_item": price * max(int(load[-1]), int(load[0]) + largest),
            "counting": self.bound(left_out),
        }

    def _checked(self, left_out: tuple[int, ...]) -> int:
        """Return how many items the adversary drops."""
        _check_left_out(left_out, self.forced_out, [self._window.num_items] * len(self.forced_out))
        return left_out[0] if left_out else 0


@dataclass(frozen=True, slots=True, eq=False)
class _General(Relaxation):
    """Any window."""

    forced_out: tuple[int, ...]
    _window: Window
    _columns: Columns
    _possible: BoolArray
    _least: IntArray

    @classmethod
    def measured(cls, window: Window) -> _General:
        columns = columns_of(window)
        possible, least = alone(columns)
        impossible = window.tier[~possible]
        forced = tuple(int((impossible == tier).sum()) for tier in window.tiers)
        return cls(forced, window, columns, possible, least)

    def parts(self, left_out: tuple[int, ...]) -> dict[str, int]:
        tiers = self._window.tiers
        sizes = [self._window.num_items] if len(tiers) == 1 else [int((self._window.tier == t).sum()) for t in tiers]
        _check_left_out(left_out, self.forced_out, sizes)
        # Where nothing may be dropped only the dearest item counts, and most are seen to be cheaper at a glance.
        every = rises(self._columns, self._possible, -1 if left_out != self.forced_out else 0)
        increase = 0
        work = [0] * self._window.num_resources
        for tier, count, forced in zip(tiers, left_out, self.forced_out, strict=True):
            members = self._possible if len(tiers) == 1 else self._possible & (self._window.tier == tier)
            increase = max(increase, _greatest_after(every[members], count - forced))
            for r, total in enumerate(_sum_after(self._least[members], count - forced).tolist()):
                work[r] += total
        peaks = self._columns.peak.sum(axis=0).tolist()
        price = self._window.price.tolist()
        base = sum(p * peak for p, peak in zip(price, peaks, strict=True))
        water = sum(p * self._water_level(r, total) for r, (p, total) in enumerate(zip(price, work, strict=True)))
        parts = {"water_level": int(water), "single_item": int(base + increase)}
        if not any(left_out) and is_one_column(self._window):
            parts["unit_prices"] = quick_bound(self._window)
        return parts

    def _water_level(self, r: int, work: int) -> int:
        """Return the least Σ over groups of the peak of resource r, were the work a fluid."""
        peak, group = self._columns.peak[:, r], self._columns.group
        # Peaks and loads are each below 2^62, but their sums over units need not fit 64 bits.
        units_of = np.bincount(group).tolist()
        room = sum(p * k for p, k in zip(peak.tolist(), units_of, strict=True)) - int(self._window.load[:, r].sum())
        return int(int(peak.sum()) - min(0, room - work) // max(units_of))


def _check_left_out(left_out: tuple[int, ...], forced: tuple[int, ...], sizes: list[int]) -> None:
    if len(left_out) != len(sizes) or not all(
        low <= k <= high for low, k, high in zip(forced, left_out, sizes, strict=True)
    ):
        raise InputError(f"left_out = {left_out}: not between {forced} and {tuple(sizes)} in every tier")


def _greatest_after(values: IntArray, drop: int) -> int:
    """Return the greatest value once the `drop` greatest are gone, 0 when none remains."""
    if drop >= len(values):
        return 0
    return int(np.partition(values, len(values) - 1 - drop)[len(values) - 1 - drop]) if drop else int(values.max())


def _sum_after(values: IntArray, drop: int) -> npt.NDArray[Any]:
    """Return the column sums once the `drop` greatest of each column are gone."""
    keep = np.sort(values, axis=0)[: len(values) - drop] if drop else values
    return np.asarray(keep.sum(axis=0))


def lower_bound(window: Window, left_out: tuple[int, ...], method: Method = "cheap") -> int:
    """Return a lower bound of the bottleneck of every placement with this `left_out` tuple.

    Parameters
    ----------
    window
        The window.
    left_out
        One count per tier present, as in `Objective`.
    method
        "cheap": the relaxations of this module, microseconds. "lp": the linear relaxation too, by HiGHS, with what each
        unit saves; milliseconds to a second, worth it where savings differ from unit to unit.

    Raises
    ------
    InputError
        When no placement can have that tuple, see `Relaxation.bound`; an unknown method.
    """
    if method not in ("cheap", "lp"):
        raise InputError(f'method = {method!r}: must be "cheap" or "lp"')
    bound = Relaxation.of(window).bound(left_out)
    if method == "lp":
        bound = max(bound, linear_bound(window, left_out))
    return bound


def forced_out(window: Window) -> tuple[int, ...]:
    """Return, per tier, how many items fit on no unit even alone; no placement leaves out fewer."""
    return Relaxation.of(window).forced_out
