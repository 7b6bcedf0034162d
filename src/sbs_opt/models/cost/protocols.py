"""What schedulers and simulators ask of a cost model; `PrefillCost` and `DecodeCost` are the reference."""

from __future__ import annotations

from typing import Protocol

from sbs_opt.models.checks import IntArray


class PrefillTiming(Protocol):
    """Timing of prefill on one instance; all arrays int64, times in nanoseconds, monotone in every argument."""

    @property
    def chunk_tokens(self) -> int:
        """New tokens that one pass may run on a unit."""
        ...

    @property
    def alltoall_price(self) -> int:
        """1, or 0 where overlap hides the all-to-all."""
        ...

    def pass_ns(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> int:
        """Return the length of a pass from each unit's (query, key) pairs, new tokens and context tokens."""
        ...

    def unit_ns(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> IntArray:
        """Return each unit's own compute between the barriers."""
        ...

    def request_ns(self, new_tokens: IntArray, cached_tokens: IntArray) -> tuple[IntArray, IntArray]:
        """Return the additive (compute, all-to-all) time of requests, each in its own full-size chunks."""
        ...


class DecodeTiming(Protocol):
    """Timing of decode on one instance."""

    @property
    def batch_ns(self) -> int:
        """Additive time of a sequence, whatever its length."""
        ...

    def step_ns(self, kv_tokens: IntArray, sequences: IntArray) -> int:
        """Return the length of a step from each unit's KV tokens and sequences."""
        ...

    def unit_ns(self, kv_tokens: IntArray, sequences: IntArray) -> IntArray:
        """Return each unit's own compute between the barriers."""
        ...

    def attention_ns(self, kv_tokens: IntArray) -> IntArray:
        """Return the additive time of reading that many KV tokens."""
        ...
