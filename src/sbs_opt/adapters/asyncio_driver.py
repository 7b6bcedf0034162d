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
        Called with every command, in order; it must not block (start a task for what takes time).
    clock
        The machine's monotonic clock unless given.

    Notes
    -----
    What was fed when a round begins belongs to one instant: one reading of the clock, all its events before the timers
    that are due, as in the simulator.
    """

    def __init__(self, scheduler: Scheduler, carry_out: Callable[[Command], None], clock: Clock | None = None) -> None:
        self._scheduler = scheduler
        self._carry_out = carry_out
        self._clock = clock or MonotonicClock()
        self._events: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._stopping = False

    def feed(self, event: Event) -> None:
        """Hand in an event; call it from the event loop's thread."""
        self._events.append(event)
        self._wake.set()

    def stop(self) -> None:
        """Let `run` return once the events fed so far are handled."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Drive the scheduler until `stop`."""
        while True:
            now_ns = self._clock.now_ns()
            for _ in range(len(self._events)):
                self._do(self._scheduler.handle(self._events.popleft(), now_ns=now_ns))
            due = self._scheduler.next_timer_ns()
            timely = due is not None and due <= now_ns
            if timely:
                self._do(self._scheduler.handle_timer(now_ns=now_ns))
            if self._events or timely:
                # Commands that fail at once feed new events: let the rest of the program run in between.
                await asyncio.sleep(0)
            elif self._stopping:
                return
            else:
                self._wake.clear()
                await self._clock.wait(self._wake, due)

    def _do(self, commands: tuple[Command, ...]) -> None:
        for command in commands:
            self._carry_out(command)
