"""Windows of one priced resource with savings: bounds against brute force, the construction, and the search."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import InputError, UnsupportedError
from sbs_opt.models.verify import verify
from sbs_opt.models.window import FREE, Savings, Window
from sbs_opt.solvers.bounds import Relaxation
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.savings_bounds import linear_bound, quick_bound
from sbs_opt.solvers.savings_columns import is_one_column, savings_columns
from sbs_opt.solvers.savings_construct_kernel import loads_of, two_phases
from sbs_opt.solvers.savings_round_kernel import finish, run
from sbs_opt.solvers.savings_search import improve
from sbs_opt.solvers.savings_search_kernel import NOBODY, Search, start_search
from sbs_opt.solvers.solve import solve
from sbs_opt.testing.oracles import best_placement, least_bottlenecks
from sbs_opt.testing.strategies import windows

from .helpers import every_kind, plain


def crowded_window(seed: int, n: int, m: int, scale: int = 12) -> Window:
    """Return a generated window in which most items hit one of two units, so that hits compete for room."""
    draw = np.random.default_rng(seed)
    demand = draw.integers(0, scale + 1, n)
    popular = np.minimum(draw.integers(0, m, 2 * n), draw.integers(0, m, 2 * n))
    pairs = np.unique(draw.integers(0, n, 2 * n) * m + popular)
    item, unit = pairs // m, pairs % m
    value = draw.integers(0, demand[item] + 1)
    pinned = np.where(draw.random(n) < 0.1, draw.integers(0, m, n), FREE)
    return plain(
        demand,
        draw.integers(0, scale + 1, m) * draw.integers(0, 2),
        price=[int(draw.integers(1, 4))],
        pinned=pinned,
        savings=Savings(item, unit, value.reshape(-1, 1)),
    )


small = st.builds(crowded_window, st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 3)) | windows(
    max_items=6, max_placements=4096, fields=("savings", "pinned", "tiers")
)
"""Windows that brute force can settle."""

larger = st.builds(
    crowded_window, st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 12), st.sampled_from([3, 60, 4000])
)


def least_bottleneck(window: Window) -> int:
    """Return the optimum of a window without limits; leaving nothing out comes first."""
    return best_placement(window)[1].bottleneck


medium = st.builds(
    crowded_window, st.integers(0, 2**32 - 1), st.integers(5, 10), st.integers(2, 4), st.sampled_from([2, 4, 6])
)
"""Windows with too many placements to try, but few load vectors."""


def least_load(window: Window) -> int:
    """Return the optimum of a window of one resource, from the set of all load vectors that can be reached."""
    amount = np.repeat(window.demand, window.num_units, axis=1)
    if window.savings is not None:
        amount[window.savings.item, window.savings.unit] -= window.savings.value[:, 0]
    reached = {tuple(window.load[:, 0].tolist())}
    for row, pin in zip(amount.tolist(), window.pinned.tolist(), strict=True):
        units = range(window.num_units) if pin == FREE else [pin]
        reached = {(*state[:u], state[u] + row[u], *state[u + 1 :]) for state in reached for u in units}
    highest: list[int] = [max(state) for state in reached]
    return int(window.price[0]) * min(highest)


def zeros(window: Window) -> tuple[int, ...]:
    return (0,) * len(window.tiers)


@settings(max_examples=400)
@given(small)
def test_quick_bound_is_never_above_the_optimum(window: Window) -> None:
    assert quick_bound(window) <= least_bottleneck(window)


@settings(max_examples=300)
@given(medium)
@example(crowded_window(2578, 8, 3, 2))  # an item that just fits on the first unit beyond the threshold
def test_quick_bound_is_never_above_the_optimum_of_larger_windows(window: Window) -> None:
    assert quick_bound(window) <= least_load(window)


@settings(max_examples=150)
@given(every_kind)
def test_linear_bound_is_never_above_the_optimum_whatever_is_left_out(window: Window) -> None:
    for left_out, least in least_bottlenecks(window).items():
        assert linear_bound(window, left_out) <= least


@settings(max_examples=100)
@given(small)
def test_linear_bound_with_savings_is_never_above_the_optimum(window: Window) -> None:
    assert linear_bound(window, zeros(window)) <= least_bottleneck(window)


@settings(max_examples=60)
@given(larger)
def test_quick_bound_includes_the_cheap_relaxations(window: Window) -> None:
    # `solve` relies on it: the solution says that it need not work those out again.
    assert quick_bound(window) >= max(Relaxation.of(window).parts(zeros(window)).values())


@settings(max_examples=60)
@given(larger)
def test_linear_bound_is_at_least_the_water_level(window: Window) -> None:
    # The water level relaxes the linear program further: each item has its least amount.
    assert linear_bound(window, zeros(window)) >= Relaxation.of(window).parts(zeros(window))["water_level"]


@settings(max_examples=60)
@given(windows(max_items=12, max_units=5, fields=("savings", "groups", "several_resources", "pinned")))
def test_linear_bound_is_at_least_the_water_levels_of_all_resources_but_for_rounding(window: Window) -> None:
    water = Relaxation.of(window).parts(zeros(window))["water_level"]  # each resource rounded up by itself
    assert linear_bound(window, zeros(window)) > water - max(1, window.price.sum())


@settings(max_examples=60)
@given(larger, st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0, 1e6]))
def test_any_prices_prove_a_true_bound(window: Window, seed: int, scale: float) -> None:
    draw = np.random.default_rng(seed)

    def nonsense(cost: Any, *, A_ub: Any, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(ineqlin=SimpleNamespace(marginals=scale * draw.normal(size=A_ub.shape[0])))

    reached = solve(window, "two_phase").objective.bottleneck
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scipy.optimize, "linprog", nonsense)
        assert linear_bound(window, zeros(window)) <= reached


def test_a_linear_program_that_is_not_solved_proves_the_initial_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = SimpleNamespace(ineqlin=SimpleNamespace(marginals=None))
    monkeypatch.setattr(scipy.optimize, "linprog", lambda *_, **__: failed)
    assert linear_bound(plain([5, 5, 5], [4, 1]), (0,)) == 4


def test_hits_that_compete_for_a_unit_raise_the_bounds() -> None:
    # Four items of 10 add 2 each to unit 0. Were there room for all hits, water would stand at 4; unit 0 has to take
    # 10 / 3 of them at level 20 / 3; and below 10 none may go to unit 1, so all four go to unit 0.
    window = plain([10] * 4, [0, 0], savings=Savings([0, 1, 2, 3], [0] * 4, [[8]] * 4))
    assert Relaxation.of(window).parts((0,))["water_level"] == 4
    assert linear_bound(window, (0,)) == 7
    assert quick_bound(window) == 8 == solve(window, "two_phase").objective.bottleneck


def test_prices_find_the_linear_bound_where_no_pair_is_barred() -> None:
    draw = np.random.default_rng(5)
    demand = draw.integers(100, 200, 200)
    item = np.arange(0, 200, 2)
    value = (demand[item] * draw.uniform(0.5, 0.9, 100)).astype(np.int64)
    window = plain(demand, [0] * 10, savings=Savings(item, item // 2 % 2, value.reshape(-1, 1)))
    water, linear = Relaxation.of(window).parts((0,))["water_level"], linear_bound(window, (0,))
    assert linear > 1.02 * water
    assert quick_bound(window) >= 0.999 * linear


def test_a_large_item_and_the_loads_that_bar_it_raise_the_bound() -> None:
    # 9 fits on units 0 and 1 only, below 13: two of the three 9s share one, or one goes to load 8.
    window = plain([9, 9, 9], [0, 3, 8], savings=Savings([0], [2], [[1]]))
    assert quick_bound(window) == 16 == least_bottleneck(window)


def test_bounds_refuse_what_they_do_not_cover() -> None:
    limited = plain([5, 5], [0], limit=[[5]])
    with pytest.raises(InputError, match="no limits"):
        quick_bound(limited)
    with pytest.raises(InputError, match="left_out"):
        linear_bound(limited, (0, 0))
    with pytest.raises(InputError, match="leaves 3 items of tier 0 out"):
        linear_bound(limited, (3,))
    assert linear_bound(limited, (1,)) == 5
    with pytest.raises(InputError, match="leaves 0 items of tier 0 out"):
        linear_bound(plain([9], [0], limit=[[5]]), (0,))


@settings(max_examples=100)
@given(windows(max_items=12, max_units=6, fields=()))
def test_without_savings_it_is_at_least_as_good_as_lpt(window: Window) -> None:
    assert solve(window, "two_phase", budget_steps=0).objective.bottleneck <= solve(window, "lpt").objective.bottleneck


def test_first_phase_fills_units_by_ratio_up_to_the_ceiling() -> None:
    # Unit 0 has room for two of the three; the one that saves the least share goes elsewhere.
    window = plain([10, 10, 10], [0, 0, 0], savings=Savings([0, 1, 2], [0] * 3, [[6], [5], [7]]))
    columns = savings_columns(window)
    unit = np.empty(3, dtype=np.int64)
    unit[columns.item] = two_phases(columns, 7)
    assert unit.tolist() == [0, 1, 0]


@settings(max_examples=100)
@given(larger)
def test_columns_are_the_window(window: Window) -> None:
    columns = savings_columns(window)
    draw = np.random.default_rng(window.num_items)
    unit = np.where(window.pinned == FREE, draw.integers(0, window.num_units, window.num_items), window.pinned)
    load = loads_of(columns, unit[columns.item])
    assert int(load.max()) * int(window.price[0]) == verify(window, unit).bottleneck
    assert (np.diff(columns.size) <= 0).all()
    assert (columns.hit_amount < columns.size[columns.hit_item]).all()


def consistent(window: Window, search: Search) -> bool:
    """Tell whether the state of a search agrees with its placement."""
    columns = savings_columns(window)
    members: list[int] = []
    for u in range(window.num_units):
        i = int(search.head[u])
        while i != NOBODY:
            members.append(i)
            assert search.unit[i] == u
            i = int(search.after[i])
    return bool(
        np.array_equal(search.load, loads_of(columns, search.unit))
        and (np.diff(search.load[search.by_load]) >= 0).all()
        and np.array_equal(search.place[search.by_load], np.arange(window.num_units))
        and sorted(members) == np.flatnonzero(columns.pinned == FREE).tolist()
        and np.array_equal(search.here, columns.size)
    )


def any_placement(window: Window, seed: int) -> IntArray:
    units = np.random.default_rng(seed).integers(0, window.num_units, window.num_items)
    return np.where(window.pinned == FREE, units, window.pinned)


@settings(max_examples=60)
@given(larger, st.integers(0, 9), st.lists(st.integers(1, 300), max_size=20))
def test_search_keeps_its_books(window: Window, seed: int, slices: list[int]) -> None:
    columns = savings_columns(window)
    search = start_search(columns, any_placement(window, seed)[columns.item])
    limit = 0
    for steps in slices:
        limit += steps
        ended = run(columns, search, 0, limit)
        assert consistent(window, search)
        if ended:
            break
    finish(columns, search)
    assert consistent(window, search)


class Sliced(Budget):
    """A budget that is handed out in small pieces, as a clock would do."""

    def slice_steps(self) -> int:
        return min(super().slice_steps(), 7)


@settings(max_examples=60)
@given(larger, st.integers(0, 9), st.integers(0, 3000))
def test_slicing_changes_nothing(window: Window, seed: int, steps: int) -> None:
    start = any_placement(window, seed)
    whole, sliced = Budget(None, steps), Sliced(None, steps)
    assert np.array_equal(improve(window, start, whole, 0), improve(window, start, sliced, 0))
    assert (whole.spent, whole.limit) == (sliced.spent, sliced.limit)


@settings(max_examples=60)
@given(larger, st.integers(0, 9))
def test_improving_never_makes_worse_and_more_steps_never_hurt(window: Window, seed: int) -> None:
    start = any_placement(window, seed)
    reached, bound = [verify(window, start)], quick_bound(window) // int(window.price[0])
    for steps in (1, 10, 50, 200, 1000, 10_000, 1_000_000):
        reached.append(verify(window, improve(window, start, Budget(None, steps), bound)))
    assert reached == sorted(reached, reverse=True)


def test_what_is_half_done_is_undone_also_after_saving_more_has_lowered_the_bottleneck() -> None:
    # Found by trial: with 6,500 steps a chain that did not lower the bottleneck was kept, at the cost of savings.
    window = crowded_window(81124, 56, 10, 100)
    reached = [solve(window, "two_phase", budget_steps=steps).objective for steps in range(0, 15_000, 500)]
    assert reached == sorted(reached, reverse=True)


@settings(max_examples=60)
@given(larger, st.integers(0, 9), st.integers(0, 5000))
def test_the_ways_to_solve_agree(window: Window, seed: int, steps: int) -> None:
    # A placement that loses to the construction changes nothing, but takes the way through resumable slices.
    at_once = solve(window, "two_phase", budget_steps=steps)
    worse = any_placement(window, seed)
    if verify(window, worse) < solve(window, "two_phase", budget_steps=0).objective:
        return
    with_start = solve(window, "two_phase", budget_steps=steps, start=worse)
    assert (at_once.placement, at_once.bound) == (with_start.placement, with_start.bound)


def test_search_goes_on_from_a_better_start() -> None:
    window = crowded_window(11, 40, 8, 4000)
    best = solve(window, "two_phase", budget_steps=2_000_000)
    assert best.objective < solve(window, "two_phase", budget_steps=0).objective
    assert solve(window, "two_phase", budget_steps=0, start=best.placement).objective == best.objective


def test_search_saves_more_at_the_same_bottleneck() -> None:
    # Unit 1 is the bottleneck whatever happens; the hit of item 0 on unit 0 is free to take, from unit 2.
    window = plain([4, 9], [0, 9, 0], pinned=[FREE, 1], savings=Savings([0], [0], [[1]]))
    better = improve(window, np.array([2, 1]), Budget(None, 100), 18)
    assert better.tolist() == [0, 1]


def test_search_levels_what_is_below_the_bottleneck() -> None:
    window = plain([5, 4, 3, 2, 20], [0, 0, 0], savings=Savings([4], [2], [[1]]))
    better = improve(window, np.array([0, 0, 0, 1, 2]), Budget(None, 1000), 19)
    assert verify(window, better).spread == 7**2 + 7**2 + 19**2


@settings(max_examples=150)
@given(small)
def test_finds_the_optimum_of_small_windows_mostly(window: Window) -> None:
    found = solve(window, "two_phase", budget_steps=100_000)
    best = least_bottleneck(window)
    assert found.bound <= best <= found.objective.bottleneck <= 2 * best


def test_refuses_limits_and_groups() -> None:
    for given_field in ({"limit": [[3], [9]]}, {"group": [0, 1]}):
        with pytest.raises(UnsupportedError):
            solve(plain([3, 2], [0, 0], **given_field), "two_phase")


def test_a_resource_without_price_is_left_to_lpt() -> None:
    window = plain([3, 2], [0, 0], price=[0], spread_weight=[1], savings=Savings([0], [1], [[1]]))
    assert not is_one_column(window)
    assert solve(window, "two_phase").objective == solve(window, "lpt").objective


@pytest.mark.parametrize("scale", [2**40, 2**54])
def test_large_numbers_neither_overflow_nor_change_the_answer(scale: int) -> None:
    sizes, saved = np.array([9, 8, 7, 7, 6, 5, 5, 3]), np.array([4, 5, 6, 2])
    savings = Savings([0, 2, 4, 6], [0, 0, 1, 0], (saved * scale).reshape(-1, 1))
    window = plain(sizes * scale, np.array([2, 0, 1]) * scale, savings=savings)
    small_savings = Savings(savings.item, savings.unit, saved.reshape(-1, 1))
    one = solve(plain(sizes, [2, 0, 1], savings=small_savings), "two_phase", budget_steps=100_000)
    large = solve(window, "two_phase", budget_steps=100_000)
    assert large.objective.bottleneck == one.objective.bottleneck * scale
    assert large.bound <= large.objective.bottleneck
    assert linear_bound(window, (0,)) <= large.objective.bottleneck
