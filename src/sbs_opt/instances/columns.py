"""What every reader fills row by row, and how it becomes `Requests`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.requests import Requests


@dataclass
class Columns:
    """Rows in file order; ids of blocks and sessions are numbered densely by first appearance.

    Dense numbering makes room for ids of any type and size (unsigned 64-bit hashes, session names): only equality of
    ids carries meaning.
    """

    arrival_ns: list[int] = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)
    output_tokens: list[int] = field(default_factory=list)
    session: list[int] = field(default_factory=list)
    block_count: list[int] = field(default_factory=list)
    block_id: list[int] = field(default_factory=list)
    block_tokens: int = 0
    notes: list[str] = field(default_factory=list)
    _block_number: dict[Hashable, int] = field(default_factory=dict)
    _session_number: dict[Hashable, int] = field(default_factory=dict)

    def add(
        self,
        arrival_ns: int,
        prompt_tokens: int,
        output_tokens: int,
        blocks: Sequence[Hashable] = (),
        session: Hashable | None = None,
    ) -> None:
        """Append one request; `session` None means unknown."""
        self.arrival_ns.append(arrival_ns)
        self.prompt_tokens.append(prompt_tokens)
        self.output_tokens.append(output_tokens)
        number, sessions = self._block_number, self._session_number
        self.block_id += [number.setdefault(block, len(number)) for block in blocks]
        self.block_count.append(len(blocks))
        self.session.append(-1 if session is None else sessions.setdefault(session, len(sessions)))

    def to_requests(self) -> tuple[Requests, list[str]]:
        """Return the requests, sorted stably by arrival, and notes on what was done."""
        notes = list(self.notes)
        arrival = np.array(self.arrival_ns, np.int64)
        late = int((arrival < np.maximum.accumulate(arrival)).sum())
        if late:
            notes.append(f"sorted by arrival: {late} rows came after a later one")
        if any(block != number for block, number in self._block_number.items()):
            notes.append(f"prefix block ids renumbered to 0…{len(self._block_number) - 1}")
        if any(label != number for label, number in self._session_number.items()):
            notes.append(f"sessions renumbered to 0…{len(self._session_number) - 1}")
        order = np.argsort(arrival, kind="stable")
        offset, block_id = gather_blocks(
            np.concatenate(([0], np.cumsum(self.block_count, dtype=np.int64))), np.array(self.block_id, np.int64), order
        )
        requests = Requests(
            arrival[order],
            np.array(self.prompt_tokens, np.int64)[order],
            np.array(self.output_tokens, np.int64)[order],
            offset,
            block_id,
            self.block_tokens,
            np.array(self.session, np.int64)[order],
        )
        return requests, notes


def gather_blocks(block_offset: IntArray, block_id: IntArray, index: IntArray) -> tuple[IntArray, IntArray]:
    """Return (offset, ids) of the ragged rows at `index` (int64[k], any order); O(k + ids)."""
    length = np.diff(block_offset)[index]
    offset = np.concatenate((np.zeros(1, np.int64), np.cumsum(length)))
    gather = np.repeat(block_offset[:-1][index] - offset[:-1], length) + np.arange(offset[-1])
    return offset, block_id[gather]
