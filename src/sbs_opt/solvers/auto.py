"""The default solver: the cheapest route to the certificate that the budget allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import InternalError
from sbs_opt.models.objective import Objective
from sbs_opt.models.verify import verify
from sbs_opt.models.window import Window
from sbs_opt.solvers.bounds import Relaxation
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.general_search import improve
from sbs_opt.solvers.incumbent import quick_start
from sbs_opt.solvers.plain_kernel import is_plain
from sbs_opt.solvers.plain_portfolio import solve_plain
from sbs_opt.solvers.protocol import Solution
from sbs_opt.solvers.registry import load_solver
from sbs_opt.solvers.savings_columns import is_one_column
from sbs_opt.solvers.two_phase import TwoPhase

PLAIN_STEPS, OTHER_STEPS = 2_000_000, 20_000
"""Steps when the caller gives neither budget. On plain windows local search ends long before, except with many thousand
items; on others, where a step takes longer, this is a millisecond or two."""

_CERTIFY_S = 6e-6
"""What checking and certifying the answer takes of a wall-clock budget, and as much again for every 2,000 items."""

_CLOSE = 0.01
"""A gap up to which a window of one resource is left to the solver that is made for it."""

_EXACT_S, _EXACT_STEPS = 0.1, 25_000_000
"""What must be left of the budget before an exact back end is worth loading and building its model."""

_STEPS_PER_EXACT_STEP = 250
"""A step of `cp_sat` is about a microsecond, one of the searches about 4 nanoseconds."""


class Auto:
    """Constructions first, then local search, then exact search, until the bound is met or the budget ends.

    Without a budget it stops where local search does, or after a millisecond or two. A step is one candidate looked at,
    or a quarter of an item that is sorted and placed. `Result.stats.solver` names what found the answer.
    """

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the best placement found, with what is proved of it."""
        patient = budget_s is not None or budget_steps is not None
        if budget_s is not None:
            budget_s = max(0.0, budget_s - _CERTIFY_S * (1 + window.num_items / 2000))
        if is_plain(window):
            return solve_plain(window, Budget(budget_s, budget_steps, PLAIN_STEPS), start, patient)
        budget = Budget(budget_s, budget_steps, OTHER_STEPS)
        found = (_one_column if is_one_column(window) else _any)(window, budget, start, patient, seed)
        if not patient or not _time_for_an_exact_solver(budget):
            return found
        objective = verify(window, found.unit)
        if found.bound == objective.bottleneck and found.left_out_proved:
            return found
        return _exact(window, budget, found, objective, seed)


def _one_column(window: Window, budget: Budget, start: IntArray | None, patient: bool, seed: int) -> Solution:
    """Leave a window of one priced resource with savings or pins to the solver that is made for it."""
    found = TwoPhase().solve(
        window,
        budget_s=budget.seconds_left() if patient else None,
        budget_steps=budget.steps_left() if patient else None,
        start=start,
        seed=seed,
    )
    budget.spend(found.steps)
    found = replace(found, solver="two_phase")
    objective = verify(window, found.unit)
    if objective.bottleneck <= found.bound * (1 + _CLOSE):
        return found
    # Few items per unit, or savings that crowd on a few units: other starts and exchanges may do better.
    if not patient:
        budget = Budget(None, OTHER_STEPS)
    other = _any(window, budget, found.unit.astype(np.int64), patient, seed)
    better = verify(window, other.unit) < objective
    return replace(other if better else found, bound=max(found.bound, other.bound), steps=found.steps + budget.spent)


def _any(window: Window, budget: Budget, start: IntArray | None, patient: bool, seed: int) -> Solution:
    """Construct and search, whatever the window."""
    first = quick_start(window, start, seed)
    budget.spend(first.steps)
    unit, objective, by = first.unit, first.objective, "start" if first.unit is start else "lpt"
    relaxation = Relaxation.of(window)
    searched = improve(window, unit, budget, relaxation.bound(objective.left_out))
    if (found := verify(window, searched)) < objective:
        unit, objective, by = searched, found, "local_search"
    return Solution(
        unit,
        relaxation.bound(objective.left_out),
        objective.left_out == relaxation.forced_out,
        budget.spent,
        budget.limit,
        by,
        cheap_bounds=True,
    )


def _exact(window: Window, budget: Budget, found: Solution, objective: Objective, seed: int) -> Solution:
    """Go on with CP-SAT where constructions and searches ended; what they proved stays proved."""
    left = budget.steps_left()
    exact = load_solver("cp_sat").solve(
        window,
        budget_s=budget.seconds_left(),
        budget_steps=None if left is None else left // _STEPS_PER_EXACT_STEP,
        start=found.unit.astype(np.int64),
        seed=seed,
    )
    if not isinstance(exact, Solution):
        raise InternalError(f"cp_sat returned {type(exact).__name__}, not a Solution")
    budget.spend(exact.steps * _STEPS_PER_EXACT_STEP)
    better = verify(window, exact.unit)
    same = better.left_out == objective.left_out
    return replace(
        exact,
        bound=max(exact.bound, found.bound) if same else exact.bound,
        left_out_proved=exact.left_out_proved or (same and found.left_out_proved),
        steps=budget.spent,
        solver="cp_sat" if better < objective else found.solver,
    )


def _time_for_an_exact_solver(budget: Budget) -> bool:
    seconds, steps = budget.seconds_left(), budget.steps_left()
    return (seconds is None or seconds >= _EXACT_S) and (steps is None or steps >= _EXACT_STEPS)
