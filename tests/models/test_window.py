"""What a window accepts, what it refuses, and how it says so."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from sbs_opt.models.errors import InputError
from sbs_opt.models.placement import Placement
from sbs_opt.models.window import FREE, UNLIMITED, Savings, Window
from sbs_opt.testing.strategies import windows

BASE: dict[str, Any] = {"demand": [[5, 1], [3, 2], [3, 3]], "load": [[0, 0], [1, 1]]}


def test_defaults_are_the_documented_ones() -> None:
    window = Window(**BASE)
    assert (window.num_items, window.num_units, window.num_resources) == (3, 2, 2)
    assert window.price.tolist() == window.spread_weight.tolist() == [1, 1]
    assert window.limit.tolist() == [[UNLIMITED] * 2] * 2
    assert not window.has_limits
    assert window.open_resource is None
    assert window.crossing.tolist() == [True] * 3
    assert window.group.tolist() == [0, 0]
    assert window.tier.tolist() == [0, 0, 0]
    assert window.tiers == (0,)
    assert window.pinned.tolist() == [FREE] * 3
    assert window.savings is None


def test_spread_weight_follows_the_price() -> None:
    assert Window(**{**BASE, "price": [2, 0]}).spread_weight.tolist() == [2, 0]


@pytest.mark.parametrize("kind", [None, "int64", "uint8", "float64", "object"])
def test_lists_and_arrays_of_any_whole_numbers_are_the_same(kind: str | None) -> None:
    demand, load = (BASE[name] if kind is None else np.array(BASE[name], dtype=kind) for name in ("demand", "load"))
    window = Window(demand=demand, load=load)
    assert window == Window(**BASE)
    assert hash(window) == hash(Window(**BASE))
    assert window.demand.dtype == np.int64


def test_windows_that_differ_in_one_number_are_not_equal() -> None:
    assert Window(**BASE) != Window(**{**BASE, "load": [[0, 0], [1, 2]]})
    assert Window(**BASE) != Window(**BASE, open_resource=0)
    assert Window(**BASE) != BASE


def test_a_window_keeps_its_own_read_only_copy() -> None:
    demand = np.array(BASE["demand"], dtype=np.int64)
    window = Window(demand=demand, load=BASE["load"])
    demand[0, 0] = 99
    assert window.demand[0, 0] == 5
    with pytest.raises(ValueError, match="read-only"):
        window.demand[0, 0] = 1


@pytest.mark.parametrize("empty", [[], np.zeros((0, 2)), np.zeros((0, 2), np.int64)])
def test_no_items_is_a_window(empty: Any) -> None:
    window = Window(demand=empty, load=[[1, 2]])
    assert (window.num_items, window.num_resources, window.tiers) == (0, 2, ())


@pytest.mark.parametrize("value", [0, 1, np.int64(1), np.int32(0)])
def test_open_resource_is_a_plain_index(value: Any) -> None:
    # Once every plain integer was refused, because a scalar came back with one dimension.
    window = Window(**BASE, open_resource=value)
    assert window.open_resource == int(value)
    assert type(window.open_resource) is int


SAVING: dict[str, Any] = {"item": [0, 0], "unit": [0, 1], "value": [[1, 0], [5, 1]]}


def savings(**changed: Any) -> Savings:
    """Return good savings with some fields replaced."""
    return Savings(**{**SAVING, **changed})


def test_savings_are_kept_and_none_at_all_is_none() -> None:
    window = Window(**BASE, savings=savings())
    assert window.savings is not None
    assert len(window.savings) == 2
    nothing = Savings(item=[], unit=[], value=[])
    assert Window(**BASE, savings=nothing) == Window(**BASE)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"demand": [[1, 2], [3]]}, "demand: rows of unequal length"),
        ({"demand": [[1, 2], [3, -4]]}, r"demand\[1, 1\] = -4: must be at least 0"),
        ({"demand": [[1, 2], [3, 0.5]]}, r"demand\[1, 1\] = 0.5: must be a whole number"),
        ({"demand": [[1, float("nan")]]}, r"demand\[0, 1\] = nan"),
        ({"demand": [[1, float("inf")]]}, r"demand\[0, 1\] = inf"),
        ({"demand": [["a", "b"]]}, "demand: holds"),
        ({"demand": [[1, 2**63]]}, r"demand\[0, 1\] = 9223372036854775808: does not fit"),
        ({"demand": [[1, 2**70]]}, r"demand\[0, 1\] = 1180591620717411303424"),
        ({"demand": [[1, None]]}, r"demand\[0, 1\] = None"),
        ({"demand": [[1]]}, r"demand has shape \(1, 1\), expected \(items, 2\)"),
        ({"demand": [1, 2]}, r"demand has shape \(2,\)"),
        ({"demand": [[2**61, 0], [2**61, 0]]}, r"sum up to .* the limit is 2\^62"),
        ({"price": [2**61, 1]}, r"the limit is 2\^62"),
        ({"load": []}, r"load has shape \(0,\)"),
        ({"load": [1, 2]}, r"load has shape \(2,\)"),
        ({"load": [[], []]}, "load has shape"),
        ({"price": [1]}, r"price has shape \(1,\), expected \(2,\) \(one per resource\)"),
        ({"price": [1, -1]}, r"price\[1\] = -1"),
        ({"spread_weight": [1, 1, 1]}, "spread_weight has shape"),
        ({"limit": [[1, 2]]}, "limit has shape"),
        ({"limit": [[1, 2], [-1, 2]]}, r"limit\[1, 0\] = -1"),
        ({"open_resource": 2}, "open_resource = 2: must be None or an index below 2"),
        ({"open_resource": -1}, "open_resource = -1"),
        ({"open_resource": [0]}, r"open_resource = \[0\]"),
        ({"crossing": [1, 0]}, "crossing has shape"),
        ({"crossing": [1, 0, 2]}, r"crossing\[2\] = 2: must be true or false"),
        ({"group": [0]}, "group has shape"),
        ({"tier": [0, 0]}, "tier has shape"),
        ({"tier": [0, 0, -1]}, r"tier\[2\] = -1"),
        ({"pinned": [0, 0]}, "pinned has shape"),
        ({"pinned": [0, 2, 0]}, r"pinned\[1\] = 2: out of range, there are 2 units"),
        ({"pinned": [0, -2, 0]}, r"pinned\[1\] = -2"),
        ({"savings": SAVING}, r"pass Savings\(item, unit, value\)"),
        ({"savings": savings(item=[0, 3])}, r"savings.item\[1\] = 3: out of range, there are 3 items"),
        ({"savings": savings(unit=[0, 2])}, r"savings.unit\[1\] = 2: out of range, there are 2 units"),
        ({"savings": savings(unit=[1, 1])}, r"savings\[1\]: item 0 on unit 1 is given twice"),
        ({"savings": savings(value=[[1, 0], [6, 0]])}, r"savings.value\[1, 0\] = 6: exceeds the demand 5 of item 0"),
        ({"savings": savings(value=[[1], [1]])}, "savings.value has shape"),
    ],
)
def test_bad_fields_are_named_with_index_and_value(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Window(**{**BASE, **changed})


def test_savings_check_their_own_shapes() -> None:
    with pytest.raises(InputError, match=r"savings.item has shape \(\)"):
        Savings(item=0, unit=0, value=[[1, 1]])
    with pytest.raises(InputError, match=r"savings.unit has shape"):
        Savings(item=[0, 1], unit=[0], value=[[1, 1]])


@given(windows(max_items=8, max_units=5))
def test_a_window_rebuilt_from_its_fields_is_equal(window: Window) -> None:
    rebuilt = Window(**{field.name: getattr(window, field.name) for field in fields(Window)})
    assert rebuilt == window
    assert hash(rebuilt) == hash(window)
    assert rebuilt.tiers == tuple(sorted(set(window.tier.tolist())))


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda window: pickle.loads(pickle.dumps(window))])
def test_a_copy_is_read_only_too(copied: Callable[[Window], Window]) -> None:
    saving = Savings([0], [1], [[1, 1]])
    window = copied(Window(**BASE, savings=saving, pinned=[-1, 0, 1]))
    assert window == Window(**BASE, savings=saving, pinned=[-1, 0, 1])
    assert window.savings is not None
    arrays = [getattr(window, field.name) for field in fields(window)] + [window.savings.value]
    assert not any(array.flags.writeable for array in arrays if isinstance(array, np.ndarray))
    placement = copied(Placement([0, 1]))  # type: ignore[arg-type]
    assert placement == Placement([0, 1])
    assert not placement.unit.flags.writeable  # type: ignore[attr-defined]


def test_limits_that_cannot_bind_are_not_in_use() -> None:
    assert "limits" in Window(demand=[[5], [3]], load=[[1]], limit=[[8]]).fields_in_use
    assert not Window(demand=[[5], [3]], load=[[1]], limit=[[9]]).fields_in_use


def test_integers_beside_floats_stay_exact() -> None:
    """NumPy turns such a list into float64, where 2^53 + 1 becomes 2^53."""
    assert Window(demand=[[2**53 + 1, 0.0]], load=[[0, 0]]).demand.tolist() == [[2**53 + 1, 0]]
