"""One stretch of served traffic under two policies: what each would have done, on the same cost model.

Only prefill is simulated: every request ends with its first token. What arrives before the stretch warms the run up and
what arrives after it keeps the run from emptying; neither is reported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from sbs_opt.models.checks import BoolArray, IntArray, expect_shape
from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.models.errors import InputError
from sbs_opt.models.requests import Requests
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.policies import policy_info
from sbs_opt.simulator.replay import simulate

_SECOND_NS = 1e9


@dataclass(frozen=True, slots=True, eq=False)
class PolicyRun:
    """What one policy would have done with the n requests of a stretch, in order of arrival; −1 where it rejects one.

    Parameters
    ----------
    ttft_ns, held_ns
        int64[n], from arrival to the first token, and to the dispatch.
    instance, unit
        int64[n], where it would have been sent; units are numbered within their instance.
    """

    ttft_ns: IntArray
    held_ns: IntArray
    instance: IntArray
    unit: IntArray

    @property
    def answered(self) -> BoolArray:
        """bool[n], whether there was a first token."""
        return self.ttft_ns >= 0


@dataclass(frozen=True, slots=True, eq=False)
class StretchRuns:
    """The same stretch under both policies.

    Parameters
    ----------
    policy, baseline
        What the policy under trial and the one that stands for the existing router would have done.
    warm_up_requests
        Requests before the stretch that were simulated with it.
    """

    policy: PolicyRun
    baseline: PolicyRun
    warm_up_requests: int


@dataclass(frozen=True, slots=True)
class TtftSummary:
    """Times to the first token, or differences of such, in seconds; all None of nothing."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None

    @classmethod
    def of(cls, ttft_ns: IntArray) -> Self:
        """Summarise int64[n]."""
        if not len(ttft_ns):
            return cls(None, None, None, None)
        seconds = ttft_ns / _SECOND_NS
        return cls(float(seconds.mean()), *(float(np.percentile(seconds, percent)) for percent in (50, 90, 99)))

    def minus(self, other: TtftSummary) -> TtftSummary:
        """Return the difference figure by figure: that of the means, of the medians, and so on."""
        return TtftSummary(
            _minus(self.mean, other.mean),
            _minus(self.p50, other.p50),
            _minus(self.p90, other.p90),
            _minus(self.p99, other.p99),
        )


@dataclass(frozen=True, slots=True)
class StretchFigures:
    """A stretch in figures; all of them are of the same requests, those that both runs answered.

    Parameters
    ----------
    compared, too_large
        How many requests those are, and how many more the simulated deployment cannot take.
    measured, policy, baseline
        The existing router as measured, and the two simulated policies.
    difference
        `policy` − `baseline`, both simulated: negative where the policy under trial is faster.
    error
        `baseline` − `measured`: how far the simulation is from what happened, if the baseline is what the router does.
    """

    compared: int
    too_large: int
    measured: TtftSummary
    policy: TtftSummary
    baseline: TtftSummary
    difference: TtftSummary
    error: TtftSummary


def baseline_config(config: SchedulerConfig, baseline: str) -> SchedulerConfig:
    """Return `config` with another policy, as it comes: overrides of single decisions belong to the policy under trial.

    Raises
    ------
    InputError
        `baseline` is no prefill policy.
    """
    policy_info(baseline, "prefill")
    return replace(config, policy=baseline, timing=None, admission=None, balance=None, solver=None, cache=None)


def run_stretch(
    requests: Requests,
    begin_ns: int,
    end_ns: int,
    deployment: Deployment,
    cost_model: CostModel,
    config: SchedulerConfig,
    baseline: str,
) -> StretchRuns:
    """Simulate the stretch [`begin_ns`, `end_ns`) of some requests under two policies.

    Parameters
    ----------
    requests
        Those of the stretch and, so that it does not begin empty, those before it; output lengths are not looked at.
    deployment, cost_model
        The fleet, the same for both.
    config
        Of the policy under trial.
    baseline
        Name of the policy to compare with; it gets the other settings of `config`.

    Returns
    -------
    StretchRuns
        Deterministic: the same arguments give the same runs.

    Raises
    ------
    InputError
        No request arrives in the stretch, or an unknown policy.
    """
    first, last = np.searchsorted(requests.arrival_ns, [begin_ns, end_ns]).tolist()
    if first >= last:
        raise InputError(f"begin_ns, end_ns = {begin_ns}, {end_ns}: no request arrives in between")
    prefill_only = replace(requests, output_tokens=np.ones(len(requests), np.int64))
    stretch = slice(first, last)

    def run(settings: SchedulerConfig) -> PolicyRun:
        done = simulate(prefill_only, deployment, cost_model, settings)
        arrival, sent = requests.arrival_ns[stretch], done.dispatched_ns[stretch] >= 0
        instance, unit = np.divmod(done.unit[stretch], deployment.of_phase("prefill")[0].num_units)
        first_token = done.first_token_ns[stretch]
        return PolicyRun(
            ttft_ns=np.where(first_token >= 0, first_token - arrival, -1),
            held_ns=np.where(sent, done.dispatched_ns[stretch] - arrival, -1),
            instance=np.where(sent, instance, -1),
            unit=np.where(sent, unit, -1),
        )

    other = baseline_config(config, baseline)
    ours = run(config)
    return StretchRuns(ours, ours if other == config else run(other), warm_up_requests=first)


def figures_of(runs: StretchRuns, measured_ttft_ns: IntArray) -> StretchFigures:
    """Summarise a stretch beside what was measured.

    Parameters
    ----------
    measured_ttft_ns
        int64[n], of every request of the stretch, in order of arrival; −1 = unknown: simulated, but not compared.
    """
    expect_shape("measured_ttft_ns", measured_ttft_ns, runs.policy.ttft_ns.shape, "one per request of the stretch")
    answered = runs.policy.answered & runs.baseline.answered
    both = answered & (measured_ttft_ns >= 0)
    policy, baseline = TtftSummary.of(runs.policy.ttft_ns[both]), TtftSummary.of(runs.baseline.ttft_ns[both])
    measured = TtftSummary.of(measured_ttft_ns[both])
    return StretchFigures(
        compared=int(both.sum()),
        too_large=int((~answered).sum()),
        measured=measured,
        policy=policy,
        baseline=baseline,
        difference=policy.minus(baseline),
        error=baseline.minus(measured),
    )


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right
