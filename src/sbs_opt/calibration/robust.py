"""Least squares in relative error, robust against a few odd rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sbs_opt.calibration.tables import FloatArray
from sbs_opt.models.errors import InternalError

_ODD = 0.05
"""Relative error above which a row counts linearly instead of quadratically."""


@dataclass(frozen=True, slots=True)
class Quality:
    """In-sample error of one fit: relative, as fractions."""

    table: str
    rows: int
    mean_abs: float
    max_abs: float
    bias: float


def fit(
    table: str,
    law: Callable[[FloatArray], FloatArray],
    measured: FloatArray,
    start: Sequence[float],
) -> tuple[FloatArray, Quality]:
    """Return non-negative parameters that minimise the soft-L1 of log(law / measured), and their quality.

    Parameters
    ----------
    table
        Name shown in the quality row.
    law
        float64[p] parameters to float64[n] predictions, positive.
    measured
        float64[n], positive.
    start
        Positive starting values; they also scale the parameters.
    """
    from scipy.optimize import least_squares

    scale = np.asarray(start, dtype=np.float64)

    def residual(x: FloatArray) -> FloatArray:
        return np.log(np.maximum(law(x * scale), 1e-9) / measured)

    found = least_squares(
        residual, np.ones(len(scale)), bounds=(0.0, np.inf), loss="soft_l1", f_scale=_ODD,
        diff_step=1e-5, xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=2000,
    )  # fmt: skip
    if found.status <= 0:
        raise InternalError(f"fit of {table} did not converge: {found.message}")
    parameters: FloatArray = np.where(found.x < 1e-6, 0.0, found.x) * scale  # a bound that is reached is a zero
    return parameters, quality(table, law(parameters), measured)


def quality(table: str, predicted: FloatArray, measured: FloatArray) -> Quality:
    """Return the relative error of predictions."""
    error = predicted / measured - 1.0
    return Quality(table, len(measured), float(np.abs(error).mean()), float(np.abs(error).max()), float(error.mean()))
