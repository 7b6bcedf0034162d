"""Windows of unequal items as a fluid: a bound of the bottleneck, and which savings to go for."""

from __future__ import annotations

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.placement import effective_demand
from sbs_opt.models.window import FREE, Window
from sbs_opt.solvers.bounds import forced_out, lower_bound
from sbs_opt.solvers.columns import columns_of
from sbs_opt.solvers.flow_exact import Best, Claim
from sbs_opt.solvers.flow_network import LARGEST_FLOW, Flow, Flows, Network, UnprovedError
from sbs_opt.solvers.greedy import longest_first
from sbs_opt.solvers.greedy_kernel import LEAST_INCREASE, greedy

_SCALE = 2**16
"""Costs are in these fractions of an item's least work."""

_SHARES = (100, 95, 90, 80)
"""Levels to round at, in percent of the least one: what is kept free lets the items without a preference fit in."""

_MOST_ROUNDS = 30
"""Newton steps; fewer than ten happen."""


class FluidItems:
    """The priced work of some items, as a fluid that prefers the units that save.

    Item i supplies q, the least work that it adds to a unit. It flows along an arc to each unit that saves something
    for it, or to its pin, and otherwise through the hub to any unit; an arc costs, per unit of flow, the share by which
    the work added there exceeds q. A unit passes `level` − load.

    Parameters
    ----------
    window
        The window.
    items
        int64[k], the items that flow.
    """

    def __init__(self, window: Window, items: IntArray) -> None:
        self.window = window
        self.load: IntArray = window.load @ window.price
        self._set_pairs(items)
        self._set_arcs()

    def _set_pairs(self, items: IntArray) -> None:
        """Collect the (item, unit) pairs that get an arc, and the least work of each item."""
        window = self.window
        pinned = window.pinned
        work = effective_demand(window, pinned) @ window.price
        tied = items[pinned[items] != FREE]
        item, unit, added = tied, pinned[tied], work[tied]
        savings = window.savings
        if savings is not None:
            value = savings.value @ window.price
            use = (value > 0) & (pinned[savings.item] == FREE) & np.isin(savings.item, items)
            item = np.concatenate([item, savings.item[use]])
            unit = np.concatenate([unit, savings.unit[use]])
            added = np.concatenate([added, work[savings.item[use]] - value[use]])
        self.least = work.copy()
        np.minimum.at(self.least, item, added)
        flows, idle = self.least[item] > 0, added == 0
        self.idle_item, self.idle_unit = item[idle], unit[idle]
        self.item, self.unit, self.added = item[flows], unit[flows], added[flows]
        self.nodes = items[self.least[items] > 0]
        self.work = work

    def _set_arcs(self) -> None:
        """Lay out the arcs; the levels decide the capacity of the last ones, from units to the sink."""
        m, least, nodes = len(self.load), self.least, self.nodes
        self.total = int(least[nodes].sum())
        if max(int(self.work.sum()) * _SCALE, self.total * (m + 2)) >= LARGEST_FLOW:
            raise UnprovedError
        node_of = np.zeros(self.window.num_items, dtype=np.int64)
        node_of[nodes] = np.arange(len(nodes))
        hub, unit = len(nodes), len(nodes) + 1 + np.arange(m)
        sink = hub + 1 + m
        free = nodes[self.window.pinned[nodes] == FREE]
        everything = np.full(m, self.total)
        extra = [
            (self.added - least[self.item]) * _SCALE // least[self.item],
            (self.work - least)[free] * _SCALE // least[free],
        ]
        self.overflow_cost = max(int(cost.max(initial=0)) for cost in extra) + 2 * _SCALE
        blocks = (
            (node_of[self.item], unit[self.unit], least[self.item], extra[0]),
            (node_of[free], np.full(len(free), hub), least[free], extra[1]),
            (np.arange(hub), np.full(hub, sink), least[nodes], np.full(hub, self.overflow_cost)),
            (np.full(m, hub), unit, everything, everything * 0),
            (unit, np.full(m, sink), everything, everything * 0),
        )
        self.tail, self.head, self.capacity, self.cost = (np.concatenate([b[k] for b in blocks]) for k in range(4))
        self._overflow = slice(len(self.item) + len(free), len(self.item) + len(free) + hub)
        self._supply = np.zeros(sink + 1, dtype=np.int64)
        self._supply[:hub] = least[nodes]
        self._supply[sink] = -self.total

    def network(self, level: IntArray) -> Network:
        """Return the network in which unit u passes what is between its load and `level[u]`, int64[m]."""
        capacity = self.capacity.copy()
        capacity[-len(level) :] = np.clip(level - self.load, 0, self.total)
        return Network(self.tail, self.head, capacity, self._supply)

    def bound(self, flows: Flows, low: int, high: int) -> int:
        """Return a level below which no placement of all these items has every unit's priced load; one group only.

        At level T a placement of all items within T is a flow, whose supply and cost together are work that the units
        hold: cost(T) + Σ q ≤ Σ (T − load). What is missing is convex in T and never rises, so Newton's method from
        below does not pass the least T of which this is true. The reduced costs of the units' arcs give its slope.
        Costs are rounded down: every level that is called too low is.

        Where the units that save for an item all save the same, that T is the bound of the linear relaxation: the fluid
        in the hub may lie anywhere, so it fills what the savers leave.

        Parameters
        ----------
        low, high
            A level that is known to be a bound, not below any load, and one at which to stop.
        """
        room = -int(self.total) - int(self.load.sum())
        m = len(self.load)
        for _ in range(_MOST_ROUNDS):
            if low >= high:
                break
            flow = flows.least(self.network(np.full(m, low)), self.cost)
            missing = self._extra(flow) - (room + m * low) * _SCALE
            if missing <= 0:
                break
            slope = m * _SCALE - int(np.minimum(flow.slack[-m:], 0).sum())
            low += -(-missing // slope)
        return min(low, high)

    def _extra(self, flow: Flow) -> int:
        overflow = int(flow.amount[self._overflow].sum()) * self.overflow_cost
        cost = self.cost.copy()
        cost[self._overflow] = 0
        return int(flow.amount @ cost) + overflow

    def preferred(self, flows: Flows, level: IntArray) -> IntArray:
        """Return int64[n]: the unit to which more than half of an item flows on an arc of its own, −1 elsewhere.

        Of the flows that are least, one is singled out by pseudo-random costs, so that it hangs on the window alone and
        not on the engine.
        """
        network = self.network(level)
        amount = flows.least(network, self.cost, _pseudo_random(len(self.cost))).amount[: len(self.item)]
        most = 2 * amount > self.least[self.item]
        unit = np.full(self.window.num_items, FREE, dtype=np.int64)
        unit[self.idle_item] = self.idle_unit
        unit[self.item[most]] = self.unit[most]
        return unit


def _pseudo_random(count: int) -> IntArray:
    """Return int64[count] below 2^40: SplitMix64 of the index (Steele, Lea, Flood 2014)."""
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(24)).astype(np.int64)


def solve_fluid(window: Window, flows: Flows, best: Best) -> Claim:
    """Improve the incumbent by rounding the fluid, and prove a bound where one group takes everything that fits.

    The bound needs to know which items are placed: it is claimed where only items are left out that fit on no unit.
    """
    claim = Claim()
    try:
        placed = np.flatnonzero(best.unit >= 0)
        fluid = FluidItems(window, placed)
        if len(fluid.item) == 0:  # the fluid is level: a bound that everyone knows, and nothing to round
            return claim
        group = np.unique(window.group, return_inverse=True)[1]
        level = _levels(window, fluid.load, group, best.unit)
        if group.max() == 0 and best.objective.left_out == forced_out(window):
            low = max(lower_bound(window, best.objective.left_out), int(fluid.load.max()))
            claim.bound = fluid.bound(flows, low, best.objective.bottleneck)
            level[:] = claim.bound
        for share in _SHARES:
            best.offer(_rounded(window, fluid.preferred(flows, level - level // 100 * (100 - share))))
    except UnprovedError:
        pass
    return claim


def _levels(window: Window, load: IntArray, group: IntArray, unit: IntArray) -> IntArray:
    """Return int64[m]: the greatest priced load in each unit's group under a placement."""
    level = load.copy()
    placed = unit >= 0
    np.add.at(level, unit[placed], (effective_demand(window, unit) @ window.price)[placed])
    top = np.zeros(int(group.max()) + 1, dtype=np.int64)
    np.maximum.at(top, group, level)
    return top[group]


def _rounded(window: Window, preferred: IntArray) -> IntArray:
    """Place items on the units that they prefer where limits allow it, the others longest first around them."""
    order = longest_first((effective_demand(window, preferred) @ window.price).astype(np.int64))
    chosen = order[preferred[order] != FREE]
    columns = columns_of(window)._replace(pinned=preferred)
    unit, _, _, _ = greedy(columns, chosen, LEAST_INCREASE)
    return _completed(window, unit, order)


def _completed(window: Window, unit: IntArray, order: IntArray) -> IntArray:
    """Place the items without a unit around those that have one, each where it raises the bottleneck least.

    What a unit may take it may also take in part, so the placed ones go first and stay where they are.

    Parameters
    ----------
    window
        The window.
    unit
        int64[n], a placement.
    order
        int64[n], all items; those without a unit are placed in this order.
    """
    placed = unit[order] != FREE
    columns = columns_of(window)._replace(pinned=np.where(unit == FREE, window.pinned, unit))
    return greedy(columns, np.concatenate([order[placed], order[~placed]]), LEAST_INCREASE)[0]
