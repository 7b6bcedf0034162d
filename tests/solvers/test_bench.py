"""Solvers side by side: who runs when, on what, and what they are held against."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.models.errors import InputError, UnsupportedError
from sbs_opt.models.objective import Objective
from sbs_opt.models.window import Window
from sbs_opt.solvers import bench as bench_module
from sbs_opt.solvers.bench import Bench, Yardstick, bench
from sbs_opt.solvers.result import Result
from sbs_opt.solvers.solve import solve
from sbs_opt.testing.oracles import least_bottlenecks

from .helpers import every_kind, plain

PLAIN = (plain([5, 3, 3], [0, 1]), plain([2, 2, 3], [1, 0]))
LIMITED = plain([5, 3, 3], [0, 1], limit=[[5], [7]])
SOLVERS = ("lpt", "least_loaded")


@settings(max_examples=40)
@given(st.lists(every_kind, min_size=1, max_size=3))
def test_yardsticks_are_true_and_gaps_are_to_them(windows: list[Window]) -> None:
    found = bench(windows, SOLVERS)
    assert [(run.window, run.solver) for run in found.runs] == [(k, s) for k in range(len(windows)) for s in SOLVERS]
    for run in found.runs:
        assert run.result is not None
        window, yardstick = windows[run.window], found.yardsticks[run.window]
        assert run.result.objective == solve(window, run.solver).objective
        assert yardstick.objective <= run.result.objective
        least = least_bottlenecks(window)
        assert yardstick.bound <= least[yardstick.objective.left_out]
        gap = yardstick.gap(run.result)
        if gap is None:
            assert run.result.objective.left_out > yardstick.objective.left_out
        else:
            assert 0 <= gap <= run.result.gap
            assert gap * max(yardstick.bound, 1) == pytest.approx(run.result.objective.bottleneck - yardstick.bound)


class Recorder:
    """Stands in for `solve`: notes every call, and answers as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Window, str, float | None, int]] = []
        self.changes: dict[str, dict[str, Any]] = {}
        monkeypatch.setattr(bench_module, "solve", self)

    def __call__(self, window: Window, solver: str, *, budget_s: float | None, seed: int) -> Result:
        self.calls.append((window, solver, budget_s, seed))
        if self.changes.get(solver) == {}:
            raise UnsupportedError(f"solver {solver}: cannot handle limits")
        return replace(solve(window, "lpt"), **self.changes.get(solver, {}))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


def test_every_solver_is_warmed_on_every_kind_of_window_with_the_greatest_budget(recorder: Recorder) -> None:
    windows = (*PLAIN, LIMITED)
    found = bench(windows, SOLVERS, [0.1, 0.3, 0.2], seed=5)
    warming, measured = recorder.calls[:4], recorder.calls[4:]
    assert {(solver, window.has_limits) for window, solver, _, _ in warming} == {
        (solver, limited) for solver in SOLVERS for limited in (False, True)
    }
    assert {window for window, *_ in warming} == {PLAIN[0], LIMITED}
    assert {budget for _, _, budget, _ in warming} == {0.3}
    assert len(measured) == len(found.runs) == 3 * 2 * 3
    assert {seed for *_, seed in recorder.calls} == {found.seed} == {5}
    assert sorted((run.solver, run.budget_s) for run in found.runs if run.window == 2) == sorted(
        (solver, budget) for window, solver, budget, _ in measured if window == LIMITED
    )


def test_the_default_budget_counts_as_the_greatest(recorder: Recorder) -> None:
    bench(PLAIN, ["lpt"], [0.1, None])
    assert recorder.calls[0][2] is None


def test_solvers_take_turns_in_going_first(recorder: Recorder) -> None:
    found = bench(PLAIN * 2, SOLVERS)
    assert [solver for _, solver, _, _ in recorder.calls[2:]] == [*SOLVERS, *SOLVERS[::-1]] * 2
    assert [run.solver for run in found.runs] == [*SOLVERS] * 4


def test_nobody_finds_what_another_has_cached(recorder: Recorder) -> None:
    windows = (plain([5, 3, 3], [0, 1], tier=[0, 1, 1]),)
    before = set(vars(windows[0]))
    bench(windows, SOLVERS, [0.1, 0.2])
    given = [window for window, *_ in recorder.calls]
    assert len({id(window) for window in (*given, *windows)}) == len(given) + 1
    assert set(vars(windows[0])) == before
    assert set(vars(given[0])) > before  # else this would prove nothing


def test_a_refused_window_is_no_failure(recorder: Recorder) -> None:
    recorder.changes["least_loaded"] = {}
    found = bench(PLAIN[:1], SOLVERS)
    assert [run.result is None for run in found.runs] == [False, True]
    assert found.runs[1].refusal == "solver least_loaded: cannot handle limits"
    recorder.changes["lpt"] = {}
    assert bench(PLAIN[:1], SOLVERS).yardsticks == {}


def yardstick_of(recorder: Recorder, **by_solver: tuple[Objective, int]) -> Yardstick:
    for name, (objective, bound) in by_solver.items():
        recorder.changes[name] = {"objective": objective, "bound": bound, "status": "FEASIBLE"}
    return found_by(tuple(by_solver)).yardsticks[0]


def found_by(solvers: tuple[str, ...]) -> Bench:
    return bench(PLAIN[:1], solvers)


def test_bounds_are_shared_among_those_that_leave_out_least(recorder: Recorder) -> None:
    close, far = Objective((0,), 7, 0, 50), Objective((0,), 9, 0, 60)
    assert yardstick_of(recorder, lpt=(close, 4), auto=(far, 6)) == Yardstick(close, 6)
    assert yardstick_of(recorder, lpt=(far, 6), auto=(close, 4)) == Yardstick(close, 6)


@pytest.mark.parametrize("order", [("lpt", "auto"), ("auto", "lpt")])
def test_a_bound_for_more_left_out_is_no_yardstick(recorder: Recorder, order: tuple[str, str]) -> None:
    placed, shed = Objective((0,), 9, 0, 60), Objective((1,), 3, 0, 5)
    answers = {"lpt": (placed, 5), "auto": (shed, 3)}
    yardstick = yardstick_of(recorder, **{name: answers[name] for name in order})
    assert yardstick == Yardstick(placed, 5)
    results = {run.solver: run.result for run in found_by(order).runs}
    assert results["auto"] is not None
    assert results["lpt"] is not None
    assert yardstick.gap(results["auto"]) is None
    assert yardstick.gap(results["lpt"]) == 4 / 5


def test_progress_ends_short_of_one_and_never_falls() -> None:
    told: list[float] = []
    bench((*PLAIN, LIMITED), SOLVERS, progress=lambda share, label: told.append(share))
    assert told == sorted(told)
    assert (told[0], len(told)) == (0, 2 * 2 + 3 * 2)
    assert told[-1] == pytest.approx(1 - 1 / len(told))


def test_mistakes_are_told_before_anything_is_run(recorder: Recorder) -> None:
    with pytest.raises(InputError, match="'ltp': unknown"):
        bench(PLAIN, ["lpt", "ltp"])
    with pytest.raises(InputError, match="windows is empty"):
        bench([], ["lpt"])
    assert recorder.calls == []
