"""Exact solver for every field of the window, by CBC through PuLP."""

from __future__ import annotations

import math
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from sbs_opt.models.window import Window
from sbs_opt.solvers.exact_search import BackEnd, ExactSolver, asking
from sbs_opt.solvers.milp_rows import FloatArray, Programme
from sbs_opt.solvers.milp_search import Allowance, Found, MilpBackEnd
from sbs_opt.solvers.pulp_model import pulp, pulp_problem, pulp_values

_PRINTED = 1e-3
"""CBC prints the lower bound of an unfinished search with three decimals."""

_WITH_VALUES = (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)


class Pulp(ExactSolver):
    """CBC, the executable that PuLP ships.

    It is not given the incumbent as its start, only as a bound of the objective: where its tolerances fail it, CBC
    calls such a start optimal, but without one it calls the programme infeasible, and that is known to be false. PuLP
    hands on no lower bound and calls a search that was cut short optimal, so both are read from CBC's own log. A
    step is a branch-and-bound node, plus those of the quick construction. CBC is a process of its own: some
    milliseconds for each stage, and files in the temporary directory.
    """

    def _back_end(self, window: Window, seed: int) -> BackEnd:
        return MilpBackEnd(window, _run, seed)


def _run(programme: Programme, start: FloatArray, allowance: Allowance) -> Found:
    problem, variables = pulp_problem(programme)
    with asking("CBC through PuLP"), TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        # COIN_CMD with the path of the bundled executable: the class that names it warns of its end in PuLP 4.
        solver = pulp.COIN_CMD(
            path=pulp.PULP_CBC_CMD.pulp_cbc_path,
            msg=False,
            timeLimit=allowance.seconds,
            maxNodes=allowance.nodes,
            gapRel=0.0,
            gapAbs=0.0,
            options=["preprocess off"],  # it calls some programmes infeasible that have a point
            logPath=str(log),
        )
        solver.tmpDir = folder
        problem.solve(solver)
        values = pulp_values(variables) if problem.sol_status in _WITH_VALUES else None
        told = log.read_text(errors="replace")
    return read_log(told, values)


def read_log(told: str, values: FloatArray | None) -> Found:
    """Return what CBC's log says of the search: how it ended, its lower bound and its nodes."""
    result = re.search(r"^Result - (.*?)\s*$", told, re.MULTILINE)
    end = "" if result is None else result[1]
    if "infeasible" in end:
        bound = math.inf
    elif end == "Optimal solution found":
        bound = _number("Objective value", told)
    else:
        bound = _number("Lower bound", told) - _PRINTED
    nodes = _number("Enumerated nodes", told)
    return Found(values, bound, int(nodes) if math.isfinite(nodes) else 0, not end.startswith("Stopped"))


def _number(label: str, told: str) -> float:
    """Return the number that the log gives for a label, −∞ when there is none."""
    found = re.search(rf"^{label}:\s+(-?[0-9][0-9.e+-]*)\s*$", told, re.MULTILINE)
    return float(found[1]) if found else -math.inf
