"""What a solver is, what it answers, and which windows it can take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy.typing as npt

from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import InputError
from sbs_opt.models.placement import Placement, UnitArray
from sbs_opt.models.window import FIELDS, Window

__all__ = ["FIELDS", "IMPROVES_START", "Limit", "Solution", "Solver", "SolverInfo"]

Limit = Literal["time", "steps"]

IMPROVES_START = "improves_start"
"""Capability of a solver that searches on from the caller's placement rather than ignoring it."""


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What a solver hands back; everything in it is checked by `solve`.

    Parameters
    ----------
    unit
        int64[n] or int32[n], the unit of each item, −1 = left out.
    bound
        A proved lower bound of the bottleneck of every placement with the same `left_out` tuple; 0 = none.
    left_out_proved
        Whether the solver proved that no placement has a smaller `left_out` tuple.
    steps
        Work done, in the solver's own deterministic unit.
    limit
        What cut the search short, or None.
    solver
        Name of the solver that found the placement, where the asked one delegates; else empty.
    cheap_bounds
        Whether `bound` is at least `lower_bound` already, so that `solve` need not work that out.
    """

    unit: IntArray | UnitArray
    bound: int = 0
    left_out_proved: bool = False
    steps: int = 0
    limit: Limit | None = None
    solver: str = ""
    cheap_bounds: bool = False


@dataclass(frozen=True, slots=True)
class SolverInfo:
    """A solver's entry in `list_solvers`.

    Parameters
    ----------
    name
        What `solve` accepts.
    capabilities
        The parts of a window that it handles, a subset of `FIELDS`, and `improves_start`.
    reference
        The method and its source.
    extra
        The optional dependency group that it needs, or None.
    """

    name: str
    capabilities: frozenset[str]
    reference: str
    extra: str | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.capabilities) - {*FIELDS, IMPROVES_START})
        if unknown:
            known = ", ".join((*FIELDS, IMPROVES_START))
            raise InputError(f"solver {self.name}: unknown capability {unknown[0]!r}; known: {known}")


@runtime_checkable
class Solver(Protocol):
    """Anything with this method is a solver; `info: SolverInfo` on it, or `capabilities`, narrows what it is given."""

    def solve(
        self,
        window: Window,
        *,
        budget_s: float | None,
        budget_steps: int | None,
        start: IntArray | None,
        seed: int,
    ) -> Solution | Placement | npt.ArrayLike:
        """Return a placement of `window`: a `Solution`, a `Placement` or the unit of each item.

        A budget of None is the solver's own default. The same arguments without `budget_s` give the same answer.
        """
        ...
