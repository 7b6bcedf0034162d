"""Assertions on placements, certificates and worst-case ratios, for tests of solvers and of plain functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import find, settings, target
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from sbs_opt.models.errors import InputError, PlacementError
from sbs_opt.models.objective import Objective
from sbs_opt.models.placement import Placement, effective_demand
from sbs_opt.models.verify import verify
from sbs_opt.models.window import Window
from sbs_opt.solvers.protocol import Solver
from sbs_opt.solvers.result import Result
from sbs_opt.solvers.solve import solve
from sbs_opt.testing.guarantees import GUARANTEES, NUMBERS_OF_UNITS, Guarantee
from sbs_opt.testing.oracles import least_bottlenecks, least_makespan
from sbs_opt.testing.readable import as_code

PlacementFunction = Callable[[Window], Placement | npt.ArrayLike]
"""A function of the user's own: from a window to the unit of each item, −1 = left out."""

_Case = tuple[Window, list[int] | None]
"""A window, and the unit of each item to start from, if any."""

_LEAST_TRIED = 300

_FEW_PLACEMENTS = 20_000
"""Windows with at most so many placements are settled by brute force, in about half a second."""


def assert_feasible(window: Window, placement: Placement | npt.ArrayLike) -> Objective:
    """Assert that a placement breaks no rule of its window; return its objective.

    Parameters
    ----------
    window
        The window.
    placement
        A `Placement`, or the unit of each item, −1 = left out.

    Raises
    ------
    AssertionError
        It is no placement, or breaks a rule; the message holds the window as code.
    """
    try:
        return verify(window, placement)
    except (PlacementError, InputError) as error:
        raise AssertionError(f"{error}\n{_facts(window, placement)}") from error


def assert_certificate(window: Window, result: Result) -> None:
    """Assert that all that a result claims is so.

    The placement is feasible and its objective recomputed; the bound is at most the bottleneck; "OPTIMAL" has no gap.
    A window with at most 20,000 placements is solved by brute force too: no placement with the same `left_out` tuple is
    below the bound, and an "OPTIMAL" answer leaves out as little and is as low as any.

    Parameters
    ----------
    window
        The window.
    result
        As `solve` returns it.

    Raises
    ------
    AssertionError
        Some claim is false; the message holds the window as code.
    """
    objective = assert_feasible(window, result.placement)
    optimal = result.status == "OPTIMAL"
    claims = [
        (result.objective == objective, f"the objective is {objective}, not {result.objective}"),
        (result.bound <= objective.bottleneck, f"bound {result.bound} is above the bottleneck {objective.bottleneck}"),
        (result.status in ("OPTIMAL", "FEASIBLE"), f"status {result.status!r} is none"),
        (not optimal or result.bound == objective.bottleneck, f"OPTIMAL, but the bound is {result.bound}"),
    ]
    if (window.num_units + 1) ** window.num_items <= _FEW_PLACEMENTS:
        least = least_bottlenecks(window)
        fewest, lowest = min(least), least[objective.left_out]
        claims += [
            (result.bound <= lowest, f"bound {result.bound}, but a placement with as much left out has {lowest}"),
            (not optimal or objective.left_out == fewest, f"OPTIMAL, but {fewest} left out is possible"),
            (not optimal or objective.bottleneck == lowest, f"OPTIMAL, but bottleneck {lowest} is possible"),
        ]
    for holds, problem in claims:
        if not holds:
            raise AssertionError(f"{result.stats.solver}: {problem}\n{_facts(window, result.placement)}")


def assert_ratio(solver: str | Solver | PlacementFunction, theorem: str | Guarantee) -> None:
    """Assert that a solver keeps a worst-case ratio on every small window of its setting that hypothesis finds.

    Each answer is compared with the exact optimum, and the search is steered towards large ratios. For each number of
    units from 2 to 4 at least 300 windows are tried, more where the active hypothesis profile has more `max_examples`;
    the examples of the theorem come on top.

    Parameters
    ----------
    solver
        A registered name, an object with a `solve` method, or a function from a `Window` to the unit of each item.
    theorem
        A row of `GUARANTEES`, or its name.

    Raises
    ------
    AssertionError
        A window on which the ratio is exceeded, the placement breaks a rule, or an item is left out though nothing
        limits; the message holds the smallest such window that was found, as code.
    InputError
        There is no such row.
    """
    row = _row(theorem)

    def too_high(case: _Case) -> bool:
        ratio, problem = _judged(solver, row, *case)
        target(ratio)
        return problem is not None

    found = _search(row, too_high)
    judged = [_judged(solver, row, e.window, e.start, e.optimum) for e in row.examples] if found is None else []
    if found is not None:
        judged.append(_judged(solver, row, *found))
    for _, problem in judged:
        if problem is not None:
            raise AssertionError(f"{_name_of(solver)} breaks {row.name} ({row.source}): {problem}")


def _search(row: Guarantee, condition: Callable[[_Case], bool]) -> _Case | None:
    """Return the simplest case found that meets a condition, with few units rather than few items."""
    tried = max(_LEAST_TRIED, settings.default.max_examples) if settings.default else _LEAST_TRIED
    for units in NUMBERS_OF_UNITS:
        with suppress(NoSuchExample):
            return find(
                _cases(row, units), condition, settings=settings(max_examples=tried, database=None, deadline=None)
            )
    return None


def _row(theorem: str | Guarantee) -> Guarantee:
    if isinstance(theorem, Guarantee):
        return theorem
    if theorem not in GUARANTEES:
        raise InputError(f"theorem = {theorem!r}: unknown; known: {', '.join(GUARANTEES)}")
    return GUARANTEES[theorem]


@st.composite
def _cases(draw: st.DrawFn, row: Guarantee, units: int) -> _Case:
    """Draw a window of the setting, and a start where the theorem speaks of any."""
    window = draw(row.windows(units))
    if not row.any_start:
        return window, None
    n, m = window.num_items, window.num_units
    return window, draw(st.lists(st.integers(0, m - 1), min_size=n, max_size=n))


def _judged(
    solver: str | Solver | PlacementFunction,
    row: Guarantee,
    window: Window,
    start: Sequence[int] | None,
    optimum: int | None = None,
) -> tuple[float, str | None]:
    """Return what a solver reaches over the optimum, and what is wrong with that."""
    placement = _placed(solver, window, start)
    facts = _facts(window, placement, start)
    try:
        objective = verify(window, placement)
    except (PlacementError, InputError) as error:
        return 1.0, f"{error}\n{facts}"
    if any(objective.left_out):
        return 1.0, f"{sum(objective.left_out)} items are left out, though nothing limits\n{facts}"
    optimum = least_makespan(window) if optimum is None else optimum
    ratio = row.ratio(window.num_units, max(1, _most_items_on_a_bottleneck(window, placement)))
    if objective.bottleneck <= ratio * optimum:
        return objective.bottleneck / max(optimum, 1), None
    said = f"bottleneck {objective.bottleneck} is more than {ratio} times the optimum {optimum}"
    return objective.bottleneck / max(optimum, 1), f"{said}\n{facts}"


def _placed(solver: str | Solver | PlacementFunction, window: Window, start: Sequence[int] | None) -> Placement | Any:
    if isinstance(solver, str | Solver):
        return solve(window, solver, start=start).placement
    return solver(window)


def _most_items_on_a_bottleneck(window: Window, placement: Placement | Any) -> int:
    unit = (placement if isinstance(placement, Placement) else Placement(placement)).unit
    items = np.bincount(unit, minlength=window.num_units)
    after = window.load[:, 0].copy()
    np.add.at(after, unit, effective_demand(window, unit)[:, 0])
    return int(items[after == after.max()].max())


def _name_of(solver: Any) -> str:
    return solver if isinstance(solver, str) else getattr(solver, "__name__", type(solver).__name__)


def _facts(window: Window, placement: Any, start: Sequence[int] | None = None) -> str:
    unit = placement.unit if isinstance(placement, Placement) else placement
    shown = unit.tolist() if isinstance(unit, np.ndarray) else unit
    begun = "" if start is None else f"start = {list(start)}\n"
    return f"window = {as_code(window)}\n{begun}placement = {shown}"
