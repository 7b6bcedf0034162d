"""Lexicographic search over an exact back end: left out tier by tier, then the bottleneck, then the savings.

The back end is asked one question at a time: what is the least value of this part, under what the parts before it are
fixed to? It is not believed. Every placement that it finds is judged by `verify`, a part counts as proved only when the
back end's lower bound meets a verified value, and a back end that contradicts a verified placement loses every claim
that it has made. Whatever happens, the incumbent stays.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import InputError, PlacementError
from sbs_opt.models.objective import Objective
from sbs_opt.models.verify import verify
from sbs_opt.models.window import Window
from sbs_opt.solvers.bounds import Relaxation
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.incumbent import Incumbent, nothing_placed, quick_start
from sbs_opt.solvers.protocol import Limit, Solution

DEFAULT_BUDGET_S = 1.0
"""Wall-clock seconds when the caller gives neither budget."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The stage that minimises what is left out of one tier.

    Parameters
    ----------
    position
        Of the tier, in `Window.tiers`.
    """

    position: int

    def value(self, objective: Objective) -> int:
        """Return the part of the objective that this stage minimises."""
        return objective.left_out[self.position]


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The stage that minimises the bottleneck; every `left_out` is fixed."""

    def value(self, objective: Objective) -> int:
        """Return the part of the objective that this stage minimises."""
        return objective.bottleneck


@dataclass(frozen=True, slots=True)
class Saved:
    """The stage that minimises −saved; every `left_out` is fixed, and the bottleneck from above."""

    def value(self, objective: Objective) -> int:
        """Return the part of the objective that this stage minimises."""
        return -objective.saved


Stage = LeftOut | Bottleneck | Saved


@dataclass(frozen=True, slots=True)
class Answer:
    """What a back end says to one stage.

    Parameters
    ----------
    unit
        int64[n], the best placement that it found, or None.
    bound
        The stage's value is proved to be at least this; None = nothing is proved.
    steps
        Work done, at least 1.
    complete
        Whether the search came to its end by itself, not at a limit. It proves nothing; it says what to do next.
    """

    unit: IntArray | None
    bound: int | None
    steps: int
    complete: bool


class BackEnd(Protocol):
    """An exact model of one window."""

    def minimise(self, stage: Stage, low: int, incumbent: IntArray, value: int, budget: Budget) -> Answer:
        """Search for the least value of a stage; it is known to be at least `low`, and `incumbent` reaches `value`.

        Raises
        ------
        BackEndError
            The solver behind it failed.
        """
        ...

    def fix(self, stage: Stage, value: int) -> None:
        """Demand from now on that the stage's part has this value; the bottleneck and the savings, at most it."""
        ...


class BackEndError(Exception):
    """The solver behind a back end raised, or said something that is false."""


@contextmanager
def asking(solver: str) -> Iterator[None]:
    """Turn whatever a foreign solver raises inside the block into a `BackEndError`; keep our own code outside."""
    try:
        yield
    except Exception as error:
        raise BackEndError(f"{solver} raised {type(error).__name__}: {error}") from error


class ExactSolver(ABC):
    """What the exact solvers share: the incumbent, the budgets and the stages.

    The spread is quadratic and no stage of its own: among placements that tie in the parts before it, the better spread
    of those that came up stays. With neither budget the search ends after `DEFAULT_BUDGET_S`; budgets are checked
    between stages and handed to the back end, and building its model is not interrupted.

    Parameters
    ----------
    incumbent
        False leaves `start` and the quick construction aside: the search begins with everything left out, which shows
        what the back end finds by itself.
    """

    def __init__(self, *, incumbent: bool = True) -> None:
        self._incumbent = incumbent

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the best placement found within the budgets, with the bound that was proved."""
        if budget_s is None and budget_steps is None:
            budget_s = DEFAULT_BUDGET_S
        budget = Budget(budget_s, budget_steps)
        first = quick_start(window, start, seed) if self._incumbent else nothing_placed(window)
        budget.spend(first.steps)
        search = _Search(window, first, budget)
        try:
            search.run(lambda: self._back_end(window, seed))
        except BackEndError as error:
            _log.warning("%s: %s; its claims are dropped, the best placement known stays", type(self).__name__, error)
            search.forget_claims()
        return search.solution()

    @abstractmethod
    def _back_end(self, window: Window, seed: int) -> BackEnd:
        """Build the model of a window."""


class _Search:
    """One run: the incumbent, the budget, and what has been proved so far."""

    def __init__(self, window: Window, first: Incumbent, budget: Budget) -> None:
        self._window, self._budget = window, budget
        self._unit, self._objective = first.unit, first.objective
        self._bound, self._left_out_proved = 0, False

    def solution(self) -> Solution:
        return Solution(self._unit, self._bound, self._left_out_proved, self._budget.spent, self._budget.limit)

    def forget_claims(self) -> None:
        self._bound, self._left_out_proved = 0, False

    def run(self, build: Callable[[], BackEnd]) -> None:
        """Go through the stages until a limit cuts one short."""
        relaxation = Relaxation.of(self._window)
        forced = relaxation.forced_out
        most_saved = _most_saved(self._window)
        if self._objective.left_out == forced and self._objective.saved == most_saved:
            self._bound, self._left_out_proved = relaxation.bound(forced), True
            if self._bound == self._objective.bottleneck:
                return
        if self._out_of_budget():
            return
        back_end = build()
        proved = True
        for stage, least in zip(map(LeftOut, range(len(forced))), forced, strict=True):
            proved &= self._run_stage(back_end, stage, least)
            if self._budget.limit:
                return
            back_end.fix(stage, stage.value(self._objective))
        self._left_out_proved = proved
        self._run_stage(back_end, Bottleneck(), relaxation.bound(self._objective.left_out))
        if self._budget.limit or self._objective.saved == most_saved:
            return
        back_end.fix(Bottleneck(), self._objective.bottleneck)
        self._run_stage(back_end, Saved(), -most_saved)

    def _run_stage(self, back_end: BackEnd, stage: Stage, low: int) -> bool:
        """Ask the back end for the least value of a stage, known to be at least `low`; tell whether it is proved.

        Where the back end ends by itself without a proof (its numbers were too coarse), the search goes on with the
        next stage: what it finds there is still worth having.
        """
        bound, value = low, stage.value(self._objective)
        if low < value and not self._out_of_budget():
            answer = back_end.minimise(stage, low, self._unit, value, self._budget)
            self._budget.spend(answer.steps)
            if answer.unit is not None:
                self._take(stage, answer.unit)
                value = stage.value(self._objective)
            if answer.bound is not None:
                bound = max(low, answer.bound)
            if bound > value:
                raise BackEndError(f"claims that {stage} is at least {bound}, while a placement has {value}")
            if bound < value and not answer.complete:
                self._budget.limit = self._which_limit()
        if isinstance(stage, Bottleneck):
            self._bound = bound
        return bound == value

    def _take(self, stage: Stage, unit: IntArray) -> None:
        """Verify a placement that the back end found and keep it if it is better as a whole."""
        try:
            found = verify(self._window, unit)
        except (PlacementError, InputError) as error:
            raise BackEndError(f"its placement breaks a rule of the window: {error}") from error
        fixed = stage.position if isinstance(stage, LeftOut) else len(found.left_out)
        known = self._objective.left_out[:fixed]
        if found < self._objective:
            self._unit, self._objective = unit, found
        if found.left_out[:fixed] != known:
            raise BackEndError(f"leaves out {found.left_out}, where {known} was fixed")

    def _out_of_budget(self) -> bool:
        return self._budget.slice_steps() == 0

    def _which_limit(self) -> Limit:
        steps = self._budget.steps_left()
        if steps is None:
            return "time"
        return "steps" if steps <= 1 or self._budget.seconds_left() is None else "time"


def _most_saved(window: Window) -> int:
    """Return an upper bound of what any placement saves: every item on the unit that saves most for it."""
    most = np.zeros(window.num_items, dtype=np.int64)
    if window.savings is not None:
        np.maximum.at(most, window.savings.item, window.savings.value @ window.price)
    return int(most.sum())
