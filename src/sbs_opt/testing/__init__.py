"""For tests of code that places: strategies for windows, exact oracles, assertions, proved ratios (extra: `testing`).

Names are resolved on first use, so that each loads only what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sbs_opt.testing.assertions import assert_certificate, assert_feasible, assert_ratio
    from sbs_opt.testing.guarantees import GUARANTEES, Example, Guarantee, list_scheduling_error
    from sbs_opt.testing.oracles import best_placement, every_placement, least_bottlenecks, least_makespan
    from sbs_opt.testing.readable import as_code
    from sbs_opt.testing.strategies import windows

_MODULE_OF = {
    "Example": "guarantees",
    "GUARANTEES": "guarantees",
    "Guarantee": "guarantees",
    "as_code": "readable",
    "assert_certificate": "assertions",
    "assert_feasible": "assertions",
    "assert_ratio": "assertions",
    "best_placement": "oracles",
    "every_placement": "oracles",
    "least_bottlenecks": "oracles",
    "least_makespan": "oracles",
    "list_scheduling_error": "guarantees",
    "windows": "strategies",
}

__all__ = [
    "GUARANTEES",
    "Example",
    "Guarantee",
    "as_code",
    "assert_certificate",
    "assert_feasible",
    "assert_ratio",
    "best_placement",
    "every_placement",
    "least_bottlenecks",
    "least_makespan",
    "list_scheduling_error",
    "windows",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sbs_opt.testing' has no attribute {name!r}")
    value = getattr(import_module(f"sbs_opt.testing.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # resolved once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
