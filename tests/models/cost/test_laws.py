"""Laws against limits that can be worked out by hand, and the folded stacks against the laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.models.cost import load_hardware, load_model
from sbs_opt.models.cost.gemms import ExpertStack, GemmStack
from sbs_opt.models.cost.laws import DecodeAttention, Gemm, Link
from sbs_opt.models.cost.routing import token_spread, uniform_distinct

H800, V3 = load_hardware("h800"), load_model("deepseek-v3")


def test_gemm_streams_weights_when_small_and_computes_when_large() -> None:
    gemm = Gemm(launch_ns=0.0, depth_ns_per_k=0.0, tflops=1000.0, weight_gbps=1000.0, activation_gbps=1e9)
    assert float(gemm.ns(1e-9, 1000.0, 1000.0)) == pytest.approx(1000.0)
    assert float(gemm.ns(1e6, 1000.0, 1000.0)) == pytest.approx(2e6, rel=1e-3)


def test_decode_attention_is_bound_by_hbm_where_arithmetic_is_fast() -> None:
    core = DecodeAttention(tflops=1e6, sequence_ns=0.0, launch_ns=0.0)
    assert core.kv_ns(278528.0, 1152.0, 1152.0) == pytest.approx(1.0)


def test_link_waits_for_the_slower_network() -> None:
    link = Link(0.0, rdma_gbps=50.0, nvlink_gbps=150.0)
    assert float(link.token_ns(100.0, 100.0)) == pytest.approx(2.0)
    assert float(link.token_ns(10.0, 300.0)) == pytest.approx(2.0)


@given(st.lists(st.integers(0, 40000), min_size=1, max_size=8), st.sampled_from([1, 2]))
def test_gemm_stack_is_the_sum_of_its_gemms_per_micro_batch(tokens: list[int], parts: int) -> None:
    shapes = [(shape, 3.0) for shape in V3.projections]
    stack = GemmStack.of(H800.gemm, shapes, parts, 1.2).ns(np.array(tokens, dtype=np.float64))
    for u, m in enumerate(tokens):
        expected = sum(3 * parts * 1.2 * float(H800.gemm.ns(m / parts, float(k), float(n))) for (k, n), _ in shapes)
        assert stack[u] == pytest.approx(expected)


@given(st.floats(0, 1e6), st.integers(1, 256), st.sampled_from([1, 2]))
def test_expert_stack_is_the_grouped_law(rows: float, experts: int, parts: int) -> None:
    shapes = V3.feed_forward(V3.expert_width)
    stack = ExpertStack.of(H800.grouped_gemm, shapes, experts=experts, layers=58, parts=parts, stretch=1.1)
    expected = sum(
        58 * parts * 1.1 * float(H800.grouped_gemm.ns(rows / parts, float(experts), float(k), float(n)))
        for k, n in shapes
    )
    assert stack.ns(rows) == pytest.approx(expected)


def test_uniform_routing_figures() -> None:
    assert uniform_distinct(2.0, 8) == pytest.approx(1.99, abs=0.005)
    assert uniform_distinct(4.0, 8) == pytest.approx(3.60, abs=0.005)


def test_deepseek_routing_reaches_2_93_of_4_nodes() -> None:
    assert token_spread(V3, 32, 8).nodes == pytest.approx(2.93, abs=0.005)


@pytest.mark.parametrize("ranks", [4, 8, 16, 32, 64, 72])
def test_spread_agrees_with_drawn_routings(ranks: int) -> None:
    generator = np.random.default_rng(7)
    per_group = V3.routed_experts // V3.expert_groups
    nodes, hit_ranks, draws = 0, 0, 4000
    for _ in range(draws):
        groups = generator.choice(V3.expert_groups, V3.top_groups, replace=False)
        eligible = (groups[:, None] * per_group + np.arange(per_group)).ravel()
        chosen = generator.choice(eligible, V3.top_experts, replace=False)
        nodes += len({int(e) * ranks // (8 * V3.routed_experts) for e in chosen})
        hit_ranks += len({int(e) * ranks // V3.routed_experts for e in chosen})
    spread = token_spread(V3, ranks, 8)
    assert nodes / draws == pytest.approx(spread.nodes, rel=0.02)
    assert hit_ranks / draws == pytest.approx(spread.ranks, rel=0.02)


@given(st.integers(1, 320))
def test_spread_is_within_its_limits(ranks: int) -> None:
    spread = token_spread(V3, ranks, 8)
    assert 0 <= spread.remote_nodes <= spread.nodes <= spread.ranks + 1e-9 <= V3.top_experts + 1e-6
    assert spread.nodes <= max(1, math.ceil(ranks / 8)) + 1e-9
