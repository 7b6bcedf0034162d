"""Fit of what no kernel table holds, on whole passes and steps published for SGLang on H100 with DeepEP.

Prefill has five anchors and three unknowns, decode two and one: the rest of each is a check of the form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sbs_opt.calibration.robust import Quality, fit
from sbs_opt.calibration.tables import FloatArray
from sbs_opt.models.cost.decode import DecodeCost
from sbs_opt.models.cost.model import ModelProfile
from sbs_opt.models.cost.named import DECODE_IMBALANCE
from sbs_opt.models.cost.prefill import PrefillCost
from sbs_opt.models.cost.profile import DecodeStep, HardwareProfile, PrefillPass

MEASURED_IMBALANCE = 1.25
"""Max/mean at EP32 with expert rebalancing: mean/max .80 published."""

_PREFILL_UNITS, _DECODE_UNITS = 32, 72


@dataclass(frozen=True, slots=True)
class PrefillAnchor:
    """A measured pass: every unit runs `tokens` new tokens of prompts of equal length."""

    name: str
    tokens: int
    prompt: int
    overlap: bool
    imbalance: float
    seconds: float


@dataclass(frozen=True, slots=True)
class DecodeAnchor:
    """A measured step: every unit runs `batch` sequences with `kv` tokens each."""

    name: str
    batch: int
    kv: int
    overlap: bool
    seconds: float


def _from_node_rate(tokens: int, per_node: float) -> float:
    return tokens * 8 / per_node


PREFILL_ANCHORS = (
    PrefillAnchor("50,302 tok/s/node", 16384, 4096, True, MEASURED_IMBALANCE, _from_node_rate(16384, 50302)),
    PrefillAnchor("59,337 tok/s/node, balanced", 16384, 4096, True, 1.0, _from_node_rate(16384, 59337)),
    PrefillAnchor("1.815 s", 8192, 4096, False, MEASURED_IMBALANCE, 1.815),
    PrefillAnchor("0.464 s floor", 2048, 1024, False, MEASURED_IMBALANCE, 0.464),
    PrefillAnchor("0.379 s floor, overlap", 2048, 1024, True, MEASURED_IMBALANCE, 0.379),
)
DECODE_ANCHORS = (
    DecodeAnchor("26.6 ms floor", 2, 2000, False, 0.0266),
    DecodeAnchor("45.7 ms floor, overlap", 2, 2000, True, 0.0457),
)


def predict_prefill(hardware: HardwareProfile, model: ModelProfile, anchor: PrefillAnchor) -> float:
    """Return the predicted nanoseconds of a prefill anchor."""
    cost = PrefillCost(
        hardware, model, units=_PREFILL_UNITS, chunk_tokens=anchor.tokens, overlap=anchor.overlap,
        expert_imbalance=anchor.imbalance,
    )  # fmt: skip
    prompts = anchor.tokens // anchor.prompt
    pairs = np.full(_PREFILL_UNITS, prompts * (anchor.prompt * (anchor.prompt + 1) // 2), np.int64)
    tokens = np.full(_PREFILL_UNITS, anchor.tokens, np.int64)
    return float(cost.pass_ns(pairs, tokens, tokens))


def predict_decode(hardware: HardwareProfile, model: ModelProfile, anchor: DecodeAnchor) -> float:
    """Return the predicted nanoseconds of a decode anchor."""
    cost = DecodeCost(hardware, model, units=_DECODE_UNITS, overlap=anchor.overlap, expert_imbalance=DECODE_IMBALANCE)
    batch = np.full(_DECODE_UNITS, anchor.batch, np.int64)
    return float(cost.step_ns(batch * anchor.kv, batch))


def fit_prefill_pass(
    hardware: HardwareProfile, model: ModelProfile, anchors: tuple[PrefillAnchor, ...] = PREFILL_ANCHORS
) -> tuple[PrefillPass, Quality]:
    """Fit floor per layer, waiting per token and the share of kernels that lent multiprocessors slow down."""
    measured = np.array([anchor.seconds for anchor in anchors]) * 1e9

    def prefill_pass(x: FloatArray) -> PrefillPass:
        layer, waiting, share = map(float, x)
        return replace(hardware.prefill_pass, layer_ns=layer, waiting_token_ns=waiting, sm_bound_share=share)

    def law(x: FloatArray) -> FloatArray:
        trial = replace(hardware, prefill_pass=prefill_pass(x))
        return np.array([predict_prefill(trial, model, anchor) for anchor in anchors])

    found = fit("end-to-end prefill", law, measured, (500e3, 800.0, 0.8))
    return prefill_pass(found.parameters), found.quality("end-to-end prefill")


def left_out_errors(hardware: HardwareProfile, model: ModelProfile) -> tuple[tuple[str, float], ...]:
    """Return, per prefill anchor, the relative error of its prediction when it is left out of the fit."""
    errors = []
    for anchor in PREFILL_ANCHORS:
        others = tuple(other for other in PREFILL_ANCHORS if other is not anchor)
        refitted = replace(hardware, prefill_pass=fit_prefill_pass(hardware, model, others)[0])
        errors.append((anchor.name, predict_prefill(refitted, model, anchor) / (anchor.seconds * 1e9) - 1.0))
    return tuple(errors)


def fit_decode_step(hardware: HardwareProfile, model: ModelProfile) -> tuple[DecodeStep, Quality]:
    """Fit the floor per layer of a decode step."""
    measured = np.array([anchor.seconds for anchor in DECODE_ANCHORS]) * 1e9

    def law(x: FloatArray) -> FloatArray:
        trial = replace(hardware, decode_step=replace(hardware.decode_step, layer_ns=float(x[0])))
        return np.array([predict_decode(trial, model, anchor) for anchor in DECODE_ANCHORS])

    found = fit("end-to-end decode", law, measured, (100e3,))
    return replace(hardware.decode_step, layer_ns=float(found.parameters[0])), found.quality("end-to-end decode")
