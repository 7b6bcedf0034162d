"""KV budgets: the parts against published totals."""

from __future__ import annotations

import pytest

from sbs_opt.models.cost import load_hardware
from sbs_opt.models.cost.memory import activation_bytes, memory_plan, weight_bytes
from sbs_opt.models.cost.model import ModelProfile
from sbs_opt.models.errors import InputError
from tests.models.cost.cases import H800, KIMI, QWEN, V3


@pytest.mark.parametrize(("model", "total", "within"), [(V3, 671e9, 0.002), (KIMI, 1.0e12, 0.03), (QWEN, 235e9, 0.002)])
def test_one_unit_would_hold_all_published_parameters(model: ModelProfile, total: float, within: float) -> None:
    """FP8 weights take a byte each; router, embedding and head take two. Kimi-K2's total is published as "1 T"."""
    doubled = 2 * model.vocabulary * model.hidden + model.moe_layers * model.routed_experts * model.hidden
    assert weight_bytes(model, 1, absorbed=False) - doubled == pytest.approx(total, rel=within)


def test_absorption_holds_the_latent_projection_again_in_bf16() -> None:
    more = weight_bytes(V3, 32, absorbed=True) - weight_bytes(V3, 32, absorbed=False)
    assert more == 61 * 2 * 512 * 32768
    assert weight_bytes(QWEN, 8, absorbed=True) == weight_bytes(QWEN, 8, absorbed=False)


def test_budgets_of_the_reference_fleet() -> None:
    prefill = memory_plan(H800, V3, units=32, tokens=16384, absorbed=False)
    decode = memory_plan(H800, V3, units=72, tokens=128, absorbed=True)
    assert prefill.kv_bytes_per_token == 1152 * 61
    assert 400_000 <= prefill.kv_tokens < 410_000
    assert 650_000 <= decode.kv_tokens < 660_000
    assert prefill.usable < H800.device.hbm_bytes


@pytest.mark.parametrize("model", [V3, KIMI, QWEN])
def test_activations_grow_with_tokens(model: ModelProfile) -> None:
    sizes = [activation_bytes(model, tokens) for tokens in (0, 1, 1000, 16384)]
    assert sizes[0] == 0
    assert sizes == sorted(sizes)
    assert sizes[3] < 32 * 2**30


def test_more_units_leave_more_room() -> None:
    plans = [memory_plan(H800, V3, units=units, tokens=4096, absorbed=True) for units in (16, 32, 64, 128, 256)]
    room = [plan.kv_tokens for plan in plans]
    assert room == sorted(room)


def test_a_larger_memory_holds_more() -> None:
    room = [
        memory_plan(load_hardware(name), V3, units=32, tokens=4096, absorbed=False).kv_tokens
        for name in ("h800", "h20", "h200")
    ]
    assert room == sorted(set(room))


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="use more units"):
        memory_plan(H800, V3, units=8, tokens=16384, absorbed=False)
