"""What `solve` returns: a placement and what is proved about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sbs_opt.models.errors import InternalError
from sbs_opt.models.objective import Objective
from sbs_opt.models.placement import Placement
from sbs_opt.solvers.protocol import Limit

Status = Literal["OPTIMAL", "FEASIBLE"]


@dataclass(frozen=True, slots=True)
class Stats:
    """How a result came about.

    Parameters
    ----------
    wall_s
        Seconds spent in `solve`, checks included.
    steps
        Work done, in the solver's own deterministic unit.
    solver
        Its name; "auto(lpt)" when `auto` chose `lpt`.
    version
        Version of this library.
    seed
        The seed that was given.
    """

    wall_s: float
    steps: int
    solver: str
    version: str
    seed: int


@dataclass(frozen=True, slots=True)
class Result:
    """A verified placement with its certificate.

    Parameters
    ----------
    placement
        Accepted by `verify`.
    objective
        As `verify` recomputed it.
    bound
        No placement with the same `left_out` tuple has a lower bottleneck.
    status
        "OPTIMAL" when `left_out` is proved minimal and the bottleneck equals `bound`; it claims nothing of `saved` and
        `spread`.
    limit
        "time" or "steps" when that cut the search short, else None.
    stats
        How it came about.
    """

    placement: Placement
    objective: Objective
    bound: int
    status: Status
    limit: Limit | None
    stats: Stats

    def __post_init__(self) -> None:
        if self.bound > self.objective.bottleneck:
            raise InternalError(f"bound {self.bound} exceeds the bottleneck {self.objective.bottleneck}")
        if self.status == "OPTIMAL" and self.bound != self.objective.bottleneck:
            raise InternalError(f"OPTIMAL at bottleneck {self.objective.bottleneck}, but the bound is {self.bound}")

    @property
    def gap(self) -> float:
        """How far the bottleneck may be from the least one: (bottleneck − bound) / max(bound, 1)."""
        return (self.objective.bottleneck - self.bound) / max(self.bound, 1)
