"""Minimum-cost flow by NetworkX's network simplex: the reference, in plain Python."""

from __future__ import annotations

import networkx
import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.solvers.flow import FlowSolver
from sbs_opt.solvers.flow_network import Network


class MinCostFlow(FlowSolver):
    """`FlowSolver` with the network simplex of NetworkX (Orlin 1997)."""

    def engine(self, network: Network, cost: IntArray) -> IntArray:
        """Return a flow of least cost."""
        graph = networkx.MultiDiGraph()
        graph.add_nodes_from((node, {"demand": -supply}) for node, supply in enumerate(network.supply.tolist()))
        columns = (network.tail.tolist(), network.head.tolist(), network.capacity.tolist(), cost.tolist())
        for arc, (tail, head, capacity, weight) in enumerate(zip(*columns, strict=True)):
            graph.add_edge(tail, head, key=arc, capacity=capacity, weight=weight)
        _, flow = networkx.network_simplex(graph)
        amount = np.zeros(len(cost), dtype=np.int64)
        for heads in flow.values():
            for arcs in heads.values():
                for arc, value in arcs.items():
                    amount[arc] = value
        return amount
