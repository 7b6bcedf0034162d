"""Exact solver for every field of the window, by `scipy.optimize.milp` (HiGHS)."""

from __future__ import annotations

import numpy as np
from scipy import optimize, sparse

from sbs_opt.models.window import Window
from sbs_opt.solvers.exact_search import BackEnd, ExactSolver, asking
from sbs_opt.solvers.milp_rows import FloatArray, Programme
from sbs_opt.solvers.milp_search import Allowance, Found, MilpBackEnd

_OPTIMAL, _INFEASIBLE = 0, 2  # of the statuses of `scipy.optimize.milp`


class ScipyMilp(ExactSolver):
    """HiGHS as SciPy ships it. It takes no start, no seed, and cannot be asked for more threads.

    A step is a branch-and-bound node, plus those of the quick construction. A node has no fixed cost: the root of a
    large window alone can take longer than a budget of seconds.
    """

    def _back_end(self, window: Window, seed: int) -> BackEnd:
        return MilpBackEnd(window, _run, seed)


def _run(programme: Programme, start: FloatArray, allowance: Allowance) -> Found:
    rows = programme.rows
    options: dict[str, float] = {"mip_rel_gap": 0.0}
    if allowance.seconds is not None:
        options["time_limit"] = allowance.seconds
    if allowance.nodes is not None:
        options["node_limit"] = allowance.nodes
    # HiGHS counts entries in 32 bits, and SciPy 1.11 does not convert them.
    place = rows.row.astype(np.int32), rows.column.astype(np.int32)
    matrix = sparse.csr_array((rows.value, place), shape=(len(rows.lower), len(programme.cost)))
    with asking("scipy.optimize.milp"):
        result = optimize.milp(
            programme.cost,
            integrality=programme.whole.astype(np.int64),
            bounds=optimize.Bounds(programme.lower, programme.upper),
            constraints=optimize.LinearConstraint(matrix, rows.lower, rows.upper),
            options=options,
        )
        values = None if result.x is None else np.asarray(result.x, dtype=np.float64)
        bound = result.mip_dual_bound
        nodes = result.mip_node_count
        status = result.status
    if status == _INFEASIBLE:
        bound = np.inf
    return Found(values, -np.inf if bound is None else float(bound), int(nodes or 0), status == _OPTIMAL)
