"""The judge of a placement in plain Python: says in words which rule is broken, and needs no compiler.

`verify` comes here when its kernel meets a broken rule; the tests hold the two against each other.
"""

from __future__ import annotations

from typing import Any

from sbs_opt.models.errors import PlacementError
from sbs_opt.models.objective import Objective
from sbs_opt.models.placement import Placement
from sbs_opt.models.window import UNLIMITED, Window


def verify_plainly(window: Window, placement: Placement | Any) -> Objective:
    """Check every rule of the window and return the objective.

    Parameters
    ----------
    window
        The window.
    placement
        A `Placement`, or the unit of each item as an array-like, −1 = left out.

    Returns
    -------
    Objective
        Recomputed in exact integers. O((n + m)·R + k) for k savings.

    Raises
    ------
    PlacementError
        When the placement breaks a rule; the message names item, unit and resource.
    """
    if not isinstance(placement, Placement):
        placement = Placement(placement)
    unit: list[int] = placement.unit.tolist()
    n, m = window.num_items, window.num_units
    if len(unit) != n:
        raise PlacementError(f"the placement has {len(unit)} entries, the window has {n} items")
    for i, u in enumerate(unit):
        if u < -1:
            raise PlacementError(f"item {i} is on unit {u}: give -1 to leave it out")
        if u >= m:
            raise PlacementError(f"item {i} is on unit {u}, the window has {m} units")
    for i, wanted in enumerate(window.pinned.tolist()):
        if wanted >= 0 and unit[i] not in (wanted, -1):
            raise PlacementError(f"item {i} is pinned to unit {wanted} but placed on unit {unit[i]}")

    added = window.demand.tolist()
    saved = _apply_savings(window, unit, added)
    items_of: list[list[int]] = [[] for _ in range(m)]
    for i, u in enumerate(unit):
        if u >= 0:
            items_of[u].append(i)
    load = window.load.tolist()
    for u in range(m):
        for r in range(window.num_resources):
            _check_limit(window, u, r, load[u][r], items_of[u], added)
            load[u][r] += sum(added[i][r] for i in items_of[u])

    price, weight = window.price.tolist(), window.spread_weight.tolist()
    peak: dict[tuple[int, int], int] = {}
    for u, group in enumerate(window.group.tolist()):
        for r, value in enumerate(load[u]):
            peak[group, r] = max(peak.get((group, r), 0), value)
    tier = window.tier.tolist()
    left_out = dict.fromkeys(sorted(set(tier)), 0)
    for i, u in enumerate(unit):
        if u < 0:
            left_out[tier[i]] += 1
    return Objective(
        left_out=tuple(left_out.values()),
        bottleneck=sum(price[r] * value for (_, r), value in peak.items()),
        saved=saved,
        spread=sum(weight[r] * value * value for row in load for r, value in enumerate(row)),
    )


def _apply_savings(window: Window, unit: list[int], added: list[list[int]]) -> int:
    """Subtract what the chosen units save from `added`, in place; return the priced total."""
    if window.savings is None:
        return 0
    total = 0
    price = window.price.tolist()
    rows = zip(window.savings.item.tolist(), window.savings.unit.tolist(), window.savings.value.tolist(), strict=True)
    for i, u, value in rows:
        if unit[i] == u:
            for r, saving in enumerate(value):
                added[i][r] -= saving
                total += price[r] * saving
    return total


def _check_limit(window: Window, u: int, r: int, load: int, items: list[int], added: list[list[int]]) -> None:
    limit = int(window.limit[u, r])
    amounts = [(added[i][r], i) for i in items if added[i][r] > 0]
    if limit == UNLIMITED or not amounts:
        return
    total = load + sum(amount for amount, _ in amounts)
    if total <= limit:
        return
    if r != window.open_resource:
        raise PlacementError(f"unit {u}, resource {r}: load {total} exceeds the limit {limit}")
    longest = max(amount for amount, _ in amounts)
    may_cross = any(bool(window.crossing[i]) for amount, i in amounts if amount == longest)
    if not may_cross:
        raise PlacementError(f"unit {u}, resource {r}: load {total} exceeds {limit} and its longest item may not cross")
    if total - longest >= limit:
        raise PlacementError(
            f"unit {u}, resource {r}: {total - longest} is used before the longest item starts, the budget is {limit}"
        )
