"""The one table of solvers; a solver's module is imported when it is first used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module

from sbs_opt.models.errors import InputError, UnsupportedError
from sbs_opt.models.window import Window
from sbs_opt.solvers.protocol import FIELDS, IMPROVES_START, Solver, SolverInfo, fields_in_use

_EVERY_FIELD = frozenset(FIELDS)


@dataclass(frozen=True, slots=True)
class _Entry:
    module: str
    class_name: str
    info: SolverInfo


_TABLE: dict[str, _Entry] = {
    entry.info.name: entry
    for entry in (
        _Entry("auto", "Auto", SolverInfo("auto", _EVERY_FIELD, "the fastest solver that suits the window; today lpt")),
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
            "cp_sat",
            "CpSat",
            SolverInfo("cp_sat", _EVERY_FIELD | {IMPROVES_START}, "CP-SAT of OR-Tools, exact, stage by stage"),
        ),
    )
}


def list_solvers() -> tuple[SolverInfo, ...]:
    """Return what each registered solver is and can do, in the order of the table."""
    return tuple(entry.info for entry in _TABLE.values())


def solver_info(name: str) -> SolverInfo:
    """Return the entry of one solver; an unknown name is an `InputError` that lists the known ones."""
    if name not in _TABLE:
        raise InputError(f"solver = {name!r}: unknown; known solvers: {', '.join(_TABLE)}")
    return _TABLE[name].info


@cache
def load_solver(name: str) -> Solver:
    """Import and return a registered solver; solvers hold no state, so one object serves every call."""
    solver_info(name)
    entry = _TABLE[name]
    solver = getattr(import_module(f"sbs_opt.solvers.{entry.module}"), entry.class_name)()
    if not isinstance(solver, Solver):
        raise InputError(f"solver {name}: {entry.class_name} has no method solve")
    return solver


def refuse_unsupported(window: Window, info: SolverInfo) -> None:
    """Raise `UnsupportedError` when the window uses a field that the solver does not handle."""
    missing = _EVERY_FIELD - info.capabilities
    if not missing:
        return
    used = fields_in_use(window)
    for name in FIELDS:
        if name in used & missing:
            able = [other.name for other in list_solvers() if used <= other.capabilities]
            raise UnsupportedError(f"solver {info.name}: cannot handle {name}, which this window uses; {able[0]} can")
