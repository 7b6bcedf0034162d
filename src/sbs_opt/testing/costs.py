"""Cost models with simple laws, for tests whose results can be worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import CostModel


@dataclass(frozen=True, slots=True)
class LinearPrefill:
    """A pass takes `fixed_ns` plus the work of its busiest unit; a unit's work is linear in tokens and pairs.

    With `token_ns` = `pair_ns` = 0 every pass takes the same time, whatever is in it.
    """

    fixed_ns: int
    token_ns: int = 0
    pair_ns: int = 0
    chunk_tokens: int = 1 << 40
    alltoall_price: int = 1

    def pass_ns(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> int:
        """See `PrefillTiming`."""
        return self.fixed_ns + int(self.unit_ns(pairs, new_tokens, context_tokens).max())

    def unit_ns(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> IntArray:
        """See `PrefillTiming`."""
        return np.asarray(self.token_ns * new_tokens + self.pair_ns * pairs)

    def request_ns(self, new_tokens: IntArray, cached_tokens: IntArray) -> tuple[IntArray, IntArray]:
        """See `PrefillTiming`; the all-to-all costs nothing."""
        pairs = new_tokens * cached_tokens + new_tokens * (new_tokens + 1) // 2
        return np.asarray(self.token_ns * new_tokens + self.pair_ns * pairs), np.zeros_like(new_tokens)


@dataclass(frozen=True, slots=True)
class LinearDecode:
    """A step takes `fixed_ns` plus the work of its busiest unit, linear in KV tokens and sequences."""

    fixed_ns: int
    kv_ns: int = 0
    batch_ns: int = 0

    def step_ns(self, kv_tokens: IntArray, sequences: IntArray) -> int:
        """See `DecodeTiming`."""
        return self.fixed_ns + int(self.unit_ns(kv_tokens, sequences).max())

    def unit_ns(self, kv_tokens: IntArray, sequences: IntArray) -> IntArray:
        """See `DecodeTiming`."""
        return np.asarray(self.kv_ns * kv_tokens + self.batch_ns * sequences)

    def attention_ns(self, kv_tokens: IntArray) -> IntArray:
        """See `DecodeTiming`."""
        return np.asarray(self.kv_ns * kv_tokens)


def linear_cost_model(prefill: LinearPrefill, decode: LinearDecode | None = None) -> CostModel:
    """Return a cost model with linear laws."""
    return CostModel(prefill, decode or LinearDecode(fixed_ns=1_000_000))
