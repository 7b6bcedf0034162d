"""Networks as arrays, and flows that are least in several costs, one after the other, with a certificate."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.flow_kernel import LARGEST_DISTANCE, potentials

LARGEST_FLOW = 2**60
"""Capacities are cut to this; what a node could receive stays below it."""


_log = logging.getLogger(__name__)


class Network(NamedTuple):
    """Arcs and nodes; the last node is the sink.

    Parameters
    ----------
    tail, head, capacity
        int64[arcs].
    supply
        int64[nodes], negative at the sink; its sum is 0.
    """

    tail: IntArray
    head: IntArray
    capacity: IntArray
    supply: IntArray


class Flow(NamedTuple):
    """A flow of least cost.

    Parameters
    ----------
    amount
        int64[arcs].
    slack
        int64[arcs], the reduced cost of each arc under optimal potentials of the first cost: above 0 no flow of least
        cost uses the arc, below 0 every such flow fills it, and one more unit of its capacity saves at most −slack.
    """

    amount: IntArray
    slack: IntArray


Engine = Callable[[Network, IntArray], IntArray | None]
"""Returns int64[arcs], a flow of least cost, or None where it fails; whatever it says is checked."""


class UnprovedError(Exception):
    """No flow that is proved to be of least cost: the budget is spent, the numbers are too large, the engine failed."""


def largest_cost(nodes: int) -> int:
    """Return the greatest cost of an arc for which sums along a path, and OR-Tools' scaled costs, stay in 64 bits."""
    return LARGEST_DISTANCE // (nodes + 2)


class Flows:
    """Runs an engine within a budget and believes none of its answers.

    A step is one arc of a network that was solved.
    """

    def __init__(self, engine: Engine, budget: Budget) -> None:
        self._engine, self._budget = engine, budget

    def least(self, network: Network, *costs: IntArray) -> Flow:
        """Return a flow that is least in the first cost, among those in the second, and so on; zero costs are skipped.

        The flows that are least in one cost are those with zero flow on arcs of positive reduced cost and full flow on
        arcs of negative reduced cost (complementary slackness: Ahuja, Magnanti, Orlin 1993, chapter 9), so the next
        cost is minimised over the remaining arcs. Weights that make one cost outrank the next would leave 64 bits.

        Raises
        ------
        UnprovedError
        """
        amount = np.zeros(len(network.tail), dtype=np.int64)
        slack = amount
        arcs = np.arange(len(network.tail))
        rest = network
        for k, cost in enumerate([cost for cost in costs if cost.any()] or costs[:1]):
            flow, reduced = self._least(rest, cost[arcs])
            amount[arcs] = flow
            if k == 0:
                slack = reduced
            tight = reduced == 0
            rest, arcs = _without(rest, ~tight, flow), arcs[tight]
        return Flow(amount, slack)

    def afford(self, steps: int) -> bool:
        """Book work, or tell that the budget is spent."""
        if self._budget.slice_steps() == 0:
            return False
        self._budget.spend(steps)
        return True

    def _least(self, network: Network, cost: IntArray) -> tuple[IntArray, IntArray]:
        if len(cost) and max(int(cost.max()), -int(cost.min())) > largest_cost(len(network.supply)):
            raise UnprovedError
        if not self.afford(len(cost)):
            raise UnprovedError
        flow = self._run(network, cost)
        reduced = None if flow is None else _reduced_costs(network, cost, flow)
        if flow is None or reduced is None:
            raise UnprovedError
        return flow, reduced

    def _run(self, network: Network, cost: IntArray) -> IntArray | None:
        if len(cost) == 0:
            return cost
        try:
            return self._engine(network, cost)
        except Exception as error:  # whatever a foreign solver raises
            name = getattr(self._engine, "__qualname__", "engine")
            _log.warning("%s raised %s: %s; the placement known before stays", name, type(error).__name__, error)
            return None


def _without(network: Network, gone: np.ndarray, flow: IntArray) -> Network:
    """Take out the arcs that are `gone`, with what flows on them."""
    supply = network.supply.copy()
    np.subtract.at(supply, network.tail[gone], flow[gone])
    np.add.at(supply, network.head[gone], flow[gone])
    kept = ~gone
    return Network(network.tail[kept], network.head[kept], network.capacity[kept], supply)


def _reduced_costs(network: Network, cost: IntArray, flow: IntArray) -> IntArray | None:
    """Return the reduced costs that prove the flow to be of least cost, or None where it is not, or is no flow."""
    if flow.shape != cost.shape or (flow < 0).any() or (flow > network.capacity).any():
        return None
    balance = network.supply.copy()
    np.subtract.at(balance, network.tail, flow)
    np.add.at(balance, network.head, flow)
    if balance.any():
        return None
    potential = np.zeros(len(network.supply), dtype=np.int64)
    if not potentials(network.tail, network.head, network.capacity, cost, flow, potential):
        return None
    return cost + potential[network.tail] - potential[network.head]
