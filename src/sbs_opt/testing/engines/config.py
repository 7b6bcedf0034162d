"""What a fake engine is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sbs_opt.models.cost import CostModel, DecodeTiming, PrefillTiming, load_cost_model
from sbs_opt.models.errors import InputError

Kind = Literal["sglang", "vllm", "openai"]
"""Whose surface the engine speaks; `openai` knows no ranks."""

Mode = Literal["unified", "prefill", "decode"]
"""The phases that the engine runs."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """A data-parallel engine that computes nothing and takes its time.

    Parameters
    ----------
    kind
        Whose surface it speaks: `sglang`, `vllm` or `openai`.
    ranks
        Data-parallel units behind one barrier.
    chunk_tokens
        New tokens that a prefill pass runs on a rank at most.
    slots
        Sequences that a rank runs at once. Without decode (`mode="prefill"`) there is no limit.
    context_tokens
        Longest prompt. A rank's KV cache holds `slots` × `context_tokens`, so that it never runs out.
    mode
        `unified`, or the `prefill` or `decode` leg of a disaggregated deployment.
    model
        The one model that it serves.
    prefill, decode
        What passes and steps cost; DeepSeek-V3 on `ranks` units of H800 where not given.
    transfer_ns_per_token
        Modelled time that a prompt token's KV cache takes from the prefill to the decode leg.
    bootstrap_wait_s
        Wall time for which a prefill leg is awaited when the decode leg of its room came first.
    speed
        Modelled seconds per second of wall clock: 50 is fifty times faster.
    history
        Passes, steps and request ids that are remembered for inspection, each; the oldest are forgotten first.

    Raises
    ------
    InputError
        On a value out of range, or a timing for another number of ranks.
    """

    kind: Kind = "sglang"
    ranks: int = 4
    chunk_tokens: int = 8_192
    slots: int = 64
    context_tokens: int = 131_072
    mode: Mode = "unified"
    model: str = "fake"
    prefill: PrefillTiming | None = None
    decode: DecodeTiming | None = None
    transfer_ns_per_token: float = 0.0
    bootstrap_wait_s: float = 60.0
    speed: float = 1.0
    history: int = 100_000

    def __post_init__(self) -> None:
        for choice, known in (("kind", get_args(Kind)), ("mode", get_args(Mode))):
            if getattr(self, choice) not in known:
                raise InputError(f"{choice} = {getattr(self, choice)!r}: must be one of {', '.join(known)}")
        for count in ("ranks", "chunk_tokens", "slots", "context_tokens", "history"):
            value = getattr(self, count)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{count} = {value!r}: must be a whole number of at least 1")
        for number, least in (("speed", "above 0"), ("bootstrap_wait_s", "above 0"), ("transfer_ns_per_token", "≥ 0")):
            value = getattr(self, number)
            finite = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not finite or value < 0 or (value == 0 and least == "above 0"):
                raise InputError(f"{number} = {value!r}: must be a finite number {least}")
        if not isinstance(self.model, str) or not self.model:
            raise InputError(f"model = {self.model!r}: must be a name")
        self.cost_model()

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache of a rank holds."""
        return self.slots * self.context_tokens

    def cost_model(self) -> CostModel:
        """Return the timings of passes and steps, asked once for an empty one: they must know this many ranks."""
        prefill, decode = self.prefill, self.decode
        if prefill is None or decode is None:
            default = load_cost_model(
                "h800",
                "deepseek-v3",
                prefill_units=self.ranks,
                decode_units=self.ranks,
                chunk_tokens=self.chunk_tokens,
            )
            prefill, decode = prefill or default.prefill, decode or default.decode
        empty = np.zeros(self.ranks, np.int64)
        prefill.pass_ns(empty, empty, empty)
        decode.step_ns(empty, empty)
        return CostModel(prefill, decode)
