"""Saying once that a prediction lies outside of what was measured."""

from __future__ import annotations

import warnings

from sbs_opt.models.cost.profile import HardwareProfile
from sbs_opt.models.errors import ExtrapolationWarning


class RangeGuard:
    """Warns once per quantity; a profile without evidence, a hand-made one, never does.

    Parameters
    ----------
    hardware
        Its evidence names the ranges.
    """

    def __init__(self, hardware: HardwareProfile) -> None:
        self._ranges = {
            (section, quantity): (least, most)
            for section, evidence in hardware.evidence
            for quantity, least, most in evidence.ranges
        }
        self._said: set[tuple[str, str]] = set()

    def most(self, section: str, quantity: str) -> float:
        """Return the largest value measured, infinite where nothing is known."""
        return self._ranges.get((section, quantity), (0.0, float("inf")))[1]

    def check(self, section: str, quantity: str, value: float) -> None:
        """Warn where `value` lies outside, unless that was said already."""
        least, most = self._ranges.get((section, quantity), (0.0, float("inf")))
        if least <= value <= most or (section, quantity) in self._said:
            return
        self._said.add((section, quantity))
        warnings.warn(
            f"{section}: {quantity} = {value:,.10g} is extrapolated, measured were {least:,.10g} to {most:,.10g}",
            ExtrapolationWarning,
            stacklevel=3,
        )
