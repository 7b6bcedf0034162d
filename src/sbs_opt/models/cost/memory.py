"""How many KV tokens fit on a unit: HBM less weights, activations and a reserve."""

from __future__ import annotations

from dataclasses import dataclass

from sbs_opt.models.cost.model import ModelProfile
from sbs_opt.models.cost.profile import HardwareProfile
from sbs_opt.models.errors import InputError

USABLE_SHARE = 0.95
"""Share of HBM that an engine hands out; the rest goes to the driver and to fragmentation. Assumed."""

RESERVE_BYTES = 4 * 2**30
"""CUDA context, captured graphs and all-to-all buffers. Assumed."""

BUSIEST_RANK = 2.0
"""Expert rows that buffers provide for, over the mean. Assumed."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of one unit by use, and the KV tokens that the rest holds."""

    usable: int
    weights: int
    activations: int
    reserve: int
    kv_bytes_per_token: int

    @property
    def kv_tokens(self) -> int:
        """KV tokens that fit."""
        return (self.usable - self.weights - self.activations - self.reserve) // self.kv_bytes_per_token


def memory_plan(
    hardware: HardwareProfile, model: ModelProfile, *, units: int, tokens: int, absorbed: bool
) -> MemoryPlan:
    """Plan the memory of one unit of an instance.

    Parameters
    ----------
    hardware, model
        Profiles.
    units
        Units of the instance: routed experts are spread over them, ⌈experts/units⌉ each (spare slots hold copies);
        everything else is held whole by every unit, as data-parallel attention does.
    tokens
        New tokens in flight per unit: the prefill chunk, or the sequences of a decode step.
    absorbed
        Decode: kv_b is also held in BF16, per head.

    Raises
    ------
    InputError
        Where the weights do not fit.
    """
    plan = MemoryPlan(
        usable=int(USABLE_SHARE * hardware.device.hbm_bytes),
        weights=weight_bytes(model, units, absorbed=absorbed),
        activations=activation_bytes(model, tokens),
        reserve=RESERVE_BYTES,
        kv_bytes_per_token=model.attention.kv_bytes * model.layers,
    )
    if plan.kv_tokens < 1:
        raise InputError(f"units = {units}: weights and activations leave no room for KV; use more units")
    return plan


def kv_tokens_of(
    hardware: HardwareProfile, model: ModelProfile, *, units: int, tokens: int, absorbed: bool
) -> int | None:
    """Return the KV tokens that fit on a unit, None where the weights do not; arguments as `memory_plan`."""
    try:
        return memory_plan(hardware, model, units=units, tokens=tokens, absorbed=absorbed).kv_tokens
    except InputError:
        return None


def weight_bytes(model: ModelProfile, units: int, *, absorbed: bool) -> int:
    """Return the bytes of weights per unit: FP8 blocks; BF16 router, embedding and head."""
    gated = 3 * model.hidden
    shape = model.attention
    context = sum(k * n for k, n in shape.context_projections)
    attention = sum(k * n for k, n in shape.projections(model.hidden)) + context * (3 if absorbed else 1)
    experts = model.shared_experts + -(-model.routed_experts // units)
    router = 2 * model.routed_experts * model.hidden
    return (
        model.layers * attention
        + model.dense_layers * gated * model.dense_width
        + model.moe_layers * (gated * model.expert_width * experts + router)
        + 2 * 2 * model.vocabulary * model.hidden
    )


def activation_bytes(model: ModelProfile, tokens: int) -> int:
    """Return the larger of what attention and what the routed experts hold at once.

    Attention: what its projections put out in BF16, the keys assembled beside it, output in BF16 and FP8, three
    residual vectors. Experts, per row: input FP8, gate and up BF16, activation BF16 and FP8, output BF16.
    """
    *inputs, (values, _) = model.attention.projections(model.hidden)
    put_out = sum(n for _, n in (*inputs, *model.attention.context_projections))
    attention = 2 * put_out + model.attention.context_bytes + 3 * values + 6 * model.hidden
    row = 3 * model.hidden + 7 * model.expert_width
    return int(tokens * max(attention, BUSIEST_RANK * model.top_experts * row))
