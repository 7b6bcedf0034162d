"""Passes and steps of an engine, paced by the wall clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from sbs_opt.testing.engines.ranks import PassWork, Ranks, StepWork


class ModelClock:
    """Modelled time since the clock was made: wall time × speed."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._origin_s = time.monotonic()

    def now_ns(self) -> int:
        """Return the present in modelled nanoseconds."""
        return round((time.monotonic() - self._origin_s) * self._speed * 1e9)

    def wall_s(self, model_ns: float) -> float:
        """Return the wall time that so many modelled nanoseconds take."""
        return model_ns / self._speed / 1e9

    async def sleep_until(self, model_ns: int) -> None:
        """Return at that time, or at once when it is past; others run in between in any case."""
        await asyncio.sleep(max(0.0, self._origin_s + self.wall_s(model_ns) - time.monotonic()))


class Pacer:
    """Runs one pass or step after the other while there is work.

    Work that follows work starts when that was due to end, however late the process woke up: nothing drifts. A process
    that falls behind by more than `LAG_S` of wall time gives up catching up; `slipped_ns` is the modelled time lost so.

    Parameters
    ----------
    ranks, clock
        What is run, and when.
    ended
        Called with all work that has ended.
    """

    LAG_S = 0.05

    def __init__(self, ranks: Ranks, clock: ModelClock, ended: Callable[[PassWork | StepWork], None]) -> None:
        self._ranks = ranks
        self._clock = clock
        self._ended = ended
        self._wake = asyncio.Event()
        self.slipped_ns = 0

    def wake(self) -> None:
        """Say that there may be work."""
        self._wake.set()

    async def run(self) -> None:
        """Run until cancelled."""
        due_ns = 0
        busy = False
        while True:
            now_ns = self._clock.now_ns()
            start_ns = due_ns if busy else now_ns
            behind_ns = now_ns - start_ns
            if self._clock.wall_s(behind_ns) > self.LAG_S:
                self.slipped_ns += behind_ns
                start_ns = now_ns
            work = self._ranks.begin(start_ns)
            busy = work is not None
            if work is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            due_ns = start_ns + work.record.duration_ns
            await self._clock.sleep_until(due_ns)
            self._ranks.end(work)
            self._ended(work)
