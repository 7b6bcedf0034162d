"""What a fake engine remembers of its passes and steps, and shows of its ranks."""

from __future__ import annotations

from dataclasses import dataclass

from sbs_opt.models.checks import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class PassRecord:
    """A prefill pass that has ended. Times are modelled: divide by the speed for wall time.

    Parameters
    ----------
    number
        Counts the engine's passes from 0.
    start_ns
        Since the engine was first started.
    duration_ns
        What the cost model says of the three sums.
    tokens, pairs, context_tokens
        int64[ranks]: new tokens of each rank, their (query, key) pairs, and the tokens whose keys were read.
    """

    number: int
    start_ns: int
    duration_ns: int
    tokens: IntArray
    pairs: IntArray
    context_tokens: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class StepRecord:
    """A decode step that has ended; as `PassRecord`, of KV tokens read and running sequences, int64[ranks] each."""

    number: int
    start_ns: int
    duration_ns: int
    kv_tokens: IntArray
    sequences: IntArray


@dataclass(frozen=True, slots=True)
class RankLoad:
    """The load of one rank.

    Parameters
    ----------
    running, waiting
        Requests in a pass under way or decoding; requests whose prompt is not all in a pass yet.
    queued_tokens
        Prompt tokens in no pass yet.
    kv_tokens
        Tokens in the KV cache.
    prefilled_tokens, prefill_busy_ns
        Since the start: tokens of ended passes, and the modelled length of those in which the rank had any.
    """

    running: int
    waiting: int
    queued_tokens: int
    kv_tokens: int
    prefilled_tokens: int
    prefill_busy_ns: int
