"""Passes of an SGLang instance, from successive answers to `GET /v1/loads`."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from sbs_opt.adapters.pass_feed import PassOver
from sbs_opt.adapters.telemetry import LoadSnapshot, RankLoad, pass_ended_between
from sbs_opt.models.errors import InputError


class SglangPasses:
    """Turns load snapshots of one instance into ends of passes.

    Partial by nature, see `pass_ended_between`: passes that SGLang does not count are never told, those between two
    snapshots are told as one, and a snapshot without news proves nothing. Ask more often than passes end.

    Parameters
    ----------
    num_ranks
        Data-parallel ranks of the instance.

    Attributes
    ----------
    unknown_ranks
        Loads of ranks that the instance does not have.
    late
        Snapshots older than one seen before; they are passed over.
    """

    LATEST_NS: ClassVar[int] = 60_000_000_000
    """No answer is this late: where snapshots seem so, the engine's clock has been set back."""

    def __init__(self, num_ranks: int) -> None:
        if num_ranks < 1:
            raise InputError(f"num_ranks = {num_ranks}: must be at least 1")
        self._num_ranks = num_ranks
        self._last: dict[int, RankLoad] = {}
        self._as_of_ns = 0
        self._passes = 0
        self.unknown_ranks = 0
        self.late = 0

    def seen(self, snapshot: LoadSnapshot) -> PassOver | None:
        """Return what ended since the snapshots before; None where no counter moved."""
        if snapshot.as_of_ns is not None:
            if 0 < self._as_of_ns - snapshot.as_of_ns < self.LATEST_NS:
                self.late += 1
                return None
            self._as_of_ns = snapshot.as_of_ns
        loads = tuple(load for load in snapshot.ranks if load.rank < self._num_ranks)
        self.unknown_ranks += len(snapshot.ranks) - len(loads)
        # A rank is compared with what it said last, also where snapshots between left it out.
        ended = pass_ended_between(replace(snapshot, ranks=tuple(self._last.values())), replace(snapshot, ranks=loads))
        self._last |= {load.rank: load for load in loads}
        if ended is None:
            return None
        run, queued = np.zeros(self._num_ranks, np.int64), np.zeros(self._num_ranks, np.int64)
        heard, queue_known = np.zeros(self._num_ranks, np.bool_), np.zeros(self._num_ranks, np.bool_)
        run[list(ended.ranks)] = ended.tokens
        for load in loads:
            heard[load.rank] = True
            queue_known[load.rank] = load.waiting_tokens is not None
            queued[load.rank] = load.waiting_tokens or 0
        number, self._passes = self._passes, self._passes + 1
        return PassOver(number, ended.duration_ns, run, queued, heard, queue_known)
