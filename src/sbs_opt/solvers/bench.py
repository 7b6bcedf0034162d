"""Several solvers on the same windows under several budgets: what each reached, proved and took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

from sbs_opt.models.errors import InputError, UnsupportedError
from sbs_opt.models.objective import Objective
from sbs_opt.models.window import Window
from sbs_opt.solvers.registry import solver_info
from sbs_opt.solvers.result import Result
from sbs_opt.solvers.solve import solve


@dataclass(frozen=True, slots=True)
class Run:
    """One solver on one window under one budget.

    Parameters
    ----------
    window
        Index of the window.
    solver
        The name that was asked for.
    budget_s
        Wall-clock seconds; None = the solver's own default.
    result
        What `solve` returned, None where the solver does not take the window.
    refusal
        Why not, else empty.
    """

    window: int
    solver: str
    budget_s: float | None
    result: Result | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The best that any run knows of one window.

    Parameters
    ----------
    objective
        The least whole objective.
    bound
        The greatest bound that was proved for placements with as little left out.
    """

    objective: Objective
    bound: int

    def gap(self, result: Result) -> float | None:
        """Return how far a result may be from the least bottleneck; None where it leaves out more than the best."""
        if result.objective.left_out != self.objective.left_out:
            return None
        return (result.objective.bottleneck - self.bound) / max(self.bound, 1)


@dataclass(frozen=True, slots=True)
class Bench:
    """All runs, window by window, and per window the yardstick that they are held against.

    A bound is one for placements with a certain `left_out` tuple, so only the bounds of runs that leave out least
    make the yardstick.
    """

    runs: tuple[Run, ...]
    yardsticks: dict[int, Yardstick]
    seed: int


def bench(
    windows: Sequence[Window],
    solvers: Sequence[str],
    budgets_s: Sequence[float | None] = (None,),
    *,
    seed: int = 0,
    progress: Callable[[float, str], None] = lambda share, label: None,
) -> Bench:
    """Run every solver on every window under every budget.

    Each solver is first run once, unmeasured, on one window of each kind (of the fields in use) under the greatest
    budget, so that no measured run loads compiled code. Then they take turns on each window, and in going first, when
    the window is not yet in the processor's cache. Each gets a copy of its own: nobody finds what another has cached.

    Parameters
    ----------
    windows
        At least one; they should not have been solved before, so that every run starts from a fresh one.
    solvers
        Registered names.
    budgets_s
        Wall-clock seconds per window; None is the solver's own default.
    seed
        For solvers that draw.
    progress
        Told the share done and what is being run.

    Raises
    ------
    InputError
        An unknown solver, or no window.
    """
    for name in solvers:
        solver_info(name)  # an unknown one fails before anything is run
    if not windows:
        raise InputError("windows is empty; give at least one")
    kinds = {frozenset(copy(window).fields_in_use): window for window in reversed(windows)}
    longest = None if None in budgets_s else max(b for b in budgets_s if b is not None)
    total, done = len(solvers) * (len(kinds) + len(windows) * len(budgets_s)), 0
    runs: list[Run] = []
    for name in solvers:
        for window in kinds.values():
            progress(done / total, f"warming up {name}")
            _run(0, window, name, longest, seed)
            done += 1
    cells = [(name, budget) for budget in budgets_s for name in solvers]
    for index, window in enumerate(windows):
        first = index % len(cells)
        for name, budget in cells[first:] + cells[:first]:
            progress(done / total, f"window {index:,}, {name}")
            runs.append(_run(index, window, name, budget, seed))
            done += 1
    runs.sort(key=lambda run: (run.window, solvers.index(run.solver), budgets_s.index(run.budget_s)))
    return Bench(tuple(runs), _yardsticks(runs), seed)


def _run(index: int, window: Window, solver: str, budget_s: float | None, seed: int) -> Run:
    try:
        result = solve(copy(window), solver, budget_s=budget_s, seed=seed)
    except UnsupportedError as error:
        return Run(index, solver, budget_s, None, str(error))
    return Run(index, solver, budget_s, result)


def _yardsticks(runs: Sequence[Run]) -> dict[int, Yardstick]:
    best: dict[int, Yardstick] = {}
    for run in runs:
        if run.result is None:
            continue
        objective, bound = run.result.objective, run.result.bound
        known = best.get(run.window)
        if known is None or objective.left_out < known.objective.left_out:
            best[run.window] = Yardstick(objective, bound)
        elif objective.left_out == known.objective.left_out:
            best[run.window] = Yardstick(min(objective, known.objective), max(bound, known.bound))
    return best
