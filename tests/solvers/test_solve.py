"""What `solve` refuses, what it does not believe, and how it reports faults."""

from __future__ import annotations

import pickle
from typing import Any, cast

import numpy as np
import pytest

from sbs_opt.models import verify_kernel
from sbs_opt.models.errors import InputError, InternalError, PlacementError, UnsupportedError
from sbs_opt.models.objective import Objective
from sbs_opt.models.placement import Placement
from sbs_opt.models.window import Savings, Window
from sbs_opt.solvers import plain_search
from sbs_opt.solvers import solve as solve_module
from sbs_opt.solvers.greedy_kernel import greedy
from sbs_opt.solvers.plain_search import place_and_search
from sbs_opt.solvers.protocol import FIELDS, Solution, SolverInfo
from sbs_opt.solvers.registry import list_solvers, load_solver
from sbs_opt.solvers.result import Result, Stats
from sbs_opt.solvers.solve import solve
from sbs_opt.solvers.warm_up import warm_up

from .helpers import plain

WINDOW = plain([5, 3, 3], [0, 1])

USES: dict[str, Window] = {
    "limits": plain([1, 1], [0], limit=[[1]]),
    "open_resource": plain([1, 1], [0], limit=[[1]], open_resource=0),
    "groups": plain([1], [0, 0], group=[0, 1]),
    "several_resources": Window(demand=[[1, 1]], load=[[0, 0]]),
    "tiers": plain([1, 1], [0], limit=[[1]], tier=[0, 1]),
    "pinned": plain([1], [0, 0], pinned=[1]),
    "savings": plain([1], [0], savings=Savings(item=[0], unit=[0], value=[[1]])),
}


class Answers:
    """A solver that says what it was told to say."""

    def __init__(self, answer: Any, **described: Any) -> None:
        self.answer = answer
        vars(self).update(described)

    def solve(self, window: Window, **_: Any) -> Any:
        return self.answer


def test_registered_solvers() -> None:
    names = [info.name for info in list_solvers()]
    assert names[0] == "auto"  # the default comes first
    assert {"lpt", "local_search", "branch_and_bound", "cp_sat", "milp", "min_cost_flow", "assignment"} <= set(names)
    assert len(set(names)) == len(names)
    assert all(info.reference for info in list_solvers())
    assert load_solver("lpt") is load_solver("lpt")


@pytest.mark.parametrize("answer", [[0, 1, 1], np.array([0, 1, 1], np.int32), Placement([0, 1, 1])])
def test_an_own_solver_may_return_a_placement_or_an_array(answer: Any) -> None:
    result = solve(WINDOW, Answers(answer))
    assert result.objective == Objective((0,), 7, 0, 74)
    assert (result.bound, result.status, result.stats.solver) == (6, "FEASIBLE", "Answers")
    assert result.gap == pytest.approx(1 / 6)


def test_a_proved_bound_of_an_own_solver_makes_it_optimal() -> None:
    window = plain([9, 9, 6, 6], [0, 3])  # the cheap bounds are 17, the least is 18
    assert solve(window, Answers([0, 1, 0, 1])).status == "FEASIBLE"
    result = solve(window, Answers(Solution(np.array([0, 1, 0, 1]), bound=18, steps=5, limit="time")))
    assert (result.bound, result.status, result.limit, result.stats.steps) == (18, "OPTIMAL", "time", 5)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_outside_the_capabilities_is_refused_by_name(name: str) -> None:
    lacking = Answers([0], capabilities=frozenset(FIELDS) - {name})
    with pytest.raises(UnsupportedError, match=f"Answers: cannot handle {name}, .*; auto can"):
        solve(USES[name], lacking)
    assert name in USES[name].fields_in_use


def test_fields_that_cannot_change_the_answer_are_not_refused() -> None:
    window = plain([4, 4], [0, 0], tier=[0, 1], group=[3, 3], open_resource=0, crossing=[0, 1], pinned=[-1, -1])
    assert window.fields_in_use == frozenset()
    own = Answers([0, 1], info=SolverInfo("mine", frozenset(), "none"))
    result = solve(window, own)
    assert (result.status, result.stats.solver) == ("OPTIMAL", "mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "ltp"}, "'ltp': unknown; known solvers: auto, round_robin, least_loaded, lpt, multifit,"),
        ({"solver": 3}, "solver = 3: pass a registered name or an object with a solve method"),
        ({"solver": Answers}, "an object with a solve method"),
        ({"solver": Answers([0, 1, 1], info="mine")}, "solver.info = 'mine'"),
        ({"solver": Answers([0, 1, 1], capabilities={"tears"})}, "unknown capability 'tears'; known: limits"),
        ({"solver": Answers([0.5, 1, 1])}, r"placement.unit\[0\] = 0.5"),
        ({"solver": Answers(Solution(np.array([0, 1, 1]), bound=8))}, "claims bound 8, above the bottleneck 7"),
        ({"solver": Answers(Solution(np.array([0, 1, 1]), bound=cast(int, 0.5)))}, "claims bound 0.5, which is no"),
        ({"budget_s": -1}, "budget_s = -1"),
        ({"budget_s": float("nan")}, "budget_s = nan"),
        ({"budget_s": True}, "budget_s = True"),
        ({"budget_steps": -1}, "budget_steps = -1"),
        ({"budget_steps": 1.5}, "budget_steps = 1.5"),
        ({"seed": None}, "seed = None"),
        ({"window": [[1]]}, "window = list: pass a Window"),
        ({"start": [0, 1, "a"]}, "placement.unit"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        solve(**{"window": WINDOW, **arguments})


@pytest.mark.parametrize("start", [[0, 1], [0, 1, 2]])
def test_a_start_that_breaks_a_rule_is_the_callers_fault(start: list[int]) -> None:
    with pytest.raises(PlacementError, match=r"^start: "):
        solve(WINDOW, start=start)


def test_an_own_solver_that_breaks_a_rule_is_the_callers_fault() -> None:
    with pytest.raises(PlacementError, match=r"solver Answers: .*unit 2"):
        solve(WINDOW, Answers([0, 1, 2]))


FALSE_CLAIMS = [
    pytest.param(Solution(np.array([0, 1, 2])), id="a unit too many"),
    pytest.param(Solution(np.array([[0, 1, 1]])), id="no placement at all"),
    pytest.param(Solution(np.array([0, 1, 1]), bound=8), id="bound above the value"),
    pytest.param(Solution(np.array([0, 1, -1]), left_out_proved=True), id="left out more than the start"),
]


@pytest.mark.parametrize("claim", FALSE_CLAIMS)
def test_a_registered_solver_that_errs_is_our_bug(claim: Solution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solve_module, "load_solver", lambda name: Answers(claim))
    with pytest.raises(InternalError, match="solver lpt: "):
        solve(WINDOW, "lpt", start=[1, 0, 0])


def test_a_bound_for_another_left_out_tuple_is_not_taken_over() -> None:
    # Bound 1000 is true of placements that leave two items out of this window, and silent on the start.
    window = plain([1000, 1, 1], [0], limit=[[1000]])
    result = solve(window, Answers(Solution(np.array([0, -1, -1]), bound=1000)), start=[-1, 0, 0])
    assert (result.objective.left_out, result.bound, result.status) == ((1,), 2, "FEASIBLE")


def test_start_with_fewer_left_out_wins_over_a_lower_bottleneck() -> None:
    result = solve(WINDOW, Answers([-1, -1, -1]), start=[0, 0, 0])
    assert result.objective == Objective((0,), 11, 0, 122)


def test_a_result_cannot_be_made_to_lie() -> None:
    stats = Stats(wall_s=0.0, steps=0, solver="x", version="0", seed=0)
    good = Objective((0,), 7, 0, 74)
    placement = Placement([0, 1, 1])
    with pytest.raises(InternalError, match="bound 8 exceeds"):
        Result(placement, good, 8, "FEASIBLE", None, stats)
    with pytest.raises(InternalError, match="OPTIMAL at bottleneck 7, but the bound is 6"):
        Result(placement, good, 6, "OPTIMAL", None, stats)


class KeepsItsBuffer:
    """A user's solver that writes every answer into the same array."""

    def __init__(self) -> None:
        self.buffer = np.zeros(8, dtype=np.int32)

    def solve(self, window: Window, **_: Any) -> Solution:
        self.buffer[: window.num_items] = np.arange(window.num_items) % window.num_units
        return Solution(self.buffer[: window.num_items])


def test_a_result_does_not_change_when_the_solver_writes_to_its_array() -> None:
    solver = KeepsItsBuffer()
    result = solve(WINDOW, solver)
    solver.buffer[:] = 1
    assert result.placement.unit.tolist() == [0, 1, 0]
    assert solve(WINDOW, solver).placement == result.placement


def test_leaving_out_what_nothing_limits_is_not_proved_least() -> None:
    with pytest.raises(InputError, match="nothing limits this window"):
        solve(WINDOW, Answers(Solution(np.full(3, -1, dtype=np.int32), bound=1, left_out_proved=True)))


@pytest.mark.parametrize("solver", ["auto", "lpt", "local_search", "multifit"])
@pytest.mark.parametrize("budget", [{"budget_steps": 10**30}, {"budget_s": 1e305}, {"budget_steps": np.int32(5000)}])
def test_any_number_is_a_budget(solver: str, budget: dict[str, Any]) -> None:
    assert solve(WINDOW, solver, **budget).objective.bottleneck <= 8


def test_nothing_is_cut_short_where_there_is_nothing_to_do() -> None:
    result = solve(plain([1], [0]), "auto", budget_steps=0)
    assert (result.status, result.limit) == ("OPTIMAL", None)


def test_errors_of_a_start_name_it() -> None:
    with pytest.raises(InputError, match="start: "):
        solve(WINDOW, "lpt", start=[0.5, 1, 1])


def test_an_own_solver_that_returns_nothing_is_named() -> None:
    with pytest.raises(InputError, match="solver Answers: "):
        solve(WINDOW, Answers(None))


def test_after_warm_up_nothing_is_compiled() -> None:
    warm_up()
    kernels = (verify_kernel.judge, verify_kernel.judge_plain, place_and_search, greedy, plain_search._search)
    before = [len(kernel.signatures) for kernel in kernels]
    copies = [
        pickle.loads(pickle.dumps(plain([5, 3, 3], [0, 1]))),
        plain([5, 3, 3], [0, 1], tier=[1, 0, 1]),
        plain([5, 3, 3], [0, 1], group=[0, 1], limit=[[9], [9]]),
        plain([5, 3, 3], [0, 1], group=[4, 1], tier=[3, 3, 3], limit=[[9], [9]]),
    ]
    for window in copies:
        solve(window, start=solve(window, "lpt").placement)
    assert [len(kernel.signatures) for kernel in kernels] == before
