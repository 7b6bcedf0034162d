"""What the twin tests draw: fleets, traces, costs and settings at which every law of the simulator bites."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import CostModel, load_cost_model
from sbs_opt.models.deployment import Deployment, Instance, Unit
from sbs_opt.models.requests import Requests
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.testing.costs import LinearDecode, LinearPrefill, linear_cost_model

POLICIES = ("round_robin", "random", "sglang.total_tokens", "phase_aware", "central_greedy", "sbs", "sbs_auto")


@dataclass(frozen=True)
class Case:
    """All that a run depends on."""

    requests: Requests
    deployment: Deployment
    cost_model: CostModel
    config: SchedulerConfig
    decode_config: SchedulerConfig
    reserve_tokens: int


@dataclass(frozen=True, slots=True)
class TwoPricesPrefill(LinearPrefill):
    """Linear costs whose surrogate has an all-to-all time too, so that placement weighs two resources."""

    alltoall_ns: int = 0

    def request_ns(self, new_tokens: IntArray, cached_tokens: IntArray) -> tuple[IntArray, IntArray]:
        """See `PrefillTiming`."""
        compute, _ = LinearPrefill.request_ns(self, new_tokens, cached_tokens)
        return compute, self.alltoall_ns * new_tokens


def make_requests(
    arrival_ns: list[int], prompt: list[int], output: list[int], blocks: list[list[int]], block_tokens: int
) -> Requests:
    lengths = [len(b) for b in blocks]
    return Requests(
        np.array(arrival_ns),
        np.array(prompt),
        np.array(output),
        np.concatenate(([0], np.cumsum(lengths))),
        np.array([x for b in blocks for x in b], np.int64),
        block_tokens,
        np.full(len(prompt), -1),
    )


def one_unit(requests: Requests, cost: CostModel, **settings: Any) -> Case:
    """Return a case with one prefill unit of 100 tokens a pass and no decode."""
    unit = Unit(kv_tokens=1_000, chunk_tokens=100)
    deployment = Deployment("one", (Instance("p", "prefill", 1, unit),), "h800", "deepseek-v3", context_tokens=1_000)
    config = SchedulerConfig(**settings)
    return Case(requests, deployment, cost, config, config, reserve_tokens=0)


@st.composite
def traces(draw: st.DrawFn, chunk: int) -> Requests:
    """Requests with equal stamps, empty prompts, prompts of several chunks, and prefixes from a few families."""
    n = draw(st.integers(1, 40) | st.just(40))
    gap = draw(st.sampled_from((0, 40, 400, 3_000)))
    arrival = sorted(draw(st.lists(st.integers(0, n * gap), min_size=n, max_size=n)))
    longest = draw(st.sampled_from((chunk // 4, chunk, 4 * chunk)))
    prompt = draw(st.lists(st.integers(0, longest), min_size=n, max_size=n))
    output = draw(st.lists(st.integers(0, 20), min_size=n, max_size=n))
    block_tokens = draw(st.sampled_from((0, 1, 4, 4, 16)))
    blocks: list[list[int]] = [[] for _ in range(n)]
    if block_tokens:
        family = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
        shared = draw(st.lists(st.sampled_from((0, 2, 8, 30)), min_size=n, max_size=n))
        for k in range(n):
            # A trace may give more blocks or fewer than the prompt fills: only whole blocks of it may count.
            count = max(0, min(-(-prompt[k] // block_tokens) + draw(st.sampled_from((0, 0, 0, 3, -1))), 64))
            blocks[k] = [1000 * family[k] + d if d < shared[k] else 100_000 + 1000 * k + d for d in range(count)]
    return make_requests(arrival, prompt, output, blocks, block_tokens)


@st.composite
def deployments(draw: st.DrawFn, chunk: int) -> Deployment:
    kv = draw(st.sampled_from((chunk, 2 * chunk, 4 * chunk, 100 * chunk)))
    prefill_units, decode_units = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    instances = [
        Instance(f"p{k}", "prefill", prefill_units, Unit(kv_tokens=kv, chunk_tokens=chunk))
        for k in range(draw(st.integers(1, 3)))
    ]
    decode = Unit(kv_tokens=draw(st.sampled_from((chunk, 2 * chunk, 6 * chunk))), slots=draw(st.integers(1, 6)))
    instances += [Instance(f"d{k}", "decode", decode_units, decode) for k in range(draw(st.integers(0, 2)))]
    context = draw(st.sampled_from((3 * chunk, 1_000_000)))
    return Deployment("small", tuple(instances), hardware="h800", model="deepseek-v3", context_tokens=context)


@st.composite
def linear_costs(draw: st.DrawFn) -> CostModel:
    prefill = TwoPricesPrefill(
        fixed_ns=draw(st.sampled_from((1, 500, 3_000))),
        token_ns=draw(st.integers(0, 20)),
        pair_ns=draw(st.integers(0, 2)),
        alltoall_price=draw(st.integers(0, 1)),
        alltoall_ns=draw(st.integers(0, 40)),
    )
    decode = LinearDecode(
        fixed_ns=draw(st.sampled_from((1, 300))), kv_ns=draw(st.integers(0, 3)), batch_ns=draw(st.integers(0, 50))
    )
    return linear_cost_model(prefill, decode)


def configs(policy: str, scale: int) -> st.SearchStrategy[SchedulerConfig]:
    """Settings at the time scale of a pass."""
    times = st.sampled_from((0, 1, scale // 20, scale, 4 * scale))
    return st.builds(
        SchedulerConfig,
        policy=st.just(policy),
        seed=st.integers(0, 5),
        notification_ns=times,
        lead_ns=times,
        hold_limit_ns=times,
        hold_limit_windows=st.integers(1, 3),
        mean_passes=st.integers(1, 4),
        bypass_utilisation=st.sampled_from((0.0, 0.02, 0.5)),
        watchdog=st.sampled_from((1.01, 1.5, 3.0)),
        decision_base_ns=times,
        decision_step_ns=st.sampled_from((0, 1, scale // 50)),
    )


@st.composite
def linear_cases(draw: st.DrawFn, policy: str) -> Case:
    chunk = draw(st.sampled_from((1, 8, 32, 100)))
    return Case(
        draw(traces(chunk)),
        draw(deployments(chunk)),
        draw(linear_costs()),
        draw(configs(policy, 1_000)),
        draw(configs("least_kv", 1_000)),
        draw(st.sampled_from((0, 1, 5, 150))),
    )


@st.composite
def crowded_cases(draw: st.DrawFn, policy: str) -> Case:
    """KV for little more than one chunk: windows leave requests out again and again, caches evict all the time."""
    n = draw(st.integers(10, 40))
    prompt = draw(st.lists(st.integers(20, 130), min_size=n, max_size=n))
    arrival = sorted(draw(st.lists(st.sampled_from((0, 400, 900, 2_500)), min_size=n, max_size=n)))
    unit = Unit(kv_tokens=130, chunk_tokens=100)
    count, units = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    instances = tuple(Instance(f"p{k}", "prefill", units, unit) for k in range(count))
    deployment = Deployment("crowded", instances, hardware="h800", model="deepseek-v3", context_tokens=130)
    blocks: list[list[int]] = [[] for _ in range(n)]
    block_tokens = draw(st.sampled_from((0, 10)))
    if block_tokens:
        chains = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 13)), min_size=n, max_size=n))
        for k, (family, shared) in enumerate(chains):
            depths = range(prompt[k] // block_tokens)
            blocks[k] = [100 * family + d if d < shared else 1_000 * (k + 1) + d for d in depths]
    requests = make_requests(arrival, prompt, [1] * n, blocks, block_tokens)
    config = draw(configs(policy, 1_000))
    return Case(requests, deployment, draw(linear_costs()), config, config, reserve_tokens=0)


@cache
def real_cost(prefill_units: int, decode_units: int, chunk: int, overlap: bool) -> CostModel:
    return load_cost_model(
        "h800",
        "deepseek-v3",
        prefill_units=prefill_units,
        decode_units=decode_units,
        chunk_tokens=chunk,
        overlap=overlap,
    )


@st.composite
def real_cases(draw: st.DrawFn, policy: str) -> Case:
    chunk = draw(st.sampled_from((256, 2048)))
    deployment = draw(deployments(chunk))
    decode = deployment.of_phase("decode")
    cost = real_cost(
        deployment.of_phase("prefill")[0].num_units, decode[0].num_units if decode else 1, chunk, draw(st.booleans())
    )
    requests = draw(traces(chunk))
    stretched = Requests(
        requests.arrival_ns * 50_000,
        requests.prompt_tokens,
        requests.output_tokens,
        requests.block_offset,
        requests.block_id,
        requests.block_tokens,
        requests.session,
    )
    return Case(
        stretched,
        deployment,
        cost,
        draw(configs(policy, 60_000_000)),
        draw(configs("least_kv", 60_000_000)),
        draw(st.sampled_from((0, 5, 150))),
    )
