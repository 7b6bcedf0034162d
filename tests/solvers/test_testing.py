"""The shipped strategies and oracles themselves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, find, given, settings

from sbs_opt.models.errors import InputError
from sbs_opt.models.window import Window
from sbs_opt.solvers.protocol import FIELDS, fields_in_use
from sbs_opt.testing.oracles import best_placement, every_placement, least_bottlenecks
from sbs_opt.testing.strategies import windows

from .helpers import least_makespan, plain


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_drawn(name: str) -> None:
    first_found = settings(max_examples=2000, database=None, phases=[Phase.generate])
    window = find(windows(), lambda w: name in fields_in_use(w), settings=first_found)
    assert name in fields_in_use(window)


@given(windows(2, 6, min_units=2, max_units=4, max_amount=5, max_placements=700, fields={"limits", "pinned"}))
def test_ranges_are_kept(window: Window) -> None:
    assert 2 <= window.num_items <= 6
    assert 2 <= window.num_units <= 4
    assert (window.num_units + 1) ** window.num_items <= 700 or window.num_items == 2
    assert max(window.demand.max(), window.load.max()) <= 5
    assert fields_in_use(window) <= {"limits", "pinned"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_items": 3, "max_items": 2}, "min_items = 3, max_items = 2"),
        ({"min_units": 0}, "min_units = 0"),
        ({"max_amount": -1}, "max_amount = -1"),
        ({"fields": {"limit"}}, "unknown 'limit'; known: limits"),
    ],
)
def test_empty_ranges_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        windows(**arguments)


def test_oracle_tries_every_placement_once() -> None:
    window = plain([1, 2], [0, 0], limit=[[2], [1]])
    found = {tuple(placement.unit.tolist()) for placement, _ in every_placement(window)}
    assert found == {(-1, -1), (-1, 0), (0, -1), (1, -1), (1, 0)}
    placement, objective = best_placement(window)
    assert placement.unit.tolist() == [1, 0]
    assert objective.left_out == (0,)
    assert least_bottlenecks(window) == {(2,): 0, (1,): 1, (0,): 2}


@given(windows(max_items=5, max_placements=700, fields=()))
def test_the_two_oracles_agree(window: Window) -> None:
    _, best = best_placement(window)
    assert best.bottleneck == least_makespan(window.demand[:, 0].tolist(), window.load[:, 0].tolist())


def test_oracle_refuses_what_it_could_not_finish() -> None:
    with pytest.raises(InputError, match="use fewer items"):
        best_placement(plain([1] * 30, [0, 0]))
