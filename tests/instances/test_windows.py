"""Window files: what is written is read back; what cannot be read is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.instances import read_windows, write_windows
from sbs_opt.instances.windows import window_record
from sbs_opt.models.errors import TraceError
from sbs_opt.models.window import UNLIMITED, Savings, Window


@st.composite
def windows(draw: st.DrawFn) -> Window:
    n, m, resources = draw(st.integers(0, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def matrix(rows: int, columns: int, cell: st.SearchStrategy[int]) -> Any:
        cells = draw(st.lists(cell, min_size=rows * columns, max_size=rows * columns))
        return np.array(cells, np.int64).reshape(rows, columns)

    def maybe(value: Any) -> Any:
        return value if draw(st.booleans()) else None

    demand = matrix(n, resources, st.integers(0, 2**40))
    savings = None
    if n and draw(st.booleans()):
        pairs = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, m - 1)), min_size=1, unique=True))
        item, unit = (np.array(side, np.int64) for side in zip(*pairs, strict=True))
        savings = Savings(item, unit, demand[item] // 2)
    return Window(
        demand,
        matrix(m, resources, st.integers(0, 2**40)),
        price=maybe(matrix(1, resources, st.integers(0, 9))[0]),
        spread_weight=maybe(matrix(1, resources, st.integers(0, 9))[0]),
        limit=maybe(matrix(m, resources, st.just(UNLIMITED) | st.integers(0, 2**50))),
        open_resource=maybe(draw(st.integers(0, resources - 1))),
        crossing=maybe(matrix(1, n, st.integers(0, 1))[0].astype(bool)),
        group=maybe(matrix(1, m, st.integers(0, 2))[0]),
        tier=maybe(matrix(1, n, st.integers(0, 3))[0]),
        pinned=maybe(matrix(1, n, st.integers(-1, m - 1))[0]),
        savings=savings,
    )


@given(st.lists(windows(), max_size=4), st.sampled_from(["w.jsonl", "w.jsonl.gz", "w.jsonl.zst"]))
def test_write_then_read_gives_the_same_windows(
    tmp_path_factory: pytest.TempPathFactory, originals: list[Window], name: str
) -> None:
    path = tmp_path_factory.mktemp("windows") / name
    write_windows(path, originals)
    assert list(read_windows(path)) == originals


def test_suffix_decides_the_compression(tmp_path: Path) -> None:
    for name, magic in (("w", b"{"), ("w.gz", b"\x1f\x8b"), ("w.zst", b"\x28\xb5\x2f\xfd")):
        write_windows(tmp_path / name, [Window(demand=[[1]], load=[[0]])])
        assert (tmp_path / name).read_bytes().startswith(magic)


def test_defaults_are_left_out_and_unlimited_is_null() -> None:
    small = Window(demand=[[5], [3]], load=[[0], [1]])
    assert window_record(small) == {"schema": "sbs-opt/window/1", "demand": [[5], [3]], "load": [[0], [1]]}
    capped = Window(demand=[[5]], load=[[0], [1]], limit=[[UNLIMITED], [7]])
    assert window_record(capped)["limit"] == [[None], [7]]


def test_old_file_survives_windows_that_raise(tmp_path: Path) -> None:
    def failing() -> Iterator[Window]:
        yield Window(demand=[[1]], load=[[0]])
        raise RuntimeError

    path = tmp_path / "w"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        write_windows(path, failing())
    assert path.read_text() == "old"


def test_windows_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "w"
    good = json.dumps({"schema": "sbs-opt/window/1", "demand": [[1]], "load": [[0]]})
    path.write_text(f"{good}\n\nnonsense\n")
    reader = read_windows(path)
    assert next(reader).num_items == 1
    with pytest.raises(TraceError, match="w, row 3: is not valid JSON"):
        next(reader)


ERRORS = [
    ({"schema": "sbs-opt/window/2"},
     r"schema 'sbs-opt/window/2' is unknown; known schemas of windows: sbs-opt/window/1"),
    ({"schema": None}, r"schema None is unknown"),
    ({"weight": 1},
     r"'weight' is no field of a window; known fields: demand, load, price, spread_weight, limit, open_res"),
    ({"demand": ...}, r"demand is missing"),
    ({"demand": [[-1]]}, r"demand\[0, 0\] = -1: must be at least 0"),
    ({"demand": [[1.5]]}, r"demand\[0, 0\] = 1.5: must be a whole number"),
    ({"demand": [[1], [1, 2]]}, r"demand: rows of unequal length"),
    ({"demand": "x"}, r"demand: holds"),
    ({"limit": 5}, r"limit has shape \(\), expected \(1, 1\)"),
    ({"limit": [None]}, r"limit\[0\] = None"),
    ({"pinned": [3]}, r"pinned\[0\] = 3: out of range"),
    ({"savings": [1]}, r"savings holds \[1\]; it must be an object of item, unit, value"),
    ({"savings": {"item": [0], "unit": [0]}}, r"savings.value is missing"),
    ({"savings": {"item": [0], "unit": [0], "value": [[0]], "x": 1}},
     r"'x' is no field of savings; known fields: item, un"),
    ({"savings": {"item": [0], "unit": [0], "value": [[9]]}},
     r"savings.value\[0, 0\] = 9: exceeds the demand"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), ERRORS, ids=range(len(ERRORS)))
def test_error_names_file_row_and_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    record = {"schema": "sbs-opt/window/1", "demand": [[1]], "load": [[0]], **change}
    record = {name: value for name, value in record.items() if value is not ...}
    path = tmp_path / "w"
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(TraceError, match=rf"w, row 1: {message}") as caught:
        list(read_windows(path))
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)
names = ["demand", "load", "price", "limit", "open_resource", "group", "tier", "pinned", "savings"]


@given(st.dictionaries(st.sampled_from(names), json_values))
def test_any_json_is_a_window_or_a_trace_error(
    tmp_path_factory: pytest.TempPathFactory, change: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "w"
    path.write_text(json.dumps({"schema": "sbs-opt/window/1", "demand": [[1]], "load": [[0]], **change}))
    try:
        read = list(read_windows(path))
    except TraceError:
        return
    assert len(read) == 1
