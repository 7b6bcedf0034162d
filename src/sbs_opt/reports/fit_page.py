"""The fit of a cost model as one HTML page: pictures, errors by size, constants with their sources."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from sbs_opt.calibration.fit_points import FitPoints, RangeError, error_by_range
from sbs_opt.calibration.robust import quality
from sbs_opt.models.errors import InputError
from sbs_opt.reports.bench_chart import STYLE
from sbs_opt.reports.fit_chart import error_text, fit_chart, residual_chart, signed_percent
from sbs_opt.reports.html.frame import bullets, frame, header, lead, section
from sbs_opt.reports.html.svg import element
from sbs_opt.reports.numbers import count, percent

Constant = tuple[str, str, str, str]
"""Path in the profile, value, unit, source."""

_RULES = (
    ".stack { margin-bottom: 22px; }",
    "table.errors { width: auto; }",
    "td.words, th.words { text-align: left; }",
    "td.words:last-child { white-space: normal; overflow-wrap: anywhere; min-width: 24ch; }",
)

_NOTES = (
    "Error is predicted over measured time, minus one: positive where the law says too much. Means are over rows, "
    "all of the same weight; bias keeps the sign, the other two do not.",
    "Lines join what the law says at the sizes of the rows; between them it may bend.",
    "Errors of rows in the fit are in-sample: they say how well the form of the law suits the table, not how well it "
    "foretells another machine.",
)


def fit_page(name: str, about: str, points: Sequence[FitPoints], constants: Sequence[Constant]) -> str:
    """Return a fit as a page that needs no other file and no network; it holds no date.

    Parameters
    ----------
    name
        Name of the profile.
    about
        One sentence on the hardware.
    points
        At least one table with its predictions.
    constants
        Path, value, unit and source of each constant, as shown.

    Raises
    ------
    InputError
        Without a table.
    """
    if not points:
        raise InputError("points = (): a fit without tables shows nothing; give at least one")
    facts = (
        ("Hardware", about),
        ("Tables", count(len(points))),
        ("Rows", count(sum(len(one.series) for one in points))),
        ("Constants", count(len(constants))),
    )
    body = "".join(
        (
            header("Fit of the cost model", name, facts),
            section("In short", lead(_overall(points)), "in-short"),
            *(_table_section(one, f"table-{k}") for k, one in enumerate(points, 1)),
            section("Constants", _constants(constants), "constants") if constants else "",
            section("Notes", bullets(_NOTES), "notes"),
        )
    )
    return frame(f"{name}: fit of the cost model", body, rules=(*STYLE, *_RULES))


def _overall(points: Sequence[FitPoints]) -> str:
    """Return the errors of the rows in the fit and of those left out of it, in words."""
    predicted = np.concatenate([one.predicted_ns for one in points])
    measured = np.concatenate([one.measured_ns for one in points])
    fitted = np.concatenate([one.fitted for one in points])
    said = []
    for meaning, rows in (("In the fit", fitted), ("Left out of it", ~fitted)):
        if rows.any():
            error = quality("", predicted[rows], measured[rows])
            said.append(f"{meaning}: {count(error.rows)} {'row' if error.rows == 1 else 'rows'}, {error_text(error)}.")
    return " ".join(said)


def _table_section(points: FitPoints, anchor: str) -> str:
    figures = element("figure", fit_chart(points)) + element("figure", residual_chart(points))
    said = lead(f"From {points.table}. {_overall([points])}")
    return section(points.title, said + element("div", figures, class_="stack") + _errors(points), anchor)


def _errors(points: FitPoints) -> str:
    every = quality(points.table, points.predicted_ns, points.measured_ns)
    total = RangeError("all", every.rows, every.mean_abs, every.max_abs, every.bias)
    names = (points.size_label, "rows", "mean error", "largest", "bias")
    rows = []
    for one in (*error_by_range(points), total):
        texts = (count(one.rows), percent(one.mean_abs), percent(one.max_abs), signed_percent(one.bias))
        cells = element("th", escape(one.label), scope="row") + "".join(element("td", cell) for cell in texts)
        rows.append(element("tr", cells, class_="leader-row" if one is total else None))
    head = "".join(element("th", escape(name), scope="col") for name in names)
    return _scrolled(head, rows, f"Error by {points.size_label}", "errors")


def _constants(constants: Sequence[Constant]) -> str:
    head = "".join(
        element("th", name, scope="col", class_=style)
        for name, style in (("constant", None), ("value", None), ("unit", "words"), ("source", "words"))
    )
    rows = [
        element(
            "tr",
            element("th", escape(path), scope="row")
            + element("td", escape(value))
            + element("td", escape(unit), class_="words")
            + element("td", escape(source), class_="words"),
        )
        for path, value, unit, source in constants
    ]
    return _scrolled(head, rows, "Constants")


def _scrolled(head: str, rows: Sequence[str], name: str, style: str | None = None) -> str:
    table = element("thead", element("tr", head)) + element("tbody", "".join(rows))
    inner = element("table", table, class_=style)
    return element("div", inner, class_="scroll", tabindex="0", role="region", aria_label=name)
