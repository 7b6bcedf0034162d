"""The simulator against queueing theory and against the figures of a study with constant pass times."""

from __future__ import annotations

import numpy as np
import pytest

from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.models.requests import Requests
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.immediate import ImmediateScheduler, SglangTotalTokens
from sbs_opt.scheduler.policies import Scheduler, build_scheduler
from sbs_opt.simulator.conservation import check_conservation
from sbs_opt.simulator.simulation import Simulation
from sbs_opt.testing.costs import LinearPrefill, linear_cost_model
from sbs_opt.testing.fleets import poisson_requests, small_deployment

PASS_NS = 100_000_000
TOKENS = 100


def ideal_config(policy: str) -> SchedulerConfig:
    """No latency and no decision time: what theory assumes."""
    return SchedulerConfig(
        policy=policy, notification_ns=0, lead_ns=0, decision_base_ns=0, decision_step_ns=0, bypass_utilisation=0.0,
        mean_passes=64,
    )  # fmt: skip


def scheduler_of(policy: str, fleet: Deployment, cost: CostModel) -> Scheduler:
    if policy == "least_outstanding":
        return ImmediateScheduler(fleet, cost, ideal_config("sglang.total_tokens"), SglangTotalTokens(0, refresh_ns=0))
    return build_scheduler("prefill", fleet, cost, ideal_config(policy))


def mean_wait(requests: Requests, fleet: Deployment, policy: str) -> float:
    """Return the mean time from arrival to the start of the pass that runs the request, in pass times."""
    cost = linear_cost_model(LinearPrefill(PASS_NS))
    scheduler = scheduler_of(policy, fleet, cost)
    run = Simulation(requests, fleet, cost, scheduler, None, notification_ns=0).execute()
    check_conservation(run, scheduler, None)
    wait = (run.first_token_ns - requests.arrival_ns - PASS_NS) / PASS_NS
    return float(wait[len(wait) // 10 : -len(wait) // 10].mean())


def mean_wait_of_seeds(policy: str, instances: int, per_pass: int, pass_times: int, seeds: int) -> float:
    fleet = small_deployment(instances, 1)
    traces = [
        poisson_requests(per_pass / PASS_NS, per_pass * pass_times, seed=seed, prompt_tokens=TOKENS)
        for seed in range(seeds)
    ]
    return float(np.mean([mean_wait(requests, fleet, policy) for requests in traces]))


@pytest.mark.parametrize(
    ("instances", "per_pass", "policy", "expected"),
    [
        (3, 20, "random", 0.500),
        (3, 20, "round_robin", 0.500),
        (3, 20, "least_outstanding", 0.674),
        (3, 20, "phase_aware", 0.172),
        (3, 20, "central_greedy", 0.172),
        (3, 20, "sbs", 0.166),
        (8, 100, "random", 0.500),
        (8, 100, "round_robin", 0.498),
        (8, 100, "least_outstanding", 0.546),
        (8, 100, "phase_aware", 0.229),
        (8, 100, "central_greedy", 0.229),
        (8, 100, "sbs", 0.063),
    ],
)
def test_constant_pass_time(instances: int, per_pass: int, policy: str, expected: float) -> None:
    """N gated M/D/1 queues wait T/2, staggering waits T/2N; herding and phase luck lie between.

    Two of the figures depend on the length of the run (see the next test); 400 pass times are meant.
    """
    pass_times = 400 if instances == 8 else 2_000
    wait = mean_wait_of_seeds(policy, instances, per_pass, pass_times, seeds=3 if instances == 8 else 1)
    assert wait == pytest.approx(expected, rel=0.05)


def test_phases_that_start_together_drift_apart_slowly() -> None:
    """Without an interval nothing spreads the phases but idle gaps, which close up as the spacing grows.

    After an idle start the instances launch one arrival apart. A gap g between two launches grows only when nobody
    arrives within it, with probability exp(−λg) per cycle, so spacing grows as log(cycles)/λ: with 8 instances and 100
    arrivals per pass the mean wait is still falling towards the T/16 of staggering after hundreds of passes. Any single
    figure for late binding alone is therefore a figure for a length of run.
    """
    short, medium, long = (mean_wait_of_seeds("central_greedy", 8, 100, passes, seeds=2) for passes in (100, 300, 900))
    assert 0.5 > short > medium > long > 1 / 16


@pytest.mark.parametrize(("load", "expected"), [(0.3, 0.214), (0.6, 0.750), (0.9, 4.50)])
def test_one_request_per_pass_is_md1(load: float, expected: float) -> None:
    """Pollaczek–Khinchine: an M/D/1 queue waits ρ / 2(1 − ρ) service times."""
    requests = poisson_requests(load / PASS_NS, 150_000, seed=5, prompt_tokens=TOKENS)
    wait = mean_wait(requests, small_deployment(1, 1, chunk_tokens=TOKENS), "round_robin")
    assert wait == pytest.approx(load / (2 * (1 - load)), rel=0.05)
    assert wait == pytest.approx(expected, rel=0.05)


def test_md3_central_beats_shortest_queue_beats_random() -> None:
    requests = poisson_requests(3 * 0.8 / PASS_NS, 60_000, seed=7, prompt_tokens=TOKENS)
    fleet = small_deployment(3, 1, chunk_tokens=TOKENS)
    central, shortest, random = (
        mean_wait(requests, fleet, p) for p in ("central_greedy", "least_outstanding", "random")
    )
    assert central < shortest < random
    assert random == pytest.approx(0.8 / (2 * 0.2), rel=0.1)  # three independent M/D/1 queues


def test_a_stale_snapshot_herds() -> None:
    """What a router sees 20 ms late costs it: the same rule with a live view waits less at equal load."""
    requests = poisson_requests(3 * 0.7 / PASS_NS, 30_000, seed=9, prompt_tokens=TOKENS)
    fleet = small_deployment(3, 1, chunk_tokens=TOKENS)
    stale, live = mean_wait(requests, fleet, "sglang.total_tokens"), mean_wait(requests, fleet, "least_outstanding")
    assert np.isfinite(stale)
    assert live < stale
