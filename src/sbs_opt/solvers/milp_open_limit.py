"""An open limit as linear rows: at most one item, the longest, may cross it.

Columns beside x[i, u], for the units whose limit can bind:

* y[i, u] ∈ {0, 1}, y ≤ x: item i, which may, crosses the limit of unit u; Σ_i y ≤ 1;
* s[u, k] ∈ [0, 1]: the crosser of u is shorter than the k-th length ℓ_k of the items that may not cross.

With budget q = limit − load, Σ p·x ≤ q is demanded without a crosser and Σ p·x − Σ p·y < q with one. The crosser must
not be shorter than an item that may not cross: x[j, u] + s[u, k] ≤ 1 for each such item j of length ℓ_k. (A longer item
that may cross is itself a valid crosser.) The chain s_k = s_{k−1} + Σ of y over ℓ_{k−1} ≤ length < ℓ_k keeps the rows
linear in the number of items; one row per pair of items would be quadratic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.solvers.milp_rows import FloatArray, Rows, labelled_rows, no_bound


class _Chain(NamedTuple):
    unit: int
    length: IntArray
    column: IntArray


class OpenLimit:
    """Columns and rows of one open resource.

    Parameters
    ----------
    x
        int64[k], the x columns that count against a limit that can bind.
    unit, length, may_cross
        int64[k], int64[k], bool[k] of those columns: their unit, what they add, and whether the item may cross.
    room
        int64[m], limit − load.
    first
        Number of the first column that may be added.

    Attributes
    ----------
    rows
        The constraints.
    width
        Number of columns, with those that were added.
    shorter
        The columns s; they need not be said to be whole.
    """

    def __init__(
        self, x: IntArray, unit: IntArray, length: IntArray, may_cross: BoolArray, room: IntArray, first: int
    ) -> None:
        self._x, self._unit, self._length, self._room = x, unit, length, room
        self._crosser = np.flatnonzero(may_cross)
        self._y = first + np.arange(len(self._crosser))
        self.rows: list[Rows] = []
        self._add_crossers()
        self._chains: list[_Chain] = []
        self.width = first + len(self._y)
        fixed = np.flatnonzero(~may_cross)
        for u in np.intersect1d(unit[fixed], unit[self._crosser]).tolist():
            self._add_chain(u, fixed[unit[fixed] == u])
        self.shorter = np.arange(first + len(self._y), self.width)

    def _add_crossers(self) -> None:
        m = len(self._room)
        x, y, unit, crosser = self._x, self._y, self._unit, self._crosser
        divisor = np.zeros(m, dtype=np.int64)
        np.gcd.at(divisor, unit, self._length)
        divisor = np.maximum(divisor, 1)
        length = self._length // divisor[unit]
        # In units of the divisor: Σ p·x ≤ ⌊q⌋ without a crosser, Σ p·x − Σ p·y ≤ ⌈q⌉ − 1 with one.
        stricter = self._room % divisor == 0
        relief = length[crosser] - stricter[unit[crosser]]
        self.rows.append(
            labelled_rows(
                np.concatenate([unit, unit[crosser]]),
                np.concatenate([x, y]),
                np.concatenate([length, -relief]),
                no_bound(m),
                (self._room // divisor).astype(np.float64),
            )
        )
        if not len(y):
            return
        pair = np.arange(len(y))
        one = np.ones(len(y), dtype=np.int64)
        self.rows.append(labelled_rows(unit[crosser], y, one, no_bound(m), np.ones(m)))
        self.rows.append(
            labelled_rows(
                np.concatenate([pair, pair]),
                np.concatenate([x[crosser], y]),
                np.concatenate([-one, one]),
                no_bound(len(y)),
                np.zeros(len(y)),
            )
        )

    def _add_chain(self, u: int, fixed: IntArray) -> None:
        """Add s[u, ·] and its rows; `fixed` are the items of u that may not cross."""
        crosser = np.flatnonzero(self._unit[self._crosser] == u)
        length, level = np.unique(self._length[fixed], return_inverse=True)
        s = self.width + np.arange(len(length))
        self.width += len(length)
        self._chains.append(_Chain(u, length, s))
        k = np.arange(len(length))
        rank = np.searchsorted(length, self._length[self._crosser[crosser]], side="right")
        crosser, rank = crosser[rank < len(length)], rank[rank < len(length)]
        zero, one = np.zeros(len(length)), np.ones(len(length), dtype=np.int64)
        self.rows.append(
            labelled_rows(
                np.concatenate([k, k[1:], rank]),
                np.concatenate([s, s[:-1], self._y[crosser]]),
                np.concatenate([one, -one[1:], -np.ones(len(rank), dtype=np.int64)]),
                zero,
                zero,
            )
        )
        pair = np.arange(len(fixed))
        self.rows.append(
            labelled_rows(
                np.concatenate([pair, pair]),
                np.concatenate([self._x[fixed], s[level]]),
                np.ones(2 * len(fixed), dtype=np.int64),
                no_bound(len(fixed)),
                np.ones(len(fixed)),
            )
        )

    def complete(self, values: FloatArray) -> None:
        """Fill in the values of y and s that go with the x of a feasible placement."""
        taken = values[self._x] == 1
        used = np.zeros(len(self._room), dtype=np.int64)
        np.add.at(used, self._unit[taken], self._length[taken])
        over = used > self._room
        longest = np.zeros(len(self._room), dtype=np.int64)
        able = np.flatnonzero((taken & over[self._unit])[self._crosser])
        k = self._crosser[able]
        # In ascending order of length the last one written for a unit is its longest.
        order = np.lexsort((self._length[k], self._unit[k]))
        last = np.flatnonzero(np.diff(self._unit[k][order], append=-1))
        chosen = able[order[last]]
        values[self._y[chosen]] = 1
        longest[self._unit[self._crosser[chosen]]] = self._length[self._crosser[chosen]]
        for chain in self._chains:
            values[chain.column] = (chain.length > longest[chain.unit]) & over[chain.unit]
