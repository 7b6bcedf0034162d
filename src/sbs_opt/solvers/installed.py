"""Solvers of other packages, which name them by entry points of the group `sbs_opt.solvers`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from typing import Any

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import InputError, PlacementError
from sbs_opt.models.placement import Placement
from sbs_opt.models.verify import verify
from sbs_opt.models.window import FIELDS, Window
from sbs_opt.solvers.protocol import Solution, Solver, SolverInfo

GROUP = "sbs_opt.solvers"
"""Entry-point group: the name is what `solve` accepts, the object a solver, or a class that makes one."""


class InstalledSolver:
    """A solver of another package, held to what the built-in ones promise.

    Whatever form its answer has, it leaves here as a `Solution` that `verify` accepted, with a bound that is no more
    than the bottleneck: those who run a solver by its name need not know whose it is.

    Parameters
    ----------
    entry
        The entry point; it is loaded here.

    Raises
    ------
    InputError
        When it cannot be loaded or is no solver; the message names the package.
    """

    def __init__(self, entry: EntryPoint) -> None:
        self._who = f"solver {entry.name} of package {package_of(entry)}"
        try:
            found = entry.load()
            solver = found() if isinstance(found, type) else found
        except Exception as error:  # whatever somebody else's module does when it is imported
            raise InputError(
                f"{self._who}: cannot be loaded ({type(error).__name__}: {error}); mend it or uninstall it"
            ) from error
        if not isinstance(solver, Solver):
            raise InputError(f"{self._who}: {entry.value} has no method solve")
        try:
            signature(solver.solve).bind(None, budget_s=None, budget_steps=None, start=None, seed=0)
        except TypeError as error:
            raise InputError(
                f"{self._who}: solve must take (window, *, budget_s, budget_steps, start, seed); {error}"
            ) from error
        self._solver = solver
        self.info = self._described(entry)

    def _described(self, entry: EntryPoint) -> SolverInfo:
        """Return what the solver says of itself; without a description it is trusted with every window."""
        given = getattr(self._solver, "info", None)
        if given is not None and not isinstance(given, SolverInfo):
            raise InputError(f"{self._who}: info = {given!r}, which is no SolverInfo")
        capabilities = given.capabilities if given else getattr(self._solver, "capabilities", FIELDS)
        reference = given.reference if given else f"of package {package_of(entry)}"
        try:
            return SolverInfo(entry.name, frozenset(capabilities), reference)
        except (InputError, TypeError) as error:
            raise InputError(f"{self._who}: {error}") from error

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return its answer, checked.

        Raises
        ------
        PlacementError
            The placement breaks a rule of the window.
        InputError
            The solver raised, or its answer is no placement, or claims what is not so.
        """
        try:
            answer: Any = self._solver.solve(
                window, budget_s=budget_s, budget_steps=budget_steps, start=start, seed=seed
            )
        except Exception as error:  # whatever somebody else's solver does
            what = f"{type(error).__name__}: {error}"
            raise InputError(f"{self._who}: failed ({what}); mend it or use another") from error
        claim = answer if isinstance(answer, Solution) else None
        try:
            placement = answer if isinstance(answer, Placement) else Placement(claim.unit if claim else answer)
            objective = verify(window, placement)
        except (PlacementError, InputError) as error:
            raise type(error)(f"{self._who}: {error}") from error
        unit = placement.unit.astype(np.int64)
        if claim is None:
            return Solution(unit)
        if isinstance(claim.bound, bool) or not isinstance(claim.bound, int | np.integer):
            raise InputError(f"{self._who}: claims bound {claim.bound!r}, which is no whole number")
        if claim.bound > objective.bottleneck:
            raise InputError(f"{self._who}: claims bound {claim.bound}, above the bottleneck {objective.bottleneck}")
        if claim.left_out_proved and start is not None and verify(window, start).left_out < objective.left_out:
            raise InputError(f"{self._who}: claims that {objective.left_out} is the least left out, the start has less")
        return Solution(unit, int(claim.bound), claim.left_out_proved, claim.steps, claim.limit, claim.solver)


def package_of(entry: EntryPoint) -> str:
    """Return name and version of the package that an entry point belongs to."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown"


def offered() -> dict[str, tuple[EntryPoint, ...]]:
    """Return, by ascending name, what the installed packages offer; reads the metadata of every one of them."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, package_of(entry))):
        found.setdefault(entry.name, []).append(entry)
    return {name: tuple(entries) for name, entries in found.items()}


def load_installed(name: str) -> InstalledSolver | None:
    """Return the solver that an installed package offers under a name, None where no package does.

    Raises
    ------
    InputError
        It cannot be loaded, or two packages offer that name.
    """
    entries = offered().get(name, ())
    if len(entries) > 1:
        packages = " and ".join(package_of(entry) for entry in entries)
        raise InputError(f"solver {name}: is offered by {packages}; uninstall all but one")
    return InstalledSolver(entries[0]) if entries else None
