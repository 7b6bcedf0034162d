"""Slow, obviously correct answers for small windows: every placement is tried and judged by `verify`."""

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
