"""Placing without a certificate, for inner loops that place thousands of windows."""

from __future__ import annotations

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import InternalError
from sbs_opt.models.window import Window
from sbs_opt.solvers.protocol import Solution
from sbs_opt.solvers.registry import load_solver, refuse_unsupported, solver_info


def place(window: Window, solver: str = "auto", budget_steps: int | None = None, seed: int = 0) -> tuple[IntArray, int]:
    """Return the unit of each item and the steps taken: the placement that `solve` certifies, without the certificate.

    Parameters
    ----------
    window
        The window.
    solver
        A registered name.
    budget_steps
        Work in the solver's own deterministic unit; None is the solver's own default.
    seed
        For solvers that draw.

    Returns
    -------
    unit : int64[n], −1 = left out
    steps : int

    Raises
    ------
    InputError
        Unknown solver.
    UnsupportedError
        The window uses a field outside the solver's capabilities.
    """
    refuse_unsupported(window, solver_info(solver))
    found = load_solver(solver).solve(window, budget_s=None, budget_steps=budget_steps, start=None, seed=seed)
    if not isinstance(found, Solution):
        raise InternalError(f"solver {solver} returned {type(found).__name__}, not a Solution")
    return found.unit.astype(np.int64, copy=False), found.steps
