"""The least weighted sum of thresholds that is feasible, where raising a threshold never hurts."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from sbs_opt.models.checks import IntArray
from sbs_opt.solvers.flow_network import UnprovedError

MOST_TRIALS = 500
"""Thresholds tried before the search gives up; one dimension needs no more than 63."""

Corner = tuple[int, ...]
"""One threshold per dimension."""


class ThresholdSearch:
    """Best-first bisection of boxes of thresholds; with one dimension, plain bisection.

    A box is a pair of corners of which the upper one is feasible. The box with the least lower corner is halved along
    its dearest side; the lower half is dropped when its upper corner is infeasible. A box that has shrunk to one point
    and is least of all is an optimum, and all optima are found.

    Parameters
    ----------
    weight
        One non-negative integer per dimension.
    values
        int64 arrays, ascending: the values each threshold may take; the greatest together are feasible.
    feasible
        Tells whether thresholds allow a placement; may raise to end the search.
    """

    def __init__(self, weight: Sequence[int], values: Sequence[IntArray], feasible: Callable[[Corner], bool]) -> None:
        self._weight = tuple(weight)
        self._values = [column.tolist() for column in values]
        self._feasible = feasible
        top = tuple(len(column) - 1 for column in self._values)
        self.bound = self._cost((0,) * len(top))
        """No feasible thresholds cost less."""
        self.reached = self._corner(top)
        """The cheapest thresholds known to be feasible."""
        self._least = self._cost(top)
        self._boxes = [(self.bound, (0,) * len(top), top)]

    def run(self) -> list[Corner]:
        """Return all feasible thresholds of least cost.

        Raises
        ------
        UnprovedError
            After `MOST_TRIALS`, or from `feasible`; `bound` and `reached` hold.
        """
        optima: list[Corner] = []
        trials = 0
        while self._boxes and (not optima or self._boxes[0][0] == self.bound):
            self.bound, low, high = heapq.heappop(self._boxes)
            trials += 1
            if trials > MOST_TRIALS:
                raise UnprovedError
            if low == high:
                optima.append(self._corner(low))
            else:
                self._halve(low, high)
        return optima

    def _halve(self, low: Corner, high: Corner) -> None:
        side = max(
            range(len(low)),
            key=lambda d: self._weight[d] * (self._values[d][high[d]] - self._values[d][low[d]]),
        )
        middle = (low[side] + high[side]) // 2
        self._push((*low[:side], middle + 1, *low[side + 1 :]), high)
        top = (*high[:side], middle, *high[side + 1 :])
        if self._feasible(self._corner(top)):
            if self._cost(top) < self._least:
                self._least, self.reached = self._cost(top), self._corner(top)
            self._push(low, top)

    def _push(self, low: Corner, high: Corner) -> None:
        cost = self._cost(low)
        if cost <= self._least:
            heapq.heappush(self._boxes, (cost, low, high))

    def _cost(self, corner: Corner) -> int:
        return sum(w * column[k] for w, column, k in zip(self._weight, self._values, corner, strict=True))

    def _corner(self, corner: Corner) -> Corner:
        return tuple(column[k] for column, k in zip(self._values, corner, strict=True))
