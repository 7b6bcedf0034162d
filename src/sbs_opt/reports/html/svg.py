"""The few pieces of SVG that the figures are made of: elements, scales, ticks, labels that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

COLOURS = 12
"""Colours of policies in the style sheet; a thirteenth policy shares the first one's and is told apart by its name."""


def colour(policy: int) -> str:
    """Return the class that gives the policy of a number its colour."""
    return f"p{policy % COLOURS}"


def number(value: float) -> str:
    """Return a coordinate with at most one decimal."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def element(tag: str, content: str = "", /, **attributes: Any) -> str:
    """Return an element; `class_` is class, other underscores become hyphens, floats are rounded, None is left out."""
    parts = [tag]
    for name, value in attributes.items():
        if value is not None:
            text = number(value) if isinstance(value, float) else escape(str(value))
            parts.append(f'{name.rstrip("_").replace("_", "-")}="{text}"')
    return f"<{' '.join(parts)}>{content}</{tag}>"


def text(x: float, y: float, content: str, **attributes: Any) -> str:
    """Return a text element at (x, y)."""
    return element("text", escape(content), x=float(x), y=float(y), **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Return a line."""
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def picture(width: float, height: float, name: str, description: str, content: str) -> str:
    """Return a whole SVG picture with its name and description for those who do not see it."""
    head = element("title", escape(name)) + element("desc", escape(description))
    return element(
        "svg",
        head + content,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_label=f"{name}. {description}",
    )


@dataclass(frozen=True, slots=True)
class Scale:
    """A map from figures to coordinates.

    Parameters
    ----------
    low, high
        Range of the figures.
    start, end
        Their coordinates.
    transform
        Applied to a figure first; must be monotonic.
    """

    low: float
    high: float
    start: float
    end: float
    transform: Callable[[float], float] = float

    def __call__(self, value: float) -> float:
        """Return the coordinate of a figure."""
        low, high = self.transform(self.low), self.transform(self.high)
        return self.start + (self.transform(value) - low) / (high - low) * (self.end - self.start)


def log_scale(values: Sequence[float], start: float, end: float) -> tuple[Scale, list[float]]:
    """Return a logarithmic scale over positive values and its ticks, which are 1, 2 and 5 times powers of ten."""
    low, high = min(values) / 1.08, max(values) * 1.08
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    return Scale(low, high, start, end, math.log10), ticks


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions near the wanted ones, in the same order, at least a gap apart and between two ends.

    The mean of pushing down from the top and pushing up from the bottom: both keep the gap, so their mean does.
    More positions than the ends leave room for run over the end.
    """
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    at = [0.0] * len(wanted)
    down = _pushed([wanted[k] for k in order], gap, low, high)
    up = [-v for v in reversed(_pushed([-wanted[k] for k in reversed(order)], gap, -high, -low))]
    for k, a, b in zip(order, down, up, strict=True):
        at[k] = (a + b) / 2
    return at


def _pushed(ascending: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    at: list[float] = []
    for value in ascending:
        at.append(max(value, at[-1] + gap if at else low))
    limit = high
    for k in reversed(range(len(at))):
        at[k] = min(at[k], limit)
        limit = at[k] - gap
    return at
