"""What the solvers that take a matrix share: one model, one engine per solver, and how far its floats are believed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import Window
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.exact_search import Answer, BackEndError, Stage
from sbs_opt.solvers.milp_model import MilpModel
from sbs_opt.solvers.milp_rows import FloatArray, Programme

_DUAL_TOLERANCE = 1e-7
"""By how much the solvers let a reduced cost have the wrong sign."""

_RELATIVE = 1e-6
"""The feasibility tolerance of the solvers, relative to the greatest number: smaller differences they do not tell."""

_PROVABLE = 1e9
"""Greatest number in a programme whose bound is believed: beyond it a sum of doubles is no more exact than the absolute
tolerances of the solvers."""

_SOLVABLE = 1e15
"""Greatest number that HiGHS accepts in a row."""


class Found(NamedTuple):
    """What an engine reports about a programme, in floats.

    Parameters
    ----------
    values
        float64[columns] of the best point that it found, or None.
    bound
        Its lower bound of cost·z; −∞ when it has none, ∞ when it calls the programme infeasible.
    nodes
        Branch-and-bound nodes.
    complete
        Whether it ended by itself.
    """

    values: FloatArray | None
    bound: float
    nodes: int
    complete: bool


class Allowance(NamedTuple):
    """What an engine may spend: seconds and nodes (None = no limit), and the seed for its draws."""

    seconds: float | None
    nodes: int | None
    seed: int


Engine = Callable[[Programme, FloatArray, Allowance], Found]
"""Solve a programme from a feasible point (which it may ignore); raises `BackEndError` when the solver behind fails."""


class MilpBackEnd:
    """The model of one window in front of an engine."""

    def __init__(self, window: Window, engine: Engine, seed: int) -> None:
        self._model = MilpModel(window)
        self._engine, self._seed = engine, seed

    def minimise(self, stage: Stage, low: int, incumbent: IntArray, value: int, budget: Budget) -> Answer:
        """Run the engine on one stage; a step is a node, at least one."""
        programme = self._model.programme(stage, low, value)
        if not programme.cost.any():  # the value is the same for every placement
            return Answer(None, programme.offset, 1, complete=True)
        if _largest(programme) > _SOLVABLE:
            return Answer(None, None, 1, complete=True)
        nodes = budget.steps_left()
        allowance = Allowance(budget.seconds_left(), nodes if nodes is None else min(nodes, 2**31 - 1), self._seed)
        found = self._engine(programme, self._model.start(incumbent), allowance)
        if found.bound == math.inf:
            raise BackEndError("calls a window infeasible that has a placement")
        unit = None
        if found.values is not None:
            if found.values.shape != programme.cost.shape or not np.isfinite(found.values).all():
                raise BackEndError("returns values that are no point of the programme")
            unit = self._model.read(found.values)
        bound = whole_bound(programme, found.bound)
        return Answer(unit, bound, max(1, found.nodes), found.complete)

    def fix(self, stage: Stage, value: int) -> None:
        """Add the row."""
        self._model.fix(stage, value)


def whole_bound(programme: Programme, bound: float) -> int | None:
    """Return the lower bound of a stage's value that follows from an engine's float bound, or None.

    Two margins are taken off. A reduced cost that is wrong by the dual tolerance moves the bound by the range of its
    column times that (so Neumaier and Shcherbina, 2004, repair a bound). And solvers scale rows by their greatest
    number, and call values equal that differ by a small share. What is left is rounded up, because the objective takes
    whole values only: exact proofs end where the margins reach one, with numbers of a million.
    """
    largest = max(1.0, abs(bound), _largest(programme))
    if not math.isfinite(bound) or largest > _PROVABLE:
        return None
    ranges = float((programme.upper - programme.lower).sum())
    margin = _RELATIVE * largest + _DUAL_TOLERANCE * ranges
    return programme.offset + programme.scale * math.ceil(bound - margin)


def _largest(programme: Programme) -> float:
    """Return the greatest absolute number in a programme."""
    rows = programme.rows
    parts = (programme.cost, programme.upper, rows.value, rows.lower, rows.upper)
    return max(float(np.abs(part[np.isfinite(part)]).max(initial=0.0)) for part in parts)
