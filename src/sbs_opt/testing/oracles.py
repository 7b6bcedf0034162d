"""Obviously correct answers for small windows: every placement is tried and judged by `verify`.

`least_makespan` is the faster oracle of the textbook case: one resource, loads and savings, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from sbs_opt.models.errors import InputError, PlacementError
from sbs_opt.models.objective import Objective
from sbs_opt.models.placement import Placement
from sbs_opt.models.verify import verify
from sbs_opt.models.window import FREE, Window

MOST_PLACEMENTS = 1_000_000
"""Windows with more placements than this are refused."""


def every_placement(window: Window) -> Iterator[tuple[Placement, Objective]]:
    """Yield each feasible placement of the window with its objective; O((m + 1)^n).

    Raises
    ------
    InputError
        When there are more than `MOST_PLACEMENTS` to try.
    """
    count = (window.num_units + 1) ** window.num_items
    if count > MOST_PLACEMENTS:
        raise InputError(f"the window has {count} placements, brute force stops at {MOST_PLACEMENTS}: use fewer items")
    for units in product(range(FREE, window.num_units), repeat=window.num_items):
        placement = Placement(units)
        try:
            yield placement, verify(window, placement)
        except PlacementError:  # the oracle's very question: infeasible, so not yielded
            continue


def best_placement(window: Window) -> tuple[Placement, Objective]:
    """Return a placement whose whole objective is least, and that objective."""
    return min(every_placement(window), key=lambda pair: pair[1])


def least_bottlenecks(window: Window) -> dict[tuple[int, ...], int]:
    """Return, for each `left_out` tuple that some placement has, the least bottleneck among those placements."""
    least: dict[tuple[int, ...], int] = {}
    for _, objective in every_placement(window):
        known = least.get(objective.left_out, objective.bottleneck)
        least[objective.left_out] = min(known, objective.bottleneck)
    return least


def least_makespan(window: Window) -> int:
    """Return the least bottleneck of a window with one resource that leaves nothing out.

    Every vector of loads that can be reached is kept, item by item, unless it is no better than what is known; units
    without savings are alike, so their loads are kept sorted. Fast up to about a dozen items.

    Raises
    ------
    InputError
        The window uses a field other than savings.
    """
    beyond = sorted(window.fields_in_use - {"savings"})
    if beyond:
        raise InputError(f"the window uses {beyond[0]}, for which there is best_placement")
    sizes = [[demand] * window.num_units for demand in window.demand[:, 0].tolist()]
    if window.savings is not None:
        rows = zip(window.savings.item.tolist(), window.savings.unit.tolist(), window.savings.value[:, 0], strict=True)
        for item, unit, value in rows:
            sizes[item][unit] -= int(value)
    sizes.sort(key=max, reverse=True)
    loads = window.load[:, 0].tolist()
    known = _least_loaded_first(sizes, loads)
    level = -(-(sum(loads) + sum(map(min, sizes))) // len(loads))
    if known == max(level, *loads, *map(min, sizes)):
        return int(window.price[0]) * known
    alike = window.savings is None
    reached = {tuple(sorted(loads) if alike else loads)}
    for size in sizes:
        further = (
            (*state[:unit], state[unit] + size[unit], *state[unit + 1 :])
            for state in reached
            for unit in range(len(state))
        )
        reached = {tuple(sorted(state)) if alike else state for state in further if max(state) < known}
    return int(window.price[0]) * min((max(state) for state in reached), default=known)


def _least_loaded_first(sizes: list[list[int]], loads: list[int]) -> int:
    """Return the greatest load when each item goes where it ends soonest."""
    now = list(loads)
    for size in sizes:
        unit = min(range(len(now)), key=lambda u: now[u] + size[u])
        now[unit] += size[unit]
    return max(now)
