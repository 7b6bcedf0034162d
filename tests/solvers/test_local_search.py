"""Local search: its answers are local optima, by an enumeration of its own; budgets, starts, the literature's ratio."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import PlacementError
from sbs_opt.models.objective import Objective
from sbs_opt.models.verify import verify
from sbs_opt.models.window import FREE, UNLIMITED, Savings, Window
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.general_search import improve, measured
from sbs_opt.solvers.general_search_kernel import search
from sbs_opt.solvers.general_search_state import UNIT, begin
from sbs_opt.solvers.solve import solve
from sbs_opt.testing.oracles import best_placement
from sbs_opt.testing.strategies import windows

from .helpers import dense_window, every_kind, least_makespan, plain

roomy = every_kind | windows(max_items=9, max_units=4)
"""Local optimality can be checked on larger windows than optimality."""


def objective_of(window: Window, unit: IntArray) -> Objective | None:
    """Return the objective of a placement, None where it breaks a rule."""
    try:
        return verify(window, unit)
    except PlacementError:
        return None


def neighbours(window: Window, unit: IntArray) -> Iterator[IntArray]:
    """Yield every placement that differs in the unit of one item, or by two items that change places."""
    for i in range(len(unit)):
        for u in range(FREE, window.num_units):
            if u != unit[i]:
                yield np.array([*unit[:i], u, *unit[i + 1 :]])
        for j in range(i):
            if unit[i] != unit[j]:
                other = unit.copy()
                other[i], other[j] = unit[j], unit[i]
                yield other


def unlimited() -> Budget:
    """Return a budget without end."""
    return Budget(None, None)


@st.composite
def started(draw: st.DrawFn, given_windows: st.SearchStrategy[Window] = roomy) -> tuple[Window, IntArray]:
    """Draw a window and a placement of it, good or bad."""
    window = draw(given_windows)
    unit = np.full(window.num_items, FREE, dtype=np.int64)
    for i in draw(st.permutations(range(window.num_items))):
        unit[i] = draw(st.integers(FREE, window.num_units - 1))
        if objective_of(window, unit) is None:
            unit[i] = FREE
    return window, unit


@settings(max_examples=400)
@given(started())
def test_no_neighbour_of_the_answer_is_better(case: tuple[Window, IntArray]) -> None:
    window, start = case
    unit = improve(window, start, unlimited(), 0)
    found = verify(window, unit)
    assert found <= verify(window, start)
    for other in neighbours(window, unit):
        objective = objective_of(window, other)
        assert objective is None or objective >= found


@settings(max_examples=200)
@given(roomy)
def test_from_lpt_too_and_never_worse_than_lpt(window: Window) -> None:
    result = solve(window, "local_search")
    assert result.objective <= solve(window, "lpt").objective
    for other in neighbours(window, result.placement.unit.astype(np.int64)):
        objective = objective_of(window, other)
        assert objective is None or objective >= result.objective


@settings(max_examples=200)
@given(started(), st.lists(st.integers(1, 40), min_size=1, max_size=5), st.booleans())
def test_slices_change_nothing_and_each_improves(
    case: tuple[Window, IntArray], slices: list[int], polish: bool
) -> None:
    window, unit = case
    if not window.num_items:
        return
    whole, sliced = begin(window, unit), begin(window, unit)
    steps, finished = search(whole, 2**62, 0, polish)
    assert finished
    taken, done, before = 0, False, verify(window, unit)
    while not done:
        allowed = slices[taken % len(slices)]
        now, done = search(sliced, allowed, 0, polish)
        taken += now
        placed = sliced.items[:, UNIT]
        after = verify(window, np.where(placed == window.num_units, FREE, placed))
        assert measured(window, sliced) == after
        assert after <= before
        before = after
    assert taken == steps
    assert sliced.items[:, UNIT].tolist() == whole.items[:, UNIT].tolist()


@settings(max_examples=100)
@given(started(), st.integers(0, 200))
def test_a_budget_stops_the_same_search_earlier(case: tuple[Window, IntArray], steps: int) -> None:
    window, start = case
    short, full = Budget(None, steps), unlimited()
    early, late = improve(window, start, short, 0), improve(window, start, full, 0)
    assert verify(window, late) <= verify(window, early) <= verify(window, start)
    if short.limit is None:
        assert (early.tolist(), short.spent) == (late.tolist(), full.spent)
    else:
        assert short.spent >= steps
        assert short.limit == "steps"


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 4), st.integers(0, 1), st.booleans())
def test_any_local_optimum_is_within_2_minus_2_over_m_plus_1(
    sizes: list[int], m: int, weight: int, polish: bool
) -> None:
    # Whatever the start; without a weight the spread does not tell how many units set the peak, yet it must not matter.
    window = plain(sizes, [0] * m, spread_weight=[weight])
    unit = improve(window, np.zeros(len(sizes), dtype=np.int64), unlimited(), 0, polish=polish)
    least = least_makespan(sizes, [0] * m)
    assert verify(window, unit).bottleneck <= (2 - Fraction(2, m + 1)) * least


def crowded_case(seed: int) -> tuple[Window, IntArray]:
    """Return a window of several groups and resources where nothing is left out, and a random placement of it."""
    draw = np.random.default_rng(seed)
    n, m, resources = int(draw.integers(10, 20)), int(draw.integers(4, 8)), int(draw.integers(2, 4))
    demand = draw.integers(0, 20, (n, resources))
    pairs = draw.permutation(n * m)[:n]
    window = Window(
        demand=demand,
        load=draw.integers(0, 20, (m, resources)),
        price=draw.integers(1, 3, resources),
        group=draw.integers(0, 2, m),
        spread_weight=draw.integers(0, 3, resources),
        savings=Savings(pairs // m, pairs % m, draw.integers(0, demand[pairs // m] + 1))
        if draw.random() < 0.5
        else None,
    )
    return window, np.random.default_rng(seed).integers(0, m, n)


@pytest.mark.parametrize("seed", [*range(10), 280, 851, 867, 2057])
def test_what_one_exchange_makes_possible_elsewhere_is_found(seed: int) -> None:
    # Between units that do not change, an exchange turns good when a peak rises or the load below a peak falls.
    window, start = crowded_case(seed)
    unit = improve(window, start, unlimited(), 0)
    found = verify(window, unit)
    assert all(verify(window, other) >= found for other in neighbours(window, unit) if (other >= 0).all())


@pytest.mark.parametrize("seed", [48, 741])
def test_no_exchange_ever_makes_it_worse(seed: int) -> None:
    # Once the third greatest load was forgotten, exchanges between the two greatest looked better than they were.
    window, start = crowded_case(seed)
    state = begin(window, start)
    before, finished = measured(window, state), False
    while not finished:
        _, finished = search(state, 1, 0, True)
        after = measured(window, state)
        assert after <= before
        before = after


def limited_case(seed: int) -> tuple[Window, IntArray]:
    """Return a window of which limits leave a part out, and the placement that leaves everything out."""
    draw = np.random.default_rng(seed)
    n, m, resources = int(draw.integers(10, 20)), int(draw.integers(3, 6)), int(draw.integers(1, 4))
    window = Window(
        demand=draw.integers(1, 20, (n, resources)),
        load=draw.integers(0, 20, (m, resources)),
        price=draw.integers(0, 3, resources),
        limit=draw.integers(20, 50, (m, resources)),
        open_resource=0,
        crossing=draw.random(n) < 0.7,
        tier=draw.integers(0, 3, n),
    )
    return window, np.full(n, FREE)


@pytest.mark.parametrize("seed", [7, 31, 2516, 3600])
def test_what_is_left_out_is_looked_at_again_when_units_or_those_left_out_change(seed: int) -> None:
    window, start = limited_case(seed)
    unit = improve(window, start, unlimited(), 0)
    found = verify(window, unit)
    for other in neighbours(window, unit):
        objective = objective_of(window, other)
        assert objective is None or objective >= found


@pytest.mark.parametrize("seed", [*range(8), 73, 133])
def test_nothing_left_out_fits_once_another_item_goes_elsewhere(seed: int) -> None:
    window, start = limited_case(seed)
    unit = improve(window, start, unlimited(), 0)
    left_out = verify(window, unit).left_out
    for i, j, w in product(np.flatnonzero(unit == FREE), np.flatnonzero(unit != FREE), range(window.num_units)):
        other = unit.copy()
        other[i], other[j] = unit[j], w
        objective = objective_of(window, other)
        assert objective is None or objective.left_out >= left_out


def test_reaches_what_is_best_on_most_small_windows() -> None:
    missed = 0
    for seed in range(100):
        window = dense_window(seed)
        found, (_, best) = solve(window, "local_search").objective, best_placement(window)
        missed += (found.left_out, found.bottleneck) != (best.left_out, best.bottleneck)
    assert missed <= 2


def test_exchanges_two_items_for_two_where_single_ones_do_not_help() -> None:
    window = plain([11, 9, 8, 7, 6, 4, 3, 1], [0, 0, 0])
    single = np.array([0, 1, 2, 2, 1, 0, 0, 1])  # loads 18, 16, 15
    assert all(verify(window, other) >= verify(window, single) for other in neighbours(window, single))
    assert verify(window, improve(window, single, unlimited(), 0)).bottleneck == 17


def test_relieves_a_peak_that_several_units_set() -> None:
    window = plain([4, 4, 4, 4, 4, 4], [0, 0, 0])
    unit = improve(window, np.array([0, 0, 0, 1, 1, 1]), unlimited(), 0, polish=False)
    assert np.bincount(unit).tolist() == [2, 2, 2]


def test_an_item_makes_room_by_going_to_a_third_unit() -> None:
    # Item 0 fits on unit 0 only, once item 1 or 2 has gone to unit 1, which by itself raises the bottleneck.
    window = plain([6, 3, 3], [0, 5], limit=[[9], [8]])
    start = np.array([FREE, 0, 0])
    unit = improve(window, start, unlimited(), 0)
    assert verify(window, unit).left_out == (0,)


def test_an_older_item_takes_the_place_of_a_younger_one() -> None:
    window = plain([6, 5], [0], limit=[[6]], tier=[3, 1])
    assert improve(window, np.array([0, FREE]), unlimited(), 0).tolist() == [FREE, 0]


def test_a_shorter_item_of_the_same_tier_takes_the_place_of_a_longer_one() -> None:
    window = plain([6, 5, 1], [0], limit=[[6]])
    assert improve(window, np.array([0, FREE, FREE]), unlimited(), 0).tolist() == [FREE, 0, 0]


@pytest.mark.parametrize("start", [[0, FREE, 0], [FREE, 0, 0]])
def test_one_of_several_longest_items_is_enough_to_cross(start: list[int]) -> None:
    window = plain([4, 4, 3], [0], limit=[[9]], open_resource=0, crossing=[True, False, False])
    assert improve(window, np.array(start), unlimited(), 0).tolist() == [0, 0, 0]


def test_savings_are_used_even_where_they_do_not_lower_the_bottleneck() -> None:
    window = plain([9, 4, 4], [0, 0, 0], savings=Savings([1, 2], [2, 1], [[1], [1]]))
    unit = improve(window, np.array([0, 1, 2]), unlimited(), 0)
    assert unit.tolist() == [0, 2, 1]
    assert improve(window, np.array([0, 1, 2]), unlimited(), 9, polish=False).tolist() == [0, 1, 2]


def test_stops_at_the_bound_unless_asked_to_polish() -> None:
    window = plain([5, 1, 1, 1, 1], [0, 0, 0])
    start = np.array([0, 1, 1, 1, 1])
    budget = unlimited()
    assert improve(window, start, budget, 5, polish=False).tolist() == start.tolist()
    assert budget.spent == 0
    assert sorted(np.bincount(improve(window, start, unlimited(), 5)).tolist()) == [1, 2, 2]


@pytest.mark.parametrize("size", [2**53 + 1, 2**57])
def test_numbers_beyond_exact_doubles(size: int) -> None:
    window = plain([size, size - 1, 2, 1], [0, 1, 0], limit=[[UNLIMITED], [UNLIMITED], [2]])
    unit = improve(window, np.array([0, 0, 0, 0]), unlimited(), 0)
    found = verify(window, unit)
    assert all(
        objective is None or objective >= found
        for objective in (objective_of(window, other) for other in neighbours(window, unit))
    )


def test_a_better_start_is_where_the_search_begins() -> None:
    window = plain([5, 5, 4, 4, 3, 3, 3], [0, 0, 0])
    best, _ = best_placement(window)
    result = solve(window, "local_search", start=best, budget_steps=0)
    assert result.placement == best
    assert result.limit == "steps"


def test_no_time_gives_the_start_back() -> None:
    window = plain([5, 5, 4, 4, 3, 3, 3], [0, 0, 0])
    result = solve(window, "local_search", budget_s=0.0)
    assert (result.objective.bottleneck, result.limit) == (11, "time")
    assert solve(window, "local_search", budget_s=60.0).objective == solve(window, "local_search").objective
