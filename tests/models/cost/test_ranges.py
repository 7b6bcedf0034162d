"""A prediction beyond what was measured warns, once per quantity; a profile without evidence never does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sbs_opt.models.cost import load_cost_model, load_hardware, load_model
from sbs_opt.models.cost.kernels import alltoall_time, attention_time, gemm_time
from sbs_opt.models.cost.profile import Evidence
from sbs_opt.models.cost.ranges import RangeGuard
from sbs_opt.models.errors import ExtrapolationWarning
from tests.models.cost.cases import H800 as SILENT

MEASURED = replace(
    SILENT, evidence=(("gemm", Evidence(9, 0.1, 0.1, 0.1, (("m", 16.0, 1024.0), ("k", 512.0, 7168.0)))),)
)
H800, V3 = load_hardware("h800"), load_model("deepseek-v3")
MOST_CONTEXT = 73_728
"""The longest context in the committed evidence."""


def warnings_of(call: Callable[[], object]) -> list[str]:
    """Return what a call warns of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call()
    assert all(issubclass(warning.category, ExtrapolationWarning) for warning in said)
    return [str(warning.message) for warning in said]


@pytest.mark.parametrize("value", [16, 17, 1024])
def test_within_the_range_nothing_is_said(value: float) -> None:
    assert warnings_of(lambda: RangeGuard(MEASURED).check("gemm", "m", value)) == []


@pytest.mark.parametrize("value", [0, 15.9, 1025, 1e9])
def test_each_quantity_is_said_once(value: float) -> None:
    guard = RangeGuard(MEASURED)
    with pytest.warns(ExtrapolationWarning, match="gemm: m = .* is extrapolated, measured were 16 to 1,024"):
        guard.check("gemm", "m", value)
    guard.check("gemm", "m", value)
    guard.check("gemm", "m", 10 * value)
    with pytest.warns(ExtrapolationWarning, match="gemm: k = 1 is extrapolated, measured were 512 to 7,168"):
        guard.check("gemm", "k", 1)


def test_each_guard_speaks_for_itself() -> None:
    for _ in range(2):
        guard = RangeGuard(MEASURED)
        assert len(warnings_of(lambda guard=guard: guard.check("gemm", "m", 0))) == 1  # type: ignore[misc]


def test_what_has_no_evidence_is_not_judged() -> None:
    guard = RangeGuard(MEASURED)
    guard.check("gemm", "n", 1e12)
    guard.check("decode_attention", "sequences", 1e12)
    assert guard.most("gemm", "m") == 1024
    assert guard.most("gemm", "n") == float("inf")
    RangeGuard(SILENT).check("gemm", "m", 1e12)


def test_kernels_name_what_was_not_measured() -> None:
    assert "prefill_attention: new_tokens = 1 " in warnings_of(
        lambda: attention_time(H800, V3.attention, new_tokens=1, cached_tokens=4096)
    )[0]  # fmt: skip
    assert "context_tokens = 1,000,128" in warnings_of(
        lambda: attention_time(H800, V3.attention, new_tokens=128, cached_tokens=10**6)
    )[0]  # fmt: skip
    assert len(warnings_of(lambda: gemm_time(H800, m=1, k=1, n=1))) == 3
    assert len(warnings_of(lambda: gemm_time(H800, m=10**6, k=7168, n=4096, groups=512))) == 2
    assert "ranks = 1,024" in warnings_of(lambda: alltoall_time(H800, ranks=1024, tokens=1, mode="normal"))[0]


def test_kernels_within_their_ranges_are_silent() -> None:
    for call in (
        lambda: attention_time(H800, V3.attention, new_tokens=4096, cached_tokens=4096, batch=4),
        lambda: gemm_time(H800, m=4096, k=7168, n=4096),
        lambda: gemm_time(H800, m=128, k=7168, n=4096, groups=8),
        lambda: alltoall_time(H800, ranks=32, tokens=4096, mode="normal"),
        lambda: alltoall_time(H800, ranks=128, tokens=128, mode="low-latency"),
    ):
        assert warnings_of(call) == []


def test_a_pass_warns_once() -> None:
    cost = load_cost_model("h800", "deepseek-v3", prefill_units=4, decode_units=4, chunk_tokens=16384, overlap=False)
    tokens = np.full(4, 100_000)
    with pytest.warns(ExtrapolationWarning, match="gemm: m = 100,000"):
        cost.prefill.pass_ns(tokens, tokens, tokens)
    assert warnings_of(lambda: cost.prefill.pass_ns(2 * tokens, 2 * tokens, 2 * tokens)) == []


def test_two_micro_batches_each_run_half() -> None:
    cost = load_cost_model("h800", "deepseek-v3", prefill_units=4, decode_units=4, chunk_tokens=16384)
    tokens = np.full(4, 60_000)
    assert warnings_of(lambda: cost.prefill.pass_ns(tokens, tokens, tokens)) == []


def test_requests_and_steps_warn_once() -> None:
    cost = load_cost_model("h800", "deepseek-v3", prefill_units=4, decode_units=4, chunk_tokens=16384)
    assert warnings_of(lambda: cost.prefill.request_ns(np.array([1000]), np.array([MOST_CONTEXT - 1000]))) == []
    with pytest.warns(ExtrapolationWarning, match="context_tokens = 73,729"):
        cost.prefill.request_ns(np.array([1000, 5]), np.array([MOST_CONTEXT - 999, 7]))
    assert warnings_of(lambda: cost.prefill.request_ns(np.array([1000]), np.array([10**6]))) == []
    batch = np.full(4, 513)
    with pytest.warns(ExtrapolationWarning, match="decode_attention: sequences = 513"):
        cost.decode.step_ns(batch * 2000, batch)
    assert warnings_of(lambda: cost.decode.step_ns(batch * 2000, batch)) == []


def test_the_longest_prompt_and_the_longest_prefix_may_be_different_requests() -> None:
    """Their sum is out of range, no request is: nothing is said, and the next one that is, is."""
    cost = load_cost_model("h800", "deepseek-v3", prefill_units=4, decode_units=4, chunk_tokens=16384)
    assert warnings_of(lambda: cost.prefill.request_ns(np.array([60_000, 100]), np.array([0, 60_000]))) == []
    with pytest.warns(ExtrapolationWarning, match="context_tokens = 120,000"):
        cost.prefill.request_ns(np.array([60_000]), np.array([60_000]))


def test_extrapolated_hardware_never_warns() -> None:
    cost = load_cost_model("h20", "deepseek-v3", prefill_units=4, decode_units=4, chunk_tokens=16384)
    tokens = np.full(4, 10**6)
    for call in (
        lambda: cost.prefill.pass_ns(tokens, tokens, tokens),
        lambda: cost.prefill.request_ns(np.array([10**6]), np.array([10**6])),
        lambda: cost.decode.step_ns(tokens, np.full(4, 10**4)),
        lambda: attention_time(load_hardware("h20"), V3.attention, new_tokens=1, cached_tokens=10**6),
    ):
        assert warnings_of(call) == []
