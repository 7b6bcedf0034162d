"""The fit as pictures and page: a dot per row in its place, errors that add up, one file."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.calibration.fit_points import FitPoints, error_by_range
from sbs_opt.models.errors import InputError
from sbs_opt.reports.bench_chart import standalone
from sbs_opt.reports.fit_chart import fit_chart, residual_chart, signed_percent, time_text
from sbs_opt.reports.fit_page import fit_page
from tests.reports.test_html import Reader

SVG = "{http://www.w3.org/2000/svg}"
CHARTS = (fit_chart, residual_chart)


def points(**changes: Any) -> FitPoints:
    fields: dict[str, Any] = {
        "title": "GEMM <up> & down",
        "table": "made/<up>.csv",
        "size_label": "rows & more",
        "series": ("<a>", "<a>", "b", "b", "<a>"),
        "size": [512.0, 8.0, 31.0, 2047.0, 2048.0],
        "measured_ns": [100_000.0, 10_000.0, 20_000.0, 200_000.0, 400_000.0],
        "predicted_ns": [110_000.0, 9_000.0, 21_000.0, 160_000.0, 400_000.0],
        "fitted": [True, True, True, False, True],
    }
    return FitPoints(**(fields | changes))


positive = st.floats(1e-3, 1e9)


@st.composite
def any_points(draw: st.DrawFn) -> FitPoints:
    """Return 1 to 30 rows of up to 12 series, sizes and times over many powers of ten."""
    row = st.tuples(st.integers(0, 11), positive, positive, st.floats(0.2, 5), st.booleans())
    rows = draw(st.lists(row, min_size=1, max_size=30))
    series, size, measured, factor, fitted = zip(*rows, strict=True)
    return points(
        series=tuple(f"<series> {k}" for k in series), size=size, measured_ns=measured,
        predicted_ns=np.array(measured) * factor, fitted=fitted,
    )  # fmt: skip


# -- points and their errors -------------------------------------------------------------------------------------


def test_points_are_copies_that_nobody_changes() -> None:
    size = np.array([512.0, 8.0, 31.0, 2047.0, 2048.0])
    made = points(size=size)
    size[0] = 1.0
    assert made.size[0] == 512.0
    assert not any(a.flags.writeable for a in (made.size, made.measured_ns, made.predicted_ns, made.fitted))
    assert made.error == pytest.approx([0.1, -0.1, 0.05, -0.2, 0.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"series": (), "size": []}, r"series = \(\): .* at least one row"),
        ({"size": [1.0, 2.0]}, r"size has shape \(2,\), expected \(5,\)"),
        ({"fitted": [True]}, r"fitted has shape \(1,\), expected \(5,\)"),
        ({"size": [1.0, 2.0, 0.0, 3.0, 4.0]}, r"size\[2\] = 0.0: must be positive"),
        ({"measured_ns": [1.0, np.nan, 1.0, 1.0, 1.0]}, r"measured_ns\[1\] = nan: must be positive and finite"),
        ({"predicted_ns": [1.0, 1.0, 1.0, 1.0, np.inf]}, r"predicted_ns\[4\] = inf"),
        ({"predicted_ns": ["x"] * 5}, "predicted_ns: not a list of numbers"),
        ({"fitted": [0, 1, 2, 0, 0]}, r"fitted\[2\] = 2"),
    ],
)
def test_points_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        points(**changes)


def test_error_by_range_by_hand() -> None:
    small, middle, large = error_by_range(points())
    assert [one.label for one in (small, middle, large)] == ["8 to 31", "512 to 2,047", "2,048 to 8,191"]
    assert [one.rows for one in (small, middle, large)] == [2, 2, 1]
    assert (small.mean_abs, small.max_abs, small.bias) == pytest.approx((0.075, 0.1, -0.025))
    assert (middle.mean_abs, middle.max_abs, middle.bias) == pytest.approx((0.15, 0.2, -0.05))
    assert (large.mean_abs, large.max_abs, large.bias) == pytest.approx((0.0, 0.0, 0.0))


def test_ranges_of_the_least_sizes_and_of_fractions() -> None:
    assert [one.label for one in error_by_range(points(size=[1, 1, 2, 7, 8]))] == ["1", "2 to 7", "8 to 31"]
    fractions = error_by_range(points(size=[0.5, 1.99, 2, 7.5, 8]))
    assert [one.label for one in fractions] == ["0.5 to below 2", "2 to below 8", "8 to below 32"]


@given(any_points())
def test_ranges_hold_every_row_once_and_their_errors_agree(made: FitPoints) -> None:
    ranges = error_by_range(made)
    assert sum(one.rows for one in ranges) == len(made.series)
    assert len({one.label for one in ranges}) == len(ranges)
    for one in ranges:
        slack = 1e-12 * (1 + one.max_abs)
        assert abs(one.bias) <= one.mean_abs + slack
        assert one.mean_abs <= one.max_abs + slack
    assert max(one.max_abs for one in ranges) == pytest.approx(np.abs(made.error).max())
    assert sum(one.rows * one.bias for one in ranges) == pytest.approx(made.error.sum(), abs=1e-9)


# -- pictures ----------------------------------------------------------------------------------------------------


def dots(chart: str) -> list[tuple[str, float, float, str]]:
    """Return what each dot of a row says, its place and its style; marks of the legend say nothing."""
    return [
        (str(circle[0].text), float(circle.attrib["cx"]), float(circle.attrib["cy"]), circle.attrib["class"])
        for circle in ElementTree.fromstring(chart).iter(f"{SVG}circle")
        if len(circle)
    ]


def texts(chart: str) -> list[str]:
    return [str(one.text) for one in ElementTree.fromstring(chart).iter(f"{SVG}text")]


def ticks(chart: str, anchor: str) -> list[tuple[float, float, str]]:
    """Return place and text of the ticks, those of sizes anchored in the middle, those of heights at the end."""
    return [
        (float(one.attrib["x"]), float(one.attrib["y"]), str(one.text))
        for one in ElementTree.fromstring(chart).iter(f"{SVG}text")
        if one.attrib.get("class") == "tick" and one.attrib["text-anchor"] == anchor
    ]


@pytest.mark.parametrize("chart", CHARTS)
def test_a_dot_says_all_of_its_row(chart: Any) -> None:
    found = dots(chart(points()))
    assert sorted(said for said, *_ in found) == [
        "<a>; 2,048 rows & more: measured 400 µs, predicted 400 µs, error +0.0 %",
        "<a>; 512 rows & more: measured 100 µs, predicted 110 µs, error +10.0 %",
        "<a>; 8 rows & more: measured 10 µs, predicted 9 µs, error −10.0 %",
        "b; 2,047 rows & more: measured 200 µs, predicted 160 µs, error −20.0 %; left out of the fit",
        "b; 31 rows & more: measured 20 µs, predicted 21 µs, error +5.0 %",
    ]
    assert [said for said, _, _, style in found if style == "dot partial"] == [
        said for said, *_ in found if said.endswith("left out of the fit")
    ]


def test_both_axes_of_the_fit_are_logarithmic_and_lines_join_by_size() -> None:
    size = [1000.0, 10.0, 100.0]
    made = points(series=("a",) * 3, size=size, measured_ns=size, predicted_ns=size, fitted=[True] * 3)
    chart = fit_chart(made)
    (_, *first, _), (_, *second, _), (_, *third, _) = dots(chart)
    assert np.subtract(second, first) == pytest.approx(np.subtract(third, second), abs=0.21)
    assert (third[0] > second[0] > first[0], third[1] < second[1] < first[1]) == (True, True)
    (path,) = ElementTree.fromstring(chart).iter(f"{SVG}path")
    joined = [tuple(map(float, pair.split())) for pair in path.attrib["d"][1:].split("L")]
    assert joined == [tuple(first), tuple(second), tuple(third)]


def test_error_is_linear_and_symmetrical_around_zero() -> None:
    made = points(measured_ns=[100.0] * 5, predicted_ns=[130.0, 70.0, 100.0, 115.0, 110.0])
    chart = residual_chart(made)
    height = {re.findall(r"error (\S+)", said)[0]: y for said, _, y, _ in dots(chart)}
    zero = height["+0.0"]
    assert height["−30.0"] - zero == pytest.approx(zero - height["+30.0"], abs=0.21)
    assert zero - height["+15.0"] == pytest.approx((zero - height["+30.0"]) / 2, abs=0.21)
    lines = [one.attrib for one in ElementTree.fromstring(chart).iter(f"{SVG}line")]
    long = [a for a in lines if a["class"] == "axis" and float(a["x2"]) - float(a["x1"]) > 500]
    band = sorted(float(a["y1"]) for a in long if "stroke-dasharray" in a)
    assert band == pytest.approx([height["+10.0"], 2 * zero - height["+10.0"]], abs=0.21)
    assert zero in [float(a["y1"]) for a in long if "stroke-dasharray" not in a]
    assert {"0 %", "+20 %", "−20 %", "±10 %"} <= set(texts(chart))


@pytest.mark.parametrize("chart", CHARTS)
@given(made=any_points())
def test_any_rows_give_a_picture_with_every_dot_inside(chart: Any, made: FitPoints) -> None:
    drawn = chart(made)
    found = dots(drawn)
    assert len(found) == len(made.series)
    left, top, width, height = map(float, ElementTree.fromstring(drawn).attrib["viewBox"].split())
    assert (left, top) == (0, 0)
    assert all(74 < x < width - 34 and 60 < y < height - 54 for _, x, y, _ in found)
    across = ticks(drawn, "middle")
    assert 1 <= len(across) <= 7
    assert all(after[0] - before[0] > 7 * len(before[2]) for before, after in pairwise(across))
    up = sorted(y for _, y, _ in ticks(drawn, "end"))
    assert up
    assert all(after - before > 10 for before, after in pairwise(up))


@pytest.mark.parametrize("chart", CHARTS)
def test_ninth_series_is_among_the_others(chart: Any) -> None:
    def made(count: int) -> FitPoints:
        ones = [1.0] * count
        return points(series=[f"s{k}" for k in range(count)], size=ones, measured_ns=ones, predicted_ns=ones,
                      fitted=[True] * count)  # fmt: skip

    eight, eleven = texts(chart(made(8))), texts(chart(made(11)))
    assert [name for name in eight if re.fullmatch(r"s\d+|others", name)] == [f"s{k}" for k in range(8)]
    assert [name for name in eleven if re.fullmatch(r"s\d+|others", name)] == [*(f"s{k}" for k in range(8)), "others"]
    assert chart(made(11)).count('class="series p0"') == 3


@pytest.mark.parametrize("chart", CHARTS)
def test_legend_of_long_names_stays_inside(chart: Any) -> None:
    drawn = chart(points(series=[f"{k}, a name that does not end" * 9 for k in range(5)]))
    named = [
        one for one in ElementTree.fromstring(drawn).iter(f"{SVG}text") if "a name that does not end" in str(one.text)
    ]
    assert len(named) == 5
    assert all(float(one.attrib["x"]) + 6.9 * len(str(one.text)) < 960 for one in named)
    assert "left out of the fit" in texts(drawn)
    assert "left out of the fit" not in texts(chart(points(fitted=[True] * 5)))


@pytest.mark.parametrize("chart", CHARTS)
def test_picture_alone_lies_on_paper_that_covers_it(chart: Any) -> None:
    alone = ElementTree.fromstring(standalone(chart(points())))
    _, _, width, height = map(float, alone.attrib["viewBox"].split())
    paper = next(one for one in alone if one.tag == f"{SVG}rect")
    assert float(paper.attrib["width"]) >= width
    assert float(paper.attrib["height"]) >= height
    assert "var(" not in standalone(chart(points()))


def test_times_and_percentages_as_people_read_them() -> None:
    shown = [time_text(ns) for ns in (5.0, 999.7, 12_345.0, 500e3, 1e6, 2.5e6, 3e9, 5e12)]
    assert shown == ["5 ns", "999.7 ns", "12.35 µs", "500 µs", "1 ms", "2.5 ms", "3 s", "5,000 s"]
    assert [signed_percent(share) for share in (0.0567, -0.1, -0.0001)] == ["+5.7 %", "−10.0 %", "+0.0 %"]


# -- page --------------------------------------------------------------------------------------------------------

CONSTANTS = (
    ("gemm.launch_ns", "5,123", "ns", "fit: made/<up>.csv"),
    ("gemm.<b>", "700 <b>", "TFLOP/s <b>", "a & b"),
)


def test_page_is_one_well_formed_file_with_the_figures() -> None:
    other = points(title="Other", fitted=[True] * 5, predicted_ns=[100e3, 10e3, 20e3, 200e3, 440e3])
    page = fit_page("h<8>00", "eight & a half", (points(), other), CONSTANTS)
    read = Reader(page)
    assert read.svgs_in == {"table-1": 2, "table-2": 2}
    assert len(set(read.ids)) == len(read.ids)
    assert set(read.labels) <= set(read.ids)
    assert set(re.findall(r"https?://[^\"'<> ]*", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|img|script|iframe|object|embed)\b|\bsrc=|@import|url\(", page)
    assert "<up>" not in page
    assert not re.search("<b>|h<8>", page)
    assert read.tables[0] == [
        ["rows & more", "rows", "mean error", "largest", "bias"],
        ["8 to 31", "2", "7.5 %", "10.0 %", "−2.5 %"],
        ["512 to 2,047", "2", "15.0 %", "20.0 %", "−5.0 %"],
        ["2,048 to 8,191", "1", "0.0 %", "0.0 %", "+0.0 %"],
        ["all", "5", "9.0 %", "20.0 %", "−3.0 %"],
    ]
    assert read.tables[2] == [["constant", "value", "unit", "source"], *map(list, CONSTANTS)]
    said = " ".join("".join(read.texts).split())
    # Over both tables: errors 10, −10, 5, 0 and 0, 0, 0, 0, 10 are in the fit, −20 is not.
    assert "In the fit: 9 rows, mean error 3.9 %, largest 10.0 %, bias +1.7 %." in said
    assert "Left out of it: 1 row, mean error 20.0 %, largest 20.0 %, bias −20.0 %." in said
    assert page == fit_page("h<8>00", "eight & a half", (points(), other), CONSTANTS)


def test_page_without_constants_or_tables() -> None:
    assert Reader(fit_page("a", "b", (points(),), ())).svgs_in == {"table-1": 2}
    assert 'id="constants"' not in fit_page("a", "b", (points(),), ())
    with pytest.raises(InputError, match="at least one"):
        fit_page("a", "b", (), CONSTANTS)
