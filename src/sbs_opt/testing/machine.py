"""A hypothesis state machine that tells a scheduler true, late, repeated and contradictory things in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sbs_opt.models.checks import IntArray
from sbs_opt.scheduler.commands import Command, Dispatch, Reject
from sbs_opt.scheduler.events import (
    DispatchFailed,
    Event,
    FirstTokens,
    InstanceAdded,
    InstanceDraining,
    InstanceLost,
    LoadReported,
    PassEnded,
    RequestBatch,
    RequestsArrived,
    RequestsCancelled,
    RequestsFinished,
)
from sbs_opt.scheduler.policies import Scheduler

_INSTANCES, _UNITS = 2, 3
_ids = st.lists(st.integers(0, 30), max_size=4)
_instance = st.integers(-1, _INSTANCES)
_figures = st.lists(st.integers(-5, 400), min_size=_UNITS, max_size=_UNITS)
_any_figures = st.one_of(_figures, st.lists(st.integers(0, 9), max_size=2 * _UNITS))
_TIMERS_PER_INSTANT = 200


class SchedulerMachine(RuleBasedStateMachine):
    """Drive one scheduler of 2 instances × 3 units; subclass and give `make`.

    Whatever it is told, a scheduler must not raise, must not fire timers for ever at one instant, must never hold a
    negative booking or have a request in two places, and must be empty once every request is answered.
    """

    def make(self) -> Scheduler:
        """Return the scheduler under test."""
        raise TypeError("give the machine a scheduler: override make()")

    @initialize()
    def start(self) -> None:
        """Begin with a fresh scheduler."""
        self.scheduler = self.make()
        self.now_ns = 0
        self.passes = [0] * (_INSTANCES + 2)
        self.in_flight: set[int] = set()
        self.windows = 0

    # -- what is told --------------------------------------------------------------------------------------------

    @rule(ids=_ids, prompt=st.integers(0, 500), priority=st.integers(0, 2), wait=st.none() | st.integers(0, 9_000))
    def arrive(self, ids: list[int], prompt: int, priority: int, wait: int | None) -> None:
        """Requests arrive, some of them again."""
        ones = np.ones(len(ids), np.int64)
        deadline = None if wait is None else ones * (self.now_ns + wait)
        self.tell(
            RequestsArrived(RequestBatch(_array(ids), ones * prompt, priority=ones * priority, deadline_ns=deadline))
        )

    @rule(ids=_ids, kind=st.sampled_from([RequestsCancelled, RequestsFinished, FirstTokens]))
    def answer(self, ids: list[int], kind: Any) -> None:
        """Requests end, known ones or not, perhaps twice in one event."""
        self.in_flight -= set(ids) if kind is not FirstTokens or not self.decodes() else set()
        self.tell(kind(_array(ids)))

    @rule(instance=_instance, skip=st.integers(-1, 2), run=_figures, queued=_any_figures)
    def end_pass(self, instance: int, skip: int, run: list[int], queued: list[int]) -> None:
        """A pass ends, in turn, again, or with some reports missing before it."""
        number = max(0, self.passes[instance] + skip)
        self.passes[instance] = max(self.passes[instance], number + 1)
        self.tell(PassEnded(instance, number, 1_000, _array(run), _array(queued)))

    @rule(instance=_instance, queued=_any_figures, age=st.integers(-500, 3_000))
    def report(self, instance: int, queued: list[int], age: int) -> None:
        """Telemetry comes in, old, fresh or from the future."""
        self.tell(LoadReported(instance, _array(queued), self.now_ns - age))

    @rule(back=st.integers(0, 3), ids=_ids)
    def fail(self, back: int, ids: list[int]) -> None:
        """A dispatch is said to have failed; it may be an old one, or hold other requests."""
        self.tell(DispatchFailed(self.windows - back, _array(ids), "reset"), gives_back=set(ids))

    @rule(instance=_instance, kind=st.sampled_from([InstanceAdded, InstanceDraining, InstanceLost]))
    def change(self, instance: int, kind: Any) -> None:
        """An instance comes, leaves or breaks."""
        if kind is InstanceAdded and 0 <= instance < _INSTANCES:
            self.passes[instance] = 0
        self.tell(kind(instance), gives_back=set(self.in_flight) if kind is InstanceLost else set())

    @rule(step=st.integers(-50, 5_000))
    def wait(self, step: int) -> None:
        """Time passes; a driver's clock may even step back."""
        self.now_ns = max(0, self.now_ns + step)
        self.fire()

    # -- what must hold ------------------------------------------------------------------------------------------

    def decodes(self) -> bool:
        """Whether a first token leaves the request with this scheduler."""
        return False

    def tell(self, event: Event, gives_back: set[int] | None = None) -> None:
        """Hand in an event; `gives_back` are the requests that it may make the scheduler send again."""
        if gives_back:
            self.in_flight -= gives_back
        given_up = self.scheduler.oddities.lost_first_tokens
        commands = self.scheduler.handle(event, now_ns=self.now_ns)
        if self.scheduler.oddities.lost_first_tokens > given_up:
            self.in_flight.clear()  # reports showed requests to be done; which ones, only the scheduler knows
        self.check(commands)

    def fire(self) -> None:
        """Fire what is due; it must come to an end."""
        for _ in range(_TIMERS_PER_INSTANT):
            due = self.scheduler.next_timer_ns()
            if due is None or due > self.now_ns:
                return
            self.check(self.scheduler.handle_timer(now_ns=self.now_ns))
        raise AssertionError(f"timers fire for ever at {self.now_ns} ns")

    def check(self, commands: tuple[Command, ...]) -> None:
        """Take note of commands: a request is sent to one place at a time."""
        for command in commands:
            ids = command.ids.tolist()
            if isinstance(command, Dispatch):
                assert len(set(ids)) == len(ids) == len(command.units)
                assert not self.in_flight & set(ids), "sent twice"
                assert 0 <= command.instance < _INSTANCES
                assert ((command.units >= 0) & (command.units < _UNITS)).all()
                self.in_flight |= set(ids)
                self.windows = max(self.windows, command.window_id)
            elif isinstance(command, Reject):
                assert not self.in_flight & set(ids), "rejected though sent"

    @invariant()
    def books_are_sound(self) -> None:
        """No negative booking, and none without a request."""
        if hasattr(self, "scheduler"):
            assert self.scheduler.booked >= 0
            assert self.scheduler.open_requests > 0 or self.scheduler.booked == 0

    def teardown(self) -> None:
        """Once everything is answered, nothing is open, booked or due."""
        if hasattr(self, "scheduler"):
            self.scheduler.handle(RequestsFinished(np.arange(31)), now_ns=self.now_ns)
            assert (self.scheduler.open_requests, self.scheduler.booked) == (0, 0)
            assert self.scheduler.next_timer_ns() is None


def _array(values: list[int]) -> IntArray:
    return np.array(values, np.int64)
