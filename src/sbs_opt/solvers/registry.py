"""The one table of solvers; a solver's module is imported when it is first used.

Installed packages may offer further ones (`installed`). Only `list_solvers` and names that are not in the table look
for them: reading the metadata of every package takes longer than solving a window.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from sbs_opt.models.errors import InputError, UnsupportedError
from sbs_opt.models.window import FIELDS, Window
from sbs_opt.solvers.protocol import IMPROVES_START, Solver, SolverInfo

if TYPE_CHECKING:
    from sbs_opt.solvers.installed import InstalledSolver

_EVERY_FIELD = frozenset(FIELDS)


@dataclass(frozen=True, slots=True)
class _Entry:
    module: str
    class_name: str
    info: SolverInfo


_TABLE: dict[str, _Entry] = {
    entry.info.name: entry
    for entry in (
        _Entry(
            "auto", "Auto", SolverInfo("auto", _EVERY_FIELD | {IMPROVES_START}, "the cheapest route to the certificate")
        ),
        _Entry(
            "greedy",
            "RoundRobin",
            SolverInfo("round_robin", _EVERY_FIELD, "items in turn, blind to loads and sizes: the yardstick"),
        ),
        _Entry(
            "greedy",
            "LeastLoaded",
            SolverInfo("least_loaded", _EVERY_FIELD, "list scheduling in arrival order, Graham 1966"),
        ),
        _Entry(
            "greedy",
            "LongestFirst",
            SolverInfo("lpt", _EVERY_FIELD, "longest processing time first, Graham 1969; with initial loads, Lee 1991"),
        ),
        _Entry(
            "multifit",
            "Multifit",
            SolverInfo("multifit", frozenset(), "first fit decreasing into a halved capacity, Coffman et al. 1978"),
        ),
        _Entry(
            "differencing",
            "Differencing",
            SolverInfo("ldm", frozenset(), "largest differencing method, Karmarkar & Karp 1982"),
        ),
        _Entry(
            "two_phase",
            "TwoPhase",
            SolverInfo(
                "two_phase",
                frozenset({"tiers", "pinned", "savings", IMPROVES_START}),
                "savings by ratio (Dantzig 1957), then best fit or longest first; local search",
            ),
        ),
        _Entry(
            "local_search",
            "LocalSearch",
            SolverInfo(
                "local_search", _EVERY_FIELD | {IMPROVES_START}, "exchanges of up to two items, Finn & Horowitz 1979"
            ),
        ),
        _Entry(
            "branch_and_bound",
            "BranchAndBound",
            SolverInfo(
                "branch_and_bound",
                frozenset({"pinned", IMPROVES_START}),
                "Lagrangian bounds and depth-first search, after Akram, Maas, Sanders & Schreiber 2024; exact",
            ),
        ),
        _Entry(
            "cp_sat",
            "CpSat",
            SolverInfo("cp_sat", _EVERY_FIELD | {IMPROVES_START}, "CP-SAT of OR-Tools, exact, stage by stage"),
        ),
        _Entry(
            "milp",
            "Milp",
            SolverInfo(
                "milp", _EVERY_FIELD | {IMPROVES_START}, "HiGHS through OR-Tools MathOpt, exact, stage by stage"
            ),
        ),
        _Entry(
            "scipy_milp",
            "ScipyMilp",
            SolverInfo("scipy_milp", _EVERY_FIELD | {IMPROVES_START}, "HiGHS through SciPy, exact, stage by stage"),
        ),
        _Entry(
            "pulp_cbc",
            "Pulp",
            SolverInfo("pulp", _EVERY_FIELD | {IMPROVES_START}, "CBC through PuLP, exact, stage by stage"),
        ),
        _Entry(
            "lp_rounding",
            "LpRounding",
            SolverInfo(
                "lp_rounding",
                frozenset({"pinned", "savings"}),
                "linear relaxation, rounded, Lenstra, Shmoys & Tardos 1990",
            ),
        ),
        _Entry(
            "min_cost_flow",
            "MinCostFlow",
            SolverInfo(
                "min_cost_flow",
                _EVERY_FIELD | {IMPROVES_START},
                "network simplex of NetworkX, Orlin 1997: exact for equal items, else a rounded fluid",
            ),
        ),
        _Entry(
            "min_cost_flow_ortools",
            "MinCostFlowOrTools",
            SolverInfo(
                "min_cost_flow_ortools",
                _EVERY_FIELD | {IMPROVES_START},
                "the same with SimpleMinCostFlow of OR-Tools, Goldberg 1997",
            ),
        ),
        _Entry(
            "assignment",
            "Assignment",
            SolverInfo(
                "assignment",
                _EVERY_FIELD | {IMPROVES_START},
                "linear_sum_assignment of SciPy, Crouse 2016: exact for one item to a unit, else multi-exchanges",
            ),
        ),
    )
}


def list_solvers() -> tuple[SolverInfo, ...]:
    """Return what each solver is and can do: the built-in ones as in the table, then those of installed packages.

    Warns
    -----
    UserWarning
        A package offers a solver that cannot be used: it cannot be loaded, two packages offer its name, or the name is
        that of a built-in one. Such solvers are left out; the others are not touched by it.
    """
    from sbs_opt.solvers.installed import offered, package_of

    found = [entry.info for entry in _TABLE.values()]
    for name, entries in offered().items():
        if name in _TABLE:
            packages = " and ".join(package_of(entry) for entry in entries)
            problem = (
                f"solver {name} of package {packages}: the name is that of a built-in solver, which is used instead"
            )
            warnings.warn(problem, stacklevel=2)
            continue
        try:
            found.append(_load_installed(name).info)
        except InputError as error:
            warnings.warn(str(error), stacklevel=2)
    return tuple(found)


def solver_info(name: str) -> SolverInfo:
    """Return the entry of one solver.

    Raises
    ------
    InputError
        The name is unknown (the message lists the known ones), or the package that offers it is broken.
    """
    return _TABLE[name].info if name in _TABLE else _load_installed(name).info


@cache
def load_solver(name: str) -> Solver:
    """Import and return a solver by name; solvers hold no state, so one object serves every call.

    Raises
    ------
    InputError
        As `solver_info`.
    """
    if name not in _TABLE:
        return _load_installed(name)
    entry = _TABLE[name]
    solver = getattr(import_module(f"sbs_opt.solvers.{entry.module}"), entry.class_name)()
    if not isinstance(solver, Solver):
        raise InputError(f"solver {name}: {entry.class_name} has no method solve")
    return solver


@cache
def _load_installed(name: str) -> InstalledSolver:
    """Return the solver of an installed package; only success is remembered, so a package may come later."""
    from sbs_opt.solvers.installed import load_installed, offered

    solver = load_installed(name)
    if solver is None:
        known = ", ".join((*_TABLE, *(other for other in offered() if other not in _TABLE)))
        raise InputError(f"solver = {name!r}: unknown; known solvers: {known}")
    return solver


def refuse_unsupported(window: Window, info: SolverInfo) -> None:
    """Raise `UnsupportedError` when the window uses a field that the solver does not handle."""
    missing = _EVERY_FIELD - info.capabilities
    if not missing:
        return
    used = window.fields_in_use
    for name in FIELDS:
        if name in used & missing:
            able = [entry.info.name for entry in _TABLE.values() if used <= entry.info.capabilities]
            raise UnsupportedError(f"solver {info.name}: cannot handle {name}, which this window uses; {able[0]} can")
