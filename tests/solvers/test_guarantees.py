"""Worst-case ratios of the literature: the table, and every registered algorithm held against its rows."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.models.errors import InputError
from sbs_opt.models.window import Window
from sbs_opt.solvers.registry import list_solvers
from sbs_opt.solvers.solve import solve
from sbs_opt.testing import (
    GUARANTEES,
    Example,
    Guarantee,
    assert_ratio,
    best_placement,
    least_makespan,
    list_scheduling_error,
    windows,
)

from .helpers import plain

REGISTERED = {info.name for info in list_solvers()}
ROWS = tuple(GUARANTEES.values())
ASSERTED = [(row, solver) for row in ROWS for solver in row.solvers if solver in REGISTERED]
EXAMPLES = [(row, example) for row in ROWS for example in row.examples]
BY_THE_BOOK = {"least_loaded", "lpt"}
"""Solvers that are the algorithm of their row and nothing more, so that they reach what the source says."""


def named(value: Any) -> str | None:
    return value.name if isinstance(value, Guarantee) else value if isinstance(value, str) else None


# -- every row, for its algorithm --------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "solver"), ASSERTED, ids=named)
def test_ratio(row: Guarantee, solver: str) -> None:
    assert_ratio(solver, row)


def test_every_row_is_asserted_for_its_algorithm() -> None:
    assert {row.name for row in ROWS} - {row.name for row, _ in ASSERTED} == set()


def test_every_row_names_registered_solvers() -> None:
    assert {solver for row in ROWS for solver in row.solvers} - REGISTERED == set()


# -- the table itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "example"), EXAMPLES, ids=named)
def test_examples_are_in_the_setting_and_their_optimum_is_right(row: Guarantee, example: Example) -> None:
    window = example.window
    assert window.fields_in_use <= ({"savings"} if row.savings else set())
    assert row.loads or not window.load.any()
    assert (example.start is not None) == row.any_start
    assert least_makespan(window) == example.optimum


@pytest.mark.parametrize(("row", "example"), EXAMPLES, ids=named)
def test_algorithms_by_the_book_reach_what_the_source_says(row: Guarantee, example: Example) -> None:
    for solver in BY_THE_BOOK & set(row.solvers):
        assert solve(example.window, solver).objective.bottleneck == example.reached


@pytest.mark.parametrize("name", ["list_scheduling", "lpt", "lpt_by_critical_items", "lpt_with_loads"])
def test_ratios_are_tight(name: str) -> None:
    row = GUARANTEES[name]
    for example in row.examples:
        solution = solve(example.window, row.solvers[0])
        loads = solution.placement.unit.tolist()
        now = example.window.load[:, 0] + np.bincount(loads, example.window.demand[:, 0])
        items = loads.count(int(now.argmax()))
        assert Fraction(int(now.max()), example.optimum) == row.ratio(example.window.num_units, items)


@pytest.mark.parametrize("name", GUARANTEES)
def test_windows_are_those_of_the_setting(name: str) -> None:
    row, seen = GUARANTEES[name], []

    @given(row.windows(3))
    def look(window: Window) -> None:
        assert window.num_units == 3
        assert window.fields_in_use <= ({"savings"} if row.savings else set())
        seen.append((bool(window.load.any()), bool(window.fields_in_use)))

    look()
    assert any(loaded for loaded, _ in seen) == row.loads
    assert any(saving for _, saving in seen) == row.savings


def test_more_items_on_the_critical_unit_promise_more() -> None:
    by_items = GUARANTEES["lpt_by_critical_items"].ratio
    assert [by_items(2, k) for k in (1, 2, 3, 4)] == [Fraction(3, 2), Fraction(5, 4), Fraction(7, 6), Fraction(9, 8)]
    assert by_items(5, 3) == GUARANTEES["lpt"].ratio(5, 3) == Fraction(4, 3) - Fraction(1, 15)


# -- what assert_ratio is given: a name, an object, a function ---------------------------------------------------


def round_robin(window: Window) -> list[int]:
    return [i % window.num_units for i in range(window.num_items)]


@pytest.mark.parametrize(
    "name", ["list_scheduling", "local_optimum", "multifit_with_loads", "lp_rounding_with_savings"]
)
def test_round_robin_is_found_out(name: str) -> None:
    row = GUARANTEES[name]
    with pytest.raises(AssertionError, match=rf"^round_robin breaks {name} \({row.source}") as caught:
        assert_ratio(round_robin, row)
    if not row.loads:  # one simplest window, whatever the seed
        assert str(caught.value).splitlines()[1:2] == ["window = Window(demand=[[1], [0], [1]], load=[[0], [0]])"]


def multifit(heaviest_first: bool) -> Callable[[Window], list[int]]:
    """Return MULTIFIT: first fit, longest first, under the least capacity that bisection finds."""

    def place(window: Window) -> list[int]:
        sizes, loads = window.demand[:, 0].tolist(), window.load[:, 0].tolist()
        units = sorted(range(len(loads)), key=lambda u: -loads[u] if heaviest_first else loads[u])

        def fitted(capacity: int) -> list[int]:
            now, unit = list(loads), [-1] * len(sizes)
            for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
                u = next((u for u in units if now[u] + sizes[i] <= capacity), None)
                if u is None:
                    break
                now[u] += sizes[i]
                unit[i] = u
            return unit

        low, high = max(loads) - 1, max(loads) + sum(sizes)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if -1 in fitted(middle) else (low, middle)
        return fitted(high)

    return place


@pytest.mark.parametrize("name", ["multifit", "multifit_with_loads"])
def test_multifit_heaviest_first(name: str) -> None:
    assert_ratio(multifit(heaviest_first=True), name)


def test_multifit_lightest_first_is_found_out() -> None:
    """The example ends at 58 over 43; the search finds a smaller one of its own."""
    row = GUARANTEES["multifit_with_loads"]
    window = row.examples[0].window
    place = multifit(heaviest_first=False)
    after = window.load[:, 0] + np.bincount(place(window), window.demand[:, 0])
    assert (after.max(), row.examples[0].optimum) == (58, 43)
    with pytest.raises(AssertionError, match="is more than 6/5 times the optimum") as caught:
        assert_ratio(place, row)
    assert "37" not in str(caught.value)


class Descent:
    """Moves, and swaps if wanted, while they improve (bottleneck, number of critical units)."""

    def __init__(self, swaps: bool) -> None:
        self.swaps = swaps

    def solve(self, window: Window, *, start: Any, **_: Any) -> list[int]:
        sizes, unit = window.demand[:, 0].tolist(), [0] * window.num_items if start is None else list(start)
        while better := next(
            (other for other in self.neighbours(unit, window) if self.less(other, unit, window)), None
        ):
            unit = better
        return [int(u) for u in unit] if sizes else []

    def neighbours(self, unit: list[int], window: Window) -> Any:
        for i in range(len(unit)):
            yield from ([*unit[:i], u, *unit[i + 1 :]] for u in range(window.num_units))
            for j in range(i * self.swaps):
                swapped = list(unit)
                swapped[i], swapped[j] = unit[j], unit[i]
                yield swapped

    def less(self, one: list[int], other: list[int], window: Window) -> bool:
        def key(unit: list[int]) -> tuple[int, int]:
            after = window.load[:, 0] + np.bincount(unit, window.demand[:, 0], window.num_units).astype(int)
            return int(after.max()), int((after == after.max()).sum())

        return key(one) < key(other)


def test_descent_keeps_its_ratio_from_any_start() -> None:
    assert_ratio(Descent(swaps=True), "local_optimum")


def test_without_swaps_the_examples_are_tight() -> None:
    row = GUARANTEES["local_optimum"]
    for example in row.examples:
        result = solve(example.window, Descent(swaps=False), start=example.start)
        m = example.window.num_units
        assert Fraction(result.objective.bottleneck, example.optimum) == row.ratio(m, 0)
        assert solve(example.window, Descent(swaps=True), start=example.start).objective < result.objective


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (lambda window: [window.num_units] * window.num_items, r"item 0 is on unit 2"),
        (lambda window: [-1] * window.num_items, "1 items are left out, though nothing limits"),
        (lambda window: [0], "the placement has 1 entries, the window has 0 items"),
        (lambda window: ["a"] * window.num_items, "placement.unit"),
    ],
)
def test_answers_that_are_no_placement_are_shown_too(place: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=rf"^<lambda> breaks lpt \(Graham 1969\): .*{said}"):
        assert_ratio(place, "lpt")


def test_an_error_of_the_function_itself_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        assert_ratio(lambda window: [1 // 0], "lpt")


def test_unknown_theorem_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="theorem = 'lbt': unknown; known: list_scheduling, lpt,"):
        assert_ratio("lpt", "lbt")


# -- list scheduling in detail -----------------------------------------------------------------------------------


@given(windows(max_items=8, max_units=4, max_amount=20, fields=()), st.booleans())
def test_list_scheduling_error_bounds_the_loss(window: Window, longest_first: bool) -> None:
    result = solve(window, "lpt" if longest_first else "least_loaded")
    order = np.argsort(-window.demand[:, 0], kind="stable") if longest_first else None
    error = list_scheduling_error(window, result.placement, order)
    optimum = best_placement(window)[1].bottleneck if window.num_items <= 3 else least_makespan(window)
    assert result.objective.bottleneck - optimum <= error


@pytest.mark.parametrize(
    ("sizes", "loads", "unit", "order", "error"),
    [
        pytest.param([1, 1, 2], [0, 0], [0, 1, 0], None, Fraction(2, 2), id="tight"),
        pytest.param([1, 1, 2], [0, 0], [1, 1, 0], [2, 0, 1], Fraction(1, 2), id="another order"),
        pytest.param([2, 1], [0, 0, 9], [0, 1], None, 0, id="the bottleneck unit got nothing"),
        pytest.param([3, 4], [0, 0, 5], [0, 1], None, 0, id="nor here, at the level of the work"),
        pytest.param([6, 1], [0, 0, 5], [0, 1], None, Fraction(1, 2) * 6, id="a unit above the water level"),
        pytest.param([3], [0], [0], None, 0, id="one unit"),
        pytest.param([], [0, 0], [], None, 0, id="no items"),
    ],
)
def test_list_scheduling_error_by_hand(
    sizes: list[int], loads: list[int], unit: list[int], order: list[int] | None, error: Fraction
) -> None:
    assert list_scheduling_error(plain(sizes, loads), unit, order) == error


def test_list_scheduling_error_is_for_plain_windows() -> None:
    with pytest.raises(InputError, match="uses limits"):
        list_scheduling_error(plain([1], [0], limit=[[0]]), [0])


@given(st.lists(st.integers(0, 20), max_size=12), st.lists(st.integers(0, 40), min_size=1, max_size=4))
def test_least_loaded_takes_items_as_they_come(sizes: list[int], loads: list[int]) -> None:
    expected, now = [], list(loads)
    for size in sizes:
        u = now.index(min(now))
        expected.append(u)
        now[u] += size
    assert solve(plain(sizes, loads), "least_loaded").placement.unit.tolist() == expected
