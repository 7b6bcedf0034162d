"""Laws against limits that can be worked out by hand, and the folded stacks against the laws."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.models.cost.gemms import ExpertStack, GemmStack, experts_hit
from sbs_opt.models.cost.laws import (
    DecodeAttention,
    Gemm,
    GroupedGemm,
    Link,
    PrefillAttention,
)
from sbs_opt.models.cost.model import Attention, LatentAttention
from tests.models.cost.cases import H800, QWEN, V3

PURE = PrefillAttention(tflops=1.0, row_tiles=1.0, context_ns_per_kb=0.0, launch_ns=0.0)
"""Arithmetic alone, a row of tiles counted one tile longer than it is."""
ONE_PAIR = LatentAttention(heads=1, query_rank=1, kv_rank=1, nope_dim=200, rope_dim=200, value_dim=100)
"""1,000 FLOP a pair, so that `PURE` counts pairs."""
New, Cached = st.integers(0, 3000), st.integers(0, 6000)


def affine(core: PrefillAttention, shape: Attention, new: int, cached: int) -> float:
    """Return what a pass takes for a chunk: the law of `PrefillCost`, affine in pairs, new and context tokens."""
    pairs = new * cached + new * (new + 1) // 2
    return (
        core.pair_ns(shape) * pairs
        + core.new_ns(shape) * new
        + core.context_ns(shape) * (new + cached)
        + core.launch_ns
    )  # fmt: skip


def tiles(new: int, cached: int) -> int:
    """Count tiles of 128 queries × 128 keys that hold a pair: prefix and chunk each start a tile of their own."""
    total = 0
    for first in range(0, new, 128):
        total += len(range(0, cached, 128))
        total += sum(key <= first for key in range(0, new, 128))
        total += 1  # starting and ending the row
    return total


@given(New, Cached)
def test_attention_counts_tiles_and_one_more_a_row(new: int, cached: int) -> None:
    assert float(PURE.ns(ONE_PAIR, new, cached)) == pytest.approx(128 * 128 * tiles(new, cached))


@given(New, Cached, st.floats(0.0, 4.0))
def test_starting_a_row_costs_as_many_tiles_as_it_says(new: int, cached: int, row_tiles: float) -> None:
    other = replace(PURE, row_tiles=row_tiles)
    more = float(other.ns(ONE_PAIR, new, cached)) - float(PURE.ns(ONE_PAIR, new, cached))
    assert more == pytest.approx(128 * 128 * math.ceil(new / 128) * (row_tiles - 1.0), abs=1e-3)


@given(st.integers(0, 64), st.integers(0, 64))
def test_a_pass_has_the_tile_law_where_tiles_are_full(rows: int, left: int) -> None:
    new, cached = 128 * rows, 128 * left
    for core, shape in (
        (PURE, ONE_PAIR),
        (H800.prefill_attention, V3.attention),
        (H800.prefill_attention, QWEN.attention),
    ):
        assert affine(core, shape, new, cached) == pytest.approx(float(core.ns(shape, new, cached)), rel=1e-12)


@given(New, Cached)
def test_elsewhere_a_pass_has_less_by_a_row_and_a_column_at_most(new: int, cached: int) -> None:
    rows, left = math.ceil(new / 128), math.ceil(cached / 128)
    missing = float(PURE.ns(ONE_PAIR, new, cached)) - affine(PURE, ONE_PAIR, new, cached)
    last_row, last_column = rows + left + 1, rows
    assert -1e-6 <= missing <= 128 * 128 * (last_row + last_column) + 1e-6


@given(New, Cached, st.integers(1, 64), st.integers(0, 300), st.integers(0, 300), st.integers(0, 3))
def test_prefill_attention_is_monotone(new: int, cached: int, batch: int, c: int, p: int, n: int) -> None:
    core, shape = H800.prefill_attention, V3.attention
    before = float(core.ns(shape, new, cached, batch))
    assert float(core.ns(shape, new + c, cached + p, batch + n)) >= before
    assert affine(core, shape, new + c, cached + p) >= affine(core, shape, new, cached)


@given(New, Cached, st.integers(1, 64))
def test_prefill_attention_is_additive_over_a_batch(new: int, cached: int, batch: int) -> None:
    core, shape = H800.prefill_attention, V3.attention
    one, many = (float(core.ns(shape, new, cached, n)) - core.launch_ns for n in (1, batch))
    assert many == pytest.approx(batch * one, rel=1e-12, abs=1e-6)


def test_prefill_attention_reads_its_context() -> None:
    core = PrefillAttention(tflops=1e30, row_tiles=1.0, context_ns_per_kb=3.0, launch_ns=5.0)
    kilobytes = 81.92  # of key and value: 128 heads of 192 + 128 BF16 values
    assert float(core.ns(V3.attention, 10, 100)) == pytest.approx(kilobytes * 3 * 110 + 5)


def test_gemm_streams_weights_when_small_and_computes_when_large() -> None:
    gemm = Gemm(
        launch_ns=0.0, depth_ns_per_k=0.0, tflops=1000.0, weight_gbps=1000.0, input_ns_per_kb=0.0, output_ns_per_kb=0.0
    )
    assert float(gemm.ns(1e-9, 1000.0, 1000.0)) == pytest.approx(1000.0)
    assert float(gemm.ns(1e6, 1000.0, 1000.0)) == pytest.approx(2e6, rel=1e-3)


def test_gemm_moves_activations_where_arithmetic_is_fast() -> None:
    """A row of k = 1000 is 1 kB in (FP8), one of n = 500 is 1 kB out (BF16)."""
    gemm = Gemm(
        launch_ns=7.0, depth_ns_per_k=0.1, tflops=1e30, weight_gbps=1e30, input_ns_per_kb=2.0, output_ns_per_kb=3.0
    )
    assert float(gemm.ns(100.0, 1000.0, 500.0)) == pytest.approx(100 * (2 + 3) + 7 + 100)


def test_grouped_gemm_streams_weights_of_experts_that_are_hit_and_pads_their_rows() -> None:
    grouped = GroupedGemm(launch_ns=0.0, tflops=1e30, weight_gbps=1000.0, activation_gbps=1.0, padding_rows=10.0)
    assert float(grouped.ns(0.0, 0.0, 1000.0, 1000.0)) == 0.0
    small = GroupedGemm(launch_ns=3.0, tflops=1e30, weight_gbps=1000.0, activation_gbps=1e30, padding_rows=10.0)
    assert float(small.ns(5.0, 4.0, 1000.0, 1000.0)) == pytest.approx(4 * 1000 + 3)
    assert float(grouped.ns(1e6, 4.0, 1000.0, 1000.0)) == pytest.approx((1e6 + 40) * 3000, rel=1e-6)


def test_grouped_gemm_rounds_its_corner_cubically() -> None:
    grouped = GroupedGemm(launch_ns=0.0, tflops=1e30, weight_gbps=1.0, activation_gbps=1.0, padding_rows=0.0)
    assert float(grouped.ns(1.0, 3.0, 1.0, 1.0)) == pytest.approx((3.0**3 + 3.0**3) ** (1 / 3))


@pytest.mark.parametrize(("rows", "experts"), [(1, 8), (8, 8), (64, 64), (500, 64)])
def test_experts_hit_agrees_with_drawn_rows(rows: int, experts: int) -> None:
    """Poisson instead of a fixed number of rows: off by a twentieth of an expert in the worst case."""
    drawn = np.random.default_rng(3).integers(experts, size=(4000, rows))
    hit = np.mean([len(np.unique(row)) for row in drawn])
    assert float(experts_hit(rows, experts)) == pytest.approx(hit, rel=0.07)
    assert 0.0 <= float(experts_hit(rows, experts)) <= min(rows, experts)


def test_decode_attention_is_bound_by_hbm_where_arithmetic_is_fast() -> None:
    core = DecodeAttention(tflops=1e6, sequence_ns=0.0, launch_ns=0.0)
    assert core.kv_ns(278528.0, 1152.0, 1152.0) == pytest.approx(1.0)


def test_link_waits_for_the_slower_network() -> None:
    link = Link(0.0, rdma_gbps=50.0, nvlink_gbps=150.0)
    assert float(link.token_ns(100.0, 100.0)) == pytest.approx(2.0)
    assert float(link.token_ns(10.0, 300.0)) == pytest.approx(2.0)


@given(st.lists(st.integers(0, 40000), min_size=1, max_size=8), st.sampled_from([1, 2]))
def test_gemm_stack_is_the_sum_of_its_gemms_per_micro_batch(tokens: list[int], parts: int) -> None:
    shapes = [(shape, 3) for shape in V3.attention.projections(V3.hidden)]
    stack = GemmStack.of(H800.gemm, shapes, parts, 1.2).ns(np.array(tokens, dtype=np.float64))
    for u, m in enumerate(tokens):
        expected = sum(3 * parts * 1.2 * float(H800.gemm.ns(m / parts, float(k), float(n))) for (k, n), _ in shapes)
        assert stack[u] == pytest.approx(expected)


@given(st.floats(0, 1e6), st.integers(1, 256), st.sampled_from([1, 2]))
def test_expert_stack_is_the_grouped_law(rows: float, experts: int, parts: int) -> None:
    shapes = V3.feed_forward(V3.expert_width)
    stack = ExpertStack.of(H800.grouped_gemm, shapes, experts=experts, layers=58, parts=parts, stretch=1.1)
    part = rows / parts
    hit = float(experts_hit(part, experts))
    expected = sum(58 * parts * 1.1 * float(H800.grouped_gemm.ns(part, hit, float(k), float(n))) for k, n in shapes)
    assert stack.ns(rows) == pytest.approx(expected)
