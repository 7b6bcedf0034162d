"""Node potentials of a flow: the certificate that no cheaper one exists."""

from __future__ import annotations

from numba import njit

from sbs_opt.models.checks import IntArray

LARGEST_DISTANCE = 2**60
"""No path costs more than this; see `flow_network.largest_cost`."""


@njit(cache=True, nogil=True)
def potentials(
    tail: IntArray, head: IntArray, capacity: IntArray, cost: IntArray, flow: IntArray, potential: IntArray
) -> bool:
    """Write shortest distances in the residual network into `potential` (zeros) by Bellman and Ford.

    Returns
    -------
    Whether they exist, that is, whether the residual network has no negative cycle and the flow is of least cost.
    O(nodes · arcs) at worst; a few passes over the arcs where paths are short, as they are through a hub.
    """
    for _ in range(len(potential) + 1):
        changed = False
        for arc in range(len(tail)):
            one, other = tail[arc], head[arc]
            if flow[arc] < capacity[arc] and potential[one] + cost[arc] < potential[other]:
                potential[other] = potential[one] + cost[arc]
                changed = True
            if flow[arc] > 0 and potential[other] - cost[arc] < potential[one]:
                potential[one] = potential[other] - cost[arc]
                changed = True
            if potential[one] < -LARGEST_DISTANCE or potential[other] < -LARGEST_DISTANCE:
                return False  # only a negative cycle gets there
        if not changed:
            return True
    return False
