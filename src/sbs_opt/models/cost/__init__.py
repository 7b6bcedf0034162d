"""Cost model: what a placement costs in nanoseconds, from a hardware and a model profile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy.typing as npt

from sbs_opt.models.cost.breakdown import Budget, LayerTimes
from sbs_opt.models.cost.decode import DecodeCost
from sbs_opt.models.cost.prefill import PrefillCost, request_work
from sbs_opt.models.cost.profile_file import list_profiles, load_hardware, load_model, load_source
from sbs_opt.models.cost.protocols import DecodeTiming, PrefillTiming
from sbs_opt.models.cost.routing import imbalance_of
from sbs_opt.models.errors import InputError

__all__ = [
    "Budget",
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
    expert_imbalance: npt.ArrayLike = 1.0,
    draft_tokens: int = 0,
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
        Tokens on the busiest expert rank over the mean, ≥ 1, or the load of every rank in any unit.
    draft_tokens
        Tokens that multi-token prediction drafts per sequence and decode step.

    Raises
    ------
    InputError
        On an unknown profile, a profile with unknown, missing or unsourced constants, or an argument out of range.
    """
    for name, count, least in (
        ("prefill_units", prefill_units, 1), ("decode_units", decode_units, 1), ("chunk_tokens", chunk_tokens, 1),
        ("draft_tokens", draft_tokens, 0),
    ):  # fmt: skip
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise InputError(f"{name} = {count!r}: must be a whole number of at least {least}")
    imbalance = imbalance_of(expert_imbalance)
    gpu, shape = load_hardware(hardware), load_model(model)
    prefill = PrefillCost(
        gpu, shape, units=prefill_units, chunk_tokens=chunk_tokens, overlap=overlap, expert_imbalance=imbalance
    )
    decode = DecodeCost(
        gpu, shape, units=decode_units, overlap=decode_overlap, expert_imbalance=imbalance, draft_tokens=draft_tokens
    )
    return CostModel(prefill, decode)
