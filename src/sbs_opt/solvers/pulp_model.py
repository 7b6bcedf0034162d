"""A programme as PuLP objects."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np

if find_spec("highspy") is not None:
    # PuLP imports highspy where it is installed. From 1.15 on its HiGHS library bears the name of the one inside
    # OR-Tools, and in one process the first serves both: OR-Tools could no longer be loaded.
    from ortools.sat.python import cp_model  # noqa: F401

import pulp

from sbs_opt.solvers.milp_rows import FloatArray, Programme

__all__ = ["pulp", "pulp_problem", "pulp_values"]  # who needs PuLP takes it from here, for the sake of the order above


def pulp_problem(programme: Programme) -> tuple[pulp.LpProblem, list[pulp.LpVariable]]:
    """Return the problem and its variables, in the order of the columns; one Python object per entry."""
    problem = pulp.LpProblem("window", pulp.LpMinimize)
    kinds = [pulp.LpInteger if whole else pulp.LpContinuous for whole in programme.whole.tolist()]
    variables = [
        problem.add_variable(f"z{k}", low, high, kind)
        for k, (low, high, kind) in enumerate(
            zip(programme.lower.tolist(), programme.upper.tolist(), kinds, strict=True)
        )
    ]
    priced = np.flatnonzero(programme.cost).tolist()
    problem.setObjective(pulp.LpAffineExpression([(variables[k], float(programme.cost[k])) for k in priced]))
    rows = programme.rows
    terms = [(variables[k], value) for k, value in zip(rows.column.tolist(), rows.value.tolist(), strict=True)]
    first = np.searchsorted(rows.row, np.arange(len(rows.lower) + 1)).tolist()
    for k, (low, high) in enumerate(zip(rows.lower.tolist(), rows.upper.tolist(), strict=True)):
        row = pulp.LpAffineExpression(terms[first[k] : first[k + 1]])
        if low == high:
            problem.addConstraint(pulp.LpConstraint(row, pulp.LpConstraintEQ, rhs=low))
            continue
        if low > -math.inf:
            problem.addConstraint(pulp.LpConstraint(row, pulp.LpConstraintGE, rhs=low))
        if high < math.inf:
            problem.addConstraint(pulp.LpConstraint(row, pulp.LpConstraintLE, rhs=high))
    return problem, variables


def pulp_values(variables: list[pulp.LpVariable]) -> FloatArray:
    """Return the values that the solver gave to the variables; NaN where it gave none."""
    return np.array([math.nan if v.varValue is None else v.varValue for v in variables], dtype=np.float64)
