"""Minimum-cost flow by OR-Tools' cost-scaling push-relabel algorithm."""

from __future__ import annotations

import numpy as np
from ortools.graph.python import min_cost_flow

from sbs_opt.models.checks import IntArray
from sbs_opt.solvers.flow import FlowSolver
from sbs_opt.solvers.flow_network import Network


class MinCostFlowOrTools(FlowSolver):
    """`FlowSolver` with SimpleMinCostFlow of OR-Tools (Goldberg 1997)."""

    def engine(self, network: Network, cost: IntArray) -> IntArray | None:
        """Return a flow of least cost, or None where OR-Tools finds none."""
        solver = min_cost_flow.SimpleMinCostFlow()
        arcs = solver.add_arcs_with_capacity_and_unit_cost(
            network.tail.astype(np.int32), network.head.astype(np.int32), network.capacity, cost
        )
        solver.set_nodes_supplies(np.arange(len(network.supply), dtype=np.int32), network.supply)
        if solver.solve() != solver.OPTIMAL:
            return None
        flow: IntArray = solver.flows(arcs)
        return flow
