"""Constructive solvers: least loaded in arrival order, and longest processing time first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import Window
from sbs_opt.solvers.columns import Columns, columns_of
from sbs_opt.solvers.greedy_kernel import LEAST_INCREASE, LEAST_LOADED, greedy, round_robin
from sbs_opt.solvers.plain_kernel import is_plain, place_longest_first
from sbs_opt.solvers.protocol import Solution


class LeastLoaded:
    """List scheduling: each item, in index order, on the unit with the least priced load that may take it.

    A step is one item placed or refused; the construction always runs to its end. O(n·m·R). At most 2 − 1/m times the
    optimum for one resource and one group without limits, pins or savings (Graham 1966; with initial loads by the same
    area argument).
    """

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the list schedule; budgets, start and seed change nothing."""
        order = np.arange(window.num_items, dtype=np.int64)
        unit, _, _, _ = greedy(columns_of(window), order, LEAST_LOADED)
        return Solution(unit, steps=len(order))


class RoundRobin:
    """Items in index order, each on the next unit in turn that may take it: what a router without any knowledge does.

    The yardstick for everything else; the loads and sizes decide only where a limit closes a unit. A step is one item
    placed or refused. No ratio to the optimum holds but the trivial one, m.
    """

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the placement; budgets, start and seed change nothing."""
        return Solution(round_robin(columns_of(window)), steps=window.num_items)


class LongestFirst:
    """Longest processing time first, on the unit that raises the bottleneck least.

    Items go by priced size Σ_r λ_r·p, descending, ties to the lowest index. When limits leave something out, three
    further orders compete, as whole objectives: oldest tier then longest, oldest tier then shortest, and the items
    that the best of these admitted, longest first, with the others after them.

    A step is one item placed or refused; the first construction always runs to its end, a further one starts only
    when the budget covers it. O(n log m) for one resource and one group without limits, pins and savings, else
    O(n·m·R). At most 4/3 − 1/(3m) times the optimum on empty units (Graham 1969), 3/2 − 1/(2m) with initial loads
    (Lee 1991), for one resource and one group without limits, pins or savings.
    """

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the best of the orders that the step budget covers; budget_s, start and seed change nothing."""
        if is_plain(window):
            unit, bound = place_longest_first(window.demand, window.load)
            return Solution(unit, int(window.price[0]) * bound, steps=window.num_items, cheap_bounds=True)
        size = window.demand[:, 0] if window.num_resources == 1 else window.demand @ window.price
        order = longest_first(size)
        columns = columns_of(window)
        best = _attempt(window, columns, order)
        steps = len(order)
        for further in (_oldest_longest_first, _oldest_shortest_first, _admitted_first):
            if not any(best.left_out):
                break
            if budget_steps is not None and steps + len(order) > budget_steps:
                return Solution(best.unit, steps=steps, limit="steps")
            order = further(window, size, best.unit)
            best = min(best, _attempt(window, columns, order), key=_Attempt.rank)
            steps += len(order)
        return Solution(best.unit, steps=steps)


def longest_first(size: IntArray) -> IntArray:
    """Return the indices of `size` in descending order, ties to the lowest index.

    Sorting size and index packed into one number takes a third of the time of a stable argsort.
    """
    bits = len(size).bit_length()
    top = int(size.max()) if len(size) else 0
    if top.bit_length() + bits > 62:
        return np.argsort(-size, kind="stable")
    packed = ((top - size) << bits) | np.arange(len(size))
    packed.sort()
    order: IntArray = packed & ((1 << bits) - 1)
    return order


class _Attempt(NamedTuple):
    unit: IntArray
    left_out: tuple[int, ...]
    bottleneck: int
    saved: int
    spread: int

    def rank(self) -> tuple[tuple[int, ...], int, int, int]:
        return self.left_out, self.bottleneck, -self.saved, self.spread


def _attempt(window: Window, columns: Columns, order: IntArray) -> _Attempt:
    unit, load, peak, saved = greedy(columns, order, LEAST_INCREASE)
    out = window.tier[unit < 0]
    left_out = tuple(int((out == tier).sum()) for tier in window.tiers) if len(out) else (0,) * len(window.tiers)
    # Exact integers: a tie between attempts must not hang on the order of a floating-point sum.
    weights = window.spread_weight.tolist()
    spread = sum(w * sum(x * x for x in column) for w, column in zip(weights, load.T.tolist(), strict=True) if w)
    return _Attempt(unit, left_out, int((peak @ columns.price).sum()), int(saved), spread)


def _oldest_longest_first(window: Window, size: IntArray, unit: IntArray) -> IntArray:
    return np.lexsort((-size, window.tier))


def _oldest_shortest_first(window: Window, size: IntArray, unit: IntArray) -> IntArray:
    return np.lexsort((size, window.tier))


def _admitted_first(window: Window, size: IntArray, unit: IntArray) -> IntArray:
    """Return the placed items longest first, then the others, oldest tier and shortest first."""
    admitted = np.flatnonzero(unit >= 0)
    waiting = np.flatnonzero(unit < 0)
    oldest_shortest = np.lexsort((size[waiting], window.tier[waiting]))
    return np.concatenate([admitted[longest_first(size[admitted])], waiting[oldest_shortest]])
