"""TTFT: its distribution at each load, and how it grows with the load."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from sbs_opt.reports.html.line_chart import Series, line_chart, x_range
from sbs_opt.reports.html.svg import Scale
from sbs_opt.reports.ranking import load_name, mean_ttft, policies_of, quantile
from sbs_opt.simulator.study import Cell, Study

_CURVE_POINTS = 90
_FIRST_PERCENT = 10.0
_HALF, _THIRD = 560.0, 420.0
"""Widths of a chart that shares its row with one other, or with two."""

_SAMPLES_BEYOND = 4
"""Requests that must lie beyond the last percentile drawn, or it would be noise."""


def _tail(percent: float) -> float:
    """Return the position of a percentile on an axis that gives each further nine the same width."""
    return -math.log10(1 - percent / 100)


def distribution_chart(study: Study, cells: Sequence[Cell]) -> str | None:
    """Return TTFT by percentile, the inverse of the complementary distribution; None where nothing was answered."""
    fewest = min((len(cell.metrics.ttft_s) for cell in cells if len(cell.metrics.ttft_s)), default=0)
    if fewest == 0:
        return None
    last = next((p for p in (99.9, 99.0, 90.0) if fewest * (1 - p / 100) >= _SAMPLES_BEYOND), 50.0)
    x = Scale(_FIRST_PERCENT, last, *x_range(_THIRD if len(study.loads()) == 3 else _HALF), _tail)
    first, step = _tail(_FIRST_PERCENT), (_tail(last) - _tail(_FIRST_PERCENT)) / _CURVE_POINTS
    percents = [100 * (1 - 10 ** -(first + k * step)) for k in range(_CURVE_POINTS + 1)]
    series = []
    for cell in cells:
        if len(cell.metrics.ttft_s):
            seconds = np.percentile(cell.metrics.ttft_s, percents).tolist()
            series.append(_series(study, cell, tuple(zip(percents, seconds, strict=True))))
    ticks = [(p, f"p{p:g}") for p in (50.0, 90.0, 99.0, 99.9) if p <= last]
    name = f"TTFT by percentile, {load_name(cells[0].asked_load)}"
    worst = "; ".join(f"{cell.policy}: {_seconds(cell, 50)} s at p50, {_seconds(cell, 99)} s at p99" for cell in cells)
    return line_chart(name, worst, series, x, ticks, "percentile of the requests")


def sweep_charts(study: Study) -> list[str]:
    """Return mean and p99 TTFT against the offered load."""
    return [
        chart
        for name, value in (
            ("Mean TTFT", mean_ttft),
            ("p99 TTFT", lambda cell: quantile(cell.metrics.ttft_s, 99)),
        )
        if (chart := _sweep(study, name, value)) is not None
    ]


def _sweep(study: Study, name: str, value: Callable[[Cell], float | None]) -> str | None:
    series = []
    for policy in policies_of(study):
        cells = sorted((c for c in study.cells if c.policy == policy), key=lambda c: c.load)
        points = tuple((cell.load, v) for cell in cells if (v := value(cell)) is not None)
        if points:
            series.append(_series(study, cells[0], points, marked=True))
    if not series:
        return None
    loads = sorted({cell.load for cell in study.cells})
    margin = 0.05 if len(loads) == 1 else 0.06 * (loads[-1] - loads[0])
    x = Scale(loads[0] - margin, loads[-1] + margin, *x_range(_HALF))
    ticks = [(study.at(load)[0].load, f"{study.at(load)[0].load:.2f}".rstrip("0")) for load in study.loads()]
    said = "; ".join(f"{one.name}: " + ", ".join(f"{v:.3g} s at {at:.2g}" for at, v in one.points) for one in series)
    return line_chart(f"{name} against the offered load", said, series, x, ticks, "offered prefill load ρ")


def _series(study: Study, cell: Cell, points: tuple[tuple[float, float], ...], *, marked: bool = False) -> Series:
    return Series(cell.policy, policies_of(study).index(cell.policy), cell.solver is None, points, marked)


def _seconds(cell: Cell, percent: float) -> str:
    value = quantile(cell.metrics.ttft_s, percent)
    return "–" if value is None else f"{value:.3g}"
