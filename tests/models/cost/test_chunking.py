"""A prompt in chunks against the same prompt whole: never cheaper, and dearer by what is stated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.cost.cases import H800, QWEN, V3, Chunk, prefill, work

COST = prefill()
EMPTY_NS = COST.pass_ns(*work([[], [], [], []]))
Everywhere = st.booleans()
New, Cached, Size = st.integers(1, 60_000), st.integers(0, 100_000), st.integers(1_000, 16_384)


def passes(chunks: list[Chunk], everywhere: bool) -> list[int]:
    """Return the exact passes that run one chunk each, on every unit or on the first alone."""
    rest: list[Chunk] = []
    return [COST.pass_ns(*work([[chunk], *([[chunk]] * 3 if everywhere else [rest] * 3)])) for chunk in chunks]


def cut(new: int, cached: int, size: int) -> list[Chunk]:
    """Return a prompt's chunks."""
    return [(min(size, new - at), cached + at) for at in range(0, new, size)]


@given(New, Cached, Size, Everywhere)
def test_chunks_cost_at_least_the_whole(new: int, cached: int, size: int, everywhere: bool) -> None:
    """Also without the fixed cost of the further passes: their layers' floors and their kernels' launches."""
    chunks = cut(new, cached, size)
    [whole] = passes([(new, cached)], everywhere)
    gemm, grouped, link = H800.gemm, H800.grouped_gemm, H800.alltoall_normal
    fixed = 61 * (H800.prefill_pass.layer_ns + H800.prefill_attention.launch_ns)
    for k, layers in ((7168, 61), (1536, 61), (16384, 61), (512, 61), (7168, 61), (2048, 58), (18432, 3)):
        fixed += layers * float(gemm.fixed_ns(k))
    fixed += 58 * (2 * grouped.launch_ns + link.dispatch.launch_ns + link.combine.launch_ns)
    assert sum(passes(chunks, everywhere)) - (len(chunks) - 1) * fixed >= whole - 1 - len(chunks)


@given(New, Cached, Size, Everywhere)
def test_chunks_cost_at_most_the_stated_overhead(new: int, cached: int, size: int, everywhere: bool) -> None:
    """Each further pass: an empty pass and all experts' weights; each prefix token again: kv_b and its assembly."""
    chunks = cut(new, cached, size)
    [whole] = passes([(new, cached)], everywhere)
    grouped, core = H800.grouped_gemm, H800.prefill_attention
    experts = sum(float(grouped.ns(0.0, 64.0, k, n)) - grouped.launch_ns for k, n in ((7168, 4096), (2048, 7168)))
    again = sum(c + p for c, p in chunks) - (new + cached)
    per_token = float(H800.gemm.token_ns(512, 32768)) + core.context_ns_per_kb * 81.92
    per_token += 81920 / H800.prefill_pass.stream_gbps
    overhead = (len(chunks) - 1) * (EMPTY_NS + 58 * experts) + 61 * again * per_token
    assert sum(passes(chunks, everywhere)) <= whole + overhead + 1 + len(chunks)


def test_every_pass_streams_the_weights_again() -> None:
    """What is above an empty pass is convex in tokens: two halves above empty passes are less than the whole is."""
    first, second, whole = passes([(2000, 0), (2000, 2000), (4000, 0)], everywhere=True)
    assert first + second - EMPTY_NS > whole - H800.prefill_pass.layer_ns
    assert first + second > whole + 61 * H800.prefill_pass.layer_ns


@pytest.mark.parametrize("overlap", [False, True])
def test_overhead_of_a_long_prompt_in_full_chunks_is_a_fifth_at_most(overlap: bool) -> None:
    """A prompt of 128 K in 8 chunks: the prefix is projected 4.5 times, and that is small beside its attention."""
    cost = prefill(overlap=overlap)
    whole, cut_up = (prefill(overlap=overlap, chunk=size).request_ns([131072], [0])[0][0] for size in (131072, 16384))
    assert 1.0 < cut_up / whole < 1.2
    in_one = cost.pass_ns(*work([[(131072, 0)]] * 4))
    in_eight = sum(cost.pass_ns(*work([[chunk]] * 4)) for chunk in cut(131072, 0, 16384))
    assert 1.0 < in_eight / in_one < 1.2


def test_a_model_without_latent_pays_for_passes_only() -> None:
    cost = prefill(model=QWEN)
    empty = cost.pass_ns(*work([[], [], [], []]))
    whole = cost.pass_ns(*work([[(32768, 0)]] * 4))
    halves = sum(cost.pass_ns(*work([[chunk]] * 4)) for chunk in ((16384, 0), (16384, 16384)))
    assert whole < halves < whole + 2 * empty
    assert V3.attention.context_projections
    assert not QWEN.attention.context_projections
