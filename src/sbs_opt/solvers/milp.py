"""Exact solver for every field of the window, by HiGHS through MathOpt of OR-Tools."""

from __future__ import annotations

import datetime

import numpy as np
from ortools.math_opt import model_pb2
from ortools.math_opt.python import mathopt

from sbs_opt.models.window import Window
from sbs_opt.solvers.exact_search import BackEnd, ExactSolver, asking
from sbs_opt.solvers.milp_rows import FloatArray, Programme
from sbs_opt.solvers.milp_search import Allowance, Found, MilpBackEnd


class Milp(ExactSolver):
    """HiGHS, a branch-and-cut solver, inside OR-Tools; it is given the incumbent as its start.

    A step is a branch-and-bound node, plus those of the quick construction. A node has no fixed cost: the root of a
    large window alone takes seconds.
    """

    def _back_end(self, window: Window, seed: int) -> BackEnd:
        return MilpBackEnd(window, _run, seed)


def _run(programme: Programme, start: FloatArray, allowance: Allowance) -> Found:
    model = mathopt.Model.from_model_proto(_proto(programme))
    variables = list(model.variables())
    hint = mathopt.SolutionHint(variable_values=dict(zip(variables, start.tolist(), strict=True)))
    seconds = allowance.seconds
    parameters = mathopt.SolveParameters(
        time_limit=None if seconds is None else datetime.timedelta(seconds=seconds),
        node_limit=allowance.nodes,
        random_seed=allowance.seed % 2**31,
        absolute_gap_tolerance=0.0,
        relative_gap_tolerance=0.0,
    )
    with asking("HiGHS through MathOpt"):
        result = mathopt.solve(
            model,
            mathopt.SolverType.HIGHS,
            params=parameters,
            model_params=mathopt.ModelSolveParameters(solution_hints=[hint]),
        )
        termination = result.termination
        found = result.has_primal_feasible_solution()
        values = np.array(result.variable_values(variables), dtype=np.float64) if found else None
        bound = termination.objective_bounds.dual_bound
        nodes = result.solve_stats.node_count
    return Found(values, bound, max(0, nodes), termination.limit is None)


def _proto(programme: Programme) -> model_pb2.ModelProto:
    """Return the programme as a message; a Python object per column and entry would take ten times as long."""
    proto, rows = model_pb2.ModelProto(), programme.rows
    proto.variables.ids.extend(range(len(programme.cost)))
    proto.variables.lower_bounds.extend(programme.lower.tolist())
    proto.variables.upper_bounds.extend(programme.upper.tolist())
    proto.variables.integers.extend(programme.whole.tolist())
    priced = np.flatnonzero(programme.cost)
    proto.objective.linear_coefficients.ids.extend(priced.tolist())
    proto.objective.linear_coefficients.values.extend(programme.cost[priced].tolist())
    proto.linear_constraints.ids.extend(range(len(rows.lower)))
    proto.linear_constraints.lower_bounds.extend(rows.lower.tolist())
    proto.linear_constraints.upper_bounds.extend(rows.upper.tolist())
    proto.linear_constraint_matrix.row_ids.extend(rows.row.tolist())
    proto.linear_constraint_matrix.column_ids.extend(rows.column.tolist())
    proto.linear_constraint_matrix.coefficients.extend(rows.value.tolist())
    return proto
