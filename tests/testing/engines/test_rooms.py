"""Rooms tell every decode leg how its prefill leg ended, in whatever order they come, and are forgotten then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("aiohttp")

from sbs_opt.testing.engines import rooms as rooms_module
from sbs_opt.testing.engines.requests import RequestError
from sbs_opt.testing.engines.rooms import Rooms

ACTIONS = ("come", "ready", "leave", "ask", "abandon")


class Expected:
    """One room as it should be: its leg, those who ask, and an end that nobody has heard of."""

    def __init__(self) -> None:
        self.leg: AbstractContextManager[Callable[[], None]] | None = None
        self.ready: Callable[[], None] = lambda: None
        self.over = False
        self.asking: list[asyncio.Task[bool | None]] = []
        self.unheard: bool | None = None

    async def apply(self, rooms: Rooms, number: int, action: str) -> None:
        if action == "come" and self.leg is None:
            self.leg = rooms.leg(number)
            self.ready = self.leg.__enter__()
            self.over, self.unheard = False, None
        elif action == "ready" and self.leg is not None:
            self.ready()
            await self.ended(True)
        elif action == "leave" and self.leg is not None:
            self.leg.__exit__(None, None, None)
            self.leg = None
            await self.ended(False)
        elif action == "ask" and self.unheard is not None:
            assert await rooms.outcome(number) is self.unheard
            self.unheard = None
        elif action == "ask":
            self.asking.append(asyncio.create_task(rooms.outcome(number)))
        elif action == "abandon" and self.asking:
            self.asking.pop().cancel()
        await asyncio.sleep(0)  # what was started or cancelled runs
        await asyncio.sleep(0)

    async def ended(self, ready: bool) -> None:
        if self.over:
            return
        self.over = True
        if self.asking:
            assert await asyncio.gather(*self.asking) == [ready] * len(self.asking)
            self.asking.clear()
        else:
            self.unheard = ready

    @property
    def remembered(self) -> bool:
        return self.unheard is not None or bool(self.asking) or (self.leg is not None and not self.over)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(ACTIONS)), max_size=40))
def test_every_end_is_told_and_then_forgotten(actions: list[tuple[int, str]]) -> None:
    async def main() -> None:
        rooms = Rooms(3_600.0)
        expected = [Expected() for _ in range(3)]
        for number, action in actions:
            await expected[number].apply(rooms, number, action)
            assert len(rooms) == sum(one.remembered for one in expected)
        for number, room in enumerate(expected):
            await room.apply(rooms, number, "leave")
            while room.asking:
                await room.apply(rooms, number, "abandon")
            await room.apply(rooms, number, "ask" if room.unheard is not None else "abandon")
        assert len(rooms) == 0

    asyncio.run(main())


def test_a_room_that_does_not_come_is_awaited_for_a_time() -> None:
    async def main() -> None:
        rooms = Rooms(0.02)
        assert await rooms.outcome(7) is None
        assert len(rooms) == 0

    asyncio.run(main())


def test_a_room_that_has_come_is_awaited_to_its_end() -> None:
    async def main() -> None:
        rooms = Rooms(0.02)
        with rooms.leg(7) as ready:
            asked = asyncio.create_task(rooms.outcome(7))
            await asyncio.sleep(0.1)
            assert not asked.done()
            ready()
            assert await asked is True

    asyncio.run(main())


def test_a_room_holds_one_leg() -> None:
    rooms = Rooms(1.0)
    with rooms.leg(7):
        with pytest.raises(RequestError, match="bootstrap_room = 7 is held"), rooms.leg(7):
            pass
        assert len(rooms) == 1


def test_ends_that_nobody_asks_for_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        rooms = Rooms(0.02)
        for number in range(10):
            with rooms.leg(number) as ready:
                ready()
        assert len(rooms) == 3
        assert [await rooms.outcome(number) for number in (0, 6, 7, 8, 9)] == [None, None, True, True, True]
        assert len(rooms) == 0

    monkeypatch.setattr(rooms_module, "MOST_UNHEARD", 3)
    asyncio.run(main())
