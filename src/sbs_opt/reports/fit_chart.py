"""Pictures of a fit: measured times beside the fitted law, and the error of each row, both over size.

The rules of `bench_chart.STYLE` draw them; `bench_chart.standalone` makes a file of its own of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from sbs_opt.calibration.fit_points import FitPoints
from sbs_opt.calibration.robust import Quality, quality
from sbs_opt.reports.html.svg import Scale, colour, element, line, log_scale, number, picture, text
from sbs_opt.reports.numbers import percent

_WIDTH = 960.0
_FIT_HEIGHT, _RESIDUAL_HEIGHT = 520.0, 400.0
"""Neither picture may be larger than the paper of `bench_chart.standalone`."""

_LEFT, _RIGHT, _BOTTOM = 74.0, 34.0, 54.0
_CHARACTER, _LINE, _GAP = 6.9, 20.0, 20.0
"""Size of a text in the legend, and the room between two entries."""

_MOST_COLOURS = 8
"""Series with a colour of their own; further ones share the muted colour 0."""

_MOST_SIZES, _MOST_TIMES = 7, 18
"""Ticks whose texts do not touch, on either axis."""

_LONGEST, _LONGEST_TITLE = 48, 110
"""Characters of a name in the legend, and of a title."""

_BAND = 10.0
"""Per cent of error between which the lines of the residuals are drawn."""

Mark = tuple[str, str, str]
"""An entry of the legend: kind of mark (a line, a class of dot, or a square), class of its colour, text."""


def fit_chart(points: FitPoints) -> str:
    """Return measured times (dots) and what the law says (lines) over size as SVG, both axes logarithmic."""
    marks = [("dot", colour(0), "measured"), ("line", colour(0), "fitted law"), *_held_out_mark(points)]
    head, top = _head(points, f"{points.title}: measured and fitted", marks)
    bottom = _FIT_HEIGHT - _BOTTOM
    x, frame = _size_axis(points, top, bottom)
    y, levels = log_scale(_widened([*points.measured_ns.tolist(), *points.predicted_ns.tolist()]), bottom, top)
    if len(levels) > _MOST_TIMES:
        levels = [level for level in levels if f"{level:e}".startswith("1")]
    frame += _levels([(y(level), time_text(level)) for level in levels], "time", top, bottom)
    drawn = _series(points, x, lambda k: y(float(points.measured_ns[k])), lambda k: y(float(points.predicted_ns[k])))
    return picture(_WIDTH, _FIT_HEIGHT, f"{points.title}: measured and fitted", _said(points), head + frame + drawn)


def residual_chart(points: FitPoints) -> str:
    """Return the relative error of each row over size as SVG: size logarithmic, error linear and symmetrical."""
    error = [100.0 * share for share in points.error.tolist()]
    head, top = _head(
        points, f"{points.title}: error of the fit", [*_held_out_mark(points), ("band", colour(0), f"±{_BAND:g} %")]
    )
    bottom = _RESIDUAL_HEIGHT - _BOTTOM
    limit = 1.1 * max(_BAND, *map(abs, error))
    x, frame = _size_axis(points, top, bottom)
    y = Scale(-limit, limit, bottom, top)
    step = _step(limit)
    ticks = [k * step for k in range(-math.floor(limit / step), math.floor(limit / step) + 1)]
    frame += _levels([(y(tick), _signed(tick)) for tick in ticks], "predicted against measured", top, bottom)
    frame += line(_LEFT, y(0.0), _WIDTH - _RIGHT, y(0.0), "axis")
    frame += "".join(_band(_LEFT, _WIDTH - _RIGHT, y(at)) for at in (-_BAND, _BAND))
    drawn = _series(points, x, lambda k: y(error[k]), None)
    return picture(_WIDTH, _RESIDUAL_HEIGHT, f"{points.title}: error of the fit", _said(points), head + frame + drawn)


def time_text(nanoseconds: float) -> str:
    """Return a time with the unit that suits it: 500 ns, 12.3 µs, 1.5 ms."""
    for unit, name in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if nanoseconds >= 0.99995 * unit:
            return f"{nanoseconds / unit:,.4g} {name}"
    return f"{nanoseconds:.4g} ns"


def signed_percent(share: float) -> str:
    """Return a signed share as a percentage with one decimal."""
    return f"{round(100 * share, 1) + 0.0:+,.1f} %".replace("-", "−")


def error_text(error: Quality) -> str:
    """Return the errors of a fit in words."""
    return f"mean error {percent(error.mean_abs)}, largest {percent(error.max_abs)}, bias {signed_percent(error.bias)}"


def _said(points: FitPoints) -> str:
    error = quality(points.table, points.predicted_ns, points.measured_ns)
    return f"{error.rows:,} rows of {points.table} by {points.size_label}: {error_text(error)}"


def _signed(value: float) -> str:
    return f"{value:+,.10g} %".replace("-", "−") if value else "0 %"


def _step(limit: float) -> float:
    """Return the distance of ticks, 1, 2 or 5 times a power of ten, of which at most five lie below `limit`."""
    power = 10.0 ** math.floor(math.log10(limit / 5))
    return next(step * power for step in (1, 2, 5, 10) if limit / (step * power) <= 5)


def _widened(values: Sequence[float]) -> list[float]:
    """Return the ends of an axis: room around the dots, and enough range for a tick where they hardly differ."""
    low, high = min(values), max(values)
    room = 1.3 if high > 4 * low else 2.0
    return [low / room, high * room]


def _size_axis(points: FitPoints, top: float, bottom: float) -> tuple[Scale, str]:
    """Return the scale of the sizes and its axis, with ticks at powers of two."""
    right = _WIDTH - _RIGHT
    x, _ = log_scale(_widened(points.size.tolist()), _LEFT, right)
    first, last = math.ceil(math.log2(x.low)), math.floor(math.log2(x.high))
    step = -(-(last - first + 1) // _MOST_SIZES)
    # Odd powers are the bounds of the ranges of the table of errors.
    ticks = [math.ldexp(1.0, power) for power in range(first, last + 1) if (power - 1) % step == 0]
    parts = [line(_LEFT, bottom, right, bottom, "axis")]
    for tick in ticks:
        parts.append(line(x(tick), top, x(tick), bottom, "grid"))
        parts.append(text(x(tick), bottom + 18, f"{tick:,.10g}", text_anchor="middle", class_="tick"))
    name = text((_LEFT + right) / 2, bottom + 42, points.size_label, text_anchor="middle", class_="axis-name")
    return x, "".join(parts) + name


def _levels(ticks: Sequence[tuple[float, str]], name: str, top: float, bottom: float) -> str:
    """Return the vertical axis: a line across and a text for each tick (height, text)."""
    parts = []
    for height, label in ticks:
        parts.append(line(_LEFT, height, _WIDTH - _RIGHT, height, "grid"))
        parts.append(text(_LEFT - 8, height + 4, label, text_anchor="end", class_="tick"))
    turned = f"translate(14 {number((top + bottom) / 2)}) rotate(-90)"
    parts.append(element("g", text(0, 0, name, text_anchor="middle", class_="axis-name"), transform=turned))
    return "".join(parts)


def _numbers(series: Sequence[str]) -> dict[str, int]:
    """Return the number of the colour of each series, in order of first appearance; 0 for those without their own."""
    return {name: k + 1 if k < _MOST_COLOURS else 0 for k, name in enumerate(dict.fromkeys(series))}


def _series(points: FitPoints, x: Scale, dot: Callable[[int], float], law: Callable[[int], float] | None) -> str:
    """Return the dots of all rows and, where `law` gives their heights, the lines that join the fitted values."""
    groups = []
    muted_first = sorted(_numbers(points.series).items(), key=lambda item: item[1] > 0)
    for name, own in muted_first:
        rows = [k for k, other in enumerate(points.series) if other == name]
        rows.sort(key=lambda k: float(points.size[k]))
        parts = []
        if law is not None:
            path = "M" + "L".join(f"{number(x(float(points.size[k])))} {number(law(k))}" for k in rows)
            # A law at one size only has no line: a dash marks it.
            path += "m-7 0h14" if len(rows) == 1 else ""
            parts.append(element("path", d=path, fill="none", class_="joint"))
        parts += [_dot(points, k, x(float(points.size[k])), dot(k)) for k in rows]
        groups.append(element("g", "".join(parts), class_=f"series {colour(own)}"))
    return "".join(groups)


def _dot(points: FitPoints, k: int, x: float, y: float) -> str:
    said = (
        f"{points.series[k]}; {points.size[k]:,.10g} {points.size_label}: "
        f"measured {time_text(float(points.measured_ns[k]))}, predicted {time_text(float(points.predicted_ns[k]))}, "
        f"error {signed_percent(float(points.error[k]))}{'' if points.fitted[k] else '; left out of the fit'}"
    )
    style = "dot" if points.fitted[k] else "dot partial"
    return element("circle", element("title", escape(said)), cx=x, cy=y, r=4.0, class_=style)


def _held_out_mark(points: FitPoints) -> list[Mark]:
    return [] if points.fitted.all() else [("dot partial", colour(0), "left out of the fit")]


def _head(points: FitPoints, title: str, marks: Sequence[Mark]) -> tuple[str, float]:
    """Return title and legend, and the height at which they end."""
    own = _numbers(points.series)
    entries = [("square", colour(k), name) for name, k in own.items() if k]
    if 0 in own.values():
        entries.append(("square", colour(0), "others"))
    parts = [text(_LEFT, 22, _short(title, _LONGEST_TITLE), class_="label")]
    y = 22.0
    for row in (marks, entries):
        x, y = _LEFT, y + _LINE
        for kind, style, name in row:
            key, key_width = _key(kind, x, y)
            shown = _short(name, _LONGEST)
            width = key_width + _CHARACTER * len(shown)
            if x > _LEFT and x + width > _WIDTH - 8:
                x, y = _LEFT, y + _LINE
                key, _ = _key(kind, x, y)
            parts.append(element("g", key + text(x + key_width, y, shown), class_=style))
            x += width + _GAP
    return "".join(parts), y + 18


def _key(kind: str, x: float, y: float) -> tuple[str, float]:
    """Return the mark of a legend entry whose text stands at height `y`, and the width before the text."""
    if kind == "line":
        return line(x, y - 4, x + 22, y - 4, "joint"), 28.0
    if kind == "band":
        return _band(x, x + 22, y - 4), 28.0
    if kind == "square":
        return element("rect", x=x, y=y - 9, width=10.0, height=10.0, rx=2.0, class_="dot"), 16.0
    return element("circle", cx=x + 5, cy=y - 4, r=4.0, class_=kind), 16.0


def _band(start: float, end: float, y: float) -> str:
    return element("line", x1=start, y1=y, x2=end, y2=y, stroke_dasharray="5 4", class_="axis")


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
