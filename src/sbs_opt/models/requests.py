"""Requests as columns: what a trace holds, and what a scheduler is allowed to see of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbs_opt.models.checks import IntArray, expect_shape, int_array
from sbs_opt.models.errors import InputError

NO_DEADLINE: int = int(np.iinfo(np.int64).max)
"""`deadline_ns` of a request without a deadline."""


@dataclass(frozen=True, eq=False)
class Requests:
    """A trace in memory, sorted by arrival; request i has id i.

    Parameters
    ----------
    arrival_ns
        int64[n], ascending, from the start of the trace; the first need not be 0.
    prompt_tokens, output_tokens
        int64[n], tokens; 0 is legal.
    block_offset
        int64[n + 1], request i's prefix blocks are `block_id[block_offset[i]:block_offset[i + 1]]`.
    block_id
        int64[k], chained ids: two requests share a prefix exactly as far as their leading ids agree.
    block_tokens
        Tokens per full block; 0 when the trace has no prefix information.
    session
        int64[n], requests of one session share it; −1 = unknown.

    Raises
    ------
    InputError
        On wrong shapes, negative numbers or arrivals that are not ascending.
    """

    arrival_ns: IntArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    block_offset: IntArray
    block_id: IntArray
    block_tokens: int
    session: IntArray

    def __post_init__(self) -> None:
        for name in ("arrival_ns", "prompt_tokens", "output_tokens", "block_offset"):
            object.__setattr__(self, name, int_array(name, getattr(self, name)))
        object.__setattr__(self, "block_id", int_array("block_id", self.block_id, minimum=None))
        object.__setattr__(self, "session", int_array("session", self.session, minimum=-1))
        n = len(self.arrival_ns)
        expect_shape("prompt_tokens", self.prompt_tokens, (n,), "one per request")
        expect_shape("output_tokens", self.output_tokens, (n,), "one per request")
        expect_shape("session", self.session, (n,), "one per request")
        expect_shape("block_offset", self.block_offset, (n + 1,), "one more than requests")
        if n and (np.diff(self.arrival_ns) < 0).any():
            raise InputError("arrival_ns must ascend: sort the requests first")
        if (np.diff(self.block_offset) < 0).any() or self.block_offset[0] != 0:
            raise InputError("block_offset must ascend from 0")
        if self.block_offset[-1] != len(self.block_id):
            raise InputError(f"block_offset ends at {self.block_offset[-1]}, block_id holds {len(self.block_id)} ids")
        if self.block_tokens < 0 or (self.block_tokens == 0 and len(self.block_id)):
            raise InputError(f"block_tokens = {self.block_tokens}: must be positive where prefix blocks are given")

    def __len__(self) -> int:
        return len(self.arrival_ns)

    @property
    def span_ns(self) -> int:
        """Time from the first to the last arrival."""
        return int(self.arrival_ns[-1] - self.arrival_ns[0]) if len(self) else 0

    def take(self, index: IntArray) -> Requests:
        """Return the requests at `index` (int64[k], ascending in arrival), with their blocks; ids are new."""
        length = np.diff(self.block_offset)[index]
        offset = np.concatenate(([0], np.cumsum(length)))
        gather = np.repeat(self.block_offset[:-1][index] - offset[:-1], length) + np.arange(offset[-1])
        return Requests(
            self.arrival_ns[index],
            self.prompt_tokens[index],
            self.output_tokens[index],
            offset,
            self.block_id[gather],
            self.block_tokens,
            self.session[index],
        )


def requests_without_prefixes(arrival_ns: IntArray, prompt_tokens: IntArray, output_tokens: IntArray) -> Requests:
    """Return `Requests` of unknown session that share no prefixes."""
    n = len(arrival_ns)
    return Requests(
        arrival_ns, prompt_tokens, output_tokens, np.zeros(n + 1, np.int64), np.zeros(0, np.int64), 0, np.full(n, -1)
    )
