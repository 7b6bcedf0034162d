"""The cost model asked in lists: the only place of the twin that touches an array (law 19)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost.protocols import DecodeTiming, PrefillTiming


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a prompt that one pass runs: `new` tokens over `cached` ones that are there already."""

    new: int
    cached: int

    @property
    def pairs(self) -> int:
        """(query, key) pairs: every new token attends to the cached ones, to the new ones before it and to itself."""
        return self.new * self.cached + self.new * (self.new + 1) // 2

    @property
    def context(self) -> int:
        """Tokens whose keys and values the pass reads."""
        return self.cached + self.new


def pass_ns(cost: PrefillTiming, units: Sequence[Sequence[Piece]]) -> int:
    """Return the length of a pass that runs these pieces on each unit."""
    pairs = [sum(piece.pairs for piece in pieces) for pieces in units]
    new = [sum(piece.new for piece in pieces) for pieces in units]
    context = [sum(piece.context for piece in pieces) for pieces in units]
    return int(cost.pass_ns(_array(pairs), _array(new), _array(context)))


def piece_ns(cost: PrefillTiming, piece: Piece) -> tuple[int, int]:
    """Return the additive (compute, all-to-all) time of a piece."""
    compute, alltoall = cost.request_ns(_array([piece.new]), _array([piece.cached]))
    return int(compute[0]), int(alltoall[0])


def step_ns(cost: DecodeTiming, kv_tokens: Sequence[int], sequences: Sequence[int]) -> int:
    """Return the length of a decode step from each unit's KV tokens and sequences."""
    return int(cost.step_ns(_array(kv_tokens), _array(sequences)))


def _array(values: Sequence[int]) -> IntArray:
    return np.array(values, np.int64)
