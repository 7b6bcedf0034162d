"""Windows in which no unit may take two items, as an assignment of items to units: exact."""

from __future__ import annotations

import numpy as np

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.models.window import Window
from sbs_opt.solvers.flow_exact import Peak, peaks_of
from sbs_opt.solvers.flow_network import Flows, Network, UnprovedError, largest_cost
from sbs_opt.solvers.flow_settled import Settled
from sbs_opt.solvers.flow_thresholds import Corner
from sbs_opt.solvers.pairs import allowed_pairs, amounts

_NONE = 2**61
"""Above every amount."""


class OneEach:
    """The model of such a window that `solve_exact` solves.

    Arcs lead from each item to the units on which it fits alone and to a node for what is left out. With one item to a
    unit, load, savings and spread of a placement are sums over its pairs, whatever the items add.
    """

    def __init__(self, settled: Settled, amount: IntArray, allowed: BoolArray) -> None:
        self.window, self._settled = settled.window, settled
        self._amount = amount
        grows: BoolArray = np.any(allowed[:, :, None] & (amount > 0), axis=0)
        self.peaks, self.rest = peaks_of(settled.window, settled.load, grows)
        k, m = allowed.shape
        self._item, self._unit = np.nonzero(allowed)
        waiting, sink = k + m, k + m + 1
        self._tail = np.concatenate([self._item, np.arange(k), k + np.arange(m), [waiting]])
        self._head = np.concatenate([k + self._unit, np.full(k, waiting), np.full(m + 1, sink)])
        self._supply = np.concatenate([np.ones(k, dtype=np.int64), np.zeros(m + 1, dtype=np.int64), [-k]])
        self._leaving = self._cost(np.zeros(len(self._item), dtype=np.int64))
        self._leaving[len(self._item) : len(self._item) + k] = settled.tier_rank[settled.active]

    @classmethod
    def of(cls, settled: Settled) -> OneEach | None:
        """Return the model of a window, or None where some unit may take two items; O(n·m·R).

        Two items are excluded from a unit when one of its limits alone has no room for the two that need least of it,
        among those that fit there by themselves, and each of them needs some.
        """
        window, active = settled.window, settled.active
        if len(active) > 1 and not window.has_limits:
            return None
        amount = amounts(window)
        allowed = allowed_pairs(window, amount)[active]
        amount = amount[active] * settled.matters
        single = allowed.sum(axis=0) <= 1
        for r in range(window.num_resources):
            single |= _excludes_two(window, settled, amount[:, :, r], allowed, r)
        return cls(settled, amount, allowed) if single.all() else None

    def values(self, peak: Peak, top: int) -> IntArray:
        """Return the values of a peak; see `ExactModel`."""
        reached = self._reached(peak)
        return np.unique(np.concatenate([[peak.base], reached[(reached > peak.base) & (reached <= top)]]))

    def least_left_out(self, flows: Flows, tops: Corner | None) -> tuple[int, IntArray]:
        """Return the least cost of leaving items out and the placement; see `ExactModel`."""
        flow = flows.least(self._network(tops), self._leaving).amount
        return int(flow @ self._leaving), self._placement(flow)

    def best(self, flows: Flows, tops: Corner) -> IntArray:
        """Return the placement of most savings and least spread; see `ExactModel`."""
        window, pair = self.window, (self._item, self._unit)
        saved = (
            window.demand[self._settled.active[self._item]] * self._settled.matters - self._amount[pair]
        ) @ window.price
        load, added = self._settled.load[self._unit], self._amount[pair]
        largest = (window.spread_weight * (added * (2.0 * load + added))).sum(axis=1).max(initial=0)
        if largest > largest_cost(len(self._supply)):
            raise UnprovedError
        spread = (added * (2 * load + added)) @ window.spread_weight
        return self._placement(
            flows.least(self._network(tops), self._leaving, self._cost(-saved), self._cost(spread)).amount
        )

    def _reached(self, peak: Peak) -> IntArray:
        """Return int64[pairs]: the load to which each pair raises its unit, −1 for units that the peak is not of."""
        here = np.isin(self._unit, peak.units)
        return np.where(
            here,
            self._settled.load[self._unit, peak.resource] + self._amount[self._item, self._unit, peak.resource],
            -1,
        )

    def _network(self, tops: Corner | None) -> Network:
        capacity = np.ones(len(self._tail), dtype=np.int64)
        capacity[-1] = self._amount.shape[0]
        if tops is not None:
            for peak, top in zip(self.peaks, tops, strict=True):
                capacity[: len(self._item)][self._reached(peak) > top] = 0
        return Network(self._tail, self._head, capacity, self._supply)

    def _cost(self, of_pairs: IntArray) -> IntArray:
        return np.concatenate([of_pairs, np.zeros(len(self._tail) - len(of_pairs), dtype=np.int64)])

    def _placement(self, flow: IntArray) -> IntArray:
        used = flow[: len(self._item)] > 0
        unit = self._settled.unit.copy()
        unit[self._settled.active[self._item[used]]] = self._unit[used]
        return unit


def _excludes_two(window: Window, settled: Settled, amount: IntArray, allowed: BoolArray, r: int) -> BoolArray:
    """Return bool[m]: the limit of resource r has no room for two items, whichever they are."""
    needs = np.where(allowed, amount, _NONE)
    if len(needs) < 2:
        return np.ones(allowed.shape[1], dtype=np.bool_)
    least, second = np.partition(needs, 1, axis=0)[:2]
    room = window.limit[:, r] - settled.load[:, r]
    alone: BoolArray = (least > 0) & (least + second > room)
    if r == window.open_resource:
        alone &= (least >= room) | ~(allowed & window.crossing[settled.active][:, None]).any(axis=0)
    return alone
