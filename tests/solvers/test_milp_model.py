"""The linear programme against `verify`, placement by placement, and how far a float bound is believed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.models.errors import PlacementError
from sbs_opt.models.placement import Placement
from sbs_opt.models.verify import verify
from sbs_opt.models.window import FREE, Window
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.exact_search import BackEndError, Bottleneck, LeftOut, Saved, Stage
from sbs_opt.solvers.incumbent import nothing_placed
from sbs_opt.solvers.milp_model import MilpModel
from sbs_opt.solvers.milp_rows import FloatArray, Programme
from sbs_opt.solvers.milp_search import Allowance, Found, MilpBackEnd, whole_bound
from sbs_opt.solvers.pulp_cbc import read_log
from sbs_opt.testing.oracles import every_placement

from .helpers import every_kind, open_windows, plain


def respects(programme: Programme, values: FloatArray) -> bool:
    """Tell whether a point respects every bound and row of a programme, exactly."""
    rows = programme.rows
    total = np.zeros(len(rows.lower))
    np.add.at(total, rows.row, rows.value * values[rows.column])
    inside = (programme.lower <= values) & (values <= programme.upper)
    whole = values[programme.whole]
    return bool(
        inside.all() and (rows.lower <= total).all() and (total <= rows.upper).all() and (whole == whole.round()).all()
    )


def stages_of(window: Window) -> list[Stage]:
    """Return the stages of a window in their order."""
    return [*map(LeftOut, range(len(window.tiers))), Bottleneck(), Saved()]


def value_range(window: Window, stage: Stage) -> tuple[int, int]:
    """Return the least and the greatest value of a stage over all placements."""
    values = [stage.value(objective) for _, objective in every_placement(window)]
    return min(values), max(values)


@settings(max_examples=60)
@given(every_kind)
def test_every_feasible_placement_is_a_point_of_the_same_value(window: Window) -> None:
    for stage in stages_of(window):
        model = MilpModel(window)
        programme = model.programme(stage, *value_range(window, stage))
        for placement, objective in every_placement(window):
            point = model.start(placement.unit.astype(np.int64))
            assert respects(programme, point)
            assert programme.offset + programme.scale * (programme.cost @ point) == stage.value(objective)
            assert Placement(model.read(point)) == placement


@settings(max_examples=60)
@given(every_kind | open_windows(), st.data())
def test_no_infeasible_placement_is_a_point(window: Window, data: st.DataObject) -> None:
    model = MilpModel(window)
    programme = model.programme(LeftOut(0), 0, window.num_items) if window.num_items else None
    unit = data.draw(st.lists(st.integers(FREE, window.num_units - 1), min_size=(n := window.num_items), max_size=n))
    wanted = np.array(unit, dtype=np.int64)
    try:
        verify(window, wanted)
    except PlacementError:
        point = model.start(wanted)
        assert programme is not None
        assert not (respects(programme, point) and np.array_equal(model.read(point), wanted))


@settings(max_examples=60)
@given(every_kind, st.data())
def test_stages_that_are_fixed_cut_off_other_values_only(window: Window, data: st.DataObject) -> None:
    placements = list(every_placement(window))
    _, wanted = data.draw(st.sampled_from(placements))
    model = MilpModel(window)
    for stage in stages_of(window)[:-1]:
        model.fix(stage, stage.value(wanted))
    programme = model.programme(Saved(), *value_range(window, Saved()))
    for placement, objective in placements:
        kept = objective.left_out == wanted.left_out and objective.bottleneck <= wanted.bottleneck
        assert respects(programme, model.start(placement.unit.astype(np.int64))) == kept


@settings(max_examples=60)
@given(every_kind, st.data())
def test_bounds_of_a_stage_cut_off_other_values_only(window: Window, data: st.DataObject) -> None:
    placements = list(every_placement(window))
    stage = data.draw(st.sampled_from(stages_of(window)))
    _, one = data.draw(st.sampled_from(placements))
    _, two = data.draw(st.sampled_from(placements))
    low, high = sorted((stage.value(one), stage.value(two)))
    model = MilpModel(window)
    programme = model.programme(stage, low, high)
    for placement, objective in placements:
        point = model.start(placement.unit.astype(np.int64))
        assert respects(programme, point) == (low <= stage.value(objective) <= high)


def test_rises_are_whole_where_their_range_is_small() -> None:
    narrow = MilpModel(plain([5, 4, 3], [0, 0])).programme(Bottleneck(), 6, 12)
    assert narrow.whole.all()
    wide = MilpModel(plain([50_001, 4, 3], [0, 0])).programme(Bottleneck(), 6, 50_008)
    assert wide.whole.tolist() == [True] * 6 + [False]


def test_amounts_are_divided_by_their_greatest_common_divisor() -> None:
    scale = 2**50
    window = plain([5 * scale, 3 * scale], [0, scale], limit=[[7 * scale + 1], [9 * scale]])
    programme = MilpModel(window).programme(Bottleneck(), scale, 9 * scale)
    assert np.abs(programme.rows.value).max() == 5
    assert programme.rows.upper.max() == 7  # rounded down
    assert (programme.offset, programme.scale) == (scale, scale)


@given(st.integers(0, 10**5), st.floats(-1e-7, 1e-7))
def test_a_bound_that_is_off_by_a_tolerance_proves_the_same_whole_number(bound: int, noise: float) -> None:
    programme = MilpModel(plain([5, 4, 3], [0, 0])).programme(Bottleneck(), 6, 12)
    assert whole_bound(programme._replace(offset=3, scale=2), bound + noise) == 3 + 2 * bound


@given(st.integers(2 * 10**6, 10**8))
def test_large_values_and_wide_columns_take_from_the_bound(bound: int) -> None:
    programme = MilpModel(plain([5, 4, 3], [0, 0])).programme(Bottleneck(), 6, 12)._replace(offset=0, scale=1)
    large = whole_bound(programme, float(bound))
    assert large is not None
    assert bound * (1 - 1.1e-6) - 1 <= large < bound
    wide = whole_bound(programme._replace(upper=np.full_like(programme.upper, 1e8)), float(bound))
    assert wide is not None
    assert wide <= large - 60  # seven columns, 1e8 times the dual tolerance each


@pytest.mark.parametrize("bound", [float("nan"), float("-inf"), float("inf")])
def test_a_bound_that_is_no_number_proves_nothing(bound: float) -> None:
    programme = MilpModel(plain([5, 4, 3], [0, 0])).programme(Bottleneck(), 6, 12)
    assert whole_bound(programme, bound) is None


def answered(window: Window, found: Found) -> int | None:
    """Return the bound that is believed when an engine reports `found` about the bottleneck."""

    def engine(programme: Programme, start: FloatArray, allowance: Allowance) -> Found:
        return found

    nothing = nothing_placed(window)
    total = int(window.demand.sum() + window.load.sum())
    answer = MilpBackEnd(window, engine, 0).minimise(Bottleneck(), 0, nothing.unit, total, Budget(None, 100))
    return answer.bound


def test_numbers_beyond_the_tolerances_make_no_bound() -> None:
    found = Found(None, 7.0, 0, complete=True)
    assert answered(plain([5, 4, 3], [0, 0]), found) == 7
    assert answered(plain([5 * 10**9 + 1, 4, 3], [0, 0]), found) is None
    assert answered(plain([2**60, 4, 3], [0, 0]), found) is None


def test_numbers_that_no_solver_accepts_are_not_asked_about() -> None:
    def engine(programme: Programme, start: FloatArray, allowance: Allowance) -> Found:
        raise BackEndError("too large")

    window = plain([2**60, 4, 3], [0, 0])
    answer = MilpBackEnd(window, engine, 0).minimise(
        Bottleneck(), 0, nothing_placed(window).unit, 2**61, Budget(None, 100)
    )
    assert (answer.unit, answer.bound, answer.complete) == (None, None, True)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(Found(None, float("inf"), 0, complete=True), id="infeasible"),
        pytest.param(Found(np.zeros(2), 7.0, 0, complete=True), id="wrong length"),
        pytest.param(Found(np.full(7, np.nan), 7.0, 0, complete=True), id="no numbers"),
    ],
)
def test_an_engine_that_contradicts_the_model_has_failed(found: Found) -> None:
    with pytest.raises(BackEndError):
        answered(plain([5, 4, 3], [0, 0]), found)


@pytest.mark.parametrize(
    ("told", "bound", "nodes", "complete"),
    [
        ("Result - Optimal solution found\n\nObjective value:  9.00000000\nEnumerated nodes:  4\n", 9.0, 4, True),
        (
            "Result - Stopped on time limit\n\nObjective value:  9.00000000\nLower bound:  8.250\nGap:  0.10\n"
            "Enumerated nodes:  12\n",
            8.249,
            12,
            False,
        ),
        ("Result - Stopped on node limit\n\nNo feasible solution found\nLower bound:  -3.5\n", -3.501, 0, False),
        ("Result - Problem proven infeasible\n\nNo feasible solution found\n", float("inf"), 0, True),
        ("Result - Optimal solution found (within gap tolerance)\n\nObjective value:  9.0\n", float("-inf"), 0, True),
        ("Segmentation fault", float("-inf"), 0, True),
    ],
)
def test_cbc_log_is_read_for_what_it_says(told: str, bound: float, nodes: int, complete: bool) -> None:
    found = read_log(told, None)
    assert found.bound == pytest.approx(bound)
    assert (found.nodes, found.complete) == (nodes, complete)
