"""Cost model: what a placement costs in nanoseconds, from a hardware and a model profile."""

from __future__ import annotations

from dataclasses import dataclass

from sbs_opt.models.cost.decode import DecodeCost
from sbs_opt.models.cost.prefill import LayerTimes, PrefillCost, request_work
from sbs_opt.models.cost.profile import list_profiles, load_hardware, load_model, load_source
from sbs_opt.models.cost.protocols import DecodeTiming, PrefillTiming
from sbs_opt.models.errors import InputError

__all__ = [
    "CostModel",
    "DecodeCost",
    "DecodeTiming",
    "LayerTimes",
    "PrefillCost",
    "PrefillTiming",
    "list_profiles",
    "load_cost_model",
    "load_hardware",
    "load_model",
    "load_source",
    "request_work",
]


@dataclass(frozen=True, slots=True)
class CostModel:
    """Prefill and decode cost of one deployment."""

    prefill: PrefillTiming
    decode: DecodeTiming


def load_cost_model(
    hardware: str,
    model: str,
    *,
    prefill_units: int,
    decode_units: int,
    chunk_tokens: int,
    overlap: bool = True,
    decode_overlap: bool = False,
    expert_imbalance: float = 1.0,
) -> CostModel:
    """Build the cost model of a deployment.

    Parameters
    ----------
    hardware, model
        Names of bundled profiles (`list_profiles`) or paths of TOML files.
    prefill_units, decode_units
        Units of one prefill and of one decode instance (expert-parallel degree).
    chunk_tokens
        New tokens that one prefill pass may run on a unit.
    overlap, decode_overlap
        Whether prefill and decode overlap two micro-batches.
    expert_imbalance
        Tokens on the busiest expert rank over the mean, ≥ 1.

    Raises
    ------
    InputError
        On an unknown profile, a profile with unknown, missing or unsourced constants, or an argument out of range.
    """
    for name, count in (
        ("prefill_units", prefill_units), ("decode_units", decode_units), ("chunk_tokens", chunk_tokens)
    ):  # fmt: skip
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"{name} = {count!r}: must be a whole number of at least 1")
    if not 1.0 <= expert_imbalance < float("inf"):
        raise InputError(f"expert_imbalance = {expert_imbalance!r}: is max over mean, so at least 1")
    gpu, shape = load_hardware(hardware), load_model(model)
    prefill = PrefillCost(
        gpu, shape, units=prefill_units, chunk_tokens=chunk_tokens, overlap=overlap, expert_imbalance=expert_imbalance
    )
    decode = DecodeCost(
        gpu, shape, units=decode_units, overlap=decode_overlap, expert_imbalance=expert_imbalance
    )  # fmt: skip
    return CostModel(prefill, decode)
