"""The laws of the simulated engines on cases worked out by hand, and conservation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.models.checks import IntArray
from sbs_opt.models.deployment import Deployment
from sbs_opt.models.errors import InputError, InternalError
from sbs_opt.models.requests import Requests, requests_without_prefixes
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.policies import POLICIES, build_scheduler
from sbs_opt.simulator.conservation import check_conservation
from sbs_opt.simulator.metrics import measure
from sbs_opt.simulator.replay import simulate
from sbs_opt.simulator.simulation import Run, Simulation
from sbs_opt.testing.costs import LinearDecode, LinearPrefill, linear_cost_model
from sbs_opt.testing.fleets import small_deployment

PASS = 1_000
PREFILL = [name for name, info in POLICIES.items() if info.phase == "prefill"]


def config(policy: str = "round_robin", **settings: Any) -> SchedulerConfig:
    quick = SchedulerConfig(policy=policy, notification_ns=0, lead_ns=0, decision_base_ns=0, decision_step_ns=0)
    return replace(quick, **settings)


def run(requests: Requests, fleet: Deployment, *, token_ns: int = 0, **settings: Any) -> Run:
    cost = linear_cost_model(LinearPrefill(PASS, token_ns), LinearDecode(100, kv_ns=0, batch_ns=0))
    return simulate(requests, fleet, cost, config(**settings), config("least_kv"))


def offered(*rows: tuple[int, int, int]) -> Requests:
    """Return requests from (arrival, prompt, output) rows."""
    columns = np.array(rows, np.int64).reshape(-1, 3)
    return requests_without_prefixes(columns[:, 0], columns[:, 1], columns[:, 2])


def with_blocks(requests: Requests, chains: list[list[int]], block_tokens: int) -> Requests:
    offset = np.concatenate(([0], np.cumsum([len(c) for c in chains])))
    ids: IntArray = np.array([b for c in chains for b in c], np.int64)
    return Requests(
        requests.arrival_ns, requests.prompt_tokens, requests.output_tokens, offset, ids, block_tokens, requests.session
    )


def test_a_long_prompt_is_cut_and_its_rest_goes_first() -> None:
    """250 tokens on a budget of 100 take three passes; 60 more tokens start in the third beside the last 50."""
    result = run(offered((0, 250, 1), (0, 60, 1)), small_deployment(1, 1, chunk_tokens=100))
    assert [p.tokens.tolist() for p in result.passes] == [[100], [100], [100], [10]]
    assert result.first_token_ns.tolist() == [3 * PASS, 4 * PASS]


def test_the_pass_lasts_as_long_as_its_slowest_unit() -> None:
    result = run(offered((0, 10, 1), (0, 90, 1)), small_deployment(1, 2), token_ns=2)
    assert result.passes[0].duration_ns == PASS + 180
    assert result.first_token_ns.tolist() == [PASS + 180] * 2
    metrics = measure(result, small_deployment(1, 2))
    assert metrics.barrier_idle_prefill == pytest.approx(1 - 50 / 90)


def test_what_arrives_at_the_end_of_a_pass_makes_the_next_one() -> None:
    result = run(offered((0, 10, 1), (PASS, 10, 1), (PASS + 1, 10, 1)), small_deployment(1, 1))
    assert result.first_token_ns.tolist() == [PASS, 2 * PASS, 3 * PASS]


def test_latency_and_decision_time_are_part_of_the_first_token_time() -> None:
    result = run(offered((0, 10, 1)), small_deployment(1, 1), decision_base_ns=70)
    assert result.first_token_ns.tolist() == [70 + PASS]
    late = run(offered((0, 100, 1), (10, 100, 1)), small_deployment(1, 1, chunk_tokens=100), policy="central_greedy",
               notification_ns=40)  # fmt: skip
    assert late.first_token_ns.tolist() == [PASS, 2 * PASS], "committed early: the next batch is there at pass end"


def test_prefix_hits_are_taken_when_a_request_starts() -> None:
    """The second request of a pass cannot hit what the first is only computing; one of a later pass can."""
    requests = with_blocks(offered((0, 40, 1), (0, 40, 1), (10, 45, 1)), [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 9]], 10)
    result = run(requests, small_deployment(1, 1, kv_tokens=1_000))
    assert result.hit_tokens.tolist() == [0, 0, 20]


def test_the_last_token_is_always_computed() -> None:
    requests = with_blocks(offered((0, 40, 1), (10, 40, 1)), [[1, 2, 3, 4], [1, 2, 3, 4]], 10)
    assert run(requests, small_deployment(1, 1, kv_tokens=1_000)).hit_tokens.tolist() == [0, 30]


def test_the_cache_holds_what_fits() -> None:
    chains = [[1, 2, 3], [4, 5, 6], [1, 2, 3]]
    requests = with_blocks(offered((0, 31, 1), (PASS, 31, 1), (2 * PASS, 31, 1)), chains, 10)
    assert run(requests, small_deployment(1, 1, kv_tokens=60)).hit_tokens.tolist() == [0, 0, 30]
    assert run(requests, small_deployment(1, 1, kv_tokens=40)).hit_tokens.tolist() == [0, 0, 10]


def test_hits_are_at_most_those_of_an_infinite_cache() -> None:
    generator = np.random.Generator(np.random.Philox(1))
    paths = [tuple(generator.integers(0, 3, 4).tolist()) for _ in range(200)]
    number: dict[tuple[int, ...], int] = {}  # an id stands for a block and everything before it
    chains = [[number.setdefault(path[:k], len(number)) for k in range(1, 5)] for path in paths]
    requests = with_blocks(offered(*((k * 300, 45, 1) for k in range(200))), chains, 10)
    fleet = small_deployment(2, 2, kv_tokens=80)
    small = run(requests, fleet).hit_tokens
    seen: set[int] = set()
    infinite = []
    for chain in chains:
        infinite.append(10 * sum(block in seen for block in chain))
        seen |= set(chain)
    assert (small <= np.array(infinite)).all()
    assert small.sum() > 0


def test_decode_takes_one_step_per_token_and_kv_grows() -> None:
    result = run(offered((0, 10, 4), (0, 10, 1)), small_deployment(1, 1, decode_instances=1, decode_units=1))
    assert result.finished_ns.tolist() == [PASS + 3 * 100, PASS]
    assert result.decode is not None
    assert result.decode.sequence_steps == 3


def test_slots_queue_in_order() -> None:
    fleet = small_deployment(1, 1, decode_instances=1, decode_units=1, slots=1)
    assert run(offered((0, 10, 3), (0, 10, 3)), fleet).finished_ns.tolist() == [PASS + 200, PASS + 400]


def test_the_youngest_is_preempted_when_kv_runs_out_and_comes_back() -> None:
    """Reserves keep admissions apart; two sequences that outgrow their reserve leave one unit's KV to the older."""
    fleet = small_deployment(1, 1, decode_instances=1, decode_units=1, decode_kv_tokens=1_000)
    result = run(offered((0, 300, 400), (0, 300, 400)), fleet)
    assert result.decode is not None
    assert result.decode.preemptions == 1
    assert (result.finished_ns >= 0).all()
    assert result.finished_ns[0] < result.finished_ns[1]


def test_a_sequence_that_outgrows_every_unit_is_rejected() -> None:
    fleet = small_deployment(1, 1, decode_instances=1, decode_units=1, decode_kv_tokens=100)
    result = run(offered((0, 50, 51), (0, 50, 50)), fleet)
    assert result.rejected == {0: "too_large"}
    assert result.finished_ns[1] > 0


def test_a_prompt_beyond_the_context_is_rejected_not_clipped() -> None:
    result = run(offered((0, 501, 1), (5, 500, 1)), small_deployment(1, 1, context_tokens=500))
    assert result.rejected == {0: "too_large"}
    metrics = measure(result, small_deployment(1, 1))
    assert (metrics.requests, metrics.answered, metrics.rejected, metrics.unfinished) == (2, 1, 1, 0)
    assert metrics.rejected_reasons == {"too_large": 1}


def test_zero_lengths_are_answered() -> None:
    result = run(offered((0, 0, 0), (0, 5, 0)), small_deployment(1, 1, decode_instances=1))
    assert result.finished_ns.tolist() == [PASS, PASS]


def test_a_horizon_leaves_requests_unfinished_and_counts_add_up() -> None:
    requests = offered(*((k * 100, 100, 3) for k in range(50)))
    fleet = small_deployment(1, 1, chunk_tokens=100, decode_instances=1)
    cost = linear_cost_model(LinearPrefill(PASS), LinearDecode(100))
    result = simulate(requests, fleet, cost, config(), config("least_kv"), horizon_ns=10 * PASS)
    metrics = measure(result, fleet)
    assert result.stopped
    assert 0 < metrics.answered < 50
    assert metrics.answered + metrics.rejected + metrics.unfinished == 50


def test_nothing_to_simulate_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one request"):
        run(offered(), small_deployment())


@settings(max_examples=40)
@given(policy=st.sampled_from(PREFILL), data=st.data())
def test_conservation_holds_and_runs_repeat(policy: str, data: st.DataObject) -> None:
    """`simulate` checks the laws itself; here for arbitrary traces, and that a run is a function of its arguments."""
    rows = data.draw(
        st.lists(st.tuples(st.integers(0, 9_000), st.integers(0, 400), st.integers(0, 12)), min_size=1, max_size=40)
    )
    requests = offered(*sorted(rows))
    chains = [[1, 2 + k % 3, 10 + k] for k in range(len(rows))]
    fleet = small_deployment(2, 2, chunk_tokens=100, kv_tokens=380, decode_instances=1, decode_kv_tokens=405, slots=3)
    runs = [
        simulate(with_blocks(requests, chains, 50), fleet, linear_cost_model(LinearPrefill(PASS, 3, 1)),
                 SchedulerConfig(policy=policy, seed=4, notification_ns=30, lead_ns=60))
        for _ in range(2)
    ]  # fmt: skip
    assert runs[0].finished_ns.tolist() == runs[1].finished_ns.tolist()
    assert len(runs[0].rejected) + (runs[0].finished_ns >= 0).sum() == len(rows)


def test_a_broken_law_is_an_error() -> None:
    fleet = small_deployment(1, 1)
    cost = linear_cost_model(LinearPrefill(PASS))
    scheduler = build_scheduler("prefill", fleet, cost, config())
    result = Simulation(offered((0, 10, 1)), fleet, cost, scheduler, None, notification_ns=0).execute()
    check_conservation(result, scheduler, None)
    result.hit_tokens[0] = 3
    with pytest.raises(InternalError, match=r"run \+ from cache: 10 ≠ 13"):
        check_conservation(result, scheduler, None)
    result.hit_tokens[0] = 0
    result.finished_ns[0] = -1
    with pytest.raises(InternalError, match="unfinished"):
        check_conservation(result, scheduler, None)
