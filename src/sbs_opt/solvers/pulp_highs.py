"""Exact solver for every field of the window, by HiGHS through PuLP."""

from __future__ import annotations

import math
from typing import Any

from sbs_opt.models.errors import InputError
from sbs_opt.models.window import Window
from sbs_opt.solvers.exact_search import BackEnd, ExactSolver, asking
from sbs_opt.solvers.milp_rows import FloatArray, Programme
from sbs_opt.solvers.milp_search import Allowance, Found, MilpBackEnd
from sbs_opt.solvers.pulp_model import pulp, pulp_problem, pulp_values


class PulpHighs(ExactSolver):
    """HiGHS inside the process, by the optional package highspy; it is given the incumbent as its start.

    PuLP calls a search that was cut short optimal, so HiGHS itself is asked for its bound and how it ended. A step is
    a branch-and-bound node, plus those of the quick construction.

    Parameters
    ----------
    incumbent
        As in `ExactSolver`.

    Raises
    ------
    InputError
        highspy is missing, or is one (1.15 or later) whose library clashes with the HiGHS inside OR-Tools.
    """

    def __init__(self, *, incumbent: bool = True) -> None:
        super().__init__(incumbent=incumbent)
        if not pulp.HiGHS(msg=False).available():
            raise InputError("solver pulp_highs: needs highspy below 1.15; pip install 'sbs-opt[highs]' brings it")

    def _back_end(self, window: Window, seed: int) -> BackEnd:
        return MilpBackEnd(window, _run, seed)


def _run(programme: Programme, start: FloatArray, allowance: Allowance) -> Found:
    import highspy

    class FromStart(pulp.HiGHS):  # type: ignore[misc]
        """PuLP passes no start to HiGHS, but leaves the place to do it."""

        def callSolver(self, lp: Any) -> None:  # noqa: N802
            solution = highspy.HighsSolution()
            solution.col_value = [start[int(variable.name[1:])] for variable in lp.variables()]
            solution.value_valid = True
            lp.solverModel.setSolution(solution)
            super().callSolver(lp)

    limits = {} if allowance.nodes is None else {"mip_max_nodes": allowance.nodes}
    problem, variables = pulp_problem(programme)
    with asking("HiGHS through PuLP"):
        problem.solve(
            FromStart(
                msg=False,
                timeLimit=allowance.seconds,
                gapRel=0.0,
                gapAbs=0.0,
                threads=1,
                random_seed=allowance.seed % 2**31,
                **limits,
            )
        )
        highs = problem.solverModel
        info, status = highs.getInfo(), highs.getModelStatus()
        feasible = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
        values = pulp_values(variables) if feasible else None
        bound, nodes = float(info.mip_dual_bound), int(info.mip_node_count)
    if status == highspy.HighsModelStatus.kInfeasible:
        bound = math.inf
    return Found(values, bound, max(0, nodes), status == highspy.HighsModelStatus.kOptimal)
