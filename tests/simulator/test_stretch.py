"""A stretch simulated by itself is the stretch as it was in the whole trace, as far as its warm-up reaches back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.instances.generator import GeneratorConfig, generate
from sbs_opt.models.errors import InputError
from sbs_opt.models.requests import Requests, requests_without_prefixes
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.simulator.replay import simulate
from sbs_opt.simulator.stretch import (
    PolicyRun,
    StretchRuns,
    TtftSummary,
    baseline_config,
    figures_of,
    run_stretch,
)
from sbs_opt.testing.costs import LinearPrefill, linear_cost_model
from sbs_opt.testing.fleets import poisson_requests, small_deployment

MS = 1_000_000
FLEET = small_deployment(2, 4, chunk_tokens=1_000, kv_tokens=20_000, context_tokens=8_000)
COSTS = linear_cost_model(LinearPrefill(fixed_ns=5 * MS, token_ns=50_000, chunk_tokens=1_000))
POLICIES = ("round_robin", "random", "sglang.total_tokens", "phase_aware", "central_greedy", "sbs", "sbs_auto")


def run(requests: Requests, begin: int, end: int, policy: str = "sbs_auto", baseline: str = "random") -> StretchRuns:
    return run_stretch(requests, begin, end, FLEET, COSTS, SchedulerConfig(policy=policy), baseline)


@st.composite
def traces(draw: st.DrawFn) -> Requests:
    n = draw(st.integers(1, 30))
    gaps = draw(st.lists(st.integers(0, 80 * MS), min_size=n, max_size=n))
    prompts = draw(st.lists(st.integers(0, 9_000), min_size=n, max_size=n))
    outputs = draw(st.lists(st.integers(0, 50), min_size=n, max_size=n))
    return requests_without_prefixes(np.cumsum(gaps), np.array(prompts), np.array(outputs))


@given(traces(), st.sampled_from(POLICIES), st.sampled_from(POLICIES), st.data())
def test_a_stretch_with_all_before_and_behind_it_is_that_part_of_the_whole_run(
    requests: Requests, policy: str, baseline: str, data: st.DataObject
) -> None:
    k = data.draw(st.integers(0, len(requests) - 1))
    begin, end = int(requests.arrival_ns[k]), int(requests.arrival_ns[k]) + data.draw(st.integers(1, 400 * MS))
    runs = run(requests, begin, end, policy, baseline)
    inside = (requests.arrival_ns >= begin) & (requests.arrival_ns < end)
    assert runs.warm_up_requests == int((requests.arrival_ns < begin).sum())
    for name, ours in ((policy, runs.policy), (baseline, runs.baseline)):
        whole = simulate(requests, FLEET, COSTS, SchedulerConfig(policy=name))
        answered = whole.first_token_ns[inside] >= 0
        assert ours.answered.tolist() == answered.tolist()
        assert (
            ours.ttft_ns[answered].tolist() == (whole.first_token_ns - requests.arrival_ns)[inside][answered].tolist()
        )
        assert (ours.instance * 4 + ours.unit)[answered].tolist() == whole.unit[inside][answered].tolist()
        assert ours.held_ns[answered].tolist() == (whole.dispatched_ns - requests.arrival_ns)[inside][answered].tolist()
        for column in (ours.ttft_ns, ours.held_ns, ours.instance, ours.unit):
            assert (column[~answered] == -1).all()


@given(traces(), st.sampled_from(POLICIES))
def test_the_same_policy_twice_differs_by_exactly_nothing(requests: Requests, policy: str) -> None:
    runs = run(requests, 0, 1 << 60, policy, policy)
    difference = figures_of(runs, np.zeros(len(requests), np.int64)).difference
    some = 0.0 if runs.policy.answered.any() else None
    assert difference == TtftSummary(some, some, some, some)


@given(traces(), st.integers(0, 100))
def test_output_lengths_do_not_matter(requests: Requests, more: int) -> None:
    longer = replace(requests, output_tokens=requests.output_tokens + more)
    fleet = small_deployment(1, 4, chunk_tokens=1_000, decode_instances=1, decode_kv_tokens=10)
    both = [run_stretch(r, 0, 1 << 60, fleet, COSTS, SchedulerConfig(), "random") for r in (requests, longer)]
    assert both[0].policy.ttft_ns.tolist() == both[1].policy.ttft_ns.tolist()
    assert both[0].policy.answered.all()


@pytest.mark.parametrize("policy", ["sglang.total_tokens", "sbs_auto"])
def test_warm_up_stands_for_all_that_came_before(policy: str) -> None:
    """Stationary traffic at some 70 % load: a stretch in the middle, with one like it before, against the whole run."""
    n = 6_000
    prompts = 100 + np.arange(n) * 7_919 % 900
    requests = poisson_requests(0.7 * 8 / (55e6 * 1.1), n, seed=1, prompt_tokens=prompts)
    begin, end = int(requests.arrival_ns[3_000]), int(requests.arrival_ns[4_500])
    whole = simulate(requests, FLEET, COSTS, SchedulerConfig(policy=policy))
    inside = (requests.arrival_ns >= begin) & (requests.arrival_ns < end)
    truth = TtftSummary.of((whole.first_token_ns - requests.arrival_ns)[inside])
    rows = np.flatnonzero((requests.arrival_ns >= 2 * begin - end) & (requests.arrival_ns < end))
    found = TtftSummary.of(run(requests.take(rows), begin, end, policy).policy.ttft_ns)
    assert truth.mean is not None
    assert truth.p99 is not None
    assert found.mean == pytest.approx(truth.mean, rel=0.05)
    assert found.p99 == pytest.approx(truth.p99, rel=0.15)


@pytest.mark.parametrize("policy", POLICIES)
def test_without_warm_up_a_backlog_is_overlooked(policy: str) -> None:
    """A burst right before the stretch: as warm-up it delays what follows, without it the stretch begins idle."""
    burst = requests_without_prefixes(
        np.concatenate((np.zeros(80, np.int64), 50 * MS + np.arange(20) * MS)),
        np.full(100, 1_000),
        np.ones(100, np.int64),
    )
    warm = run(burst, 50 * MS, 1 << 60, policy).policy
    cold = run(burst.take(np.arange(80, 100)), 50 * MS, 1 << 60, policy).policy
    assert warm.ttft_ns.mean() > 1.4 * cold.ttft_ns.mean()


def test_an_idle_moment_cuts_history_off() -> None:
    """What was over before the stretch began leaves no trace in a policy that only looks at load."""
    late = np.concatenate((np.arange(40) * MS, 10_000 * MS + np.arange(40) * 3 * MS))
    requests = requests_without_prefixes(late, 200 + np.arange(80) * 37 % 700, np.ones(80, np.int64))
    begin = 10_000 * MS
    warm = run(requests, begin, 1 << 60, "sglang.total_tokens").policy
    cold = run(requests.take(np.arange(40, 80)), begin, 1 << 60, "sglang.total_tokens").policy
    assert warm.ttft_ns.tolist() == cold.ttft_ns.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_late_binding_is_predicted_to_beat_random_on_bursty_traffic(seed: int) -> None:
    traffic = GeneratorConfig(
        requests=1_500, rate_per_s=60.0, burst_s=2.0, user_tokens_median=500, turns_mean=1, system_prompts=0,
        block_tokens=0, longest_tokens=4_000,
    )  # fmt: skip
    requests = generate(traffic, seed=seed)
    middle = int(requests.arrival_ns[300])
    runs = run(requests, middle, 1 << 60)
    difference = figures_of(runs, np.zeros(1_200, np.int64)).difference
    assert difference.mean is not None
    assert difference.p90 is not None
    assert difference.mean < 0
    assert difference.p90 < 0


def test_figures_are_of_what_both_answered() -> None:
    column = np.zeros(3, np.int64)
    ours = PolicyRun(np.array([1, -1, 3]) * 10**9, column, column, column)
    theirs = PolicyRun(np.array([2, 2, -1]) * 10**9, column, column, column)
    figures = figures_of(StretchRuns(ours, theirs, 0), np.array([4, 5, 6]) * 10**9)
    assert (figures.compared, figures.too_large) == (1, 2)
    assert figures.difference == TtftSummary(-1, -1, -1, -1)
    assert figures.error == TtftSummary(-2, -2, -2, -2)


def test_a_stretch_of_nothing_comparable_has_no_figures() -> None:
    requests = requests_without_prefixes(np.array([0]), np.array([9_000]), np.array([1]))
    figures = figures_of(run(requests, 0, 1), np.array([7]))
    assert (figures.compared, figures.too_large) == (0, 1)
    assert figures.measured == figures.error == figures.difference == TtftSummary(None, None, None, None)


def test_what_cannot_be_simulated_is_refused() -> None:
    requests = requests_without_prefixes(np.array([5]), np.array([1]), np.array([1]))
    with pytest.raises(InputError, match="begin_ns, end_ns = 6, 9"):
        run(requests, 6, 9)
    with pytest.raises(InputError, match="not a prefill policy"):
        run(requests, 0, 9, baseline="least_kv")
    with pytest.raises(InputError, match="measured_ttft_ns"):
        figures_of(run(requests, 0, 9), np.zeros(2, np.int64))


def test_the_baseline_takes_settings_but_no_overrides() -> None:
    config = SchedulerConfig(policy="sbs_auto", solver="lpt", timing="interval", seed=3, notification_ns=7)
    assert baseline_config(config, "random") == SchedulerConfig(policy="random", seed=3, notification_ns=7)
    assert baseline_config(config, "sbs_auto") == SchedulerConfig(policy="sbs_auto", seed=3, notification_ns=7)
