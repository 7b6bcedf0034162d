"""The bootstrap rooms of a prefill engine: where a decode leg learns how its prefill leg ended."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sbs_opt.testing.engines.requests import RequestError

MOST_UNHEARD = 4_096
"""Rooms that are over and that nobody has asked for yet; the oldest are forgotten first."""


@dataclass(slots=True, eq=False)
class _Room:
    came: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    ready: bool = False
    asking: int = 0


class Rooms:
    """Rooms that are awaited, open, or over and not asked for yet.

    A room's end is told once, to all that are asking by then or else to the first that asks; then it is forgotten.

    Parameters
    ----------
    wait_s
        How long a room that has not come yet is awaited.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._live: dict[int, _Room] = {}
        self._unheard: OrderedDict[int, bool] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of rooms that are remembered."""
        return len(self._live) + len(self._unheard)

    @contextmanager
    def leg(self, number: int | None) -> Iterator[Callable[[], None]]:
        """Hold a room open for a prefill leg, which calls what it is given when its prefill has ended.

        A leg that is left before has failed. None holds no room.

        Raises
        ------
        RequestError
            400 when another leg holds the room.
        """
        if number is None:
            yield lambda: None
            return
        room = self._live.setdefault(number, _Room())
        if room.came.is_set():
            raise RequestError(400, f"bootstrap_room = {number} is held by another request: draw one for each")
        self._unheard.pop(number, None)
        room.came.set()
        try:
            yield lambda: self._end(number, room, ready=True)
        finally:
            self._end(number, room, ready=False)

    async def outcome(self, number: int) -> bool | None:
        """Wait for the end of a room; return whether its prefill ended well, or None when no leg comes."""
        if number in self._unheard:
            return self._unheard.pop(number)
        room = self._live.setdefault(number, _Room())
        room.asking += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await room.came.wait()
            await room.over.wait()
            return room.ready
        except TimeoutError:
            return None
        finally:
            room.asking -= 1
            if not (room.asking or room.came.is_set()):
                del self._live[number]

    def _end(self, number: int, room: _Room, ready: bool) -> None:
        if room.over.is_set():
            return
        del self._live[number]
        room.ready = ready
        room.over.set()
        if not room.asking:
            self._unheard[number] = ready
            if len(self._unheard) > MOST_UNHEARD:
                self._unheard.popitem(last=False)
