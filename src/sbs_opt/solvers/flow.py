"""Placement by flows, whatever engine computes them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.window import Window
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.flow_equal import EqualItems
from sbs_opt.solvers.flow_exact import Best, Claim, ExactModel, solve_exact
from sbs_opt.solvers.flow_fluid import solve_fluid
from sbs_opt.solvers.flow_network import Flows, Network
from sbs_opt.solvers.flow_settled import Settled
from sbs_opt.solvers.incumbent import quick_start
from sbs_opt.solvers.local_search import LocalSearch
from sbs_opt.solvers.protocol import Solution


class FlowSolver(ABC):
    """Exact where every item that may go to a unit adds the same to it; otherwise a bound, a rounding, a local search.

    `Result.stats.solver` says which: "exact" when the whole objective is proved least (left out, bottleneck, savings,
    spread), else "rounded". Items that add nothing to some unit, and pinned ones that no limit can keep out, may be of
    any size in the exact case. Otherwise savings and pins make a fluid that is rounded at four levels (`FluidItems`).

    Starts from the better of `start` and `lpt` and keeps it whatever the engine does: a flow is taken when exact
    integers prove that none costs less. A step is an arc of a network that was solved, or one of `lpt` and
    `local_search`. Budgets are looked at before each flow, which is not interrupted.
    """

    def solve(
        self, window: Window, *, budget_s: float | None, budget_steps: int | None, start: IntArray | None, seed: int
    ) -> Solution:
        """Return the best placement found within the budgets, with the bound that was proved."""
        budget = Budget(budget_s, budget_steps)
        first = quick_start(window, start, seed)
        budget.spend(first.steps)
        best, flows = Best(window, first), Flows(self.engine, budget)
        model = self._model(Settled.of(window))
        claim = self._approximate(window, flows, best, seed) if model is None else solve_exact(model, flows, best)
        if not claim.exact:
            self._improve(window, best, budget, claim, seed)
        return Solution(
            best.unit,
            claim.bound,
            claim.left_out_proved,
            budget.spent,
            budget.limit,
            "exact" if claim.exact else "rounded",
        )

    @abstractmethod
    def engine(self, network: Network, cost: IntArray) -> IntArray | None:
        """Return a flow of least cost, int64[arcs], or None where there is none; whatever it says is checked."""

    def _model(self, settled: Settled) -> ExactModel | None:
        """Return a model for `solve_exact`, or None where the window has none."""
        return EqualItems.of(settled)

    def _approximate(self, window: Window, flows: Flows, best: Best, seed: int) -> Claim:
        """Improve the best placement of a window without a model; return what was proved."""
        return solve_fluid(window, flows, best)

    def _improve(self, window: Window, best: Best, budget: Budget, claim: Claim, seed: int) -> None:
        """Search on from the best placement with what is left of the budget."""
        if budget.slice_steps() == 0:
            return
        left_out = best.objective.left_out
        found = LocalSearch().solve(
            window, budget_s=budget.seconds_left(), budget_steps=budget.steps_left(), start=best.unit, seed=seed
        )
        budget.spend(found.steps)
        budget.limit = budget.limit or found.limit
        best.offer(found.unit.astype(np.int64, copy=False))
        if best.objective.left_out != left_out:
            claim.bound = 0  # it spoke of another tuple
