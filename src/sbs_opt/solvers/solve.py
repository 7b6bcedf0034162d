"""The public way to solve a window: run a solver, believe nothing, certify what comes back."""

from __future__ import annotations

import math
import time
from typing import Any, cast

import numpy as np

from sbs_opt._version import __version__
from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import InputError, InternalError, PlacementError
from sbs_opt.models.objective import Objective
from sbs_opt.models.placement import Placement, UnitArray
from sbs_opt.models.verify import verify
from sbs_opt.models.window import Window
from sbs_opt.solvers.bounds import Relaxation
from sbs_opt.solvers.protocol import FIELDS, Solution, Solver, SolverInfo
from sbs_opt.solvers.registry import load_solver, refuse_unsupported, solver_info
from sbs_opt.solvers.result import Result, Stats

_LONGEST_S, _MOST_STEPS = 1e9, 2**62
"""Budgets beyond these are as good as none."""


def solve(
    window: Window,
    solver: str | Solver = "auto",
    *,
    budget_s: float | None = None,
    budget_steps: int | None = None,
    start: Placement | Any | None = None,
    seed: int = 0,
) -> Result:
    """Place the items of a window and say how good the placement is.

    Parameters
    ----------
    window
        The window.
    solver
        A registered name (`list_solvers`), or an object with a `solve` method (`Solver`).
    budget_s
        Wall-clock seconds; None is the solver's own default. Gives up reproducibility.
    budget_steps
        Work in the solver's own deterministic unit; None is the solver's own default. A construction always runs to
        its end, so even 0 gives a placement.
    start
        A placement that is never made worse, compared as whole objectives.
    seed
        For solvers that draw; the same seed gives the same answer.

    Returns
    -------
    Result
        Verified, with the greater of the solver's bound and the bounds of `lower_bound`.

    Raises
    ------
    InputError
        Unknown solver, wrong argument, or an answer of the caller's own solver that is no placement.
    PlacementError
        `start`, or the answer of the caller's own solver, breaks a rule of the window.
    UnsupportedError
        The window uses a field outside the solver's capabilities.
    InternalError
        A registered solver returned something false: a bug of ours.
    """
    began = time.perf_counter()
    _check_arguments(window, budget_s, budget_steps, seed)
    # Plain numbers from here on: NumPy's own would make the kernels compile for each of their types.
    budget_s = None if budget_s is None else min(float(budget_s), _LONGEST_S)
    budget_steps = None if budget_steps is None else min(int(budget_steps), _MOST_STEPS)
    seed = int(seed)
    chosen, info = (load_solver(solver), solver_info(solver)) if isinstance(solver, str) else _own_solver(solver)
    refuse_unsupported(window, info)
    first = None if start is None else _verified_start(window, start)
    answer = chosen.solve(
        window,
        budget_s=budget_s,
        budget_steps=budget_steps,
        start=None if first is None else _wide(first[0]),
        seed=seed,
    )
    try:
        solution = answer if isinstance(answer, Solution) else Solution(_placement(answer).unit)
        placement, objective, bound, proved = _certify(window, solution, first, is_ours=isinstance(solver, str))
    except (PlacementError, InputError, InternalError) as error:
        # A registered solver that errs is our bug; an object that was passed in is the caller's.
        own = PlacementError if isinstance(error, PlacementError) else InputError
        raise (InternalError if isinstance(solver, str) else own)(f"solver {info.name}: {error}") from error
    return Result(
        placement=placement,
        objective=objective,
        bound=bound,
        status="OPTIMAL" if proved and bound == objective.bottleneck else "FEASIBLE",
        limit=solution.limit,
        stats=Stats(
            wall_s=time.perf_counter() - began,
            steps=solution.steps,
            solver=f"{info.name}({solution.solver})" if solution.solver else info.name,
            version=__version__,
            seed=seed,
        ),
    )


def _certify(
    window: Window, solution: Solution, first: tuple[Placement, Objective] | None, *, is_ours: bool
) -> tuple[Placement, Objective, int, bool]:
    """Return the better of solution and start, its objective, its bound, and whether its `left_out` is proved least."""
    unit = solution.unit
    # The caller's own solver may keep its array, and write to it: only ours is taken without a copy.
    if is_ours and type(unit) is np.ndarray and unit.dtype == np.int32 and unit.ndim == 1:
        placement = Placement.unchecked(cast(UnitArray, unit))
    else:
        placement = _placement(unit)
    objective = verify(window, placement)
    if isinstance(solution.bound, bool) or not isinstance(solution.bound, int | np.integer):
        raise InternalError(f"claims bound {solution.bound!r}, which is no whole number")
    bound, proved = int(solution.bound), solution.left_out_proved
    if first is not None and first[1] < objective:
        if first[1].left_out != objective.left_out:
            if proved:
                raise InternalError(f"claims that {objective.left_out} is the least left out, not {first[1].left_out}")
            bound = 0  # the solver's bound speaks of its own left_out tuple only
        placement, objective = first
    if proved and any(objective.left_out) and not window.has_limits:
        raise InternalError(f"claims that {objective.left_out} is the least left out, but nothing limits this window")
    proved = proved or not any(objective.left_out)
    cheap = is_ours and solution.cheap_bounds and bound > 0
    if not proved or (bound < objective.bottleneck and not cheap):
        relaxation = Relaxation.of(window)
        bound = max(bound, relaxation.bound(objective.left_out))
        proved = proved or objective.left_out == relaxation.forced_out
    if bound > objective.bottleneck:
        raise InternalError(f"claims bound {bound}, above the bottleneck {objective.bottleneck}")
    return placement, objective, bound, proved


def _check_arguments(window: Window, budget_s: float | None, budget_steps: int | None, seed: int) -> None:
    if not isinstance(window, Window):
        raise InputError(f"window = {type(window).__name__}: pass a Window")
    if budget_s is None and budget_steps is None and type(seed) is int and seed >= 0:
        return
    if budget_s is not None and (
        isinstance(budget_s, bool)
        or not isinstance(budget_s, int | float | np.number)
        or not math.isfinite(budget_s)
        or budget_s < 0
    ):
        raise InputError(f"budget_s = {budget_s!r}: must be None or a finite number of seconds, at least 0")
    for name, value in (("budget_steps", budget_steps), ("seed", seed)):
        if value is None and name == "budget_steps":
            continue
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise InputError(f"{name} = {value!r}: must be a whole number of at least 0")


def _own_solver(solver: Any) -> tuple[Solver, SolverInfo]:
    """Describe a solver object of the caller's; without a description it is trusted with every window."""
    if not isinstance(solver, Solver) or isinstance(solver, type):
        raise InputError(f"solver = {solver!r}: pass a registered name or an object with a solve method")
    info = getattr(solver, "info", None)
    if info is None:
        capabilities = getattr(solver, "capabilities", frozenset(FIELDS))
        info = SolverInfo(type(solver).__name__, frozenset(capabilities), "the caller's own")
    if not isinstance(info, SolverInfo):
        raise InputError(f"solver.info = {info!r}: must be a SolverInfo")
    return solver, info


def _verified_start(window: Window, start: Placement | Any) -> tuple[Placement, Objective]:
    try:
        placement = _placement(start)
        return placement, verify(window, placement)
    except (PlacementError, InputError) as error:
        raise type(error)(f"start: {error}") from error


def _placement(answer: Any) -> Placement:
    return answer if isinstance(answer, Placement) else Placement(answer)


def _wide(placement: Placement) -> IntArray:
    unit = placement.unit.astype(np.int64)
    unit.flags.writeable = False
    return unit
