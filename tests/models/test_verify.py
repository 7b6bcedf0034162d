"""The judge: each rule by hand, and laws that hold for every window."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.models.errors import InputError, PlacementError
from sbs_opt.models.objective import Objective
from sbs_opt.models.placement import Placement, effective_demand
from sbs_opt.models.verify import verify
from sbs_opt.models.verify_plainly import verify_plainly
from sbs_opt.models.window import FREE, Savings, Window
from sbs_opt.testing.strategies import windows


def plain(sizes: list[int], loads: list[int], **given_fields: Any) -> Window:
    """Return a window of one resource."""
    return Window(demand=[[s] for s in sizes], load=[[b] for b in loads], **given_fields)


def test_objective_of_a_small_window() -> None:
    window = plain([5, 3, 3], [0, 1])
    assert verify(window, [0, 1, 1]) == Objective(left_out=(0,), bottleneck=7, saved=0, spread=25 + 49)
    assert verify(window, Placement([0, -1, 1])) == Objective((1,), 5, 0, 25 + 16)


def test_no_items_leaves_the_initial_loads() -> None:
    assert verify(plain([], [3, 1]), []) == Objective((), 3, 0, 10)


def test_bottleneck_adds_up_over_groups_and_priced_resources() -> None:
    window = Window(
        demand=[[4, 1], [2, 7]],
        load=[[1, 0], [0, 5], [3, 3]],
        price=[10, 1],
        spread_weight=[0, 2],
        group=[7, 7, 2],
    )
    # Loads afterwards: (5, 1), (0, 5), (5, 10); group 7 peaks at 5 and 5, group 2 at 5 and 10.
    assert verify(window, [0, 2]) == Objective((0,), 10 * (5 + 5) + 5 + 10, 0, 2 * (1 + 25 + 100))


def test_left_out_counts_by_tier_oldest_first() -> None:
    window = plain([1, 1, 1, 1], [0], tier=[9, 3, 9, 5])
    assert verify(window, [-1, 0, -1, -1]).left_out == (0, 1, 2)


def test_savings_count_only_on_the_unit_that_has_them() -> None:
    window = plain([5, 4], [0, 0], price=[3], savings=Savings(item=[0, 1], unit=[1, 1], value=[[2], [4]]))
    assert verify(window, [1, 0]) == Objective((0,), 3 * 4, 3 * 2, 3 * (9 + 16))
    assert verify(window, [0, 1]) == Objective((0,), 3 * 5, 3 * 4, 3 * 25)
    assert effective_demand(window, np.array([1, 0])).tolist() == [[3], [4]]


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([0], "the placement has 1 entries, the window has 2 items"),
        ([0, 2], "item 1 is on unit 2, the window has 2 units"),
        ([0, 0], "item 1 is pinned to unit 1 but placed on unit 0"),
    ],
)
def test_placements_that_miss_the_window(units: list[int], message: str) -> None:
    with pytest.raises(PlacementError, match=message):
        verify(plain([1, 1], [0, 0], pinned=[FREE, 1]), units)


def test_a_pinned_item_may_be_left_out() -> None:
    assert verify(plain([1], [0, 0], pinned=[1]), [-1]).left_out == (1,)


@pytest.mark.parametrize("units", [[0.5, 1], [-2, 0], [[0, 1]], [2**40, 0], ["a", "b"]])
def test_what_is_no_placement_at_all(units: Any) -> None:
    with pytest.raises(InputError, match=r"placement\.unit"):
        verify(plain([1, 1], [0, 0]), units)


def test_hard_limit_binds_what_is_added_and_nothing_else() -> None:
    window = plain([3, 0], [5, 9], limit=[[8], [4]])
    assert verify(window, [0, 1]).left_out == (0,)  # exactly full; the overloaded unit takes an item of size 0
    with pytest.raises(PlacementError, match="unit 1, resource 0: load 12 exceeds the limit 4"):
        verify(window, [1, 0])


def test_an_item_that_is_cached_whole_meets_no_limit() -> None:
    window = plain([3], [9], limit=[[4]], savings=Savings(item=[0], unit=[0], value=[[3]]))
    assert verify(window, [0]) == Objective((0,), 9, 3, 81)


OPEN_CASES = [
    # sizes, load, limit, crossing, allowed
    pytest.param([4, 6], 0, 10, [0, 0], True, id="just full needs no crossing"),
    pytest.param([4, 7], 0, 10, [0, 1], True, id="the longest starts below the limit"),
    pytest.param([4, 7], 0, 10, [1, 0], False, id="only a shorter one may cross"),
    pytest.param([4, 4, 7], 2, 10, [1, 1, 1], False, id="the longest would start at the limit"),
    pytest.param([4, 4, 7], 1, 10, [1, 1, 1], True, id="the longest starts one below the limit"),
    pytest.param([7, 7], 0, 10, [1, 0], True, id="one of two longest may cross"),
    pytest.param([1], 10, 10, [1], False, id="nothing starts on a full unit"),
    pytest.param([1], 12, 10, [1], False, id="nothing starts on a unit in debt"),
    pytest.param([0], 12, 10, [0], True, id="a size of 0 meets no limit"),
    pytest.param([99], 9, 10, [1], True, id="a giant crosses alone"),
]


@pytest.mark.parametrize(("sizes", "load", "limit", "crossing", "allowed"), OPEN_CASES)
def test_open_limit_is_a_budget_to_start_in(
    sizes: list[int], load: int, limit: int, crossing: list[int], allowed: bool
) -> None:
    window = plain(sizes, [load], limit=[[limit]], open_resource=0, crossing=crossing)
    if allowed:
        assert verify(window, [0] * len(sizes)).bottleneck == load + sum(sizes)
    else:
        with pytest.raises(PlacementError, match="unit 0, resource 0"):
            verify(window, [0] * len(sizes))


def test_the_length_that_counts_is_what_is_left_after_savings() -> None:
    saving = Savings(item=[1], unit=[0], value=[[8]])
    window = plain([5, 9], [0], limit=[[4]], open_resource=0, crossing=[1, 0], savings=saving)
    assert verify(window, [0, 0]).bottleneck == 6
    assert Placement([0, 0]).dispatch_order(window).tolist() == [1, 0]


def test_numbers_beyond_64_bits_are_exact() -> None:
    assert verify(plain([2**60 + 1], [2**60]), [0]).spread == (2**61 + 1) ** 2


@st.composite
def window_with_units(draw: st.DrawFn) -> tuple[Window, list[int]]:
    """Draw a window and a unit for each item, feasible or not."""
    window = draw(windows(max_items=7, max_units=4))
    units = st.integers(FREE, window.num_units - 1)
    return window, draw(st.lists(units, min_size=window.num_items, max_size=window.num_items))


def feasible(window: Window, unit: list[int]) -> list[int]:
    """Return the placement with items taken out, last first, until no rule is broken."""
    unit = [u if p in (FREE, u) else FREE for u, p in zip(unit, window.pinned.tolist(), strict=True)]
    for i in reversed(range(len(unit))):
        try:
            verify(window, unit)
        except PlacementError:
            unit[i] = FREE
        else:
            return unit
    return unit


@given(window_with_units(), st.data())
def test_taking_an_item_away_never_breaks_a_rule(pair: tuple[Window, list[int]], data: st.DataObject) -> None:
    window, unit = pair[0], feasible(*pair)
    before = verify(window, unit)
    placed = [i for i, u in enumerate(unit) if u >= 0]
    if not placed:
        return
    unit[data.draw(st.sampled_from(placed))] = FREE
    after = verify(window, unit)
    assert sum(after.left_out) == sum(before.left_out) + 1
    assert after.left_out > before.left_out
    assert after.bottleneck <= before.bottleneck
    assert after.saved <= before.saved
    assert after.spread <= before.spread


def judged(judge: Callable[[Window, list[int]], Objective], window: Window, unit: list[int]) -> Objective | str:
    """Return the objective, or what is said against the placement."""
    try:
        return judge(window, unit)
    except PlacementError as error:
        return str(error)


@settings(max_examples=300)
@given(window_with_units())
def test_the_compiled_and_the_plain_judge_agree(pair: tuple[Window, list[int]]) -> None:
    window, unit = pair
    assert judged(verify, window, unit) == judged(verify_plainly, window, unit)
    assert verify(window, feasible(window, unit)) == verify_plainly(window, feasible(window, unit))


@pytest.mark.parametrize("load", [0, 2**30, 2**31, 2**32, 2**59])
@pytest.mark.parametrize("weight", [0, 1, 3])
def test_spread_is_exact_on_both_sides_of_64_bits(load: int, weight: int) -> None:
    for window in (plain([5, 7], [load, 1], spread_weight=[weight]), plain([5, 7], [load, 1], pinned=[0, 1])):
        assert verify(window, [0, 1]) == verify_plainly(window, [0, 1])


@pytest.mark.parametrize("unit", [-2, 2, -(2**31)])
def test_an_unchecked_placement_is_checked_by_the_judge(unit: int) -> None:
    for window in (plain([1, 1], [0, 0]), plain([1, 1], [0, 0], pinned=[0, -1])):
        with pytest.raises(PlacementError, match=f"item 1 is on unit {unit}"):
            verify(window, Placement.unchecked(np.array([0, unit], dtype=np.int32)))


@given(window_with_units())
def test_objective_agrees_with_arrays(pair: tuple[Window, list[int]]) -> None:
    window, unit = pair[0], np.array(feasible(*pair), dtype=np.int64)
    objective = verify(window, unit)
    added = effective_demand(window, unit)
    placed = unit >= 0
    load = window.load.copy()
    np.add.at(load, unit[placed], added[placed])
    peaks = [load[window.group == group].max(axis=0) for group in set(window.group.tolist())]
    assert objective.bottleneck == sum(int(peak @ window.price) for peak in peaks)
    assert objective.saved == int(((window.demand - added) @ window.price).sum())
    assert objective.spread == int((load**2 @ window.spread_weight).sum())
    assert sum(objective.left_out) == int((~placed).sum())


@given(window_with_units())
def test_dispatch_order_lists_each_placed_item_once_and_shorter_first_where_open(
    pair: tuple[Window, list[int]],
) -> None:
    window, unit = pair
    placement = Placement(np.array(unit, dtype=np.int32))
    order = placement.dispatch_order(window).tolist()
    assert sorted(order) == [i for i, u in enumerate(unit) if u >= 0]
    length = effective_demand(window, placement.unit)
    for i, j in pairwise(order):
        r = window.open_resource
        before, after = (0, 0) if r is None else (int(length[i, r]), int(length[j, r]))
        assert (unit[i], before, i) < (unit[j], after, j)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Objective((0, 5), 99, 0, 99), Objective((1, 0), 1, 9, 1)),
        (Objective((0,), 5, 0, 99), Objective((0,), 6, 9, 1)),
        (Objective((0,), 5, 9, 99), Objective((0,), 5, 8, 1)),
        (Objective((0,), 5, 9, 1), Objective((0,), 5, 9, 2)),
    ],
)
def test_objectives_compare_part_by_part(better: Objective, worse: Objective) -> None:
    assert better < worse
    assert worse > better
    assert better != worse
    with pytest.raises(TypeError, match="not supported"):
        _ = better < (0,)
