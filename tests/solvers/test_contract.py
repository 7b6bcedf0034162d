"""What every solver owes on every window; one suite over the registry and an object of the user's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.models.errors import UnsupportedError
from sbs_opt.models.placement import Placement
from sbs_opt.models.verify import verify
from sbs_opt.models.window import FREE, Window
from sbs_opt.solvers.direct import place
from sbs_opt.solvers.protocol import Solver
from sbs_opt.solvers.registry import list_solvers, solver_info
from sbs_opt.solvers.solve import solve
from sbs_opt.testing.oracles import best_placement, least_bottlenecks

from .helpers import every_kind, plain, windows_for


class PlacesNothing:
    """A user's own solver that returns a plain list."""

    def solve(self, window: Window, **_: Any) -> list[int]:
        return [FREE] * window.num_items


class FirstFit:
    """A user's own solver that returns a `Placement`: the first unit that `verify` lets it have."""

    def solve(self, window: Window, **_: Any) -> Placement:
        unit = [FREE] * window.num_items
        for i in range(window.num_items):
            for u in range(window.num_units):
                unit[i] = u
                try:
                    verify(window, unit)
                except ValueError:
                    unit[i] = FREE
                else:
                    break
        return Placement(np.array(unit, dtype=np.int32))


def name_of(solver: str | Solver) -> str:
    """Return what identifies a solver in a test's name."""
    return solver if isinstance(solver, str) else type(solver).__name__


REGISTERED = tuple(info.name for info in list_solvers())
every_solver = pytest.mark.parametrize("solver", [*REGISTERED, PlacesNothing(), FirstFit()], ids=name_of)
PLENTY = 5_000_000  # steps; enough for cp_sat to prove any window here


@every_solver
@settings(max_examples=100)
@given(data=st.data())
def test_placement_is_valid_and_every_claim_is_true(solver: str | Solver, data: st.DataObject) -> None:
    window = data.draw(windows_for(solver))
    result = solve(window, solver, budget_steps=PLENTY)
    assert verify(window, result.placement) == result.objective
    least = least_bottlenecks(window)
    assert result.bound <= least[result.objective.left_out]
    if result.status == "OPTIMAL":
        assert result.objective.left_out == min(least)
        assert result.objective.bottleneck == least[result.objective.left_out]
        assert result.gap == 0


@every_solver
@settings(max_examples=25)
@given(data=st.data())
def test_more_steps_never_give_a_worse_placement(solver: str | Solver, data: st.DataObject) -> None:
    window = data.draw(windows_for(solver))
    objectives = [solve(window, solver, budget_steps=steps).objective for steps in (0, 4, 9, 30, 300, 3000, PLENTY)]
    assert objectives == sorted(objectives, reverse=True)


@every_solver
@settings(max_examples=25)
@given(data=st.data(), steps=st.sampled_from([0, 10, 1000]))
def test_start_is_never_made_worse(solver: str | Solver, data: st.DataObject, steps: int) -> None:
    window = data.draw(windows_for(solver))
    placement, objective = best_placement(window)
    assert solve(window, solver, start=placement, budget_steps=steps).objective == objective
    nothing = [FREE] * window.num_items
    assert solve(window, solver, start=nothing, budget_steps=steps).objective <= verify(window, nothing)


@every_solver
@settings(max_examples=25)
@given(data=st.data())
def test_same_arguments_give_the_same_placement(solver: str | Solver, data: st.DataObject) -> None:
    window = data.draw(windows_for(solver))
    first = solve(window, solver, budget_steps=1000, seed=3)
    second = solve(window, solver, budget_steps=1000, seed=3)
    assert first.placement == second.placement
    assert (first.bound, first.limit, first.stats.steps) == (second.bound, second.limit, second.stats.steps)


@pytest.mark.parametrize("solver", REGISTERED)
@settings(max_examples=25)
@given(data=st.data(), steps=st.sampled_from([0, 10, 1000]))
def test_place_is_solve_without_the_certificate(solver: str, data: st.DataObject, steps: int) -> None:
    window = data.draw(windows_for(solver))
    unit, taken = place(window, solver, budget_steps=steps)
    result = solve(window, solver, budget_steps=steps)
    assert np.array_equal(unit, result.placement.unit)
    assert taken == result.stats.steps


@pytest.mark.parametrize("solver", REGISTERED)
@pytest.mark.parametrize(
    ("sizes", "loads", "least"),
    [
        pytest.param([], [3, 1], 3, id="no items"),
        pytest.param([], [0], 0, id="nothing at all"),
        pytest.param([4, 5, 6], [2], 17, id="one unit"),
        pytest.param([4, 5], [0, 0, 0, 0, 1], 5, id="more units than items"),
        pytest.param([7] * 9, [0, 0, 0], 21, id="equal items"),
        pytest.param([10**15, 1, 1, 1], [0, 0], 10**15, id="one giant"),
        pytest.param([0, 0, 0], [5, 0], 5, id="items that add nothing"),
        pytest.param([2**60, 2**60, 5], [2**59, 0], 2**60 + 2**59, id="values near 2^62"),
    ],
)
def test_edge_cases(solver: str, sizes: list[int], loads: list[int], least: int) -> None:
    result = solve(plain(sizes, loads), solver)
    assert result.objective.left_out == (() if not sizes else (0,))
    assert result.bound == least
    if solver != "round_robin":  # blind to sizes, so it may miss even these
        assert (result.objective.bottleneck, result.status) == (least, "OPTIMAL")
    assert result.limit is None


@pytest.mark.parametrize("solver", [info.name for info in list_solvers() if {"limits", "tiers"} <= info.capabilities])
def test_window_where_nothing_fits_is_solved_by_leaving_all_out(solver: str) -> None:
    result = solve(plain([5, 6], [9, 3], limit=[[4], [4]], tier=[1, 0]), solver)
    assert result.placement.unit.tolist() == [FREE, FREE]
    assert (result.objective.left_out, result.bound, result.status) == ((1, 1), 9, "OPTIMAL")


@pytest.mark.parametrize("solver", REGISTERED)
@settings(max_examples=50)
@given(window=every_kind)
def test_a_field_is_handled_or_refused_by_name(solver: str, window: Window) -> None:
    missing = window.fields_in_use - solver_info(solver).capabilities
    if missing:
        with pytest.raises(UnsupportedError, match="|".join(missing)):
            solve(window, solver)


@pytest.mark.parametrize("solver", REGISTERED)
def test_statistics_say_what_ran(solver: str) -> None:
    stats = solve(plain([3, 2], [0, 0]), solver, seed=7).stats
    assert stats.solver.split("(")[0] == solver
    assert stats.seed == 7
    assert stats.wall_s > 0
    assert stats.steps >= 2
