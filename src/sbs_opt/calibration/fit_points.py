"""Measurements of a table beside what a fitted law says of them, and how far it is off at which size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sbs_opt.calibration.robust import quality
from sbs_opt.calibration.tables import FloatArray
from sbs_opt.models.checks import BoolArray, bool_array, expect_shape
from sbs_opt.models.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class FitPoints:
    """Measurements of one table beside what the fitted law says; arrays are copied and become read-only.

    Parameters
    ----------
    title
        What was measured and where: "Grouped FP8 GEMM, H800".
    table
        Where the rows come from.
    size_label
        What the sizes count: "rows per expert".
    series
        Length n: the group of each row in the legend, "8 experts, up" for one.
    size
        float64[n], positive.
    measured_ns, predicted_ns
        float64[n], positive, in nanoseconds.
    fitted
        bool[n]: False for rows that are shown but had no part in the fit.

    Raises
    ------
    InputError
        Without rows, on lengths that differ, on a number that is not positive and finite.
    """

    title: str
    table: str
    size_label: str
    series: tuple[str, ...]
    size: FloatArray
    measured_ns: FloatArray
    predicted_ns: FloatArray
    fitted: BoolArray

    def __post_init__(self) -> None:
        """Copy and check."""
        object.__setattr__(self, "series", tuple(self.series))
        if not self.series:
            raise InputError("series = (): a fit without rows shows nothing; give at least one row")
        for field in ("size", "measured_ns", "predicted_ns"):
            object.__setattr__(self, field, _positive(field, getattr(self, field), len(self.series)))
        object.__setattr__(self, "fitted", bool_array("fitted", self.fitted))
        expect_shape("fitted", self.fitted, (len(self.series),), "one entry per name in series")

    @property
    def error(self) -> FloatArray:
        """Relative error of the predictions, float64[n]: positive where the law says too much."""
        return np.asarray(self.predicted_ns / self.measured_ns - 1.0)


@dataclass(frozen=True, slots=True)
class RangeError:
    """Relative error of the rows of one range of sizes, as fractions.

    Parameters
    ----------
    label
        The range in words: "512 to 2,047".
    rows
        At least 1.
    mean_abs, max_abs, bias
        Mean and greatest absolute error; mean signed error.
    """

    label: str
    rows: int
    mean_abs: float
    max_abs: float
    bias: float


def error_by_range(points: FitPoints) -> tuple[RangeError, ...]:
    """Return the error of all rows, fitted or not, by range of size, ascending.

    Ranges run from 2·4^k to below 2·4^(k+1); those without a row are left out.
    """
    whole = bool((points.size == np.floor(points.size)).all())
    exponent = np.frexp(points.size)[1] - 1  # floor(log2(size)), exact also on the bounds
    step = (exponent - 1) // 2
    found = []
    for k in np.unique(step).tolist():
        inside = step == k
        error = quality(points.table, points.predicted_ns[inside], points.measured_ns[inside])
        found.append(RangeError(_label(k, whole), error.rows, error.mean_abs, error.max_abs, error.bias))
    return tuple(found)


def _label(step: int, whole: bool) -> str:
    low, high = math.ldexp(2.0, 2 * step), math.ldexp(2.0, 2 * step + 2)
    if not whole:
        return f"{low:,.10g} to below {high:,.10g}"
    return f"{low:,.0f} to {high - 1:,.0f}" if low >= 1 else "1"


def _positive(field: str, value: Any, length: int) -> FloatArray:
    """Return a read-only copy of `value` once it is known to hold `length` positive finite numbers."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{field}: not a list of numbers; give one positive number per row") from error
    expect_shape(field, array, (length,), "one entry per name in series")
    bad = ~(np.isfinite(array) & (array > 0))
    if bad.any():
        k = int(np.argmax(bad))
        raise InputError(f"{field}[{k}] = {array[k]}: must be positive and finite; leave out rows without a value")
    array.flags.writeable = False
    return array
