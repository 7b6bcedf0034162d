"""Our own exact solver for one priced resource on units with unequal loads."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sbs_opt.models.checks import IntArray
from sbs_opt.models.verify import verify
from sbs_opt.models.window import FREE, Window
from sbs_opt.solvers.branch_and_bound_dual_kernel import evaluate, evaluation_steps, improve, new_dual, raised
from sbs_opt.solvers.branch_and_bound_kernel import (
    CUT,
    FOUND,
    REFUTED,
    Tree,
    new_tree,
    restart,
    search,
    second_stack,
    write_solution,
)
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.exact_fill_kernel import exact_fill
from sbs_opt.solvers.greedy import longest_first
from sbs_opt.solvers.incumbent import quick_start
from sbs_opt.solvers.packing_bounds_kernel import plain_bound
from sbs_opt.solvers.protocol import Solution
from sbs_opt.solvers.repartition_kernel import STATE_LENGTH, repartition, wander

DEFAULT_STEPS = 200_000_000
"""About a second, when the caller gives neither budget."""

_START_STEPS = 30  # for each item: the time of the first placement, verified, is that of so many steps
_FILL_TURNS = 32
_FILL_FROM = 3  # items to a unit below which exact filling has not been seen to succeed
_FILL_MOVES = 2000  # for each item; where it succeeds it rarely needs a fifth of that
_WANDER_UNITS = 3
_WANDER_STEPS = 500_000

# Found best on 60 windows of 64 items × 32 units with loads; half or twice of each costs little.
_FIRST_NODES = 5000
_ASCENT_ROUNDS = 80
_ROUND_NODES = 250
_AVERAGE_EVERY = 10
_ASIDE_EVERY = 16
_ASIDE_WANDER_STEPS = 20_000
_ASIDE_NODES = 1000
_STACK_NUMBERS = 1 << 22  # 50 MB; windows above that do without the tables


class BranchAndBound:
    """Bounds and searches that meet in the optimum, for one resource and one group without limits and savings.

    First what is cheap: the bounds of `packing_bounds_kernel`, exact filling up to the bound, re-dividing pairs and
    triples of units. Then rounds of three things: a step of the multipliers that raise the bound
    (`branch_and_bound_dual_kernel`), a short search for a placement that meets the bound, which starts anew from the
    root because a new table leads it elsewhere, and now and then a longer search that is never cut, for a placement one
    below the best. What any of them finds to be impossible, all know. Pinned items count as load. Starts from the
    better of `start` and `lpt` and never gives back less, as whole objectives; the spread is not optimised.

    A step is a pointer moved twice, a sum formed, a room looked at in a node of the search, or 32 table cells; with
    `budget_steps` or neither budget (`DEFAULT_STEPS`) the answer is reproducible.

    References
    ----------
    Akram, Maas, Sanders & Schreiber, Engineering optimal parallel task scheduling, arXiv 2405.15371, 2024; the sources
    of each part are named in its module.
    """

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the best placement found within the budgets, with the bound that was proved; seed changes nothing."""
        budget = Budget(budget_s, budget_steps, DEFAULT_STEPS)
        first = quick_start(window, start, seed)
        budget.spend(_START_STEPS * first.steps)
        price = int(window.price[0])
        if price == 0:
            return Solution(first.unit, 0, True, budget.spent)
        run = _Run(window, first.unit, budget)
        run.go()
        found = run.placement(first.unit)
        unit = found if verify(window, found) < first.objective else first.unit
        return Solution(unit, price * run.lower, True, budget.spent, budget.limit)


class _Run:
    """One run; sizes in descending and loads in ascending order, pinned items folded into the loads.

    `lower` is proved, `upper` is the makespan of `unit`, the best placement.
    """

    def __init__(self, window: Window, unit: IntArray, budget: Budget) -> None:
        load = window.load[:, 0].copy()
        pinned = window.pinned != FREE
        np.add.at(load, window.pinned[pinned], window.demand[pinned, 0])
        free = np.flatnonzero(~pinned)
        self.item = free[longest_first(window.demand[free, 0])]
        self.by_load = np.argsort(load, kind="stable")
        self.size, self.load = window.demand[self.item, 0], load[self.by_load]
        self.unit = np.argsort(self.by_load)[unit[self.item]]
        self.budget = budget
        self.state = np.zeros(STATE_LENGTH, dtype=np.int64)
        self.lower, self.upper = plain_bound(self.size, self.load), self._makespan(self.unit)

    def placement(self, unit: IntArray) -> IntArray:
        """Return the best placement in the window's own order; `unit` says where the pinned items are."""
        whole = unit.copy()
        whole[self.item] = self.by_load[self.unit]
        return whole

    def go(self) -> None:
        """Search until the bounds meet or the budget ends."""
        n, m = len(self.size), len(self.load)
        self._fill(range(1))
        self._repartition()
        self.present = self.unit.copy()
        self._wander(_WANDER_STEPS)
        self._fill(range(1, min(m, _FILL_TURNS) if n >= _FILL_FROM * m else 1))
        if (n + 1) * m > _STACK_NUMBERS:
            while m >= _WANDER_UNITS and self._allowed():
                self._wander(_WANDER_STEPS)
        elif self._allowed() and self._prepare():
            self._persist(_FIRST_NODES)
            number = 0
            while self._allowed():
                number += 1
                self._round(number)

    def _allowed(self) -> int:
        """Return the steps that may be taken now; 0 when the bounds have met or the budget has ended."""
        return self.budget.slice_steps() if self.lower < self.upper else 0

    def _makespan(self, unit: IntArray) -> int:
        total = self.load.copy()
        np.add.at(total, unit, self.size)
        return int(total.max())

    def _fill(self, turns: range) -> None:
        """Fill the units exactly, starting with another one each turn; a placement above the bound is mostly poor."""
        unit = np.empty_like(self.unit)
        for turn in turns:
            if not (allowed := self._allowed()):
                return
            most = min(2 * allowed, _FILL_MOVES * len(unit))
            makespan, moves = exact_fill(self.size, self.load, self.lower, turn, most, unit)
            self.budget.spend(1 + moves // 2)
            if makespan == self.lower:
                self.upper, self.unit = makespan, unit

    def _repartition(self) -> None:
        stuck = False
        while not stuck and (allowed := self._allowed()):
            self.upper, steps, stuck = repartition(self.size, self.load, self.unit, self.lower, allowed, self.state)
            self.budget.spend(steps)

    def _wander(self, steps: int) -> None:
        while steps > 0 and len(self.load) >= _WANDER_UNITS and (allowed := self._allowed()):
            self.upper, taken = wander(
                self.size, self.load, self.unit, self.present, self.lower, min(steps, allowed), self.state
            )
            self.budget.spend(taken)
            steps -= taken

    def _prepare(self) -> bool:
        """Build the tables, if the budget covers a first look at them."""
        top = self.upper - 1 - int(self.load[0])
        self.evaluation_steps = evaluation_steps(len(self.size), top)
        if 2 * self.evaluation_steps > self._allowed():
            left_s = self.budget.seconds_left()
            self.budget.limit = "steps" if left_s is None else "time"
            return False
        self.dual, self.new_lower = new_dual(self.size, top), True
        self.short = new_tree(self.size, len(self.load), top)
        self.long, self.long_aim = second_stack(self.short), -1
        self._raise(self.dual.multiplier)
        return True

    def _raise(self, multiplier: npt.NDArray[np.float64]) -> None:
        """Raise the bound to what these multipliers refute."""
        evaluate(self.dual, multiplier)
        self.budget.spend(self.evaluation_steps)
        lower = raised(self.dual, self.load, self.lower, self.upper)
        self.new_lower |= lower > self.lower
        self.lower = lower

    def _round(self, number: int) -> None:
        improve(self.dual, self.load, self.lower, self.new_lower)
        self.new_lower = False
        if number % _AVERAGE_EVERY == 0:
            self._raise(self.dual.average)
            self._probe(number)
        self._raise(self.dual.multiplier)
        self._probe(number)
        if number > _ASCENT_ROUNDS and number % _ASIDE_EVERY == 0:
            self._wander(_ASIDE_WANDER_STEPS)
            self._persist(_ASIDE_NODES)

    def _probe(self, number: int) -> None:
        """Look briefly for a placement that meets the bound, once the bound has come near to where it settles."""
        if number <= _ASCENT_ROUNDS or self.lower == self.upper:
            return
        restart(self.short, self.load, self.lower)
        if self._explore(self.short, _ROUND_NODES) == REFUTED:
            self.lower, self.new_lower = self.lower + 1, True

    def _persist(self, nodes: int) -> None:
        """Go on with the long search, which aims one below the best placement."""
        if self.long_aim != self.upper - 1:
            self.long_aim = self.upper - 1
            restart(self.long, self.load, self.long_aim)
        if self._explore(self.long, nodes) == REFUTED:
            self.lower = self.long_aim + 1

    def _explore(self, tree: Tree, nodes: int) -> int:
        """Search on for so many nodes; a placement that is found becomes the best."""
        m = len(self.load)
        while nodes > 0 and (allowed := self._allowed()):
            status, visited = search(tree, self.dual, max(1, min(nodes, allowed // m)))
            self.budget.spend(max(1, visited) * m)
            nodes -= max(1, visited)
            if status == FOUND:
                unit = np.empty_like(self.unit)
                write_solution(tree, unit)
                self.upper, self.unit = self._makespan(unit), unit
            if status != CUT:
                return status
        return CUT
