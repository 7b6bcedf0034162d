"""What an exchange between all units needs to know of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.solvers.columns import Columns
from sbs_opt.solvers.greedy_kernel import clear_savings, fits, set_savings

_POWER = 8
"""The sum of loads to this power follows the greatest load closely, and still minds the others."""


@njit(cache=True, nogil=True)
def exchange_costs(
    columns: Columns,
    items: IntArray,
    weight: npt.NDArray[np.float64],
    load: IntArray,
    longest: IntArray,
    crosses: BoolArray,
) -> npt.NDArray[np.float64]:
    """Return float64[k, m]: by how much each of k items raises (Σ_r weight_r · load)^8 of each unit.

    It is inf where the item may not go. `longest` and `crosses` are as in `greedy_kernel.fits`. O(k·m·R).
    """
    m, resources = load.shape
    cost = np.full((len(items), m), np.inf)
    saving = np.zeros((m, resources), dtype=np.int64)
    before = np.zeros(m)
    for u in range(m):
        for r in range(resources):
            before[u] += weight[r] * load[u, r]
    for k in range(len(items)):
        i = items[k]
        set_savings(columns, i, saving)
        for u in range(m):
            if fits(columns, i, u, load, longest, crosses, saving):
                after = before[u]
                for r in range(resources):
                    after += weight[r] * (columns.demand[i, r] - saving[u, r])
                cost[k, u] = after**_POWER - before[u] ** _POWER
        clear_savings(columns, i, saving)
    return cost


@njit(cache=True, nogil=True)
def put(
    columns: Columns, items: IntArray, units: IntArray, load: IntArray, longest: IntArray, crosses: BoolArray
) -> None:
    """Add items to their units, in place."""
    resources = load.shape[1]
    saving = np.zeros(load.shape, dtype=np.int64)
    for k in range(len(items)):
        i, u = items[k], units[k]
        set_savings(columns, i, saving)
        for r in range(resources):
            amount = columns.demand[i, r] - saving[u, r]
            load[u, r] += amount
            if r == columns.open_resource and amount > 0 and amount >= longest[u]:
                crosses[u] = columns.crossing[i] or (amount == longest[u] and crosses[u])
                longest[u] = amount
        clear_savings(columns, i, saving)
