"""What a scheduler remembers of each request until it is answered: a slot per id, columns per fact."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.requests import NO_DEADLINE
from sbs_opt.scheduler.events import RequestBatch


class State(IntEnum):
    """Where a request stands."""

    GONE = 0
    WAITING = 1
    DISPATCHED = 2


_NO_BLOCKS = np.zeros(0, np.int64)
_NO_BLOCKS.flags.writeable = False


class RequestTable:
    """Slots of the requests that are waiting or dispatched; a slot is reused once its request is gone."""

    def __init__(self, capacity: int = 1024) -> None:
        self._slot_of: dict[int, int] = {}
        self._free: list[int] = list(range(capacity - 1, -1, -1))
        self.id = np.zeros(capacity, np.int64)
        self.prompt = np.zeros(capacity, np.int64)
        self.arrival_ns = np.zeros(capacity, np.int64)
        self.priority = np.zeros(capacity, np.int64)
        self.deadline_ns = np.full(capacity, NO_DEADLINE, np.int64)
        self.windows = np.zeros(capacity, np.int64)
        self.sent_in = np.zeros(capacity, np.int64)
        self.state = np.zeros(capacity, np.int8)
        self.blocks: list[IntArray] = [_NO_BLOCKS] * capacity

    def __len__(self) -> int:
        return len(self._slot_of)

    @property
    def capacity(self) -> int:
        """Slots allocated so far."""
        return len(self.id)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._slot_of

    def slots(self, ids: IntArray) -> list[int]:
        """Return the slots of those ids that are known, each once."""
        get = self._slot_of.get
        return [s for s in map(get, dict.fromkeys(ids.tolist())) if s is not None]

    def add(self, batch: RequestBatch, k: int, now_ns: int) -> int:
        """Remember row k of a batch, whose id is unknown so far, as waiting; return its slot."""
        request_id = int(batch.id[k])
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._slot_of[request_id] = slot
        self.id[slot] = request_id
        self.prompt[slot] = batch.prompt_tokens[k]
        self.arrival_ns[slot] = now_ns
        self.priority[slot] = 0 if batch.priority is None else batch.priority[k]
        self.deadline_ns[slot] = NO_DEADLINE if batch.deadline_ns is None else batch.deadline_ns[k]
        self.windows[slot] = 0
        self.state[slot] = State.WAITING
        if batch.block_offset is not None and batch.block_id is not None:
            self.blocks[slot] = batch.block_id[batch.block_offset[k] : batch.block_offset[k + 1]]
        return slot

    def was_sent_in(self, slot: int, window_id: int) -> bool:
        """Tell whether a request is dispatched, and by the dispatch of that window."""
        return bool(self.state[slot] == State.DISPATCHED and self.sent_in[slot] == window_id)

    def drop(self, slots: Iterable[int]) -> None:
        """Forget requests; their slots are free again."""
        for slot in slots:
            del self._slot_of[int(self.id[slot])]
            self.state[slot] = State.GONE
            self.blocks[slot] = _NO_BLOCKS
            self._free.append(slot)

    def _grow(self) -> None:
        old = self.capacity
        for name in ("id", "prompt", "arrival_ns", "priority", "deadline_ns", "windows", "sent_in", "state"):
            column = getattr(self, name)
            setattr(self, name, np.concatenate((column, np.zeros_like(column))))
        self.deadline_ns[old:] = NO_DEADLINE
        self.blocks += [_NO_BLOCKS] * old
        self._free = list(range(2 * old - 1, old - 1, -1))
