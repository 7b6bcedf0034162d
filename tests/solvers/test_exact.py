"""What all exact solvers owe: the optimum, with and without a start, and an incumbent that no fault takes away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortools.math_opt.python import mathopt
from ortools.sat.python import cp_model
from scipy import optimize

from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import InputError
from sbs_opt.models.objective import Objective
from sbs_opt.models.verify import verify
from sbs_opt.models.window import FREE, Savings, Window
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.cp_sat import CpSat
from sbs_opt.solvers.exact_search import Answer, BackEnd, BackEndError, ExactSolver, Stage
from sbs_opt.solvers.milp import Milp
from sbs_opt.solvers.pulp_cbc import Pulp
from sbs_opt.solvers.pulp_highs import PulpHighs
from sbs_opt.solvers.pulp_model import pulp
from sbs_opt.solvers.registry import solver_info
from sbs_opt.solvers.result import Result
from sbs_opt.solvers.scipy_milp import ScipyMilp
from sbs_opt.solvers.solve import solve
from sbs_opt.testing.oracles import best_placement, least_bottlenecks

from .helpers import dense_windows, every_kind, plain

PLENTY = 5_000_000
TIGHT = plain([5, 5, 4, 4, 3, 3, 3], [0, 0, 0])  # Graham: lpt reaches 11, the optimum is 9

EXACT: dict[str, type[ExactSolver]] = {"cp_sat": CpSat, "milp": Milp, "pulp": Pulp, "scipy_milp": ScipyMilp}
every_exact = pytest.mark.parametrize("name", EXACT)

PACKING = plain([6, 5, 5, 4, 4, 4, 2], [0, 0], limit=[[15], [15]])
"""Everything fits, but only just; no list schedule finds it."""


def parts(objective: Objective) -> tuple[tuple[int, ...], int, int]:
    """Return what exact solvers optimise."""
    return objective.left_out, objective.bottleneck, objective.saved


def assert_claims_are_true(window: Window, result: Result) -> None:
    """Compare the bound and the status of a result with brute force."""
    assert verify(window, result.placement) == result.objective
    least = least_bottlenecks(window)
    assert result.bound <= least[result.objective.left_out]
    if result.status == "OPTIMAL":
        assert result.objective.left_out == min(least)
        assert result.objective.bottleneck == least[result.objective.left_out]


@every_exact
@settings(max_examples=50)
@given(window=every_kind)
def test_equals_brute_force_in_all_but_the_spread(name: str, window: Window) -> None:
    result = solve(window, name, budget_steps=PLENTY)
    assert parts(result.objective) == parts(best_placement(window)[1])
    assert (result.status, result.limit) == ("OPTIMAL", None)


@every_exact
@settings(max_examples=40)
@given(window=every_kind)
def test_reaches_the_optimum_with_the_incumbent_switched_off(name: str, window: Window) -> None:
    result = solve(window, EXACT[name](incumbent=False), budget_steps=PLENTY)
    assert parts(result.objective) == parts(best_placement(window)[1])
    assert (result.status, result.limit) == ("OPTIMAL", None)


@every_exact
@settings(max_examples=20)
@given(window=dense_windows)
def test_the_optimum_among_large_numbers(name: str, window: Window) -> None:
    window = enlarged(window, 1009)
    result = solve(window, name, budget_steps=PLENTY)
    assert parts(result.objective) == parts(best_placement(window)[1])
    assert result.status == "OPTIMAL"


@every_exact
@settings(max_examples=20)
@given(window=dense_windows, factor=st.sampled_from([10**6 + 3, 10**9 + 7, 10**13 + 37]))
def test_very_large_numbers_claim_nothing_false(name: str, window: Window, factor: int) -> None:
    # Releases of HiGHS up to 1.12 call some of these infeasible: then the incumbent stands.
    window = enlarged(window, factor)
    assert_claims_are_true(window, solve(window, name, budget_steps=20_000))


def enlarged(window: Window, factor: int) -> Window:
    """Return the window with its amounts times a prime and a little more, each by another number.

    So no common divisor makes them small again.
    """
    n, m, resources = window.num_items, window.num_units, window.num_resources
    demand = window.demand * factor + np.arange(n * resources).reshape(n, resources)
    savings = window.savings
    return Window(
        demand=demand,
        load=window.load * factor + np.arange(m * resources)[::-1].reshape(m, resources),
        price=window.price,
        limit=np.where(window.limit > 100, window.limit, window.limit * factor + 7),
        open_resource=window.open_resource,
        crossing=window.crossing,
        group=window.group,
        tier=window.tier,
        pinned=window.pinned,
        savings=savings and Savings(savings.item, savings.unit, savings.value * factor),
    )


@every_exact
@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(0, 2**58), min_size=1, max_size=5),
    loads=st.lists(st.integers(0, 2**58), min_size=2, max_size=2),
    limited=st.booleans(),
)
def test_huge_numbers_claim_nothing_false(name: str, sizes: list[int], loads: list[int], limited: bool) -> None:
    limit = [[sum(sizes) // 2 + load] for load in loads] if limited else None
    window = plain(sizes, loads, limit=limit)
    for solver in (EXACT[name](), EXACT[name](incumbent=False)):
        assert_claims_are_true(window, solve(window, solver, budget_steps=20_000))


@pytest.mark.parametrize("name", ["milp", "pulp", "scipy_milp"])
def test_a_common_divisor_makes_huge_numbers_provable(name: str) -> None:
    scale = 2**55
    huge = plain([size * scale for size in (5, 5, 4, 4, 3, 3, 3)], [0, 0, 0])
    result = solve(huge, name, budget_steps=PLENTY)
    assert (result.objective.bottleneck, result.bound, result.status) == (9 * scale, 9 * scale, "OPTIMAL")


@every_exact
@pytest.mark.parametrize("window", [TIGHT, PACKING], ids=["makespan", "packing"])
def test_proves_what_lpt_misses(name: str, window: Window) -> None:
    assert solve(window, "lpt").status == "FEASIBLE"
    result = solve(window, name, budget_steps=PLENTY)
    assert (result.status, result.limit) == ("OPTIMAL", None)


@every_exact
@pytest.mark.parametrize(("budget", "limit"), [({"budget_steps": 0}, "steps"), ({"budget_s": 0.0}, "time")])
def test_without_budget_the_start_comes_back(name: str, budget: dict[str, Any], limit: str) -> None:
    result = solve(TIGHT, name, **budget)
    assert (result.objective.bottleneck, result.status, result.limit) == (11, "FEASIBLE", limit)
    start = [0, 1, 2, 2, 0, 1, 1]
    improved = solve(TIGHT, name, start=start, **budget)
    assert improved.objective == min(verify(TIGHT, start), result.objective)


@every_exact
def test_without_incumbent_and_budget_nothing_is_placed(name: str) -> None:
    found = EXACT[name](incumbent=False).solve(
        TIGHT, budget_s=None, budget_steps=0, start=np.zeros(7, np.int64), seed=0
    )
    assert found.unit.tolist() == [FREE] * 7
    assert (found.bound, found.left_out_proved, found.limit) == (0, False, "steps")


@every_exact
def test_a_search_that_is_cut_short_says_so(name: str) -> None:
    window = plain(np.random.default_rng(3).integers(1000, 5000, 60), [0] * 12)
    result = solve(window, name, budget_s=0.15)
    assert (result.status, result.limit) == ("FEASIBLE", "time")


# Faults of the packages behind the solvers.

CALLS: dict[str, tuple[Any, str]] = {
    "cp_sat": (cp_model.CpSolver, "solve"),
    "milp": (mathopt, "solve"),
    "pulp": (pulp.LpProblem, "solve"),
    "scipy_milp": (optimize, "milp"),
}


def raises(error: BaseException) -> Callable[..., Any]:
    """Return a function that raises."""

    def broken(*_: Any, **__: Any) -> Any:
        raise error

    return broken


@every_exact
@pytest.mark.parametrize("error", [RuntimeError("broken"), MemoryError("out"), ValueError("bad")])
@pytest.mark.parametrize("window", [TIGHT, PACKING], ids=["makespan", "packing"])
def test_the_incumbent_outlives_a_package_that_raises(
    name: str, error: Exception, window: Window, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plainly = solve(window, "lpt")
    monkeypatch.setattr(*CALLS[name], raises(error))
    result = solve(window, name, budget_steps=PLENTY)
    assert result.objective == plainly.objective
    assert (result.bound, result.status) == (plainly.bound, "FEASIBLE")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert type(error).__name__ in caplog.text
    start = best_placement(PACKING)[0]
    if window is PACKING:
        assert solve(window, name, budget_steps=PLENTY, start=start).objective == verify(window, start)


@every_exact
def test_an_interrupt_is_not_taken_for_a_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*CALLS[name], raises(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        solve(TIGHT, name, budget_steps=PLENTY)


def test_a_status_is_not_believed_without_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    milp = optimize.milp

    def boasts(*given: Any, **options: Any) -> Any:
        result = milp(*given, **{**options, "options": {"node_limit": 0}})
        result.status, result.success, result.message = 0, True, "Optimization terminated successfully."
        return result

    monkeypatch.setattr(optimize, "milp", boasts)
    result = solve(TIGHT, "scipy_milp", budget_steps=PLENTY)
    assert (result.objective.bottleneck, result.status) == (11, "FEASIBLE")


def test_pulp_calls_a_search_that_was_cut_short_optimal_and_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = []
    solve_problem = pulp.LpProblem.solve

    def spied(*given: Any, **options: Any) -> Any:
        statuses.append(solve_problem(*given, **options))
        return statuses[-1]

    monkeypatch.setattr(pulp.LpProblem, "solve", spied)
    window = plain(np.random.default_rng(3).integers(1000, 5000, 20), [0] * 5)
    result = solve(window, Pulp(incumbent=False), budget_steps=20)
    assert statuses == [pulp.LpStatusOptimal] * 2  # left out, then the bottleneck
    assert (result.status, result.limit, result.objective.left_out) == ("FEASIBLE", "steps", (0,))


# Lies of a back end, told directly to the search.


class Told(ExactSolver):
    """An exact solver whose back end gives prepared answers; the last one is repeated."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__()
        self._answers = list(answers)

    def _back_end(self, window: Window, seed: int) -> BackEnd:
        return Teller(list(self._answers))


class Teller:
    def __init__(self, answers: list[Answer]) -> None:
        self._answers = answers

    def minimise(self, stage: Stage, low: int, incumbent: IntArray, value: int, budget: Budget) -> Answer:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def fix(self, stage: Stage, value: int) -> None:
        pass


OPTIMUM = np.array([0, 1, 0, 1, 2, 2, 2])
LPT = np.array([0, 1, 2, 2, 0, 1, 0])


@pytest.mark.parametrize(
    ("answer", "bottleneck", "complaint"),
    [
        pytest.param(Answer(np.full(7, 3), 9, 1, complete=True), 11, "breaks a rule", id="no such unit"),
        pytest.param(Answer(np.zeros(6, np.int64), 9, 1, complete=True), 11, "breaks a rule", id="wrong length"),
        pytest.param(Answer(np.full(7, FREE), 9, 1, complete=True), 11, "was fixed", id="leaves out what was placed"),
        pytest.param(Answer(None, 12, 1, complete=True), 11, "at least 12", id="bound above the incumbent"),
        pytest.param(Answer(OPTIMUM, 10, 1, complete=True), 9, "at least 10", id="bound above its own placement"),
        pytest.param(Answer(None, 2**70, 1, complete=True), 11, "at least", id="bound beyond all numbers"),
        pytest.param(Answer(LPT, None, 1, complete=True), 11, None, id="complete without a bound"),
        pytest.param(Answer(None, None, 1, complete=True), 11, None, id="complete with nothing"),
        pytest.param(Answer(OPTIMUM, None, 1, complete=False), 9, None, id="a good placement without a bound"),
    ],
)
def test_lies_are_found_out_and_nothing_is_claimed(
    answer: Answer, bottleneck: int, complaint: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    found = Told(answer).solve(TIGHT, budget_s=None, budget_steps=100, start=None, seed=0)
    assert verify(TIGHT, found.unit).bottleneck == bottleneck
    assert found.bound <= 9
    if complaint is None:
        assert caplog.records == []
    else:
        assert found.bound == 0
        assert complaint in caplog.text


CROWDED = plain([6, 5, 4, 6, 5, 4], [0], limit=[[9]], tier=[0, 0, 0, 1, 1, 1])
"""Of each tier something stays out: (1, 3) is the least."""


def test_what_is_left_out_is_proved_only_when_every_tier_is() -> None:
    assert best_placement(CROWDED)[1].left_out == (1, 3)
    done, silent = Answer(None, 1, 1, complete=True), Answer(None, None, 1, complete=True)
    for answers in ([silent, done], [silent, silent]):
        found = Told(*answers).solve(CROWDED, budget_s=None, budget_steps=100, start=None, seed=0)
        assert not found.left_out_proved
    found = Told(done, Answer(None, 3, 1, complete=True)).solve(
        CROWDED, budget_s=None, budget_steps=100, start=np.array([FREE, 0, 0, FREE, FREE, FREE]), seed=0
    )
    assert found.left_out_proved


lies = st.builds(
    Answer,
    unit=st.none() | st.lists(st.integers(-3, 4), max_size=6).map(lambda unit: np.array(unit, dtype=np.int64)),
    bound=st.none() | st.integers(10**6, 10**30),
    steps=st.integers(1, 20),
    complete=st.booleans(),
)


@settings(max_examples=100)
@given(window=every_kind, told=st.lists(lies, min_size=1, max_size=4), data=st.data())
def test_no_lie_costs_the_incumbent_or_makes_a_false_claim(window: Window, told: list[Answer], data: Any) -> None:
    placement, _ = data.draw(st.sampled_from(small_placements(window)))
    result = solve(window, Told(*told), budget_steps=data.draw(st.integers(0, 100)), start=placement)
    assert result.objective <= verify(window, placement)
    assert result.objective <= solve(window, "lpt").objective
    assert_claims_are_true(window, result)


def small_placements(window: Window) -> list[Any]:
    """Return two placements: nothing, and the best one."""
    nothing = [FREE] * window.num_items
    return [(nothing, None), best_placement(window)]


def test_a_back_end_that_fails_late_loses_what_it_claimed_before(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Stage] = []

    class FailsLate(Teller):
        def minimise(self, stage: Stage, low: int, incumbent: IntArray, value: int, budget: Budget) -> Answer:
            asked.append(stage)
            if len(asked) > 1:
                raise BackEndError("gives up")
            return Answer(None, value, 1, complete=True)

    monkeypatch.setattr(Told, "_back_end", lambda solver, window, seed: FailsLate([]))
    found = Told().solve(PACKING, budget_s=None, budget_steps=100, start=None, seed=0)
    assert len(asked) == 2
    assert (found.bound, found.left_out_proved) == (0, False)


# PuLP with HiGHS, where highspy is installed.


def test_missing_highspy_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulp.HiGHS, "available", lambda solver: False)
    with pytest.raises(InputError, match=r"sbs-opt\[highs\]"):
        PulpHighs()


@settings(max_examples=25)
@given(window=every_kind)
def test_pulp_with_highs_equals_brute_force(window: Window) -> None:
    try:
        solvers = (PulpHighs(), PulpHighs(incumbent=False))
    except InputError as error:
        pytest.skip(str(error))
    for solver in solvers:
        result = solve(window, solver, budget_steps=PLENTY)
        assert parts(result.objective) == parts(best_placement(window)[1])
        assert (result.status, result.limit) == ("OPTIMAL", None)


@every_exact
def test_is_registered_with_every_field(name: str) -> None:
    assert "improves_start" in solver_info(name).capabilities
    assert len(solver_info(name).capabilities) == 8
