"""Passes of an instance, put together from what its ranks tell one by one. No clock: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from sbs_opt.adapters.telemetry_passes import ForwardPass
from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.models.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class PassOver:
    """A prefill pass of an instance that is over on all its ranks, as far as they were heard of.

    Parameters
    ----------
    number
        Of the passes of this instance that were told, from 0; a restart of the engine does not begin it anew.
    duration_ns
        The longest of the ranks heard: they wait for the slowest.
    tokens_run, tokens_queued
        int64[ranks]: prompt tokens computed, and those of whole prompts that wait; 0 where `heard` or `queue_known`
        says False.
    heard
        bool[ranks]: the rank told of this pass.
    queue_known
        bool[ranks]: the rank told how many tokens wait; 0 tokens then means that nothing waits.
    """

    number: int
    duration_ns: int
    tokens_run: IntArray
    tokens_queued: IntArray
    heard: BoolArray
    queue_known: BoolArray

    def queued_or(self, believed: IntArray) -> IntArray:
        """Return the tokens queued, and of ranks that did not tell those `believed` (int64[ranks])."""
        return np.where(self.queue_known, self.tokens_queued, believed)


@dataclass(slots=True)
class FeedOddities:
    """How often a message or a pass was not what it should be; none of it does harm.

    Parameters
    ----------
    unknown_ranks
        Messages of a rank that the instance does not have.
    duplicates
        Messages heard a moment ago, once more.
    late
        Messages of a pass that was over already (also an older one once more).
    realigned
        Times that the counter of a rank was matched anew to those of others: after a restart, or idleness.
    partial_passes
        Passes that ended without a rank that was waited for.
    unheard_passes
        Steps that the counters passed over.
    """

    unknown_ranks: int = 0
    duplicates: int = 0
    late: int = 0
    realigned: int = 0
    partial_passes: int = 0
    unheard_passes: int = 0


@dataclass(slots=True)
class _Rank:
    """What is known of a rank. `offset` added to its counter is the step of the instance; None = never heard of."""

    offset: int | None = None
    counter: int = -1
    heard_ns: int = 0
    idle: bool = False
    missed: int = 0


@dataclass(slots=True)
class _Open:
    """A step some ranks have told of."""

    step: int
    since_ns: int
    told: dict[int, ForwardPass] = field(default_factory=dict)


class PassCollator:
    """Puts together the passes of one instance from the messages of its ranks.

    A pass is over once all ranks that are alive have told of it, once one tells of the next, or `wait_ns` after the
    first has told. A rank is alive until it was missed in `PATIENCE` steps in a row; idle ones are given up in the same
    way, since all may be back from idleness with one pass. Steps without prefill tokens are no passes of the prefill
    scheduler: they are counted in `other_steps`.

    Parameters
    ----------
    num_ranks
        Data-parallel ranks of the instance, which step together.
    wait_ns
        Longest wait for the other ranks: above the spread of messages of one pass, below the shortest pass.

    Attributes
    ----------
    oddities
        What was lost, late and the like.
    heartbeats, other_steps
        Messages of idle ranks, and steps without prefill.

    Notes
    -----
    Engines count messages per rank. Ranks that started together count alike, until one sends messages of idleness that
    others do not (SGLang, Dynamo), or starts anew. Such a rank is matched by time: its next message is of the pass that
    the others tell of at that moment. The same goes for a rank that told only of passes long over for `FORGET_NS`.
    """

    PATIENCE: ClassVar[int] = 16
    """A rank missed in so many steps in a row is not waited for until it tells something."""
    FORGET_NS: ClassVar[int] = 1_000_000_000
    """No datagram is this late: who tells only old counters for so long counts anew. Engines take longer to restart."""

    def __init__(self, num_ranks: int, *, wait_ns: int = 2_000_000) -> None:
        if num_ranks < 1:
            raise InputError(f"num_ranks = {num_ranks}: must be at least 1")
        if wait_ns < 0:
            raise InputError(f"wait_ns = {wait_ns}: must be at least 0")
        self._wait_ns = wait_ns
        self._ranks = [_Rank() for _ in range(num_ranks)]
        self._open: _Open | None = None
        self._ended = -1
        self._ended_ns = 0
        self._passes = 0
        self.oddities = FeedOddities()
        self.heartbeats = 0
        self.other_steps = 0

    def heard(self, message: ForwardPass, now_ns: int) -> tuple[PassOver, ...]:
        """Take in a message, and return the passes that are over with it, in order."""
        over = list(self.handle_timer(now_ns))
        if message.rank >= len(self._ranks):
            self.oddities.unknown_ranks += 1
        elif message.duration_ns == 0:
            self._heartbeat(message, now_ns)
        elif (step := self._step_of(message, now_ns)) is not None:
            over += self._told(message, step, now_ns)
        if self._open is not None and not self._waited_for(self._open):
            over += self._end(now_ns)
        return tuple(over)

    def handle_timer(self, now_ns: int) -> tuple[PassOver, ...]:
        """Return the pass that has been waited for long enough, if any."""
        due_ns = self.next_timer_ns()
        return self._end(now_ns) if due_ns is not None and now_ns >= due_ns else ()

    def next_timer_ns(self) -> int | None:
        """Return when `handle_timer` is due, None while no pass is under way."""
        return None if self._open is None else self._open.since_ns + self._wait_ns

    # -- counters ------------------------------------------------------------------------------------------------

    def _heartbeat(self, message: ForwardPass, now_ns: int) -> None:
        self.heartbeats += 1
        rank = self._ranks[message.rank]
        rank.idle = True
        if rank.offset is not None and message.counter > rank.counter:
            rank.offset -= 1  # it took a number, though it is no step
            rank.counter, rank.heard_ns = message.counter, now_ns

    def _step_of(self, message: ForwardPass, now_ns: int) -> int | None:
        """Return which step of the instance a message tells of, None where it is counted as an oddity."""
        rank = self._ranks[message.rank]
        if rank.offset is None:
            rank.offset, rank.heard_ns = self._shared_offset(message.counter), now_ns
        step = message.counter + rank.offset
        if message.counter > rank.counter and self._is_new(step):
            pass
        elif message.counter == rank.counter:
            self.oddities.duplicates += 1
            return None
        elif self._counts_anew(message, now_ns):
            self.oddities.realigned += 1
            step = self._step_by_time(message)
            rank.offset = step - message.counter
        else:
            self.oddities.late += 1
            rank.missed = 0  # late, but alive: worth waiting for
            return None
        rank.counter, rank.heard_ns, rank.idle, rank.missed = message.counter, now_ns, False, 0
        return step

    def _shared_offset(self, counter: int) -> int:
        known = [rank for rank in self._ranks if rank.offset is not None]
        offset = max(known, key=lambda rank: rank.heard_ns).offset if known else None
        return -counter if offset is None else offset

    def _is_new(self, step: int) -> bool:
        return step > self._ended if self._open is None else step >= self._open.step

    def _counts_anew(self, message: ForwardPass, now_ns: int) -> bool:
        """Tell whether a message that looks late is of a rank whose counter no longer fits those of the others."""
        rank = self._ranks[message.rank]
        back_from_idle = rank.idle and message.counter > rank.counter
        if not back_from_idle and now_ns - rank.heard_ns < self.FORGET_NS:
            return False
        if self._open is not None:
            return message.rank not in self._open.told
        # Right after the end of a pass a message is a late one of it, by a rank that is slow to tell.
        return now_ns - self._ended_ns > message.duration_ns // 2

    def _step_by_time(self, message: ForwardPass) -> int:
        return self._ended + 1 if self._open is None else self._open.step

    # -- steps ---------------------------------------------------------------------------------------------------

    def _told(self, message: ForwardPass, step: int, now_ns: int) -> tuple[PassOver, ...]:
        over: tuple[PassOver, ...] = ()
        if self._open is not None and step > self._open.step:
            over = self._end(now_ns)
        if self._open is None:
            self.oddities.unheard_passes += step - self._ended - 1
            self._open = _Open(step, now_ns)
        self._open.told[message.rank] = message
        return over

    def _waited_for(self, opened: _Open) -> bool:
        return any(rank not in opened.told and known.missed < self.PATIENCE for rank, known in enumerate(self._ranks))

    def _end(self, now_ns: int) -> tuple[PassOver, ...]:
        opened = self._open
        assert opened is not None
        self.oddities.partial_passes += self._waited_for(opened)
        self._open, self._ended, self._ended_ns = None, opened.step, now_ns
        for rank, known in enumerate(self._ranks):
            known.missed += rank not in opened.told
        if not any(message.scheduled.prefill_tokens for message in opened.told.values()):
            self.other_steps += 1
            return ()
        number, self._passes = self._passes, self._passes + 1
        return (_pass_over(number, len(self._ranks), opened.told),)


def _pass_over(number: int, num_ranks: int, told: dict[int, ForwardPass]) -> PassOver:
    run, queued = np.zeros(num_ranks, np.int64), np.zeros(num_ranks, np.int64)
    heard, queue_known = np.zeros(num_ranks, np.bool_), np.zeros(num_ranks, np.bool_)
    for rank, message in told.items():
        heard[rank] = True
        run[rank] = message.scheduled.prefill_tokens
        queued[rank] = message.queued.prefill_tokens
        # Requests that wait without a token: the engine counts them, but does not say how long they are (vLLM).
        queue_known[rank] = message.queued.prefill_requests == 0 or message.queued.prefill_tokens > 0
    return PassOver(number, max(message.duration_ns for message in told.values()), run, queued, heard, queue_known)
