"""Single kernels, as they are measured: each is its law, with the calls from the host where they were timed so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.models.cost import load_hardware
from sbs_opt.models.cost.kernels import alltoall_time, attention_time, gemm_time
from sbs_opt.models.cost.model import ModelProfile
from sbs_opt.models.cost.profile import Host
from sbs_opt.models.cost.routing import token_spread
from sbs_opt.models.errors import InputError
from tests.models.cost.cases import H800, KIMI, QWEN, V3

HOSTED = replace(H800, host=Host(call_ns=30_000.0))


@given(st.integers(1, 16384), st.integers(0, 65536), st.integers(1, 16), st.sampled_from([V3, KIMI, QWEN]))
def test_attention_is_its_law(new: int, cached: int, batch: int, model: ModelProfile) -> None:
    shape = model.attention
    found = attention_time(H800, shape, new_tokens=new, cached_tokens=cached, batch=batch)
    assert found.ns == pytest.approx(float(H800.prefill_attention.ns(shape, new, cached, batch)))
    assert found.call_ns == 0.0
    assert found.flops == batch * (new * cached + new * (new + 1) // 2) * shape.pair_flops
    assert found.tflops == pytest.approx(found.flops / found.ns / 1e3)
    assert found.tflops < H800.prefill_attention.tflops


@pytest.mark.parametrize(
    ("new", "cached", "batch", "calls"),
    [(4096, 128, 1, 2), (64, 1, 8, 2), (512, 0, 1, 1), (4096, 0, 1, 1), (511, 0, 1, 0), (4096, 0, 2, 0)],
)
def test_calls_are_those_that_the_probe_timed(new: int, cached: int, batch: int, calls: int) -> None:
    found = attention_time(HOSTED, V3.attention, new_tokens=new, cached_tokens=cached, batch=batch)
    assert found.call_ns == calls * 30_000.0
    assert found.ns == found.kernel_ns + calls * 30_000.0


@given(st.integers(1, 32768), st.sampled_from([512, 7168]), st.sampled_from([2112, 4096]))
def test_a_gemm_is_its_law(m: int, k: int, n: int) -> None:
    found = gemm_time(HOSTED, m=m, k=k, n=n)
    assert found.kernel_ns == pytest.approx(float(H800.gemm.ns(m, k, n)))
    assert found.ns == found.kernel_ns + 30_000.0
    assert found.flops == 2 * m * k * n
    assert found.tflops < 1979


@given(st.integers(1, 8192), st.integers(2, 64))
def test_a_grouped_gemm_gives_every_expert_its_rows(m: int, groups: int) -> None:
    found = gemm_time(HOSTED, m=m, k=7168, n=4096, groups=groups)
    assert found.ns == pytest.approx(float(H800.grouped_gemm.ns(m * groups, groups, 7168, 4096)))
    assert found.flops == 2 * m * groups * 7168 * 4096


def test_published_bandwidths_come_out_again() -> None:
    """DeepEP's table at EP32: 4,096 tokens a rank, 58 and 57 GB/s over the copies it counts; at EP8 153 and 158."""
    for ranks, within in ((32, 0.05), (8, 0.10)):
        found = alltoall_time(H800, ranks=ranks, tokens=4096, mode="normal")
        published = {32: (58.0, 57.0), 8: (153.0, 158.0)}[ranks]
        assert found.dispatch_bytes / found.dispatch_ns == pytest.approx(published[0], rel=within)
        assert found.combine_bytes / found.combine_ns == pytest.approx(published[1], rel=within)


def test_bytes_are_counted_as_published() -> None:
    normal = alltoall_time(H800, ranks=32, tokens=100, mode="normal")
    assert normal.dispatch_bytes == pytest.approx(100 * 3.5995 * 7392, rel=1e-3)
    assert normal.combine_bytes == pytest.approx(100 * 3.5995 * 14336, rel=1e-3)
    low = alltoall_time(H800, ranks=32, tokens=100, mode="low-latency")
    assert low.dispatch_bytes == 100 * 8 * 7408
    assert low.combine_bytes == 100 * 8 * 14336


@given(st.integers(0, 10**5), st.integers(1, 10**4), st.sampled_from([8, 16, 32, 64, 144]), st.booleans())
def test_alltoall_is_affine_in_tokens(tokens: int, more: int, ranks: int, normal: bool) -> None:
    one, none, many = (
        alltoall_time(H800, ranks=ranks, tokens=count, mode="normal" if normal else "low-latency")
        for count in (tokens, 0, tokens + more)
    )
    per_token = (many.dispatch_ns - none.dispatch_ns) / (tokens + more)
    assert one.dispatch_ns == pytest.approx(none.dispatch_ns + tokens * per_token)
    assert many.combine_ns > one.combine_ns


def test_a_model_of_four_groups_sends_less_than_the_published_test() -> None:
    """2.93 of 4 nodes instead of 3.60; its bytes are counted as the published ones."""
    own = alltoall_time(H800, ranks=32, tokens=4096, mode="normal", model=V3)
    test = alltoall_time(H800, ranks=32, tokens=4096, mode="normal")
    spread = token_spread(V3, 32, 8)
    link = H800.alltoall_normal.dispatch
    expected = 4096 * 7392 * max(spread.remote_nodes / link.rdma_gbps, spread.ranks / link.nvlink_gbps)
    assert own.dispatch_ns == pytest.approx(expected + link.launch_ns)
    assert own.dispatch_ns < 0.9 * test.dispatch_ns
    assert own.dispatch_bytes == test.dispatch_bytes


def test_the_faster_network_of_a_node_is_not_what_many_nodes_wait_for() -> None:
    """H100 has 900 GB/s of NVLink where H800 has 400: eight ranks gain, 64 hardly."""
    h100 = replace(load_hardware("h100"), evidence=())
    gain = {
        ranks: alltoall_time(H800, ranks=ranks, tokens=4096, mode="normal", model=V3).dispatch_ns
        / alltoall_time(h100, ranks=ranks, tokens=4096, mode="normal", model=V3).dispatch_ns
        for ranks in (8, 64)
    }
    assert gain[8] == pytest.approx(2.25)
    assert gain[64] < 1.3


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: attention_time(H800, V3.attention, new_tokens=0), "new_tokens = 0"),
        (lambda: attention_time(H800, V3.attention, new_tokens=5, cached_tokens=-1), "cached_tokens = -1"),
        (lambda: gemm_time(H800, m=1, k=0, n=1), "k = 0"),
        (lambda: alltoall_time(H800, ranks=0, tokens=1, mode="normal"), "ranks = 0"),
        (lambda: alltoall_time(H800, ranks=8, tokens=-1, mode="normal"), "tokens = -1"),
    ],
)
def test_counts_that_make_no_sense_are_named(call: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()
