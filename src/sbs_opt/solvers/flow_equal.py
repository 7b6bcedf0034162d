"""Windows whose items are equally large, as flows from kinds of items through hubs to units."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.placement import effective_demand
from sbs_opt.models.window import FREE
from sbs_opt.solvers.flow_exact import Peak, peaks_of
from sbs_opt.solvers.flow_network import Flows, Network, UnprovedError, largest_cost
from sbs_opt.solvers.flow_settled import Settled
from sbs_opt.solvers.flow_sizes import EqualSizes
from sbs_opt.solvers.flow_thresholds import Corner


class EqualItems:
    """The model of such a window that `solve_exact` solves.

    Items of one kind (tier, crossing, pin, savings) share a node. Kinds without a pin reach the units through a hub:
    one arc from the hub to each unit, and arcs of their own only for kinds with a pin. Where an open limit has a place
    that needs a crossing item, crossing kinds have a hub of their own, with an arc to that place and one to the other
    hub; everything else enters the unit through a node that passes what the limit allows without crossing.

    The spread of a unit is convex in the number of its items: parallel arcs of capacity 1 and increasing cost (Ahuja,
    Magnanti, Orlin 1993, chapter 14).
    """

    def __init__(self, settled: Settled, sizes: EqualSizes) -> None:
        self.window, self._settled, self._sizes = settled.window, settled, sizes
        self.peaks, self.rest = peaks_of(settled.window, settled.load, sizes.size > 0)
        self._most = sizes.room + sizes.slot
        self._set_kinds()
        self._set_arcs()

    @classmethod
    def of(cls, settled: Settled) -> EqualItems | None:
        """Return the model of a window, or None where items differ in what they add."""
        sizes = EqualSizes.of(settled)
        return None if sizes is None else cls(settled, sizes)

    def _set_kinds(self) -> None:
        window, active, slot = self.window, self._settled.active, self._sizes.slot
        pinned = window.pinned[active]
        crossing = window.crossing[active] & np.where(pinned == FREE, slot.any(), slot[pinned])
        added = effective_demand(window, window.pinned)[active]
        saved = (window.demand[active] - added) @ window.price  # with a pin; otherwise it hangs on the unit
        rows = np.stack([self._settled.tier_rank[active], crossing.astype(np.int64), pinned, saved], axis=1)
        kinds, kind = np.unique(rows, axis=0, return_inverse=True)
        self._kind = kind.reshape(-1)
        self._count = np.bincount(self._kind, minlength=len(kinds))
        self._rank, self._pinned, self._saved = kinds[:, 0], kinds[:, 2], kinds[:, 3]
        self._crossing = kinds[:, 1].astype(np.bool_)

    def _set_arcs(self) -> None:
        """Lay out all arcs but those from the units to the sink; the first ones leave items out."""
        kinds, m, slot = len(self._count), len(self._most), self._sizes.slot
        hub, crossing_hub, sink = kinds, kinds + 1, kinds + 2 + 2 * m
        unit = np.arange(m) + kinds + 2
        entry = np.where(slot, unit + m, unit)
        free, tied, slots = (np.flatnonzero(x) for x in (self._pinned == FREE, self._pinned != FREE, slot))
        direct = tied[self._crossing[tied]]
        saved = self._sizes.saved
        many = np.full(m, len(self._kind))
        blocks: dict[str, tuple[Any, Any, Any, Any]] = {
            "out": (np.arange(kinds), np.full(kinds, sink), self._count, self._rank),
            "free": (free, np.where(self._crossing[free], crossing_hub, hub), self._count[free], free * 0),
            "hubs": ([crossing_hub], [hub], [len(self._kind)], [0]),
            "hub": (np.full(m, hub), entry, many, -saved),
            "slot": (np.full(len(slots), crossing_hub), unit[slots], np.ones(len(slots)), -saved[slots]),
            "tied": (tied, entry[self._pinned[tied]], self._count[tied], -self._saved[tied]),
            "direct": (direct, unit[self._pinned[direct]], np.ones(len(direct)), -self._saved[direct]),
            "entry": (entry[slots], unit[slots], self._sizes.room[slots], slots * 0),
        }
        ends = np.cumsum([0] + [len(block[0]) for block in blocks.values()]).tolist()
        self._at = {name: slice(*ends[k : k + 2]) for k, name in enumerate(blocks)}
        self._tail, self._head, self._capacity, cost = (
            np.concatenate([np.asarray(block[k], dtype=np.int64) for block in blocks.values()]) for k in range(4)
        )
        self._leaving, self._saving = cost.copy(), cost
        self._leaving[kinds:] = 0
        self._saving[:kinds] = 0
        self._unit = unit
        self._supply = np.zeros(sink + 1, dtype=np.int64)
        self._supply[:kinds] = self._count
        self._supply[sink] = -len(self._kind)

    def _network(self, unit: IntArray, capacity: IntArray) -> Network:
        """Return the network with these arcs from units to the sink."""
        return Network(
            np.concatenate([self._tail, unit]),
            np.concatenate([self._head, np.full(len(unit), len(self._supply) - 1)]),
            np.concatenate([self._capacity, capacity]),
            self._supply,
        )

    def values(self, peak: Peak, top: int) -> IntArray:
        """Return the values of a peak; see `ExactModel`."""
        load, size = self._settled.load[peak.units, peak.resource], self._sizes.size[peak.units, peak.resource]
        count = np.minimum(self._most[peak.units], np.maximum(top - load, 0) // size)
        nth = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count) + 1
        reached = np.repeat(load, count) + nth * np.repeat(size, count)
        return np.unique(np.concatenate([[peak.base], reached[reached > peak.base]]))

    def least_left_out(self, flows: Flows, tops: Corner | None) -> tuple[int, IntArray]:
        """Return the least cost of leaving items out and the placement; see `ExactModel`."""
        width = self._most if tops is None else self._width(tops)
        network = self._network(self._unit, width)
        cost = np.concatenate([self._leaving, np.zeros(len(width), dtype=np.int64)])
        flow = flows.least(network, cost).amount
        return int(flow @ cost), self._placement(flow)

    def best(self, flows: Flows, tops: Corner) -> IntArray:
        """Return the placement of most savings and least spread; see `ExactModel`.

        A unit starts with few parallel arcs and gets more while a flow fills them: those that are missing would cost
        more than the ones that are there, so a flow that leaves one of each unit empty is the least of all.
        """
        most = self._width(tops)
        _, unit = self.least_left_out(flows, tops)
        placed = unit[self._settled.active]
        count = np.bincount(placed[placed >= 0], minlength=len(most))
        width = np.minimum(most, count + 1)
        while True:
            arcs = np.repeat(np.arange(len(width)), width)
            nth = np.arange(len(arcs)) - np.repeat(np.cumsum(width) - width, width)
            network = self._network(self._unit[arcs], np.ones(len(arcs), dtype=np.int64))
            nothing = np.zeros(len(arcs), dtype=np.int64)
            leaving = np.concatenate([self._leaving, nothing])
            saving = np.concatenate([self._saving, nothing])
            spread = np.concatenate([self._leaving * 0, self._spread_costs(arcs, nth, len(self._supply))])
            flow = flows.least(network, leaving, saving, spread).amount
            used = np.bincount(arcs, weights=flow[len(self._tail) :], minlength=len(width)).astype(np.int64)
            full = (used == width) & (width < most)
            if not full.any():
                return self._placement(flow)
            width = np.where(full, np.minimum(most, 2 * width), width)

    def _width(self, tops: Corner) -> IntArray:
        """Return how many items each unit may take with its loads up to `tops`."""
        width = self._most.copy()
        for peak, top in zip(self.peaks, tops, strict=True):
            u, r = peak.units, peak.resource
            width[u] = np.minimum(width[u], (top - self._settled.load[u, r]) // self._sizes.size[u, r])
        return width

    def _spread_costs(self, unit: IntArray, nth: IntArray, nodes: int) -> IntArray:
        """Return by how much the nth item on a unit raises the spread, shifted and divided by the common divisor.

        As many items are placed in every flow that is compared, so a shift changes nothing.
        """
        weight = self.window.spread_weight.astype(object)
        load, size = self._settled.load.astype(object), self._sizes.size.astype(object)
        first = ((2 * load * size + size * size) @ weight).tolist()
        step = ((2 * size * size) @ weight).tolist()
        base = min(first)
        divisor = math.gcd(*(x - base for x in first), *step) or 1
        first, step = [(x - base) // divisor for x in first], [x // divisor for x in step]
        if max(first) + max(step) * len(self._kind) > largest_cost(nodes):
            raise UnprovedError
        cost: IntArray = np.array(first)[unit] + np.array(step)[unit] * nth
        return cost

    def _placement(self, flow: IntArray) -> IntArray:
        """Send the items of each kind where the flow goes; those of one kind are interchangeable."""
        members = np.argsort(self._kind, kind="stable")
        first = np.cumsum(self._count) - self._count
        out = flow[self._at["out"]]
        placed = np.arange(len(members)) - np.repeat(first, self._count) < np.repeat(self._count - out, self._count)
        kind_of = self._kind[members]
        pinned = self._pinned[kind_of]
        unit = np.where(placed, pinned, FREE)
        free = placed & (pinned == FREE)
        crossing = members[free & self._crossing[kind_of]]
        others = members[free & ~self._crossing[kind_of]]
        slots = np.flatnonzero(self._sizes.slot)[flow[self._at["slot"]] > 0]
        everywhere = np.repeat(np.arange(len(self._most)), flow[self._at["hub"]])
        active = np.empty(len(members), dtype=np.int64)
        active[members] = unit
        active[crossing[: len(slots)]] = slots
        active[np.concatenate([crossing[len(slots) :], others])] = everywhere
        result = self._settled.unit.copy()
        result[self._settled.active] = active
        return result
