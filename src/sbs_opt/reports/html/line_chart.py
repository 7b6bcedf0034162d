"""Lines over a logarithmic time axis, each labelled at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sbs_opt.reports.html.svg import Scale, apart, colour, element, line, log_scale, number, picture, text
from sbs_opt.reports.numbers import duration

_HEIGHT = 330.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 160.0, 14.0, 46.0
_LABEL_GAP = 15.0


@dataclass(frozen=True, slots=True)
class Series:
    """One line: x and seconds, ascending in x.

    Parameters
    ----------
    policy
        Its number, which gives the colour.
    dashed
        Whether its policy binds at once.
    marked
        Whether each point is a measurement and gets a dot, rather than a point of a curve.
    """

    name: str
    policy: int
    dashed: bool
    points: tuple[tuple[float, float], ...]
    marked: bool = False


def x_range(width: float) -> tuple[float, float]:
    """Return the coordinates between which x is drawn in a picture of some width."""
    return _LEFT, width - _RIGHT


def line_chart(
    name: str, description: str, series: Sequence[Series], x: Scale, ticks: Sequence[tuple[float, str]], axis: str
) -> str:
    """Return the picture of some lines.

    Parameters
    ----------
    name, description
        For readers who do not see the picture.
    series
        At least one with a point.
    x, ticks, axis
        Scale (over `x_range` of the picture's width), ticks with their texts, and name of the horizontal axis.
    """
    bottom, right = _HEIGHT - _BOTTOM, x.end
    y, levels = log_scale([max(v, 1e-6) for one in series for _, v in one.points], bottom, _TOP)
    parts = [line(_LEFT, y(level), right, y(level), "grid") for level in levels]
    for level in _spaced(levels, y):
        parts.append(text(_LEFT - 8, y(level) + 4, _tick(level), text_anchor="end", class_="tick"))
    for value, label in ticks:
        parts.append(line(x(value), bottom, x(value), bottom + 4, "axis"))
        parts.append(text(x(value), bottom + 18, label, text_anchor="middle", class_="tick"))
    parts.append(line(_LEFT, bottom, right, bottom, "axis"))
    parts.append(text((_LEFT + right) / 2, _HEIGHT - 8, axis, text_anchor="middle", class_="axis-name"))
    drawn = [one for one in series if one.points]
    ends = [y(max(one.points[-1][1], 1e-6)) for one in drawn]
    for one, end, at in zip(drawn, ends, apart(ends, _LABEL_GAP, _TOP, bottom), strict=True):
        parts.append(_line_of(one, x, y, end, at))
    return picture(right + _RIGHT, _HEIGHT, name, description, "".join(parts))


def _line_of(one: Series, x: Scale, y: Scale, end: float, at: float) -> str:
    points = [(x(value), y(max(seconds, 1e-6))) for value, seconds in one.points]
    path = "M" + "L".join(f"{number(a)} {number(b)}" for a, b in points)
    last_x, last = points[-1][0], one.points[-1][1]
    label_x = x.end + 26
    leader = f"M{number(last_x + 4)} {number(end)}L{number(label_x - 12)} {number(at)}h7"
    parts = [
        element("path", d=path, class_="line dashed" if one.dashed else "line"),
        element("path", d=leader, class_="leader"),
        text(label_x, at + 4, one.name, class_="label"),
    ]
    if one.marked:
        parts += [
            element(
                "circle",
                element("title", escape(f"{one.name}, {value:g}: {duration(seconds)}")),
                cx=a,
                cy=b,
                r=3.5,
                class_="dot",
            )
            for (a, b), (value, seconds) in zip(points, one.points, strict=True)
        ]
    title = element("title", escape(f"{one.name}: {duration(last)} at the right end"))
    return element("g", title + "".join(parts), class_=f"series {colour(one.policy)}")


def _tick(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{1000 * seconds:g} ms"


def _spaced(levels: Sequence[float], y: Scale) -> list[float]:
    """Return the levels that can carry a text without touching the one below."""
    kept: list[float] = []
    for level in levels:
        if not kept or y(kept[-1]) - y(level) >= 14:
            kept.append(level)
    return kept
