"""KV budgets: the parts against published totals."""

from __future__ import annotations

import pytest

from sbs_opt.models.cost import load_hardware, load_model
from sbs_opt.models.cost.memory import memory_plan, weight_bytes
from sbs_opt.models.errors import InputError

H800, V3 = load_hardware("h800"), load_model("deepseek-v3")


def test_one_unit_would_hold_all_671_billion_parameters() -> None:
    """FP8 weights take a byte each; router, embedding and head take two."""
    doubled = 2 * V3.vocabulary * V3.hidden + V3.moe_layers * V3.routed_experts * V3.hidden
    assert weight_bytes(V3, 1, absorbed=False) - doubled == pytest.approx(671e9, rel=0.002)


def test_budgets_of_the_reference_fleet() -> None:
    prefill = memory_plan(H800, V3, units=32, tokens=16384, absorbed=False)
    decode = memory_plan(H800, V3, units=72, tokens=128, absorbed=True)
    assert prefill.kv_bytes_per_token == 1152 * 61
    assert 400_000 <= prefill.kv_tokens < 410_000
    assert 650_000 <= decode.kv_tokens < 660_000
    assert prefill.usable < H800.device.hbm_bytes


def test_more_units_leave_more_room() -> None:
    plans = [memory_plan(H800, V3, units=units, tokens=4096, absorbed=True) for units in (16, 32, 64, 128, 256)]
    room = [plan.kv_tokens for plan in plans]
    assert room == sorted(room)


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="use more units"):
        memory_plan(H800, V3, units=8, tokens=16384, absorbed=False)
