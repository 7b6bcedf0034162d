"""What a fit returns, of one law and of a whole profile: constants, how well they fit, and the points to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sbs_opt.calibration.fit_points import FitPoints
from sbs_opt.calibration.robust import Fit, Quality
from sbs_opt.calibration.tables import FloatArray
from sbs_opt.models.checks import BoolArray
from sbs_opt.models.cost.profile import Evidence, HardwareProfile

Law_co = TypeVar("Law_co", covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class LawFit(Generic[Law_co]):
    """A fitted law.

    Parameters
    ----------
    law
        Its constants.
    section
        Of the profile.
    qualities
        Errors by table and by part of it.
    evidence
        Written into the profile.
    points
        Data beside the fit.
    """

    law: Law_co
    section: str
    qualities: tuple[Quality, ...]
    evidence: Evidence
    points: tuple[FitPoints, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FittedProfile:
    """A profile, where its constants come from by dotted path, how well they fit, and the points to draw."""

    profile: HardwareProfile
    origin: dict[str, str]
    quality: tuple[Quality, ...]
    points: tuple[FitPoints, ...]


def evidence_of(found: Fit, ranges: Mapping[str, FloatArray]) -> Evidence:
    """Return the errors over all rows of a fit, and least and most of each quantity."""
    whole = found.quality("")
    return Evidence(
        whole.rows,
        round(whole.mean_abs, 4),
        round(whole.max_abs, 4),
        round(whole.left_out, 4),
        tuple((name, float(values.min()), float(values.max())) for name, values in ranges.items()),
    )


def points_of(
    found: Fit, title: str, table: str, size_label: str, series: Sequence[str], size: FloatArray, of: BoolArray
) -> FitPoints:
    """Return the rows `of` a fit as points to draw; `series` and `size` cover all rows."""
    chosen = tuple(name for name, take in zip(series, of, strict=True) if take)
    return FitPoints(title, table, size_label, chosen, size[of], found.measured[of], found.predicted[of], of[of])
