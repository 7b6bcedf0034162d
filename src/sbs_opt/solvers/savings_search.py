"""Place and improve windows of one priced resource with savings, within a budget."""

from __future__ import annotations

import numpy as np
from numba import njit

from sbs_opt.models.checks import IntArray
from sbs_opt.models.placement import UnitArray
from sbs_opt.models.window import Window
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.savings_bound_kernel import savings_bound
from sbs_opt.solvers.savings_columns import SavingsColumns, prepare, saving_arrays, savings_columns
from sbs_opt.solvers.savings_construct_kernel import construct
from sbs_opt.solvers.savings_round_kernel import finish, run
from sbs_opt.solvers.savings_search_kernel import STEPS, start_search


def default_steps(n: int) -> int:
    """Return the steps of the search where no budget is given: what it gains, it mostly gains early."""
    return 100 + 2 * n


def solve_in_steps(window: Window, budget_steps: int | None) -> tuple[UnitArray, int, int, bool]:
    """Construct and improve in one call of compiled code.

    Parameters
    ----------
    window
        One for which `is_one_column` holds.
    budget_steps
        Construction and search together; the construction always runs to its end. None is a short search.

    Returns
    -------
    unit : int32[n]
    bound : lower bound of the greatest load, before the price
    steps : items placed or refused, and candidates evaluated
    ended : whether the search came to its end
    """
    total, further = (-1, default_steps(window.num_items)) if budget_steps is None else (budget_steps, 0)
    unit, bound, steps, ended = _solve(
        window.demand, window.load, window.pinned, *saving_arrays(window), total, further
    )
    return unit, int(bound), int(steps), bool(ended)


def constructed(columns: SavingsColumns) -> tuple[IntArray, int, int]:
    """Return a placement by rank, the bound that led to it, and the steps."""
    bound = savings_bound(columns)
    unit, steps = construct(columns, bound)
    return unit, int(bound), int(steps)


def improve(window: Window, unit: IntArray, budget: Budget, bound: int) -> IntArray:
    """Search from a placement until a local optimum or the end of the budget; never returns a worse one.

    Compared as whole objectives: bottleneck, then savings, then spread. However the budget is sliced, the same steps
    give the same placement.

    Parameters
    ----------
    window
        One for which `is_one_column` holds.
    unit
        int64[n], a placement that leaves nothing out and keeps the pins.
    budget
        What may be spent; a step is a candidate evaluated, and a block of candidates that has begun is finished.
    bound
        A lower bound of the greatest load, before the price: no further search for a bottleneck that meets it.

    Returns
    -------
    int64[n]
    """
    columns = savings_columns(window)
    better = improve_by_rank(columns, np.asarray(unit, dtype=np.int64)[columns.item], budget, bound)
    out = np.empty_like(better)
    out[columns.item] = better
    return out


def improve_by_rank(columns: SavingsColumns, unit: IntArray, budget: Budget, bound: int) -> IntArray:
    """Do the work of `improve` on a placement by rank."""
    search = start_search(columns, unit)
    ended = False
    while not ended and (allowed := budget.slice_steps()):
        before = int(search.cursor[STEPS])
        ended = run(columns, search, bound, before + allowed)
        budget.spend(max(1, int(search.cursor[STEPS]) - before))
    finish(columns, search)
    return search.unit


@njit(cache=True, nogil=True)
def _solve(
    demand: IntArray,
    load: IntArray,
    pinned: IntArray,
    item: IntArray,
    unit: IntArray,
    value: IntArray,
    total: int,
    further: int,
) -> tuple[UnitArray, int, int, bool]:
    columns = prepare(demand, load, pinned, item, unit, value)
    bound = savings_bound(columns)
    first, steps = construct(columns, bound)
    search = start_search(columns, first)
    ended = run(columns, search, bound, max(further, total - steps))
    finish(columns, search)
    out = np.empty(len(first), dtype=np.int32)
    for rank in range(len(first)):
        out[columns.item[rank]] = search.unit[rank]
    return out, bound, steps + search.cursor[STEPS], ended
