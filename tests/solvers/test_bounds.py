"""Cheap bounds: below the truth for every left_out tuple, and worth having."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.models.errors import InputError
from sbs_opt.models.window import Savings, Window
from sbs_opt.solvers.bounds import Relaxation, forced_out, lower_bound
from sbs_opt.testing.oracles import least_bottlenecks
from sbs_opt.testing.strategies import windows

from .helpers import every_kind, permuted, plain


@settings(max_examples=200)
@given(every_kind)
def test_bound_holds_for_every_left_out_tuple(window: Window) -> None:
    for left_out, least in least_bottlenecks(window).items():
        assert lower_bound(window, left_out) <= least


@settings(max_examples=200)
@given(every_kind)
def test_no_placement_leaves_out_fewer_than_forced(window: Window) -> None:
    least = np.min(np.array(list(least_bottlenecks(window)), dtype=np.int64), axis=0)
    assert all(low <= found for low, found in zip(forced_out(window), least.tolist(), strict=True))


@given(windows(0, 1, max_placements=700))
def test_a_window_of_one_item_is_bounded_and_decided_exactly(window: Window) -> None:
    least = least_bottlenecks(window)
    assert min(least) == forced_out(window)
    assert lower_bound(window, min(least)) == least[min(least)]


@given(every_kind, st.data())
def test_bound_does_not_depend_on_the_order_of_items_and_units(window: Window, data: st.DataObject) -> None:
    items = np.array(data.draw(st.permutations(range(window.num_items))), dtype=np.int64)
    units = np.array(data.draw(st.permutations(range(window.num_units))), dtype=np.int64)
    other = permuted(window, items, units)
    assert forced_out(other) == forced_out(window)
    for left_out in least_bottlenecks(window):
        assert lower_bound(other, left_out) == lower_bound(window, left_out)


@pytest.mark.parametrize(
    ("window", "left_out", "bound"),
    [
        pytest.param(plain([5, 5, 5], [0, 2]), (0,), 10, id="counting: some unit takes two"),
        pytest.param(plain([3, 2, 2], [0, 0]), (0,), 4, id="water level, rounded up"),
        pytest.param(plain([5, 5, 5], [0, 20, 0]), (0,), 20, id="room below the peak is free"),
        pytest.param(plain([1, 9], [4, 6]), (0,), 13, id="single item on the least loaded unit"),
        pytest.param(plain([1, 9], [4, 6]), (1,), 6, id="left out: the adversary drops the dearest"),
        pytest.param(plain([6] * 4, [0, 0, 0], group=[0, 0, 1]), (0,), 12, id="the largest group takes the rest"),
        pytest.param(plain([9], [3, 3], limit=[[5], [99]]), (0,), 12, id="only where the item fits"),
        pytest.param(plain([9, 2], [3, 3], limit=[[5], [6]]), (1,), 5, id="a forced item uses up the drop"),
        pytest.param(plain([9], [0, 7], pinned=[1]), (0,), 16, id="pinned"),
        pytest.param(
            plain([8, 8], [0, 0], savings=Savings(item=[0], unit=[1], value=[[6]])),
            (0,),
            8,
            id="savings count at their best",
        ),
        pytest.param(
            Window(demand=[[4, 2], [4, 2]], load=[[0, 0], [0, 0]], price=[1, 10]),
            (0,),
            24,
            id="resources add up by price",
        ),
        pytest.param(plain([5], [2**61] + [0] * 9), (0,), 2**61, id="room beyond 64 bits"),
    ],
)
def test_examples(window: Window, left_out: tuple[int, ...], bound: int) -> None:
    assert lower_bound(window, left_out) == bound


def test_parts_are_named_and_each_holds() -> None:
    window = plain([8] * 3, [0, 0], pinned=[0, -1, -1], savings=Savings(item=[0], unit=[1], value=[[6]]))
    parts = Relaxation.of(window).parts((0,))
    # Savings out of a pinned item's reach do not count: the fluid is 24, not 18.
    assert parts["water_level"] == 12
    assert max(parts.values()) == lower_bound(window, (0,)) <= least_bottlenecks(window)[0,] == 16
    assert set(Relaxation.of(plain([5, 5, 5], [0, 2])).parts((0,))) == {"water_level", "single_item", "counting"}


@settings(max_examples=100)
@given(every_kind)
def test_the_linear_bound_holds_and_is_never_below_the_cheap_one(window: Window) -> None:
    for left_out, least in least_bottlenecks(window).items():
        assert lower_bound(window, left_out) <= lower_bound(window, left_out, "lp") <= least


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(InputError, match="method = 'ilp'"):
        lower_bound(plain([1], [0]), (0,), "ilp")  # type: ignore[arg-type]


@pytest.mark.parametrize("left_out", [(), (0, 0), (3,), (-1,), (0,)])
def test_left_out_that_no_placement_has_is_refused(left_out: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="left_out"):
        lower_bound(plain([9, 1], [0], limit=[[5]]), left_out)
