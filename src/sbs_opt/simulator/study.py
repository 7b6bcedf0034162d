"""Compare policies on a trace: scale it to each load, cut it to the least span that says enough, run every policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

from sbs_opt.instances.offered import offered_decode_load, offered_load, scale_to_load
from sbs_opt.instances.scaling import cut
from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.models.errors import InputError
from sbs_opt.models.requests import Requests
from sbs_opt.scheduler.config import LATE_BINDING, SchedulerConfig
from sbs_opt.scheduler.policies import policy_info
from sbs_opt.simulator.metrics import Metrics, measure
from sbs_opt.simulator.prefill_engine import Pass
from sbs_opt.simulator.replay import simulate
from sbs_opt.simulator.simulation import Run

LEAST_PASSES = 2_000
"""Passes below which a figure says little about a policy."""

_PILOT_PASSES = 150
_SHOWN_PASSES = 24

Progress = Callable[[float, str], None]
"""Called with the share of the work done and what is being done."""


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One policy at one load.

    Parameters
    ----------
    policy, decode_policy, solver
        Names; `solver` is None for an immediate policy.
    load, decode_load
        Offered prefill and decode load of the requests simulated.
    asked_load
        The load that was asked for, None for the trace as it is.
    span_s
        Span of the arrivals simulated.
    metrics
        The figures.
    shown_passes
        Consecutive passes from the middle of the run, for a picture.
    """

    policy: str
    decode_policy: str
    solver: str | None
    load: float
    decode_load: float | None
    asked_load: float | None
    span_s: float
    seed: int
    metrics: Metrics
    shown_passes: tuple[Pass, ...]

    def row(self) -> dict[str, Any]:
        """Return the row of `compare --json`."""
        return {
            "policy": self.policy,
            "decode_policy": self.decode_policy,
            "solver": self.solver,
            "load": self.load,
            "decode_load": self.decode_load,
            "asked_load": self.asked_load,
            "span_s": self.span_s,
            "seed": self.seed,
            **self.metrics.row(),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """All cells of a comparison, load by load, with what a reader must know about them.

    Parameters
    ----------
    trace, notes
        Name of the trace; how it was read, scaled and cut, in sentences.
    notification_ns
        Latency of the engines' notifications in every run.
    """

    trace: str
    deployment: Deployment
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]
    seed: int
    notification_ns: int

    def loads(self) -> tuple[float | None, ...]:
        """Return the loads asked for, in order."""
        return tuple(dict.fromkeys(cell.asked_load for cell in self.cells))

    def at(self, asked_load: float | None) -> tuple[Cell, ...]:
        """Return the cells of one load."""
        return tuple(cell for cell in self.cells if cell.asked_load == asked_load)


def compare(
    requests: Requests,
    deployment: Deployment,
    cost_model: CostModel,
    *,
    trace: str,
    policies: Sequence[str],
    decode_policy: str = "least_kv",
    loads: Sequence[float] = (),
    seed: int = 0,
    full: bool = False,
    notes: Sequence[str] = (),
    workers: int = 1,
    progress: Progress | None = None,
) -> Study:
    """Simulate every policy at every load on the same requests.

    Parameters
    ----------
    requests, trace, notes
        The trace, its name, and what reading it had to say.
    policies, decode_policy
        Names of the policy table.
    loads
        Prefill loads ρ, reached by superposition; empty leaves the trace as it is.
    seed
        Of the superposition and of the policies that draw.
    full
        Take the whole span rather than the least that gives `LEAST_PASSES` passes under every policy.
    workers
        Processes that simulate policies side by side; the result does not depend on it. With more than one, call from
        under ``if __name__ == "__main__"``: the processes import the caller's main module.
    progress
        Called with the share done and a label.

    Raises
    ------
    InputError
        On an unknown or repeated policy, or a load that cannot be reached.
    """
    if len(set(policies)) != len(policies) or not policies:
        raise InputError(f"policies = {','.join(policies)}: name at least one, each once")
    for policy in policies:
        policy_info(policy, "prefill")
    policy_info(decode_policy, "decode")
    said = list(notes)
    cells: list[Cell] = []
    asked: Sequence[float | None] = loads or (None,)
    with ExitStack() as stack:
        pool: Executor | None = None
        if workers > 1:
            # Spawned, not forked: the caller may have threads. What compiling there is, the pilot runs do first.
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn")))
        for k, load in enumerate(asked):
            scaled = requests if load is None else scale_to_load(requests, load, cost_model, deployment, seed=seed)
            if load is not None:
                count = f"{len(requests):,} requests scaled to {len(scaled):,}"
                how = "superposition" if len(scaled) >= len(requests) else "thinning"
                said.append(f"load {load:g}: {count} over the same span by {how}")
            at_load = _AtLoad(scaled, deployment, cost_model, policies, decode_policy, load, seed)

            def advance(share: float, label: str, start: float = k / len(asked), of: int = len(asked)) -> None:
                if progress is not None:
                    progress(start + share / of, label)

            runs, note = at_load.run_all(full=full, progress=advance, pool=pool)
            cells += runs
            said.append(note)
    return Study(trace, deployment, tuple(cells), tuple(said), seed, SchedulerConfig().notification_ns)


@dataclass(frozen=True, slots=True, eq=False)
class _AtLoad:
    """Every policy on one scaled trace."""

    requests: Requests
    deployment: Deployment
    cost_model: CostModel
    policies: Sequence[str]
    decode_policy: str
    asked_load: float | None
    seed: int

    def run_all(self, *, full: bool, progress: Progress, pool: Executor | None) -> tuple[list[Cell], str]:
        """Return a cell per policy and a sentence on the span."""
        whole = self.requests.span_ns
        span = whole if full else self._least_span(progress)
        while True:
            part = self.requests if span >= whole else cut(self.requests, span)
            cells = self._cells(part, progress, pool)
            fewest = min(cell.metrics.passes for cell in cells)
            if fewest >= LEAST_PASSES or span >= whole:
                break
            span = min(whole, int(span * max(1.1, 1.05 * LEAST_PASSES / fewest)))
        name = self._name()
        taken = "the whole span" if span >= whole else f"the first {span / 1e9:.0f} s of {whole / 1e9:.0f} s"
        short = "" if fewest >= LEAST_PASSES else f"; fewer than {LEAST_PASSES:,} passes, so read differences with care"
        return cells, f"{name}: {taken}, {len(part):,} requests, at least {fewest:,} passes per policy{short}"

    def _name(self) -> str:
        return "as captured" if self.asked_load is None else f"load {self.asked_load:g}"

    def _least_span(self, progress: Progress) -> int:
        """Estimate, from short runs of every policy, the span that gives enough passes under each of them."""
        whole = self.requests.span_ns
        span = max(whole // 64, 1)
        while True:
            part = cut(self.requests, span)
            progress(0.0, f"{self._name()}: how long a span gives {LEAST_PASSES:,} passes")
            fewest = min(len(self._run(part, policy, None).passes) for policy in self.policies)
            if fewest >= _PILOT_PASSES or span >= whole:
                return min(whole, int(span * 1.1 * LEAST_PASSES / max(1, fewest)))
            span = min(whole, 2 * span)

    def _cells(self, part: Requests, progress: Progress, pool: Executor | None) -> list[Cell]:
        count = len(self.policies)
        alone = replace(self, requests=part)
        if pool is None:
            cells = []
            for k, policy in enumerate(self.policies):

                def advance(share: float, k: int = k, policy: str = policy) -> None:
                    progress((k + share) / count, f"{self._name()}: {policy}")

                cells.append(alone.cell(policy, advance))
            return cells
        running = {pool.submit(alone.cell, policy): policy for policy in self.policies}
        for done, future in enumerate(as_completed(running), start=1):
            future.result()
            progress(done / count, f"{self._name()}: {running[future]}")
        return [future.result() for future in running]

    def _run(self, requests: Requests, policy: str, progress: Callable[[int], None] | None) -> Run:
        return simulate(
            requests,
            self.deployment,
            self.cost_model,
            SchedulerConfig(policy=policy, seed=self.seed),
            SchedulerConfig(policy=self.decode_policy, seed=self.seed),
            progress=progress,
        )

    def cell(self, policy: str, progress: Callable[[float], None] | None = None) -> Cell:
        """Return one policy's figures on all of `requests`."""
        requests = self.requests
        total = len(requests)
        run = self._run(requests, policy, None if progress is None else lambda arrived: progress(arrived / total))
        late = LATE_BINDING.get(policy)
        has_decode = bool(self.deployment.of_phase("decode"))
        middle = len(run.passes) // 2
        return Cell(
            policy=policy,
            decode_policy=self.decode_policy,
            solver=late.solver if late else None,
            load=offered_load(requests, self.cost_model, self.deployment),
            decode_load=offered_decode_load(requests, self.cost_model, self.deployment) if has_decode else None,
            asked_load=self.asked_load,
            span_s=requests.span_ns / 1e9,
            seed=self.seed,
            metrics=measure(run, self.deployment),
            shown_passes=tuple(run.passes[middle : middle + _SHOWN_PASSES]),
        )
