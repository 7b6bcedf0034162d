"""Least squares in relative error, robust against a few odd rows, with the error on rows that the fit did not see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sbs_opt.calibration.tables import FloatArray
from sbs_opt.models.checks import BoolArray
from sbs_opt.models.errors import InputError, InternalError

_ODD = 0.05
"""Relative error above which a row counts linearly instead of quadratically."""

_FOLDS = 5
_SMALL = 12
"""Up to so many rows each is left out alone."""

Law = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True)
class Quality:
    """Error of one fit: relative, as fractions.

    Parameters
    ----------
    mean_abs, max_abs, bias
        In sample.
    left_out
        Mean absolute error of rows that were left out of the fit; NaN where that was not tried.
    """

    table: str
    rows: int
    mean_abs: float
    max_abs: float
    bias: float
    left_out: float = float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Parameters of a law and what it says of the rows it was fitted on.

    Parameters
    ----------
    parameters
        float64[p].
    predicted
        float64[n], by the fit on all rows.
    left_out
        float64[n], each row by a fit that did not see it; empty where there are too few rows.
    measured
        float64[n].
    """

    parameters: FloatArray
    predicted: FloatArray
    left_out: FloatArray
    measured: FloatArray

    def quality(self, table: str, of: BoolArray | None = None) -> Quality:
        """Return the error over all rows or over those where `of` is true."""
        rows = np.ones(len(self.measured), np.bool_) if of is None else of
        found = quality(table, self.predicted[rows], self.measured[rows])
        if not self.left_out.size:
            return found
        left_out = float(np.abs(self.left_out[rows] / self.measured[rows] - 1.0).mean())
        return Quality(table, found.rows, found.mean_abs, found.max_abs, found.bias, left_out)


def fit(name: str, law: Law, measured: FloatArray, start: Sequence[float]) -> Fit:
    """Return non-negative parameters that minimise the soft-L1 of log(law / measured).

    Cross-validated in five folds, or leaving out one row at a time where there are few.

    Parameters
    ----------
    name
        Shown in errors.
    law
        float64[p] parameters to float64[n] predictions, positive.
    measured
        float64[n], positive.
    start
        Positive starting values; they also scale the parameters.

    Raises
    ------
    InputError
        No more rows than parameters.
    InternalError
        The optimiser does not converge.
    """
    if len(measured) <= len(start):
        raise InputError(f"{name}: {len(measured)} rows cannot tell {len(start)} constants; measure more sizes")
    parameters = _solve(name, law, measured, start)
    return Fit(parameters, law(parameters), _left_out(name, law, measured, start), measured)


def _left_out(name: str, law: Law, measured: FloatArray, start: Sequence[float]) -> FloatArray:
    rows = len(measured)
    if rows < len(start) + 2:
        return np.empty(0)
    folds = rows if rows <= _SMALL else _FOLDS
    fold = np.random.default_rng(0).permutation(rows) % folds
    predicted = np.empty(rows)
    for k in range(folds):
        unseen = fold == k
        parameters = _solve(name, lambda x, seen=~unseen: law(x)[seen], measured[~unseen], start)  # type: ignore[misc]
        predicted[unseen] = law(parameters)[unseen]
    return predicted


def _solve(name: str, law: Law, measured: FloatArray, start: Sequence[float]) -> FloatArray:
    from scipy.optimize import least_squares

    scale = np.asarray(start, dtype=np.float64)

    def residual(x: FloatArray) -> FloatArray:
        return np.log(np.maximum(law(x * scale), 1e-9) / measured)

    found = least_squares(
        residual, np.ones(len(scale)), bounds=(0.0, np.inf), loss="soft_l1", f_scale=_ODD,
        diff_step=1e-5, xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=2000,
    )  # fmt: skip
    if found.status <= 0:
        raise InternalError(f"fit of {name} did not converge: {found.message}")
    parameters: FloatArray = np.where(found.x < 1e-6, 0.0, found.x) * scale  # a bound that is reached is a zero
    return parameters


def quality(table: str, predicted: FloatArray, measured: FloatArray) -> Quality:
    """Return the relative error of predictions."""
    error = predicted / measured - 1.0
    return Quality(table, len(measured), float(np.abs(error).mean()), float(np.abs(error).max()), float(error.mean()))
