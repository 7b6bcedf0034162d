"""Placement by assignments of one item to a unit, with SciPy."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import Window
from sbs_opt.solvers.assignment_exchange import exchange
from sbs_opt.solvers.assignment_model import OneEach
from sbs_opt.solvers.flow import FlowSolver
from sbs_opt.solvers.flow_exact import Best, Claim, ExactModel
from sbs_opt.solvers.flow_network import Flows, Network
from sbs_opt.solvers.flow_settled import Settled


class Assignment(FlowSolver):
    """Linear sum assignments (Jonker and Volgenant 1987, in SciPy's version by Crouse 2016).

    Exact where limits keep every unit from taking two items (see `OneEach`): left out, bottleneck, savings and spread
    are all least. In other windows units exchange items by assignments (`exchange`), and local search goes on.

    A step is an arc of a network that was solved, an entry of a matrix, or a step of `lpt` and `local_search`.
    """

    def engine(self, network: Network, cost: IntArray) -> IntArray:
        """Return a flow of least cost in a network of items, places and a sink; see `Engine`.

        A place has as many columns as items may end there. Where arcs that every flow fills were taken out, some
        columns must be taken: then free rows fill up the matrix that may take any column but those.
        """
        sink = len(network.supply) - 1
        to_sink = np.flatnonzero(network.head == sink)
        to_place = np.flatnonzero(network.head != sink)
        places = np.unique(network.head[to_place])
        alive = to_place[(network.capacity[to_place] > 0) & (network.supply[network.tail[to_place]] > 0)]
        items = np.unique(network.tail[alive])
        open_to = np.zeros(sink + 1, dtype=np.int64)
        open_to[network.tail[to_sink]] = network.capacity[to_sink]

        arc_of = np.full((len(items), len(places)), -1)
        arc_of[np.searchsorted(items, network.tail[alive]), np.searchsorted(places, network.head[alive])] = alive
        must = np.maximum(-network.supply[places], 0)
        copies = np.clip(open_to[places] - network.supply[places], 0, len(items))
        column = np.repeat(np.arange(len(places)), copies)
        compulsory = np.arange(len(column)) - np.repeat(np.cumsum(copies) - copies, copies) < must[column]
        arc = arc_of[:, column]
        matrix = np.where(arc >= 0, cost[arc], np.inf)
        if compulsory.any():
            fillers = np.where(compulsory, np.inf, 0.0)
            matrix = np.concatenate([matrix, np.tile(fillers, (len(column) - len(items), 1))])
        row, chosen = linear_sum_assignment(matrix)
        used = arc[row[row < len(items)], chosen[row < len(items)]]

        flow = np.zeros(len(cost), dtype=np.int64)
        flow[used] = 1
        arriving = network.supply + np.bincount(network.head[used], minlength=sink + 1)
        flow[to_sink] = arriving[network.tail[to_sink]]
        return flow

    def _model(self, settled: Settled) -> ExactModel | None:
        return OneEach.of(settled)

    def _approximate(self, window: Window, flows: Flows, best: Best, seed: int) -> Claim:
        exchange(window, flows, best, seed)
        return Claim()
