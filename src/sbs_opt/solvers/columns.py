"""A window as the kernels read it: plain arrays, groups numbered from 0, savings sorted by item."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.models.window import Window


class Columns(NamedTuple):
    """Arrays of one window; n items, m units, R resources, G groups.

    Parameters
    ----------
    demand, load, price, limit, crossing, pinned
        As in `Window`.
    weight
        float64[R], the spread weights; kernels compare spreads in floating point.
    group
        int64[m], 0 … G − 1.
    peak
        int64[G, R], the greatest initial load in each group.
    open_resource
        Index, −1 = none.
    saving_start
        int64[n + 1]; the savings of item i are rows start[i] … start[i + 1] − 1. Empty when there are none.
    saving_unit, saving_value
        int64[k] and int64[k, R].
    """

    demand: IntArray
    load: IntArray
    price: IntArray
    weight: npt.NDArray[np.float64]
    limit: IntArray
    crossing: BoolArray
    pinned: IntArray
    group: IntArray
    peak: IntArray
    open_resource: int
    saving_start: IntArray
    saving_unit: IntArray
    saving_value: IntArray


def columns_of(window: Window) -> Columns:
    """Prepare a window for the kernels; O(n + m·R + k log k)."""
    if window.one_group:
        group = window.group if window.group[0] == 0 else np.zeros_like(window.group)
        peak = window.load.max(axis=0, keepdims=True)
    else:
        names, group = np.unique(window.group, return_inverse=True)
        peak = np.zeros((len(names), window.num_resources), dtype=np.int64)
        np.maximum.at(peak, group, window.load)
    group = group.astype(np.int64, copy=False)
    group.flags.writeable = False  # one type, or the kernels would be compiled twice
    start, unit, value = _savings_by_item(window)
    return Columns(
        demand=window.demand,
        load=window.load,
        price=window.price,
        weight=window.spread_weight.astype(np.float64),
        limit=window.limit,
        crossing=window.crossing,
        pinned=window.pinned,
        group=group,
        peak=peak,
        open_resource=-1 if window.open_resource is None else window.open_resource,
        saving_start=start,
        saving_unit=unit,
        saving_value=value,
    )


def _savings_by_item(window: Window) -> tuple[IntArray, IntArray, IntArray]:
    savings = window.savings
    if savings is None:
        return _NONE, _NONE, np.zeros((0, window.num_resources), dtype=np.int64)
    return _grouped(savings.item, savings.unit, savings.value, window.num_items)


@njit(cache=True, nogil=True)
def _grouped(item: IntArray, unit: IntArray, value: IntArray, n: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return where each item's savings start, and units and values in the order of the items; O(n + k·R)."""
    start = np.zeros(n + 1, dtype=np.int64)
    for k in range(len(item)):
        start[item[k] + 1] += 1
    for i in range(n):
        start[i + 1] += start[i]
    at = start[:n].copy()
    units, values = np.empty_like(unit), np.empty_like(value)
    for k in range(len(item)):
        units[at[item[k]]] = unit[k]
        values[at[item[k]]] = value[k]
        at[item[k]] += 1
    return start, units, values


_NONE = np.zeros(0, dtype=np.int64)
