"""The objective of a window: four parts, compared one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import total_ordering


@total_ordering
@dataclass(frozen=True, slots=True)
class Objective:
    """What a placement achieves; smaller compares as better.

    Parameters
    ----------
    left_out
        Items left for a later window, one count per tier present, oldest tier first.
    bottleneck
        Σ over groups and resources of price × the greatest load of a unit: what the barrier costs.
    saved
        Σ of price × savings of the placed items; larger is better.
    spread
        Σ of spread weight × load², over units and resources.
    """

    left_out: tuple[int, ...]
    bottleneck: int
    saved: int
    spread: int

    def _key(self) -> tuple[tuple[int, ...], int, int, int]:
        return (self.left_out, self.bottleneck, -self.saved, self.spread)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Objective):
            return NotImplemented
        return self._key() < other._key()
