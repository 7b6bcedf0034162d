"""The kernels: the plain heap against the general one, every rule of a window, and the further orders."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.models.errors import PlacementError
from sbs_opt.models.placement import effective_demand
from sbs_opt.models.verify import verify
from sbs_opt.models.window import FREE, Savings, Window
from sbs_opt.solvers.columns import columns_of
from sbs_opt.solvers.direct import place
from sbs_opt.solvers.greedy import longest_first
from sbs_opt.solvers.greedy_kernel import LEAST_INCREASE, LEAST_LOADED, greedy
from sbs_opt.solvers.solve import solve
from sbs_opt.testing.strategies import windows

from .helpers import every_kind, plain

# Beyond 2^53 a floating-point spread cannot tell neighbours apart; the placements must still agree.
amounts = st.integers(0, 9) | st.integers(2**54, 2**54 + 4)


@given(st.lists(amounts, max_size=40), st.lists(amounts, min_size=1, max_size=9), st.integers(0, 3), st.integers(0, 2))
def test_lpt_from_the_heap_places_exactly_like_the_general_kernel(
    sizes: list[int], loads: list[int], price: int, weight: int
) -> None:
    window = plain(sizes, loads, price=[price], spread_weight=[weight])
    order = np.argsort(-window.demand[:, 0], kind="stable")
    general, _, _, _ = greedy(columns_of(window), order, LEAST_INCREASE)
    assert place(window, "lpt")[0].tolist() == general.tolist()


def slow_twin(window: Window, order: list[int], rule: int) -> list[int]:
    """Place items like the kernel, but ask `verify` what is allowed and what it costs."""
    unit = [FREE] * window.num_items
    for i in order:
        choices = []
        before = verify(window, unit)
        for u in range(window.num_units):
            tried = [*unit[:i], u, *unit[i + 1 :]]
            try:
                after = verify(window, tried)
            except PlacementError:
                continue
            placed = np.array(unit) == u
            load = window.load[u] + effective_demand(window, np.array(unit))[placed].sum(axis=0)
            key = (after.bottleneck - before.bottleneck, after.spread - before.spread, int(load @ window.price), u)
            choices.append(key if rule == LEAST_INCREASE else key[2:])
        if choices:
            unit[i] = min(choices)[-1]
    return unit


@given(st.lists(amounts | st.just(2**61), max_size=50))
def test_longest_first_is_a_stable_descending_order(sizes: list[int]) -> None:
    order = longest_first(np.array(sizes, dtype=np.int64)).tolist()
    assert order == sorted(range(len(sizes)), key=lambda i: -sizes[i])


@settings(max_examples=300)
@given(every_kind, st.sampled_from([LEAST_LOADED, LEAST_INCREASE]), st.data())
def test_kernel_places_exactly_like_its_slow_twin(window: Window, rule: int, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(window.num_items)))
    unit, _, _, _ = greedy(columns_of(window), np.array(order, dtype=np.int64), rule)
    assert unit.tolist() == slow_twin(window, order, rule)


@given(windows(max_items=12, max_units=5), st.sampled_from([LEAST_LOADED, LEAST_INCREASE]))
def test_kernel_breaks_no_rule_and_its_books_are_right(window: Window, rule: int) -> None:
    order = np.arange(window.num_items, dtype=np.int64)
    unit, load, peak, saved = greedy(columns_of(window), order, rule)
    objective = verify(window, unit)
    assert objective.bottleneck == int((peak @ window.price).sum())
    assert objective.saved == saved
    assert objective.spread == sum(
        int(weight) * value**2 for row in load.tolist() for weight, value in zip(window.spread_weight, row, strict=True)
    )


def test_a_cached_prefix_draws_an_item_to_its_unit() -> None:
    saving = Savings(item=[0], unit=[1], value=[[8]])
    window = plain([10], [0, 1], savings=saving)
    assert solve(window, "lpt").placement.unit.tolist() == [1]
    assert solve(window, "least_loaded").placement.unit.tolist() == [0]


def test_each_group_pays_for_its_own_peak() -> None:
    # Group 0 already pays 9, so unit 1 takes work for nothing; one group alone would do the same with unit 2.
    window = plain([5], [9, 3, 0], group=[0, 0, 1])
    assert solve(window, "lpt").placement.unit.tolist() == [1]
    assert solve(plain([5], [9, 3, 0]), "lpt").placement.unit.tolist() == [2]


def test_an_item_meets_each_resource_in_proportion_to_what_it_adds() -> None:
    # Neither unit raises a maximum; the item adds to resource 0 only, of which unit 1 has less.
    window = Window(demand=[[2, 0]], load=[[5, 0], [3, 9], [9, 9]])
    assert solve(window, "lpt").placement.unit.tolist() == [1]


def test_the_spread_counts_what_is_added_once_savings_are_taken_off() -> None:
    # 4 on top of 2 adds 4·(2·2 + 4) = 32, the 3 that are left on top of 3 only 3·(2·3 + 3) = 27.
    window = plain([4], [2, 3, 99], savings=Savings(item=[0], unit=[1], value=[[1]]))
    assert solve(window, "lpt").placement.unit.tolist() == [1]


def test_one_of_several_longest_items_is_enough_to_cross() -> None:
    window = plain([4, 4, 3], [0], limit=[[9]], open_resource=0, crossing=[True, False, False])
    assert solve(window, "least_loaded").objective.left_out == (0,)


def test_longest_first_is_given_up_where_it_would_leave_an_older_item_out() -> None:
    window = plain([6, 5, 5], [0], limit=[[10]], tier=[1, 0, 0])
    result = solve(window, "lpt")
    assert result.objective.left_out == (0, 1)
    assert result.placement.unit.tolist() == [-1, 0, 0]


def test_shortest_first_places_more_under_a_hard_limit() -> None:
    result = solve(plain([9, 4, 3, 2], [0], limit=[[9]]), "lpt")
    assert result.objective.left_out == (1,)


def test_further_orders_stop_at_the_step_budget() -> None:
    window = plain([9, 4, 3, 2], [0], limit=[[9]])
    short = solve(window, "lpt", budget_steps=7)
    assert (short.limit, short.stats.steps, short.objective.left_out) == ("steps", 4, (3,))
    enough = solve(window, "lpt", budget_steps=16)
    assert (enough.limit, enough.stats.steps) == (None, 16)
