"""Windows as Python that makes them again, for messages that can be pasted into a test."""

from __future__ import annotations

from typing import Any

import numpy as np

from sbs_opt.models.window import UNLIMITED, Window


def as_code(window: Window) -> str:
    """Return a call of `Window` that equals the window, without the fields that are at their defaults."""
    plain = Window(demand=window.demand, load=window.load)
    given = {"demand": _text(window.demand), "load": _text(window.load)}
    for name in ("price", "limit", "crossing", "group", "tier", "pinned"):
        if not np.array_equal(getattr(window, name), getattr(plain, name)):
            given[name] = _text(getattr(window, name))
    if not np.array_equal(window.spread_weight, window.price):
        given["spread_weight"] = _text(window.spread_weight)
    if window.open_resource is not None:
        given["open_resource"] = str(window.open_resource)
    if window.savings is not None:
        parts = (f"{name}={_text(getattr(window.savings, name))}" for name in ("item", "unit", "value"))
        given["savings"] = f"Savings({', '.join(parts)})"
    return f"Window({', '.join(f'{name}={value}' for name, value in given.items())})"


def _text(array: Any) -> str:
    return str(array.tolist()).replace(str(UNLIMITED), "UNLIMITED") if array.size else "[]"
