"""Lower bounds by Lagrangian duality: what each item is worth, and what each room could be worth at most.

Give item i a worth w_i ≥ 0 and let best(r) be the greatest worth of any set of items whose sizes sum to at most r. A
unit with room r_u = T − b_u holds at most best(r_u), so T is refuted when Σ_i w_i > Σ_u best(r_u). Unequal loads cost
nothing: one table of best serves every room. With w = size this says that a room counts only up to the greatest sum of
sizes that it can hold, which lifts the water level past sums that cannot be reached (the lifting of Haouari & Jemmali
2008 and of Akram, Maas, Sanders & Schreiber 2024, for all units at once); with w = 1 it is the counting argument; any w
is a dual feasible function. The best w gives the bound of the configuration linear program (Gilmore & Gomory 1961),
approached here by subgradient steps with momentum (Held, Wolfe & Crowder 1974; Camerini, Fratta & Maffioli 1975).

The table also holds what the items i, i + 1, … alone could be worth, for every i: a bound for each node of a search.

Sums of sizes are kept in cells of 2^shift, sizes rounded down: what fits a room still fits, so that the bound stays
valid. Worths are whole numbers with a sum below 2^31, so that no claim hangs on a floating-point sum.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from sbs_opt.models.checks import IntArray

_ENTRIES = 1 << 21
_TOTAL_WORTH = 1 << 30

# Of the settings tried on 64 items × 32 units with loads, these come within a thousandth of the gap soonest: some 100
# steps; a greater shortest step keeps the bound from settling, a smaller one lets the search see the same table again.
_GOAL = 1 / 4096
_MOMENTUM = 0.6
_PATIENCE = 5
_SHORTER = 0.7
_SHORTEST = 0.25
_MEMORY = 0.06

_CELLS_PER_STEP = 32


class Dual(NamedTuple):
    """Multipliers of one window and what follows from them.

    Parameters
    ----------
    multiplier, average, direction
        float64[n]; the average is over the last steps, the direction is that of the last one, for the momentum.
    worth
        int32[n], the multipliers scaled and rounded.
    worth_from
        int64[n + 1], worth of the items i, i + 1, … together.
    best
        int32[n + 1, width], greatest worth of items i, i + 1, … in a room of so many cells.
    cells
        int64[n], sizes in cells, rounded down.
    shift
        A cell is 2^shift.
    pace
        float64[3]: length of the steps, greatest slack seen for the present makespan, steps since then.
    """

    multiplier: npt.NDArray[np.float64]
    average: npt.NDArray[np.float64]
    direction: npt.NDArray[np.float64]
    worth: npt.NDArray[np.int32]
    worth_from: IntArray
    best: npt.NDArray[np.int32]
    cells: IntArray
    shift: int
    pace: npt.NDArray[np.float64]


def _layout(n: int, top: int) -> tuple[int, int]:
    """Return the shift of a cell and the width of a table for n items and rooms of at most `top`."""
    shift = 0
    while (n + 1) * ((top >> shift) + 1) > _ENTRIES and top >> shift > 0:
        shift += 1
    return shift, (top >> shift) + 1


def evaluation_steps(n: int, top: int) -> int:
    """Return what `evaluate` costs for n items and rooms of at most `top`, in steps of the solver."""
    return 1 + (n + 1) * _layout(n, top)[1] // _CELLS_PER_STEP


def new_dual(size: IntArray, top: int) -> Dual:
    """Return multipliers that equal the sizes, with a table, not yet filled, for rooms of at most `top`."""
    n = len(size)
    shift, width = _layout(n, top)
    return Dual(
        multiplier=size.astype(np.float64),
        average=size.astype(np.float64),
        direction=np.zeros(n),
        worth=np.zeros(n, dtype=np.int32),
        worth_from=np.zeros(n + 1, dtype=np.int64),
        best=np.zeros((n + 1, width), dtype=np.int32),
        cells=size >> shift,
        shift=shift,
        pace=np.array([1.0, -np.inf, 0.0]),
    )


@njit(cache=True, nogil=True)
def _greater(
    out: npt.NDArray[np.int32], without: npt.NDArray[np.int32], rest: npt.NDArray[np.int32], worth: np.int32
) -> None:
    """Write max(without, rest + worth), cell by cell; on its own, so that the compiler makes vectors of it."""
    for s in range(len(out)):
        other = np.int32(rest[s] + worth)
        out[s] = other if other > without[s] else without[s]


@njit(cache=True, nogil=True)
def evaluate(dual: Dual, multiplier: npt.NDArray[np.float64]) -> None:
    """Scale and round multipliers to worths and fill the table; O(n·width), some 5·10^9 cells a second."""
    worth, worth_from, best, cells = dual.worth, dual.worth_from, dual.best, dual.cells
    n, width = len(multiplier), best.shape[1]
    total = 0.0
    for i in range(n):
        total += multiplier[i]
    scale = _TOTAL_WORTH / total if total > 0.0 else 0.0
    for i in range(n - 1, -1, -1):
        worth[i] = np.int32(multiplier[i] * scale)
        worth_from[i] = worth_from[i + 1] + worth[i]
        size = min(cells[i], width)
        without, with_it = best[i + 1], best[i]
        with_it[:size] = without[:size]
        _greater(with_it[size:], without[size:], without[: width - size], worth[i])


@njit(cache=True, nogil=True)
def slack(dual: Dual, load: IntArray, makespan: int) -> int:
    """Return by how much the worth of all items exceeds what the rooms could hold; above 0 refutes; O(m)."""
    best, shift = dual.best[0], dual.shift
    left = dual.worth_from[0]
    for u in range(len(load)):
        left -= best[(makespan - load[u]) >> shift]
    return int(left)


@njit(cache=True, nogil=True)
def raised(dual: Dual, load: IntArray, lower: int, upper: int) -> int:
    """Return the least makespan from lower to upper that the multipliers do not refute; O(m log(upper − lower)).

    Parameters
    ----------
    lower
        At least the greatest load.
    upper
        A makespan that can be reached.
    """
    if lower >= upper or slack(dual, load, lower) <= 0:
        return lower
    below, possible, step = lower, upper, 1
    while below + step < upper:
        if slack(dual, load, below + step) <= 0:
            possible = below + step
            break
        below += step
        step *= 2
    while possible - below > 1:
        middle = below + (possible - below) // 2
        if slack(dual, load, middle) > 0:
            below = middle
        else:
            possible = middle
    return possible


@njit(cache=True, nogil=True)
def improve(dual: Dual, load: IntArray, makespan: int, is_new: bool) -> None:
    """Take one subgradient step towards multipliers that refute `makespan`; the table is stale afterwards; O(n·m).

    The table is that of `dual.multiplier`. An item that several rooms would take becomes worth more, one that none
    would take less. The length is Polyak's with a goal a little above zero; it shrinks when the slack has not grown for
    a while. The average is nearer to the best multipliers than they are, since they keep moving around those.

    Parameters
    ----------
    is_new
        Whether this is the first step for this makespan.
    """
    multiplier, average, direction, worth = dual.multiplier, dual.average, dual.direction, dual.worth
    best, cells, pace = dual.best, dual.cells, dual.pace
    n = len(multiplier)
    gradient = np.ones(n)
    for u in range(len(load)):
        room = (makespan - load[u]) >> dual.shift
        here = best[0, room]
        for i in range(n):
            if here == 0:
                break
            if cells[i] <= room and best[i + 1, room] != here:
                gradient[i] -= 1.0
                room -= cells[i]
                here -= worth[i]
    present = np.float64(slack(dual, load, makespan))
    if is_new or present > pace[1]:
        pace[1], pace[2] = present, 0.0
    else:
        pace[2] += 1.0
        if pace[2] >= _PATIENCE:
            pace[0], pace[2] = max(_SHORTEST, pace[0] * _SHORTER), 0.0
    norm = total = 0.0
    for i in range(n):
        direction[i] = _MOMENTUM * direction[i] + (1.0 - _MOMENTUM) * gradient[i]
        norm += direction[i] * direction[i]
        total += multiplier[i]
    if norm > 0.0:
        length = pace[0] * total * (_GOAL - present / _TOTAL_WORTH) / norm
        for i in range(n):
            multiplier[i] = max(0.0, multiplier[i] + length * direction[i])
            average[i] += _MEMORY * (multiplier[i] - average[i])
