"""The shipped strategies, oracles and assertions themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

import sbs_opt.testing
from sbs_opt.models.errors import InputError
from sbs_opt.models.objective import Objective
from sbs_opt.models.placement import Placement
from sbs_opt.models.window import FIELDS, UNLIMITED, Savings, Window
from sbs_opt.solvers.protocol import Solution
from sbs_opt.solvers.result import Result
from sbs_opt.solvers.solve import solve
from sbs_opt.testing import (
    GUARANTEES,
    as_code,
    assert_certificate,
    assert_feasible,
    best_placement,
    every_placement,
    least_bottlenecks,
    least_makespan,
    windows,
)

from .helpers import every_kind, plain
from .helpers import least_makespan as plain_least_makespan

# -- strategies --------------------------------------------------------------------------------------------------


def found(strategy: st.SearchStrategy[Window], condition: Callable[[Window], bool], *phases: Phase) -> Window:
    chosen = settings(max_examples=3000, database=None, derandomize=True, phases=phases or tuple(Phase))
    return find(strategy, condition, settings=chosen)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_drawn(name: str) -> None:
    assert name in found(windows(), lambda w: name in w.fields_in_use, Phase.generate).fields_in_use


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param(lambda w: not (w.price == 1).all(), id="price"),
        pytest.param(lambda w: not (w.spread_weight == w.price).all(), id="spread weight"),
        pytest.param(lambda w: not w.crossing.all(), id="crossing"),
        pytest.param(lambda w: w.open_resource == 2, id="open resource"),
        pytest.param(lambda w: (w.limit == UNLIMITED).any() and w.has_limits, id="some limits"),
        pytest.param(lambda w: w.savings is not None and (w.savings.value == w.demand[w.savings.item]).all(), id="all"),
        pytest.param(lambda w: (w.price == 0).all(), id="no price"),
        pytest.param(lambda w: len(w.fields_in_use) >= 5, id="many at once"),
    ],
)
def test_corners_are_drawn(condition: Callable[[Window], bool]) -> None:
    assert condition(found(windows(), condition, Phase.generate))


@given(windows(2, 6, min_units=2, max_units=4, max_amount=5, max_placements=700, fields={"limits", "pinned"}))
def test_ranges_are_kept(window: Window) -> None:
    assert 2 <= window.num_items <= 6
    assert 2 <= window.num_units <= 4
    assert (window.num_units + 1) ** window.num_items <= 700 or window.num_items == 2
    assert max(window.demand.max(), window.load.max()) <= 5
    assert window.fields_in_use <= {"limits", "pinned"}


@given(windows(max_load=0, max_amount=3))
def test_loads_have_a_range_of_their_own(window: Window) -> None:
    assert window.load.max() == 0
    assert window.demand.max(initial=0) <= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_items": 3, "max_items": 2}, "min_items = 3, max_items = 2"),
        ({"min_units": 0}, "min_units = 0"),
        ({"max_amount": -1}, "max_amount = -1"),
        ({"max_load": -1}, "max_load = -1"),
        ({"fields": {"limit"}}, "unknown 'limit'; known: limits"),
        ({"fields": {"open_resource"}}, "open_resource without limits"),
    ],
)
def test_empty_ranges_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        windows(**arguments)


@pytest.mark.parametrize(
    ("fields", "condition", "simplest"),
    [
        (FIELDS, lambda w: True, "Window(demand=[], load=[[0]])"),
        ((), lambda w: w.num_items == 3, "Window(demand=[[0], [0], [0]], load=[[0]])"),
        ((), lambda w: w.demand.sum() >= 5, "Window(demand=[[5]], load=[[0]])"),
        (FIELDS, lambda w: w.has_limits, "Window(demand=[[1]], load=[[0]], limit=[[0]])"),
        (
            FIELDS,
            lambda w: w.savings is not None and w.savings.value.sum() >= 3,
            "Window(demand=[[3]], load=[[0]], savings=Savings(item=[0], unit=[0], value=[[3]]))",
        ),
        (FIELDS, lambda w: "groups" in w.fields_in_use, "Window(demand=[], load=[[0], [0]], group=[0, 1])"),
    ],
)
def test_windows_shrink_to_what_matters(
    fields: tuple[str, ...], condition: Callable[[Window], bool], simplest: str
) -> None:
    assert as_code(found(windows(fields=fields), condition)) == simplest


def test_a_wrong_solver_shrinks_to_a_window_that_shows_why() -> None:
    """`lpt` is not optimal; a window that shows it needs three items on two units, and no field."""
    window = found(
        windows(max_placements=700, fields={"limits", "pinned", "savings"}),
        lambda w: not w.fields_in_use and solve(w, "lpt").objective.bottleneck > best_placement(w)[1].bottleneck,
    )
    assert (window.num_units, window.num_items) in {(2, 3), (2, 4), (3, 4)}
    assert len(as_code(window)) <= 65
    assert max(window.demand.max(), window.load.max()) <= 5


# -- windows as code ---------------------------------------------------------------------------------------------


@given(every_kind)
def test_code_makes_the_window_again(window: Window) -> None:
    names = {"Window": Window, "Savings": Savings, "UNLIMITED": UNLIMITED}
    again = eval(as_code(window), names)
    if window.num_items:
        assert again == window
    else:
        assert as_code(again) == as_code(window)


def test_code_leaves_out_defaults() -> None:
    window = Window(demand=[[1, 2]], load=[[0, 3]], limit=[[UNLIMITED, 9]], spread_weight=[1, 1], crossing=[True])
    assert as_code(window) == "Window(demand=[[1, 2]], load=[[0, 3]], limit=[[UNLIMITED, 9]])"


# -- oracles -----------------------------------------------------------------------------------------------------


def test_oracle_tries_every_placement_once() -> None:
    window = plain([1, 2], [0, 0], limit=[[2], [1]])
    found = {tuple(placement.unit.tolist()) for placement, _ in every_placement(window)}
    assert found == {(-1, -1), (-1, 0), (0, -1), (1, -1), (1, 0)}
    placement, objective = best_placement(window)
    assert placement.unit.tolist() == [1, 0]
    assert objective.left_out == (0,)
    assert least_bottlenecks(window) == {(2,): 0, (1,): 1, (0,): 2}


@given(windows(max_items=5, max_placements=700, fields={"savings"}))
def test_the_oracles_agree(window: Window) -> None:
    _, best = best_placement(window)
    assert least_makespan(window) == best.bottleneck
    if window.savings is None:
        assert plain_least_makespan(window.demand[:, 0].tolist(), window.load[:, 0].tolist()) == best.bottleneck


def test_the_fast_oracle_knows_prices_and_its_limits() -> None:
    assert least_makespan(Window(demand=[[3], [4]], load=[[0], [0]], price=[7])) == 28
    with pytest.raises(InputError, match="uses pinned, for which there is best_placement"):
        least_makespan(plain([1], [0], pinned=[0]))


def test_oracle_refuses_what_it_could_not_finish() -> None:
    with pytest.raises(InputError, match="use fewer items"):
        best_placement(plain([1] * 30, [0, 0]))


# -- assertions --------------------------------------------------------------------------------------------------

WINDOW = plain([5, 3, 3], [0, 1], limit=[[9], [9]])


def test_feasible_returns_the_objective() -> None:
    assert (
        assert_feasible(WINDOW, [0, 1, 1]) == assert_feasible(WINDOW, Placement([0, 1, 1])) == Objective((0,), 7, 0, 74)
    )


@pytest.mark.parametrize(
    ("placement", "said"),
    [
        ([0, 0, 0], r"unit 0, resource 0: load 11 exceeds the limit 9"),
        (Placement([0, 0, 0]), r"unit 0, resource 0: load 11 exceeds the limit 9"),
        ([0, 2, 1], r"item 1 is on unit 2"),
        ([0.5, 0, 1], r"placement.unit\[0\] = 0.5"),
    ],
)
def test_infeasible_is_shown_as_code(placement: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=said) as caught:
        assert_feasible(WINDOW, placement)
    _, window, shown = str(caught.value).splitlines()
    assert window == "window = Window(demand=[[5], [3], [3]], load=[[0], [1]], limit=[[9], [9]])"
    unit = placement.unit.tolist() if isinstance(placement, Placement) else placement
    assert shown == f"placement = {unit}"


@given(every_kind)
def test_true_certificates_are_accepted(window: Window) -> None:
    assert_certificate(window, solve(window, "lpt"))
    _, best = best_placement(window)

    class Knows:
        def solve(self, window: Window, **_: Any) -> Solution:
            unit = best_placement(window)[0].unit.astype(np.int64)
            return Solution(unit, bound=best.bottleneck, left_out_proved=True)

    result = solve(window, Knows())
    assert result.status == "OPTIMAL"
    assert_certificate(window, result)


def test_large_windows_are_not_brute_forced() -> None:
    assert_certificate(plain(range(1, 400), [0] * 20), solve(plain(range(1, 400), [0] * 20), "lpt"))


GOOD = solve(WINDOW, "lpt")
"""Bottleneck 7, bound 6, FEASIBLE; 6 is the least."""

NARROW = plain([5, 3], [0], limit=[[5]])
LEAVES_OUT = replace(solve(NARROW, "lpt"), placement=Placement([-1, -1]), objective=Objective((2,), 0, 0, 0), bound=0)


def forged(result: Result, **changes: Any) -> Any:
    """Return a result that says what no `Result` can be made to say."""
    fields = ("placement", "objective", "bound", "status", "limit", "stats")
    return SimpleNamespace(**{**{name: getattr(result, name) for name in fields}, **changes})


@pytest.mark.parametrize(
    ("window", "result", "said"),
    [
        (WINDOW, forged(GOOD, placement=Placement([0, 0, 0])), "exceeds the limit 9"),
        (WINDOW, forged(GOOD, objective=Objective((0,), 6, 0, 74)), "the objective is .*bottleneck=7.*, not .*=6"),
        (WINDOW, forged(GOOD, bound=8), "bound 8 is above the bottleneck 7"),
        (WINDOW, forged(GOOD, status="PROVEN"), "status 'PROVEN' is none"),
        (WINDOW, forged(GOOD, status="OPTIMAL"), "OPTIMAL, but the bound is 6"),
        (WINDOW, replace(GOOD, bound=7), "bound 7, but a placement with as much left out has 6"),
        (WINDOW, replace(GOOD, bound=7, status="OPTIMAL"), "bound 7, but a placement with as much left out has 6"),
        (NARROW, replace(LEAVES_OUT, status="OPTIMAL"), r"OPTIMAL, but \(1,\) left out is possible"),
    ],
)
def test_false_certificates_are_found_out(window: Window, result: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=said) as caught:
        assert_certificate(window, result)
    assert f"window = {as_code(window)}" in str(caught.value)


# -- the package -------------------------------------------------------------------------------------------------


def test_every_name_is_there() -> None:
    for name in sbs_opt.testing.__all__:
        assert getattr(sbs_opt.testing, name) is not None
    assert set(sbs_opt.testing.__all__) <= set(dir(sbs_opt.testing))
    with pytest.raises(AttributeError, match="no attribute 'assert_good'"):
        _ = sbs_opt.testing.assert_good


def test_each_name_loads_only_what_it_needs() -> None:
    heavy = ("hypothesis", "numba", "ortools", "scipy", "sbs_opt.solvers.solve", "sbs_opt.scheduler")
    program = (
        "import sys\nfrom sbs_opt.testing import {}\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules], sep=',')"
    )
    for name, loaded in (("GUARANTEES", ""), ("as_code", ""), ("best_placement", ""), ("windows", "hypothesis")):
        done = subprocess.run([sys.executable, "-c", program.format(name)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == loaded


# -- docs/testing.md ---------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")


def test_the_page_shows_what_its_example_finds() -> None:
    example = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)[0]
    names: dict[str, Any] = {}
    exec(example, names)
    assert f"```\n{names['said']}\n```" in PAGE


def test_the_page_has_every_row_and_every_name() -> None:
    for row in GUARANTEES.values():
        (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{row.name}` |")]
        assert line.endswith(f"| {row.source} |")
    for name in {*sbs_opt.testing.__all__} - {"Example", "Guarantee"}:
        assert f"`{name}" in PAGE
