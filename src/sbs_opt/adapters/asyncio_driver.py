"""Drive a scheduler from asyncio: events in, commands out, its timers on a clock."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from sbs_opt.scheduler.commands import Command
from sbs_opt.scheduler.events import Event
from sbs_opt.scheduler.policies import Scheduler


class Clock(Protocol):
    """What the driver asks of time."""

    def now_ns(self) -> int:
        """Return the present, in nanoseconds from any fixed origin."""
        ...

    async def wait(self, wake: asyncio.Event, until_ns: int | None) -> None:
        """Return when `wake` is set or at `until_ns`; None waits for `wake` alone."""
        ...


class MonotonicClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        """See `Clock`."""
        return time.monotonic_ns()

    async def wait(self, wake: asyncio.Event, until_ns: int | None) -> None:
        """See `Clock`."""
        try:
            async with asyncio.timeout(None if until_ns is None else max(0.0, (until_ns - self.now_ns()) * 1e-9)):
                await wake.wait()
        except TimeoutError:
            pass


class AsyncioDriver:
    """Feed one scheduler from one event loop.

    Parameters
    ----------
    scheduler
        Any scheduler of the policy table.
    carry_out
        Called with every command, in order; it must not block (start a task for what takes time). What it feeds is
        handled after the event that it belongs to.
    clock
        The machine's monotonic clock unless given.

    Notes
    -----
    An event is handled as it is fed: a policy that binds at once answers without a turn of the event loop. Timers run
    in `run`, after all that the loop has to feed at that moment, as in the simulator: requests that arrive together
    are placed together.
    """

    def __init__(self, scheduler: Scheduler, carry_out: Callable[[Command], None], clock: Clock | None = None) -> None:
        self._scheduler = scheduler
        self._carry_out = carry_out
        self._clock = clock or MonotonicClock()
        self._events: deque[Event] = deque()
        self._handling = False
        self._due_ns: int | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._failure: Exception | None = None

    def feed(self, event: Event) -> None:
        """Handle an event; call it from the event loop's thread.

        An error of the scheduler is raised by `run`, and nothing is handled after it: who feeds cannot mend it.
        """
        if self._failure is not None:
            return
        self._events.append(event)
        if not self._handling:
            try:
                self._settle(())
            except Exception as error:
                self._failure = error
                self._wake.set()
                return
            if self._scheduler.next_timer_ns() != self._due_ns:
                self._wake.set()

    def stop(self) -> None:
        """Let `run` return."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Fire the scheduler's timers until `stop`; raise what it fails with."""
        while True:
            if self._failure is not None:
                raise self._failure
            now_ns = self._clock.now_ns()
            due = self._scheduler.next_timer_ns()
            if due is not None and due <= now_ns:
                try:
                    self._settle(self._scheduler.handle_timer(now_ns=now_ns))
                except Exception as error:
                    self._failure = error
                    raise
                await asyncio.sleep(0)  # let the rest of the program run in between
            elif self._stopping:
                return
            else:
                self._due_ns = due
                self._wake.clear()
                await self._clock.wait(self._wake, due)
                self._due_ns = None

    def _settle(self, commands: tuple[Command, ...]) -> None:
        """Carry out commands, then handle the events that wait and carry out theirs."""
        self._handling = True
        try:
            now_ns = self._clock.now_ns()
            while True:
                for command in commands:
                    self._carry_out(command)
                if not self._events:
                    return
                commands = self._scheduler.handle(self._events.popleft(), now_ns=now_ns)
        finally:
            self._handling = False
