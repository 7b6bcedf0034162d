"""The additive surrogate per request: against the definition, by hand, broadcast, and where chunks cut a prompt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.models.cost import PrefillCost, request_work
from tests.models.cost.cases import H800, QWEN, V3, Chunk, prefill, work

COSTS = {overlap: prefill(overlap=overlap) for overlap in (False, True)}
New, Cached = st.integers(0, 50_000), st.integers(0, 100_000)


def chunks_of(new: int, cached: int, chunk: int) -> list[Chunk]:
    """Return the (new, cached) chunks in which a request runs."""
    return [(min(chunk, new - at), cached + at) for at in range(0, new, chunk)]


def one(cost: PrefillCost, new: int, cached: int) -> tuple[int, int]:
    """Return compute and all-to-all of a request."""
    compute, alltoall = cost.request_ns([new], [cached])
    return int(compute[0]), int(alltoall[0])


@given(New, Cached, st.integers(1, 20_000))
def test_request_work_is_the_sum_over_chunks(new: int, cached: int, chunk: int) -> None:
    pairs, _, context = work([chunks_of(new, cached, chunk)])
    got = request_work(np.array([new]), np.array([cached]), chunk)
    assert (got[0] == pairs).all()
    assert (got[1] == context).all()


@given(New, Cached, st.integers(0, 5000), st.integers(0, 5000), st.booleans())
def test_surrogate_is_monotone(new: int, cached: int, more_new: int, more_cached: int, overlap: bool) -> None:
    compute, alltoall = COSTS[overlap].request_ns([new, new + more_new], [cached, cached + more_cached])
    assert 0 <= compute[0] <= compute[1]
    assert 0 <= alltoall[0] <= alltoall[1]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("new", "cached"), [(1, 0), (1000, 0), (1000, 5000), (16384, 0), (16384, 10**5)])
def test_surrogate_by_hand(new: int, cached: int, overlap: bool) -> None:
    """One chunk: arithmetic and traffic of every layer, no weights, no launch; 4 units of one node."""
    core, gemm, law = H800.prefill_attention, H800.gemm, H800.prefill_pass
    stretch = 1 + law.sm_bound_share * (132 / 108 - 1) if overlap else 1.0
    context = new + cached
    pairs = new * cached + new * (new + 1) / 2
    expected = 0.0
    for layer in range(61):
        width = 18432 if layer < 3 else 2048
        kernels = (pairs + (63.5 + 128 * core.row_tiles) * new) * 81920 / (1e3 * core.tflops)
        kernels += 81.92 * core.context_ns_per_kb * context
        for k, n in ((7168, 2112), (1536, 24576), (16384, 7168), (7168, 2 * width), (width, 7168)):
            kernels += new * float(gemm.token_ns(k, n))
        kernels += context * float(gemm.token_ns(512, 32768))
        expected += stretch * kernels + (V3.elementwise_bytes[0] * new + 81920 * context) / law.stream_gbps
    compute, alltoall = one(COSTS[overlap], new, cached)
    assert compute == pytest.approx(expected, rel=1e-9, abs=1)
    link = H800.alltoall_normal
    per_token = 2.9282097874345774 * (7392 / link.dispatch.nvlink_gbps + 14336 / link.combine.nvlink_gbps)
    assert alltoall == pytest.approx(58 * new * per_token, abs=1)


@pytest.mark.parametrize("overlap", [False, True])
def test_nothing_new_costs_nothing(overlap: bool) -> None:
    assert one(COSTS[overlap], 0, 0) == one(COSTS[overlap], 0, 100_000) == (0, 0)


@given(st.integers(1, 8000), st.integers(0, 50_000), st.booleans())
def test_surrogate_is_the_marginal_cost_of_a_loaded_unit(new: int, cached: int, overlap: bool) -> None:
    """Beside 16,384 tokens a unit's GEMMs are bound by arithmetic: what one more request adds is its surrogate."""
    cost = COSTS[overlap]
    queue = [(4096, 0)] * 4
    before, after = (cost.unit_ns(*work([units, [], [], []]))[0] for units in (queue, [*queue, (new, cached)]))
    assert one(cost, new, cached)[0] == pytest.approx(float(after - before), rel=0.01, abs=2)


@given(st.lists(st.tuples(New, Cached), max_size=6), st.integers(1, 6), st.booleans())
def test_broadcasting_is_the_loop_over_requests_and_units(
    requests: list[tuple[int, int]], units: int, overlap: bool
) -> None:
    cost = COSTS[overlap]
    new = np.array([n for n, _ in requests], np.int64)[:, None]
    cached = np.array([[p * u // units for u in range(units)] for _, p in requests], np.int64).reshape(-1, units)
    compute, alltoall = cost.request_ns(new, cached)
    assert compute.shape == alltoall.shape == (len(requests), units)
    assert compute.dtype == alltoall.dtype == np.int64
    for i in range(len(requests)):
        for u in range(units):
            assert one(cost, int(new[i, 0]), int(cached[i, u])) == (compute[i, u], alltoall[i, u])


def test_a_large_table_is_the_same_in_blocks() -> None:
    generator = np.random.default_rng(2)
    new, cached = generator.integers(0, 30_000, (700, 1)), generator.integers(0, 30_000, (700, 320))
    compute, alltoall = COSTS[True].request_ns(new, cached)
    for i in (0, 50, 51, 52, 699):
        row, sent = COSTS[True].request_ns(new[i], cached[i])
        assert (compute[i] == row).all()
        assert (alltoall[i] == sent).all()


@given(New, Cached, st.integers(1, 20_000), st.integers(1, 20_000), st.booleans())
def test_smaller_chunks_are_never_cheaper(new: int, cached: int, a: int, b: int, overlap: bool) -> None:
    """Where they divide the larger ones: 4 tokens as 2 + 2 project less prefix again than as 3 + 1."""
    small, large = sorted((a, b))
    large = small * max(1, large // small)
    costs = [one(prefill(overlap=overlap, chunk=chunk), new, cached) for chunk in (small, large)]
    assert costs[0][0] >= costs[1][0]
    assert costs[0][1] == costs[1][1], "every token is sent once"


@given(New, Cached, st.integers(1, 20_000))
def test_chunks_cost_nothing_where_attention_reads_the_cache_as_it_is(new: int, cached: int, chunk: int) -> None:
    """Grouped-query attention projects no prefix; without time for reading it no cut matters."""
    hardware = replace(H800, prefill_attention=replace(H800.prefill_attention, context_ns_per_kb=0.0))
    whole, cut = (
        one(PrefillCost(hardware, QWEN, units=4, chunk_tokens=size, overlap=False, expert_imbalance=1.0), new, cached)
        for size in (10**6, chunk)
    )
    assert cut == whole


@given(st.integers(1, 50_000), st.integers(0, 50_000), st.booleans())
def test_a_cached_prefix_is_never_dearer_than_computing_it(new: int, cached: int, overlap: bool) -> None:
    hit, all_new = one(COSTS[overlap], new, cached), one(COSTS[overlap], new + cached, 0)
    assert hit[0] <= all_new[0] + 1
    assert hit[1] <= all_new[1]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=5), st.booleans())
def test_no_overflow_at_a_million_tokens_over_a_million(requests: list[tuple[int, int]], overlap: bool) -> None:
    cost = prefill(overlap=overlap, chunk=1024)
    new, cached = np.array([*requests, (10**6, 10**6)]).T
    for part in cost.request_ns(new, cached):
        assert part.dtype == np.int64
        assert ((part >= 0) & (part < 2**62)).all()
        assert part[-1] > 0


def test_surrogate_price_follows_overlap() -> None:
    assert COSTS[False].alltoall_price == 1
    assert COSTS[True].alltoall_price == 0
