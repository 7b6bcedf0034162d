"""Ranks behind a barrier: queues, chunked prefill and decode, without clock or network.

Passes and steps share one timeline. Prefill has priority: while any rank has a prompt that it can run, the next is a
pass; a decode step runs when none has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.testing.engines.config import EngineConfig
from sbs_opt.testing.engines.records import PassRecord, RankLoad, StepRecord


@dataclass(slots=True, eq=False)
class Sequence:
    """One request at a rank; `notify` is called whenever `produced` has grown."""

    rank: int
    prompt_tokens: int
    max_tokens: int
    notify: Callable[[], None]
    prefilled: int = 0
    produced: int = 0
    gone: bool = False

    @property
    def finished(self) -> bool:
        """Whether all its tokens are there."""
        return self.produced >= self.max_tokens


@dataclass(slots=True)
class _Rank:
    queue: deque[Sequence] = field(default_factory=deque)
    held: dict[Sequence, None] = field(default_factory=dict)  # those that hold a slot
    running: dict[Sequence, None] = field(default_factory=dict)  # those that decode
    live: int = 0
    queued_tokens: int = 0
    kv_tokens: int = 0
    prefilled_tokens: int = 0
    prefill_busy_ns: int = 0


@dataclass(frozen=True, slots=True)
class PassWork:
    """A pass under way."""

    record: PassRecord
    finishing: list[Sequence]


@dataclass(frozen=True, slots=True)
class StepWork:
    """A decode step under way."""

    record: StepRecord
    batch: list[Sequence]


class Ranks:
    """The ranks of one engine.

    `begin` starts the next pass or step and `end` ends it; the caller waits in between: one at a time.

    Parameters
    ----------
    config
        What the engine is.
    first_pass, first_step
        Numbers to count from.
    """

    def __init__(self, config: EngineConfig, first_pass: int = 0, first_step: int = 0) -> None:
        cost = config.cost_model()
        self._prefill, self._decode = cost.prefill, cost.decode
        self._mode = config.mode
        self._chunk_tokens = config.chunk_tokens
        self._slots = config.slots
        self._ranks = [_Rank() for _ in range(config.ranks)]
        self.passes, self.steps = first_pass, first_step

    def submit(self, sequence: Sequence) -> None:
        """Queue a request at its rank."""
        rank = self._ranks[sequence.rank]
        rank.queue.append(sequence)
        rank.live += 1
        if self._mode != "decode":
            rank.queued_tokens += sequence.prompt_tokens

    def withdraw(self, sequence: Sequence) -> None:
        """Take a request out wherever it is; a pass under way still runs its tokens. No effect once it is out."""
        if sequence.gone:
            return
        sequence.gone = True
        rank = self._ranks[sequence.rank]
        rank.live -= 1
        rank.held.pop(sequence, None)
        rank.running.pop(sequence, None)
        rank.kv_tokens -= sequence.prefilled + sequence.produced
        if self._mode == "decode":
            waits = not sequence.prefilled
        else:
            waits = sequence.prefilled < sequence.prompt_tokens
            rank.queued_tokens -= sequence.prompt_tokens - sequence.prefilled
        if waits:
            rank.queue.remove(sequence)

    def begin(self, start_ns: int) -> PassWork | StepWork | None:
        """Start the next pass or step at a modelled time; None when there is nothing to run."""
        if self._mode == "decode":
            self._admit_to_decode()
        elif work := self._begin_pass(start_ns):
            return work
        return self._begin_step(start_ns)

    def end(self, work: PassWork | StepWork) -> None:
        """End what `begin` started: its tokens are there."""
        if isinstance(work, PassWork):
            self._end_pass(work)
        else:
            self.steps += 1
            for sequence in work.batch:
                self._produce(sequence)

    def loads(self) -> list[RankLoad]:
        """Return the load of every rank."""
        return [
            RankLoad(
                rank.live - len(rank.queue),
                len(rank.queue),
                rank.queued_tokens,
                rank.kv_tokens,
                rank.prefilled_tokens,
                rank.prefill_busy_ns,
            )
            for rank in self._ranks
        ]

    def _begin_pass(self, start_ns: int) -> PassWork | None:
        if not any(rank.queue for rank in self._ranks):
            return None
        finishing: list[Sequence] = []
        sums = np.array([self._take(rank, finishing) for rank in self._ranks], np.int64)
        tokens, pairs, context = (np.ascontiguousarray(column) for column in sums.T)
        if not tokens.any():
            return None
        duration = self._prefill.pass_ns(pairs, tokens, context)
        return PassWork(PassRecord(self.passes, start_ns, duration, tokens, pairs, context), finishing)

    def _take(self, rank: _Rank, finishing: list[Sequence]) -> tuple[int, int, int]:
        """Take a rank's share of a pass from the head of its queue; return its tokens, pairs and context tokens."""
        room, pairs, context = self._chunk_tokens, 0, 0
        while rank.queue and room:
            sequence = rank.queue[0]
            if sequence not in rank.held and self._mode == "unified" and len(rank.held) >= self._slots:
                break
            rank.held[sequence] = None
            take = min(room, sequence.prompt_tokens - sequence.prefilled)
            pairs += take * sequence.prefilled + take * (take + 1) // 2
            sequence.prefilled += take
            context += sequence.prefilled
            room -= take
            if sequence.prefilled == sequence.prompt_tokens:
                finishing.append(rank.queue.popleft())  # else the rest stays at the head
        tokens = self._chunk_tokens - room
        rank.queued_tokens -= tokens
        rank.kv_tokens += tokens
        return tokens, pairs, context

    def _end_pass(self, work: PassWork) -> None:
        self.passes += 1
        for rank, tokens in zip(self._ranks, work.record.tokens.tolist(), strict=True):
            rank.prefilled_tokens += tokens
            rank.prefill_busy_ns += work.record.duration_ns if tokens else 0
        for sequence in work.finishing:
            self._start_decoding(sequence)

    def _admit_to_decode(self) -> None:
        """Give slots to those that wait; the first token came with the cache."""
        for rank in self._ranks:
            while rank.queue and len(rank.held) < self._slots:
                sequence = rank.queue.popleft()
                rank.held[sequence] = None
                sequence.prefilled = sequence.prompt_tokens
                rank.kv_tokens += sequence.prompt_tokens
                self._start_decoding(sequence)

    def _start_decoding(self, sequence: Sequence) -> None:
        if not sequence.gone:
            self._ranks[sequence.rank].running[sequence] = None
            self._produce(sequence)

    def _produce(self, sequence: Sequence) -> None:
        if sequence.gone:
            return
        sequence.produced += 1
        self._ranks[sequence.rank].kv_tokens += 1
        if sequence.finished:
            self.withdraw(sequence)
        sequence.notify()

    def _begin_step(self, start_ns: int) -> StepWork | None:
        batch = [sequence for rank in self._ranks for sequence in rank.running]
        if not batch:
            return None
        kv: IntArray = np.array(
            [sum(s.prompt_tokens + s.produced for s in rank.running) for rank in self._ranks], np.int64
        )
        count: IntArray = np.array([len(rank.running) for rank in self._ranks], np.int64)
        return StepWork(StepRecord(self.steps, start_ns, self._decode.step_ns(kv, count), kv, count), batch)
