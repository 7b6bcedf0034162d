"""Exact solver for every field of the window, by CP-SAT of OR-Tools."""

from __future__ import annotations

import math
import time
from typing import Any

from ortools.sat.python import cp_model

from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import InternalError, PlacementError
from sbs_opt.models.objective import Objective
from sbs_opt.models.verify import verify
from sbs_opt.models.window import Window
from sbs_opt.solvers.bounds import Relaxation
from sbs_opt.solvers.cp_sat_model import WindowModel
from sbs_opt.solvers.greedy import LongestFirst
from sbs_opt.solvers.protocol import Limit, Solution

STEPS_PER_SECOND = 1_000_000
"""Steps to one unit of CP-SAT's deterministic time, which is about a second."""

DEFAULT_BUDGET_S = 1.0
"""Wall-clock seconds when the caller gives neither budget."""

_EXACT = 2**53
"""CP-SAT reports objectives as doubles: beyond this a proof would not be one."""


class CpSat:
    """Lexicographic stages: left out per tier, oldest first; then the bottleneck; then the savings.

    Starts from the better of `start` and `lpt` and keeps it whatever happens; every placement found is verified and
    taken only when better as a whole. The spread is quadratic and no stage of its own: among placements that tie in
    the first three parts, the one found first stays. A window whose objective exceeds 2^53 gets the start back,
    without a claim.

    A step is a millionth of CP-SAT's deterministic time, plus those of `lpt`. With `budget_steps` alone the answer is
    reproducible; with neither budget the search ends after `DEFAULT_BUDGET_S`.
    """

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the best placement found within the budgets, with the bound that was proved."""
        if budget_s is None and budget_steps is None:
            budget_s = DEFAULT_BUDGET_S
        deadline = None if budget_s is None else time.perf_counter() + budget_s
        first = LongestFirst().solve(window, budget_s=None, budget_steps=budget_steps, start=None, seed=seed)
        unit, objective = first.unit, verify(window, first.unit)
        if start is not None and (given := verify(window, start)) < objective:
            unit, objective = start, given
        return _Search(window, unit, objective, first.steps, deadline, budget_steps, seed).run()


class _Search:
    """One run: the incumbent, the budgets, and what has been proved so far."""

    def __init__(
        self,
        window: Window,
        unit: IntArray,
        objective: Objective,
        steps: int,
        deadline: float | None,
        budget_steps: int | None,
        seed: int,
    ) -> None:
        self.window, self.unit, self.objective = window, unit, objective
        self.steps, self.deadline, self.budget_steps, self.seed = steps, deadline, budget_steps, seed
        self.limit: Limit | None = None
        self.relaxation = Relaxation.of(window)
        self.bound, self.left_out_proved = 0, False

    def run(self) -> Solution:
        """Go through the stages until one is not proved, and return the incumbent with what is."""
        savings = self.window.savings
        priced = 0 if savings is None else int((savings.value @ self.window.price).sum())
        if max(self.objective.bottleneck, priced) < _EXACT:
            self._stages()
        return Solution(self.unit, self.bound, self.left_out_proved, self.steps, self.limit)

    def _stages(self) -> None:
        forced = self.relaxation.forced_out
        if self.objective.left_out == forced and self.window.savings is None:
            self.bound, self.left_out_proved = self.relaxation.bound(forced), True
            if self.bound == self.objective.bottleneck:
                return
        if self._out_of_budget():
            return
        model = WindowModel(self.window)
        for k, tier in enumerate(self.window.tiers):
            left_out = model.left_out(tier)
            if self.objective.left_out[k] > forced[k] and self._minimise(model, left_out) is None:
                return
            model.model.add(left_out == self.objective.left_out[k])
        self.left_out_proved = True
        self.bound = self.relaxation.bound(self.objective.left_out)
        bottleneck = model.bottleneck(self.objective.bottleneck)
        model.model.add(bottleneck >= self.bound)
        if self.objective.bottleneck > self.bound and self._minimise(model, bottleneck, is_bottleneck=True) is None:
            return
        self.bound = self.objective.bottleneck
        if self.window.savings is not None:
            model.model.add(bottleneck <= self.bound)
            self._minimise(model, -model.saved())

    def _minimise(self, model: WindowModel, expression: Any, *, is_bottleneck: bool = False) -> Objective | None:
        """Run one stage; returns the objective of a placement that is proved best in this stage, else None."""
        if self._out_of_budget():
            return None
        model.hint(self.unit)
        model.model.minimize(expression)
        solver = self._solver()
        status = solver.solve(model.model)
        spent = int(solver.deterministic_time * STEPS_PER_SECOND)
        self.steps += spent
        if status == cp_model.INFEASIBLE:
            raise InternalError(f"CP-SAT calls a window infeasible that has a placement: {self.objective}")
        if status == cp_model.MODEL_INVALID:  # sums beyond what CP-SAT computes with: the incumbent stands
            return None
        found = self._take(model.read(solver)) if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) else None
        if status == cp_model.OPTIMAL:
            return found
        if is_bottleneck:
            self.bound = max(self.bound, math.ceil(solver.best_objective_bound - 1e-6))
        is_steps = self.budget_steps is not None and self.steps >= self.budget_steps - 1
        self.limit = "steps" if is_steps or self.deadline is None else "time"
        return None

    def _take(self, unit: IntArray) -> Objective:
        """Verify a placement that CP-SAT found and keep it if it is better as a whole; return its objective."""
        try:
            found = verify(self.window, unit)
        except PlacementError as error:
            raise InternalError(f"CP-SAT's placement breaks a rule of the window: {error}") from error
        if found < self.objective:
            self.unit, self.objective = unit, found
        return found

    def _out_of_budget(self) -> bool:
        if self.budget_steps is not None and self.steps >= self.budget_steps:
            self.limit = "steps"
        elif self.deadline is not None and time.perf_counter() >= self.deadline:
            self.limit = "time"
        return self.limit is not None

    def _solver(self) -> cp_model.CpSolver:
        solver = cp_model.CpSolver()
        parameters = solver.parameters
        parameters.num_workers = 1  # several workers are not reproducible
        parameters.random_seed = self.seed % 2**31
        parameters.absolute_gap_limit = 0.0  # the default stops a little early
        # Of seven settings tried on 26 public P‖Cmax instances at 0.5 s this one certified most (docs/solvers.md).
        parameters.cp_model_presolve = False
        parameters.symmetry_level = 0
        parameters.linearization_level = 1
        if self.deadline is not None:
            parameters.max_time_in_seconds = max(0.0, self.deadline - time.perf_counter())
        if self.budget_steps is not None:
            parameters.max_deterministic_time = (self.budget_steps - self.steps) / STEPS_PER_SECOND
        return solver
