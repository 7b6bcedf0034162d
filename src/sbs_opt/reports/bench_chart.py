"""Quality against time: a point per solver and budget, both axes logarithmic, a floor for gaps of zero."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from itertools import pairwise

from sbs_opt.reports.bench import Summary, frontier
from sbs_opt.reports.html.svg import COLOURS, colour, element, line, log_scale, number, picture, text
from sbs_opt.reports.numbers import duration, significant

_WIDTH, _HEIGHT = 960.0, 520.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 74.0, 34.0, 18.0, 54.0
_FLOOR = 46.0
"""Room under the least gap for those that are zero, which a logarithm does not have."""

_LEAST = 1e-9
"""Positive gaps below this are drawn here, or they would squeeze all others together."""

_MOST_TICKS = 7
_CHARACTER, _LINE = 7.1, 15.0
"""Size of a label's text, to keep labels apart."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]


def bench_chart(rows: Sequence[Summary]) -> str | None:
    """Return mean gap against median time as SVG; None where no row has both."""
    drawn = [row for row in rows if row.gap_mean is not None and row.wall_s_p50]
    if not drawn:
        return None
    at, frame = _axes(drawn)
    points = {row: at(row) for row in drawn}
    path = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in (points[row] for row in frontier(drawn)))
    parts = [frame] + [element("path", d=path, class_="frontier")] * (len(frontier(drawn)) > 1)
    solvers = list(dict.fromkeys(row.solver for row in rows))
    # The dots of a solver are drawn and joined in the order of its budgets; its name stands at the last one.
    series = [[row for row in drawn if row.solver == solver] for solver in solvers]
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in points.values()]
    for k, own in enumerate(series):
        if own:
            parts.append(_series(k, own, [points[row] for row in own], taken))
    said = "; ".join(f"{row.name}: {_percent(row.gap_mean)} in {duration(row.wall_s_p50 or 0)}" for row in drawn)
    return picture(_WIDTH, _HEIGHT, "Mean gap against median time", said, "".join(parts))


def _axes(rows: Sequence[Summary]) -> tuple[Callable[[Summary], Point], str]:
    """Return the map from a summary to its place, and the drawn axes."""
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    times = [row.wall_s_p50 for row in rows if row.wall_s_p50]
    gaps = [max(row.gap_mean, _LEAST) for row in rows if row.gap_mean]
    floor = bottom - 16
    zero = len(gaps) < len(rows)
    lowest = bottom - (_FLOOR if zero else 0)
    x, x_ticks = log_scale([min(times) / 1.3, max(times) * 1.3], _LEFT, right)
    y, y_ticks = log_scale([min(gaps, default=0.001) / 1.3, max(gaps, default=0.01) * 1.3], lowest, _TOP)
    parts = []
    for gap in _sparse(y_ticks):
        parts.append(line(_LEFT, y(gap), right, y(gap), "grid"))
        parts.append(text(_LEFT - 8, y(gap) + 4, f"{100 * gap:.6g} %", text_anchor="end", class_="tick"))
    for time in _sparse(x_ticks):
        parts.append(line(x(time), _TOP, x(time), bottom, "grid"))
        parts.append(text(x(time), bottom + 18, _time(time), text_anchor="middle", class_="tick"))
    if zero:
        parts.append(line(_LEFT, floor, right, floor, "grid"))
        parts.append(line(_LEFT, lowest + 6, right, lowest + 6, "break"))
        parts.append(text(_LEFT - 8, floor + 4, "0 %", text_anchor="end", class_="tick"))
    parts.append(line(_LEFT, bottom, right, bottom, "axis"))
    parts.append(
        text((_LEFT + right) / 2, _HEIGHT - 10, "median time per window", text_anchor="middle", class_="axis-name")
    )
    turned = f"translate(16 {number((_TOP + bottom) / 2)}) rotate(-90)"
    name = text(0, 0, "mean gap to the best proved bound", text_anchor="middle", class_="axis-name")
    parts.append(element("g", name, transform=turned))
    return lambda row: (x(row.wall_s_p50 or 0), y(max(row.gap_mean, _LEAST)) if row.gap_mean else floor), "".join(parts)


def _sparse(ticks: Sequence[float]) -> list[float]:
    """Return so few ticks that their texts do not touch: powers of ten where there are many."""
    if len(ticks) <= _MOST_TICKS:
        return list(ticks)
    tens = [tick for tick in ticks if f"{tick:.0e}".startswith("1")]
    return tens if len(tens) <= _MOST_TICKS else tens[:: -(-len(tens) // _MOST_TICKS)]


def _series(k: int, rows: Sequence[Summary], points: Sequence[Point], taken: list[Box]) -> str:
    parts = [line(*one, *other, "joint") for one, other in pairwise(points)]
    for row, (x, y) in zip(rows, points, strict=True):
        windows = "" if row.comparable else "; not on every window"
        said = f"{row.name}: mean gap {_percent(row.gap_mean)}, median {duration(row.wall_s_p50 or 0)}{windows}"
        style = "dot" if row.comparable else "dot partial"
        parts.append(element("circle", element("title", escape(said)), cx=x, cy=y, r=5.0, class_=style))
    return element("g", "".join(parts) + _label(rows[-1].solver, points[-1], taken), class_=f"series {colour(k)}")


def _label(name: str, point: Point, taken: list[Box]) -> str:
    """Return a name near its point, at the first place around it that is free, with a line to it where it is far."""
    width = _CHARACTER * len(name)
    x, y = point
    for away in range(8, 160, 8):
        for left, middle in (
            (x + away, y), (x - away - width, y), (x - width / 2, y - away - 4), (x - width / 2, y + away + 4),
            (x + away, y - away), (x + away, y + away), (x - away - width, y - away), (x - away - width, y + away),
        ):  # fmt: skip
            box = (left, middle - _LINE / 2, left + width, middle + _LINE / 2)
            inside = box[0] > _LEFT and box[2] < _WIDTH and box[1] > 0 and box[3] < _HEIGHT - _BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                end = min(max(x, box[0]), box[2])
                leader = line(x, y, end, min(max(y, box[1]), box[3]), "leader") if away > 16 else ""
                return leader + text(left, middle + 4, name, class_="label")
    return text(x + 8, y + 4, name, class_="label")


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _percent(gap: float | None) -> str:
    return f"{significant(100 * gap)} %" if gap else "0 %"


def _time(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= 0.999 * unit:
            return f"{seconds / unit:g} {name}"
    return f"{seconds / 1e-6:g} µs"


STYLE = (
    "svg { font: 12px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }",
    "svg text { fill: var(--ink); }",
    "svg text.tick, svg text.axis-name { fill: var(--soft); font-size: 11.5px; }",
    "svg .label { font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 3px; }",
    ".grid { stroke: var(--grid); }",
    ".axis { stroke: var(--soft); stroke-width: 0.8; }",
    ".break { stroke: var(--soft); stroke-width: 0.8; stroke-dasharray: 1 5; }",
    ".frontier { fill: none; stroke: var(--soft); stroke-dasharray: 2 4; }",
    ".joint { stroke: var(--c); stroke-width: 1.4; opacity: 0.6; }",
    ".leader { stroke: var(--c); opacity: 0.75; }",
    ".dot { fill: var(--c); stroke: var(--card); stroke-width: 1.2; }",
    ".dot.partial { fill: var(--card); stroke: var(--c); stroke-width: 2; }",
)
"""Rules of the chart; the colours are those of the reports' style sheet."""


def standalone(chart: str) -> str:
    """Return the chart as a file of its own, for a page or a paper: rules within, colours spelt out, on white."""
    sheet = (resources.files("sbs_opt.reports.html") / "report.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"--(\w+): (#\w+);", sheet.split("}", 1)[0]))
    rules = [rule for rule in STYLE if "var(--c)" not in rule]
    rules += [
        f".p{k} {rule}".replace("var(--c)", light[f"c{k}"])
        for k in range(COLOURS)
        for rule in STYLE
        if "var(--c)" in rule
    ]
    style = re.sub(r"var\(--(\w+)\)", lambda found: light[found[1]], " ".join(rules))
    paper = element("rect", width=_WIDTH, height=_HEIGHT, fill=light["paper"])
    return chart.replace("</desc>", f"</desc>{element('style', style)}{paper}", 1) + "\n"
