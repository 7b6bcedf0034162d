"""A window as the kernels read it: plain arrays, groups numbered from 0, savings sorted by item."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

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
    names, group = np.unique(window.group, return_inverse=True)
    peak = np.zeros((len(names), window.num_resources), dtype=np.int64)
    np.maximum.at(peak, group, window.load)
    return Columns(
        demand=window.demand,
        load=window.load,
        price=window.price,
        weight=window.spread_weight.astype(np.float64),
        limit=window.limit,
        crossing=window.crossing,
        pinned=window.pinned,
        group=group.astype(np.int64, copy=False),
        peak=peak,
        open_resource=-1 if window.open_resource is None else window.open_resource,
        **_savings_by_item(window),
    )


def _savings_by_item(window: Window) -> dict[str, IntArray]:
    savings = window.savings
    if savings is None:
        empty = np.zeros(0, dtype=np.int64)
        return {
            "saving_start": empty,
            "saving_unit": empty,
            "saving_value": np.zeros((0, window.num_resources), dtype=np.int64),
        }
    order = np.argsort(savings.item, kind="stable")
    start = np.searchsorted(savings.item[order], np.arange(window.num_items + 1))
    return {
        "saving_start": start.astype(np.int64, copy=False),
        "saving_unit": savings.unit[order],
        "saving_value": savings.value[order],
    }
