"""Numbers as people read them: three significant digits, a unit, no false precision."""

from __future__ import annotations

import math

ABSENT = "–"
"""What stands where there is no figure."""


def significant(value: float | None) -> str:
    """Return three significant digits, never an exponent: 0.0421, 1.50, 23.4, 1,234."""
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def percent(share: float | None) -> str:
    """Return a share as a percentage with one decimal."""
    return ABSENT if share is None else f"{100 * share:.1f} %"


def percentage(share: float | None) -> str:
    """Return a share as a percentage with one decimal, without the sign."""
    return ABSENT if share is None else f"{100 * share:.1f}"


def count(value: float | None) -> str:
    """Return a whole number with separators."""
    return ABSENT if value is None else f"{value:,.0f}"


def milliseconds(seconds: float | None) -> str:
    """Return the number of milliseconds, without the unit."""
    return significant(None if seconds is None else 1e3 * seconds)


def duration(seconds: float) -> str:
    """Return a time with the unit that suits it."""
    if seconds == 0:
        return "0 s"
    return f"{significant(seconds)} s" if seconds >= 0.1 else f"{milliseconds(seconds)} ms"
