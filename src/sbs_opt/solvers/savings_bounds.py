"""Lower bounds for windows with savings: a quick one for one resource, and the linear relaxation for any window.

The linear relaxation splits items: a share of each goes to units that it hits, the rest is a fluid that any unit may
take, so there are variables for the hits and not for every pair. What the solver reports is a float and proves
nothing. Its prices do, whatever they are: with y_ur ≥ 0 and Σ_{u in g} y_ur ≤ λ_r for each group g,

    Σ_g Σ_r λ_r·peak_gr ≥ Σ_u Σ_r y_ur·load'_ur + Σ_g Σ_r (λ_r − Σ_{u in g} y_ur)·initial peak_gr,

and each item adds at least the cheapest of its choices to the first sum. So the prices are rounded to fractions with a
common denominator and this sum is taken in exact integers (weak duality).
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.models.errors import InputError
from sbs_opt.models.placement import effective_demand
from sbs_opt.models.window import FREE, Window
from sbs_opt.solvers.bound_kernel import alone
from sbs_opt.solvers.columns import Columns, columns_of
from sbs_opt.solvers.savings_bound_kernel import savings_bound
from sbs_opt.solvers.savings_columns import is_one_column, savings_columns

_DENOMINATOR = 1 << 50
"""Of the rounded prices; finer than what the solver computes with."""


def quick_bound(window: Window) -> int:
    """Return a lower bound of the bottleneck of every placement that leaves nothing out; see `savings_bound_kernel`.

    About 10 µs at 512 items and 32 units; some 50 µs where many items hit the same units.

    Raises
    ------
    InputError
        Unless `is_one_column` holds.
    """
    if not is_one_column(window):
        raise InputError("window: this bound is for one priced resource, one group and no limits")
    return int(window.price[0]) * int(savings_bound(savings_columns(window)))


def linear_bound(window: Window, left_out: tuple[int, ...]) -> int:
    """Return the bound of the linear relaxation for every placement with this `left_out` tuple.

    Any window; limits count only in that an item which fits on no unit alone is left out. One linear program by HiGHS
    with n + k + m·R columns and n + m·R rows: milliseconds to a second, so it is asked for by name.

    Parameters
    ----------
    window
        The window.
    left_out
        One count per tier present, as in `Objective`.

    Returns
    -------
    int
        Proved in exact integers. Where HiGHS fails, the greatest initial peaks, which is all that is known then.

    Raises
    ------
    InputError
        When `left_out` has not one count per tier, or one below the number of items that fit nowhere.
    """
    columns = columns_of(window)
    possible, _ = alone(columns)
    spare = _spare(window, possible, left_out)
    relaxation = _LinearRelaxation(window, columns, possible, spare)
    if not relaxation.price or not possible.any():
        return int((columns.peak @ window.price).sum())
    return relaxation.value_of(relaxation.prices())


def _spare(window: Window, possible: BoolArray, left_out: tuple[int, ...]) -> list[int]:
    """Return how many of the items that do fit somewhere are left out, tier by tier."""
    if len(left_out) != len(window.tiers):
        raise InputError(f"left_out = {left_out}: the window has {len(window.tiers)} tiers")
    spare = []
    for tier, count in zip(window.tiers, left_out, strict=True):
        forced = int((~possible & (window.tier == tier)).sum())
        if not forced <= count <= int((window.tier == tier).sum()):
            raise InputError(f"left_out = {left_out}: no placement leaves {count} items of tier {tier} out")
        spare.append(count - forced)
    return spare


class _LinearRelaxation:
    """The relaxation of one window: items that fit somewhere, priced resources, hits; a pin is a hit too."""

    def __init__(self, window: Window, columns: Columns, possible: BoolArray, spare: list[int]) -> None:
        self.priced = np.flatnonzero(window.price > 0)
        self.price = window.price[self.priced].tolist()
        self.load = window.load[:, self.priced]
        self.group, self.peak = columns.group, columns.peak[:, self.priced]
        items = np.flatnonzero(possible)
        self.demand = window.demand[items][:, self.priced]
        self.pinned = window.pinned[items] != FREE
        self.tier = np.searchsorted(window.tiers, window.tier[items])
        self.spare = spare
        self.item, self.unit, self.amount = _hits(window, possible)
        self.amount = self.amount[:, self.priced]

    def prices(self) -> list[list[int]]:
        """Solve the program; return the price of each unit and resource, in parts of that of the resource."""
        from scipy.optimize import linprog

        m, resources = self.load.shape
        scale = np.maximum(1.0, self.load.sum(axis=0) + self.demand.sum(axis=0, dtype=np.float64))
        cost = np.array(self.price, dtype=np.float64) * scale
        cost /= cost.max()
        rows, upper = self._rows(scale)
        before, after = len(self.item) + m * resources, len(self.demand)
        objective = np.concatenate([np.zeros(before), np.repeat(cost, len(self.peak)), np.zeros(after)])
        least = np.concatenate([np.zeros(before), (self.peak / scale).T.ravel(), np.zeros(after)])
        bounds = np.stack([least, np.full(len(least), np.inf)], axis=1)
        found = linprog(objective, A_ub=rows, b_ub=upper, bounds=bounds, method="highs")
        if found.ineqlin.marginals is None:  # not solved: no prices, and so only the initial peaks
            return [[0] * resources for _ in range(m)]
        share = -found.ineqlin.marginals[: m * resources].reshape(resources, m).T / cost
        return self._rounded(share)

    def _rows(self, scale: npt.NDArray[np.float64]) -> tuple[Any, npt.NDArray[np.float64]]:
        """Return the constraints as a matrix and upper limits, everything scaled to about 1.

        Rows: the load of each unit and resource is at most its peak; the fluid holds what is neither hit nor left out;
        an item is used once (a pinned one exactly); of each tier so many items are left out. Columns: the share of its
        item in each hit; the fluid that each unit takes of each resource; the peaks; the share of each item left out.
        """
        from scipy.sparse import bmat, csr_matrix, diags, eye, kron

        (m, resources), (n, k) = self.load.shape, (len(self.demand), len(self.item))
        demand, amount, hit = self.demand / scale, self.amount / scale, np.arange(k)
        amounts = [[csr_matrix((amount[:, r], (self.unit, hit)), shape=(m, k))] for r in range(resources)]
        peaks = csr_matrix((np.ones(m), (np.arange(m), self.group)), shape=(m, len(self.peak)))
        fluid = np.where(self.pinned[:, None], 0.0, demand)
        sign = np.where(self.pinned, -1.0, 1.0)
        used = csr_matrix((sign[self.item], (self.item, hit)), shape=(n, k))
        tiers = csr_matrix((np.ones(n), (self.tier, np.arange(n))), shape=(len(self.spare), n))
        rows = bmat(
            [
                [bmat(amounts), eye(m * resources), -kron(eye(resources), peaks), None],
                [csr_matrix(-fluid[self.item].T), -kron(eye(resources), np.ones((1, m))), None, csr_matrix(-fluid.T)],
                [used, None, None, diags(sign)],
                [None, None, None, tiers],
            ],
            format="csr",
        )
        return rows, np.concatenate([-(self.load / scale).T.ravel(), -fluid.sum(axis=0), sign, self.spare])

    def _rounded(self, share: npt.NDArray[np.float64]) -> list[list[int]]:
        """Round shares of a resource's price to parts of `_DENOMINATOR` that sum to no more than 1 in any group."""
        parts = [[int(x * _DENOMINATOR) for x in row] for row in np.clip(share, 0.0, 1.0).tolist()]
        for g in range(len(self.peak)):
            members = np.flatnonzero(self.group == g).tolist()
            for r in range(len(self.price)):
                excess = sum(parts[u][r] for u in members) - _DENOMINATOR
                for u in members:
                    less = min(parts[u][r], max(0, excess))
                    parts[u][r] -= less
                    excess -= less
        return parts

    def value_of(self, parts: list[list[int]]) -> int:
        """Return the bound that prices prove, in exact integers; any prices prove one."""
        load, peak, price = self.load.tolist(), self.peak.tolist(), self.price
        resources = range(len(price))
        total = 0
        for r in resources:
            paid = [0] * len(peak)
            for u, g in enumerate(self.group.tolist()):
                paid[g] += parts[u][r]
                total += price[r] * parts[u][r] * load[u][r]
            total += sum(price[r] * (_DENOMINATOR - part) * peak[g][r] for g, part in enumerate(paid))
        least = [price[r] * min(row[r] for row in parts) for r in resources]
        choice: list[int | None] = [
            None if pinned else sum(least[r] * row[r] for r in resources)
            for pinned, row in zip(self.pinned.tolist(), self.demand.tolist(), strict=True)
        ]
        for i, u, row in zip(self.item.tolist(), self.unit.tolist(), self.amount.tolist(), strict=True):
            cost, known = sum(price[r] * parts[u][r] * row[r] for r in resources), choice[i]
            choice[i] = cost if known is None else min(known, cost)
        of_tier: list[list[int]] = [[] for _ in self.spare]
        for tier, known in zip(self.tier.tolist(), choice, strict=True):
            of_tier[tier].append(known or 0)
        for costs, spare in zip(of_tier, self.spare, strict=True):
            total += sum(sorted(costs)[: len(costs) - spare])
        unit_of_value = gcd(*price)
        return -(-total // (_DENOMINATOR * unit_of_value)) * unit_of_value  # bottlenecks are multiples of it


def _hits(window: Window, possible: BoolArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return item, unit and amount[·, R] of the hits that the pins allow, and of the pins.

    Items are numbered among those that are `possible`.
    """
    number = np.cumsum(possible) - 1
    fixed = np.flatnonzero(possible & (window.pinned != FREE))
    item, unit, amount = fixed, window.pinned[fixed], effective_demand(window, window.pinned)[fixed]
    if window.savings is not None:
        savings = window.savings
        free = possible[savings.item] & (window.pinned[savings.item] == FREE)
        item = np.concatenate([item, savings.item[free]])
        unit = np.concatenate([unit, savings.unit[free]])
        amount = np.concatenate([amount, (window.demand[savings.item] - savings.value)[free]])
    return number[item], unit, amount
