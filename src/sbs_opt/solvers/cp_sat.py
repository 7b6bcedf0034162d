"""Exact solver for every field of the window, by CP-SAT of OR-Tools."""

from __future__ import annotations

import math
from typing import Any

from ortools.sat.python import cp_model

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import Window
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.cp_sat_model import WindowModel
from sbs_opt.solvers.exact_search import Answer, BackEndError, Bottleneck, ExactSolver, LeftOut, Stage, asking

STEPS_PER_SECOND = 1_000_000
"""Steps to one unit of CP-SAT's deterministic time, which is about a second."""

_EXACT = 2**53
"""CP-SAT reports objectives as doubles: beyond this a proof would not be one."""


class CpSat(ExactSolver):
    """CP-SAT, a clause-learning solver over integers, with one worker (several are not reproducible).

    A step is a millionth of CP-SAT's deterministic time, plus those of the quick construction; with `budget_steps`
    alone the answer is reproducible. A stage whose value exceeds 2^53 is not searched.
    """

    def _back_end(self, window: Window, seed: int) -> _CpSatBackEnd:
        return _CpSatBackEnd(window, seed)


class _CpSatBackEnd:
    """One model, to which each stage adds what it fixes."""

    def __init__(self, window: Window, seed: int) -> None:
        self._model = WindowModel(window)
        self._seed = seed
        self._bottleneck: Any = None

    def minimise(self, stage: Stage, low: int, incumbent: IntArray, value: int, budget: Budget) -> Answer:
        """Run CP-SAT on one stage."""
        if max(abs(low), abs(value)) >= _EXACT:
            return Answer(None, None, 1, complete=True)
        expression = self._expression(stage, value)
        self._model.model.add(expression >= low)
        self._model.model.minimize(expression)
        self._model.hint(incumbent)
        solver = self._solver(budget)
        with asking("CP-SAT"):
            status = solver.solve(self._model.model)
            steps = 1 + int(solver.deterministic_time * STEPS_PER_SECOND)
            found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
            unit = self._model.read(solver) if found else None
            bound = solver.best_objective_bound
        if status == cp_model.INFEASIBLE:
            raise BackEndError("calls a window infeasible that has a placement")
        if status == cp_model.MODEL_INVALID:  # sums beyond what CP-SAT computes with
            return Answer(None, None, steps, complete=True)
        proved = math.ceil(bound - 1e-6) if math.isfinite(bound) else None
        return Answer(unit, proved, steps, complete=status == cp_model.OPTIMAL)

    def fix(self, stage: Stage, value: int) -> None:
        """Add the constraint."""
        expression = self._expression(stage, value)
        self._model.model.add(expression == value if isinstance(stage, LeftOut) else expression <= value)

    def _expression(self, stage: Stage, value: int) -> Any:
        if isinstance(stage, LeftOut):
            return self._model.left_out(self._model.window.tiers[stage.position])
        if isinstance(stage, Bottleneck):
            if self._bottleneck is None:
                self._bottleneck = self._model.bottleneck(value)
            return self._bottleneck
        return -self._model.saved()

    def _solver(self, budget: Budget) -> cp_model.CpSolver:
        solver = cp_model.CpSolver()
        parameters = solver.parameters
        parameters.num_workers = 1
        parameters.random_seed = self._seed % 2**31
        parameters.absolute_gap_limit = 0.0  # the default stops a little early
        # Of seven settings tried on 26 public P‖Cmax instances at 0.5 s this one certified most (docs/solvers.md).
        parameters.cp_model_presolve = False
        parameters.symmetry_level = 0
        parameters.linearization_level = 1
        if (seconds := budget.seconds_left()) is not None:
            parameters.max_time_in_seconds = seconds
        if (steps := budget.steps_left()) is not None:
            parameters.max_deterministic_time = steps / STEPS_PER_SECOND
        return solver
