"""Offered load against sums done one request at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.instances import (
    GeneratorConfig,
    generate,
    ideal_unit_ns_per_token,
    offered_decode_load,
    offered_load,
    read_trace,
    scale_to_load,
    superpose,
)
from sbs_opt.models.catalogue import DEFAULT_DEPLOYMENT, load_deployment
from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import load_cost_model
from sbs_opt.models.deployment import Deployment, Instance, Unit
from sbs_opt.models.errors import InputError
from sbs_opt.models.requests import requests_without_prefixes

CHUNK = 1_000


@dataclass
class FakePrefill:
    """A pass that costs something for every term, with a floor, and remembers what it was asked."""

    asked: list[tuple[list[int], list[int], list[int]]] = field(default_factory=list)

    def pass_ns(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> int:
        self.asked.append((pairs.tolist(), new_tokens.tolist(), context_tokens.tolist()))
        return 1_000_000 + int((3 * pairs + 2_000 * new_tokens + 500 * context_tokens).max())


@dataclass
class FakeDecode:
    asked: list[tuple[list[int], list[int]]] = field(default_factory=list)

    def step_ns(self, kv_tokens: IntArray, sequences: IntArray) -> int:
        self.asked.append((kv_tokens.tolist(), sequences.tolist()))
        return 5_000_000 + int((7 * kv_tokens + 10_000 * sequences).max())


@dataclass
class FakeCosts:
    prefill: FakePrefill = field(default_factory=FakePrefill)
    decode: FakeDecode = field(default_factory=FakeDecode)


def fleet(slots: int = 64, kv_tokens: int = 100_000) -> Deployment:
    prefill = [Instance(f"p{k}", "prefill", 4, Unit(10**6, chunk_tokens=CHUNK)) for k in range(3)]
    decode = [Instance(f"d{k}", "decode", 8, Unit(kv_tokens, slots=slots)) for k in range(2)]
    return Deployment("fake", (*prefill, *decode), "h", "m", 10**6)


def chunks(prompt: int) -> list[tuple[int, int]]:
    """(new, before) of each chunk of a prompt, the slow and obvious way."""
    out = []
    before = 0
    while before < prompt:
        new = min(CHUNK, prompt - before)
        out.append((new, before))
        before += new
    return out


@given(st.lists(st.integers(0, 5_000), min_size=2, max_size=6).filter(any))
def test_prefill_load_agrees_with_chunk_by_chunk_sums(prompts: list[int]) -> None:
    n = len(prompts)
    requests = requests_without_prefixes(np.arange(n) * 10**9 + 7, np.array(prompts), np.ones(n, np.int64))
    costs = FakeCosts()
    pairs = sum(c * p + c * (c + 1) // 2 for prompt in prompts for c, p in chunks(prompt))
    context = sum(c + p for prompt in prompts for c, p in chunks(prompt))
    tokens = sum(prompts)
    duration = FakePrefill().pass_ns(
        np.array([round(CHUNK * pairs / tokens)]), np.array([CHUNK]), np.array([round(CHUNK * context / tokens)])
    )
    rate = n / ((n - 1) * 1e9)
    ideal = duration * (tokens / n) / CHUNK
    assert offered_load(requests, costs, fleet()) == pytest.approx(rate * ideal / 12, rel=1e-12)
    assert ideal_unit_ns_per_token(requests, costs.prefill, CHUNK, 4) == pytest.approx(duration / CHUNK)
    asked = costs.prefill.asked[-1]
    assert [len(side) for side in asked] == [4, 4, 4], "the units of one instance"
    assert asked[1] == [CHUNK] * 4, "every unit full"


def test_decode_load_by_hand() -> None:
    requests = requests_without_prefixes(np.array([0, 10**9]), np.array([1000, 3000]), np.array([100, 300]))
    # mean KV = (100·1050 + 300·3150) / 400 = 2625; steps = 99 + 299
    costs = FakeCosts()
    load = offered_decode_load(requests, costs, fleet(slots=10))
    assert costs.decode.asked == [([26_250] * 8, [10] * 8)]
    assert load == pytest.approx(398 / 1e9 * (5_000_000 + 7 * 26_250 + 100_000) / 10 / 16)
    offered_decode_load(requests, costs, fleet(slots=10, kv_tokens=2 * 2625 + 1))
    assert costs.decode.asked[-1] == ([5_250] * 8, [2] * 8), "the KV cache holds two"
    with pytest.raises(InputError, match="kv_tokens = 2624 of a decode unit hold no sequence"):
        offered_decode_load(requests, costs, fleet(kv_tokens=2624))


def test_output_of_none_or_one_token_asks_nothing_of_decode() -> None:
    requests = requests_without_prefixes(np.array([0, 10**9]), np.array([10, 10]), np.array([0, 1]))
    assert offered_decode_load(requests, FakeCosts(), fleet()) == 0.0


def test_load_is_proportional_to_copies() -> None:
    trace = generate(GeneratorConfig(requests=200), seed=1)
    one = offered_load(trace, FakeCosts(), fleet())
    assert offered_load(superpose(trace, 3, seed=0), FakeCosts(), fleet()) == pytest.approx(3 * one, rel=1e-9)


@settings(max_examples=40)
@given(st.floats(0.02, 3.0), st.integers(0, 50), st.integers(0, 3))
def test_scaled_load_meets_the_target(ratio: float, seed: int, trace_seed: int) -> None:
    """Within 0.5 %, or within the share of the lightest request where that is more."""
    trace = generate(GeneratorConfig(requests=2_000), seed=trace_seed)
    target = ratio * offered_load(trace, FakeCosts(), fleet())
    scaled = scale_to_load(trace, target, FakeCosts(), fleet(), seed=seed)
    reached = offered_load(scaled, FakeCosts(), fleet())
    assert scaled.span_ns == trace.span_ns
    lightest = float(trace.prompt_tokens.min()) / float(scaled.prompt_tokens.sum())
    assert abs(reached / target - 1) <= max(0.005, 2 * lightest)


def test_typical_targets_are_met_within_half_a_percent() -> None:
    trace = generate(GeneratorConfig(requests=2_000), seed=0)
    for target in (0.3, 0.7, 0.85, 0.95):
        scaled = scale_to_load(trace, target, FakeCosts(), fleet(), seed=0)
        assert offered_load(scaled, FakeCosts(), fleet()) == pytest.approx(target, rel=0.005)


def test_errors_say_what_to_mend() -> None:
    costs = FakeCosts()
    one = requests_without_prefixes(np.array([5]), np.array([5]), np.array([5]))
    silent = requests_without_prefixes(np.array([0, 5]), np.array([0, 0]), np.array([5, 5]))
    with pytest.raises(InputError, match="a rate needs two arrivals apart"):
        offered_load(one, costs, fleet())
    with pytest.raises(InputError, match="hold no prompt tokens"):
        offered_load(silent, costs, fleet())
    with pytest.raises(InputError, match="hold no prompt tokens"):
        scale_to_load(silent, 0.5, costs, fleet(), seed=0)
    for target in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="load = "):
            scale_to_load(silent, target, costs, fleet(), seed=0)
    with pytest.raises(InputError, match=r"load = 1e\+09: makes about .* requests, more than the 20,000,000"):
        scale_to_load(generate(GeneratorConfig(requests=50), seed=1), 1e9, FakeCosts(), fleet(), seed=0)
    prefill_only = Deployment("p", fleet().of_phase("prefill"), "h", "m", 1)
    with pytest.raises(InputError, match="has no decode instance"):
        offered_decode_load(one, costs, prefill_only)


def test_zero_prompts_at_both_ends_do_not_stop_the_search() -> None:
    trace = requests_without_prefixes(np.arange(5) * 10**9, np.array([0, 9, 9, 9, 0]), np.ones(5, np.int64))
    third = offered_load(trace, FakeCosts(), fleet()) / 3
    assert scale_to_load(trace, third, FakeCosts(), fleet(), seed=0).prompt_tokens.tolist() == [0, 9, 0]


def test_the_default_fleet_and_its_cost_model() -> None:
    """The cost model of the package fits the protocol, and the sample reaches the usual loads on the default fleet."""
    deployment = load_deployment(DEFAULT_DEPLOYMENT)
    prefill, decode = deployment.of_phase("prefill")[0], deployment.of_phase("decode")[0]
    costs = load_cost_model(
        deployment.hardware,
        deployment.model,
        prefill_units=prefill.num_units,
        decode_units=decode.num_units,
        chunk_tokens=prefill.unit.chunk_tokens,
        overlap=deployment.overlap,
    )
    trace = read_trace("sample").requests
    for target in (0.3, 0.85):
        scaled = scale_to_load(trace, target, costs, deployment, seed=0)
        assert offered_load(scaled, costs, deployment) == pytest.approx(target, rel=0.005)
        assert 0 < offered_decode_load(scaled, costs, deployment) < 1
