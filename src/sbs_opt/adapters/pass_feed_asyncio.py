"""Collators of all instances in one event loop: messages in, ends of passes out, their waits on its clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from sbs_opt.adapters.pass_feed import PassCollator, PassOver
from sbs_opt.adapters.telemetry_passes import ForwardPass


class PassFeed:
    """Tells the ends of passes of instances.

    Parameters
    ----------
    collators
        One per instance.
    ended
        Called with the instance and each pass that is over, from the event loop.
    now_ns
        The machine's monotonic clock unless given.
    """

    def __init__(
        self,
        collators: Sequence[PassCollator],
        ended: Callable[[int, PassOver], None],
        *,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._collators = tuple(collators)
        self._ended = ended
        self._now_ns = now_ns
        self._timers: list[asyncio.TimerHandle | None] = [None] * len(self._collators)

    def told(self, instance: int, message: ForwardPass) -> None:
        """Take in a message of an instance; what `PassListener` calls."""
        self._tell(instance, self._collators[instance].heard(message, self._now_ns()))

    def close(self) -> None:
        """Wait for nothing any more."""
        for timer in self._timers:
            if timer is not None:
                timer.cancel()
        self._timers = [None] * len(self._timers)

    def _due(self, instance: int) -> None:
        self._timers[instance] = None
        self._tell(instance, self._collators[instance].handle_timer(self._now_ns()))

    def _tell(self, instance: int, passes: Sequence[PassOver]) -> None:
        due_ns = self._collators[instance].next_timer_ns()
        if due_ns is not None and self._timers[instance] is None:
            # One timer at a time: where its pass is over by then it finds the next one too young, and is set anew.
            delay_s = max(0, due_ns - self._now_ns()) * 1e-9
            self._timers[instance] = asyncio.get_running_loop().call_later(delay_s, self._due, instance)
        for over in passes:
            self._ended(instance, over)
