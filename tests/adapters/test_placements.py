"""Placements for other routers: each answered once and the same to all who ask, and none booked forever."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import re
import selectors
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

pytest.importorskip("aiohttp")

import aiohttp
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sbs_opt.adapters.asyncio_driver import MonotonicClock
from sbs_opt.adapters.http.placement_book import PlacementBook
from sbs_opt.adapters.http.placement_schema import read_body, schema_text
from sbs_opt.adapters.http.placement_terms import (
    Answer,
    ConflictError,
    CrowdedError,
    Fleet,
    FreedError,
    PlacementRequest,
    UnknownPlacementError,
)
from sbs_opt.adapters.http.placements import PlacementService
from sbs_opt.adapters.router import RejectedError, Router
from sbs_opt.adapters.serve_config import Upstream
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.testing.costs import LinearPrefill, linear_cost_model
from sbs_opt.testing.fleets import small_deployment

COST = linear_cost_model(LinearPrefill(3_000_000, 100, chunk_tokens=4096))
FLEET = small_deployment(2, 4, chunk_tokens=4096, context_tokens=8192)
UPSTREAMS = (Upstream("a", "http://10.0.0.1:30000", "sglang"), Upstream("b", "http://10.0.0.2:30000", "sglang"))
PAGE = Path(__file__).parents[2] / "docs" / "placements.md"
BODIES = ("request", "prefill_complete", "output", "failed")
T = TypeVar("T")


# -- time that jumps -------------------------------------------------------------------------------------------------


class JumpingSelector(selectors.SelectSelector):
    """Instead of waiting it sets its time forward; to wait for nothing at all is an error."""

    now_ns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everybody waits, and nothing will ever happen")
        self.now_ns += max(1_000, math.ceil(timeout * 1e9))
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is that of its selector, and which keeps what nobody handled."""

    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)
        self.unhandled: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.unhandled.append(context))

    def time(self) -> float:
        return self.selector.now_ns / 1e9


class JumpingClock(MonotonicClock):
    """The time of the loop, for the scheduler."""

    def __init__(self, loop: JumpingLoop) -> None:
        self._loop = loop

    def now_ns(self) -> int:
        return self._loop.selector.now_ns


def jumping(scenario: Callable[[Router, PlacementBook], Awaitable[None]], **limits: Any) -> PlacementBook:
    """Run a scenario in time that jumps; nothing may be in flight, booked or unhandled when it ends."""
    loop = JumpingLoop()

    async def main() -> PlacementBook:
        router = Router(FLEET, COST, SchedulerConfig(), clock=JumpingClock(loop))
        running = asyncio.create_task(router.run())
        book = PlacementBook(Fleet(router, UPSTREAMS), **limits)
        await scenario(router, book)
        await asyncio.sleep(0.1)
        assert (book.open, router.in_flight, router.waiting, router.booked) == (0, 0, 0, 0)
        router.stop()
        await running
        return book

    try:
        book = loop.run_until_complete(main())
        gc.collect()  # an error that nobody has fetched is told of as it goes
    finally:
        loop.close()
    assert not loop.unhandled
    return book


# -- any interleaving ------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Caller:
    """Somebody who waits, or did."""

    id: str
    task: asyncio.Task[Answer]
    asks: bool
    left: bool = False
    twins: list[Caller] = field(default_factory=list)


IDS = st.sampled_from(["r0", "r1", "r2", "r3", "r4", "r5"])
ATTEMPTS = st.sampled_from([None, 1, 2, 3])
TICKS = st.integers(0, 4)
REFUSALS = (RejectedError, FreedError, ConflictError, CrowdedError, UnknownPlacementError)


class Placements(RuleBasedStateMachine):
    """Callers come, leave and tell in any order while instances come and go; then it all ends in one of four ways."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = JumpingLoop()
        self.routers: dict[Router, asyncio.Task[None]] = {}
        self.callers: list[Caller] = []
        self.disturbed: set[str] = set()
        self.freed: set[str] = set()
        self.end = "free"

    @initialize(
        policy=st.sampled_from(["sbs_auto", "sbs", "phase_aware", "round_robin"]),
        most_waiting=st.sampled_from([1, 3, 100]),
        remembered=st.sampled_from([1, 3, 100]),
        end=st.sampled_from(["free", "lease", "leave", "close"]),
    )
    def begin(self, policy: str, most_waiting: int, remembered: int, end: str) -> None:
        self.policy, self.end = policy, end
        self.book = PlacementBook(self.new_fleet(), most_waiting, lease_s=1.0, remembered=remembered)

    def new_fleet(self) -> Fleet:
        async def start() -> asyncio.Task[None]:
            return asyncio.create_task(router.run())

        router = Router(FLEET, COST, SchedulerConfig(policy=self.policy), clock=JumpingClock(self.loop))
        self.routers[router] = self.do(start())
        number = len(self.routers)
        return Fleet(router, tuple(replace(upstream, name=f"{number}-{upstream.name}") for upstream in UPSTREAMS))

    def do(self, step: Coroutine[Any, Any, T], ticks: int = 0) -> T:
        async def all_of_it() -> T:
            result = await step
            for _ in range(ticks):
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(all_of_it())

    def join(self, id_: str, call: Coroutine[Any, Any, Answer], asks: bool, ticks: int) -> Caller:
        async def begin() -> Caller:
            return Caller(id_, asyncio.create_task(call), asks)

        self.callers.append(self.do(begin(), ticks))
        return self.callers[-1]

    @rule(id_=IDS, tokens=st.sampled_from([100, 4096, 4096, 9000]), hurry=st.booleans(), ticks=TICKS)
    def ask(self, id_: str, tokens: int, hurry: bool, ticks: int) -> None:
        earlier = [one for one in self.callers if one.id == id_ and one.asks and not one.left and not one.task.done()]
        request = PlacementRequest(id_, tokens, (1, 2), deadline_s=0.05 if hurry else None)
        self.join(id_, self.book.place(request), True, ticks).twins += earlier

    @rule(id_=IDS, attempt=ATTEMPTS, ticks=TICKS)
    def fail(self, id_: str, attempt: int | None, ticks: int) -> None:
        self.disturbed.add(id_)
        self.join(id_, self.book.failed(id_, "connection refused", attempt), False, ticks)

    @rule(which=st.integers(0, 1 << 20), ticks=TICKS)
    def leave(self, which: int, ticks: int) -> None:
        waiting = [one for one in self.callers if not one.task.done()]
        if waiting:
            self.go(waiting[which % len(waiting)])
            self.do(asyncio.sleep(0), ticks)

    def go(self, caller: Caller) -> None:
        caller.left = True
        self.loop.call_soon(caller.task.cancel)

    @rule(id_=IDS, cached=st.sampled_from([None, 0, 50]), ticks=TICKS)
    def complete(self, id_: str, cached: int | None, ticks: int) -> None:
        async def tell() -> None:
            with suppress(UnknownPlacementError, ConflictError):
                assert self.book.prefill_complete(id_, cached) in ("prefilled", "freed", "expired")

        self.do(tell(), ticks)

    @rule(id_=IDS, ticks=TICKS)
    def put_out(self, id_: str, ticks: int) -> None:
        async def tell() -> None:
            before = self.book.counts.output_tokens
            try:
                self.book.output(id_, 7)
            except (UnknownPlacementError, ConflictError):
                assert self.book.counts.output_tokens == before
            else:
                assert self.book.counts.output_tokens == before + 7

        self.do(tell(), ticks)

    @rule(id_=IDS, ticks=TICKS)
    def free(self, id_: str, ticks: int) -> None:
        async def tell() -> None:
            self.book.free(id_)

        self.disturbed.add(id_)
        self.freed.add(id_)
        self.do(tell(), ticks)

    @rule(instance=st.integers(0, 1), lost=st.booleans(), ticks=TICKS)
    def change(self, instance: int, lost: bool, ticks: int) -> None:
        async def tell() -> None:
            router = self.book.fleet.router
            (router.instance_lost if lost else router.instance_returned)(instance)

        self.do(tell(), ticks)

    @precondition(lambda self: len(self.routers) < 3)
    @rule()
    def reload(self) -> None:
        self.book.fleet = self.new_fleet()

    @rule(seconds=st.sampled_from([0.0005, 0.003, 0.01, 0.1, 0.6, 1.5]))
    def let_time_pass(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @rule()
    def rest(self) -> None:
        """Once everything has run that can, the routers have no request that the book does not know of."""
        self.do(asyncio.sleep(0), 10)
        assert sum(router.in_flight for router in self.routers) <= self.book.open

    @invariant()
    def nothing_goes_unhandled(self) -> None:
        assert not self.loop.unhandled

    def teardown(self) -> None:
        try:
            self.do(self.finish())
            self.check()
            assert not self.loop.unhandled
        finally:
            self.loop.close()

    async def finish(self) -> None:
        for router in self.routers:
            for instance in range(2):
                router.instance_returned(instance)
        if self.end == "free":
            self.freed |= {caller.id for caller in self.callers}
            self.disturbed |= self.freed
            await asyncio.sleep(0)
            for caller in self.callers:
                self.book.free(caller.id)
        elif self.end == "leave":
            for caller in self.callers:
                self.go(caller)
        elif self.end == "close":
            await asyncio.sleep(0)
            self.book.close()
        await asyncio.sleep(0.1 if self.end in ("free", "close") else 60)
        for router, running in self.routers.items():
            state = (self.book.open, router.in_flight, router.waiting, router.booked)
            assert state == (0, 0, 0, 0), "booked forever"
            router.stop()
            await running

    def check(self) -> None:
        told: dict[tuple[str, int, int], Answer] = {}
        for caller in self.callers:
            assert caller.task.done(), "never answered"
            if caller.task.cancelled():
                assert caller.left
            elif (error := caller.task.exception()) is not None:
                assert isinstance(error, REFUSALS)
                assert not isinstance(error, FreedError) or caller.id in self.freed
                assert not isinstance(error, UnknownPlacementError) or not caller.asks
            else:
                answer = caller.task.result()
                assert answer.id == caller.id
                key = (answer.upstream.name[0], answer.placed.id, answer.attempt)
                assert told.setdefault(key, answer) == answer
                for twin in caller.twins:
                    if caller.id not in self.disturbed and not (twin.task.cancelled() or twin.task.exception()):
                        assert twin.task.result() == answer


TestPlacements = Placements.TestCase
TestPlacements.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


# -- one thing at a time ---------------------------------------------------------------------------------------------


def asked(name: str, tokens: int = 500, **more: Any) -> PlacementRequest:
    return PlacementRequest(name, tokens, **more)


def test_all_who_ask_get_one_answer() -> None:
    async def scenario(router: Router, book: PlacementBook) -> None:
        answers = await asyncio.gather(*(book.place(asked("r")) for _ in range(5)))
        answers.append(await book.place(asked("r")))
        assert len({id(answer) for answer in answers}) == 1
        assert book.prefill_complete("r") == "prefilled"
        assert await book.place(asked("r")) is answers[0], "also when it is over"
        assert router.in_flight == 0
        book.free("r")
        assert book.prefill_complete("r") == "freed"
        assert (book.counts.asked, book.counts.placed, book.counts.joined) == (1, 1, 6)

    jumping(scenario)


def test_only_the_last_who_leaves_withdraws() -> None:
    async def scenario(router: Router, book: PlacementBook) -> None:
        router.instance_lost(0)
        router.instance_lost(1)
        first, second = (asyncio.create_task(book.place(asked("r"))) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        assert router.in_flight == 1
        router.instance_returned(1)
        assert (await second).placed.instance == 1
        book.free("r")

        router.instance_lost(1)
        last = asyncio.create_task(book.place(asked("s")))
        await asyncio.sleep(0.01)
        last.cancel()
        await asyncio.sleep(0.01)
        assert (book.open, router.in_flight, book.counts.withdrawn) == (0, 0, 1)

    jumping(scenario)


def test_a_caller_that_leaves_as_it_is_placed_leaves_nothing_booked() -> None:
    async def scenario(router: Router, book: PlacementBook) -> None:
        for ticks in range(12):
            caller = asyncio.create_task(book.place(asked(f"r{ticks}")))
            for _ in range(ticks):
                await asyncio.sleep(0)
            caller.cancel()
            result = (await asyncio.gather(caller, return_exceptions=True))[0]
            await asyncio.sleep(0.01)
            assert router.in_flight == isinstance(result, Answer)
            book.free(f"r{ticks}")

    jumping(scenario)


def test_a_caller_that_leaves_as_another_is_told_withdraws_nothing() -> None:
    async def scenario(router: Router, book: PlacementBook) -> None:
        async def first() -> Answer:
            answer = await book.place(asked("r"))
            second.cancel()
            return answer

        told = asyncio.create_task(first())
        second = asyncio.create_task(book.place(asked("r")))
        await asyncio.wait([told, second])
        assert second.cancelled()
        assert router.in_flight == book.open == 1
        book.free("r")

    jumping(scenario)


def test_a_caller_that_leaves_as_another_tells_a_failure_withdraws_nothing() -> None:
    async def scenario(router: Router, book: PlacementBook) -> None:
        answered = 0
        for ticks in range(12):
            leaving = asyncio.create_task(book.place(asked(f"r{ticks}")))
            for _ in range(ticks):
                await asyncio.sleep(0)
            failing = asyncio.create_task(book.failed(f"r{ticks}", "reset"))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving, failing])
            if failing.exception() is None:
                answered += leaving.cancelled()
                assert router.in_flight == 1
            book.free(f"r{ticks}")
            await asyncio.sleep(0.01)
        assert answered, "the case that this is about"

    jumping(scenario)


def test_a_lease_runs_out_unless_it_is_renewed() -> None:
    async def scenario(router: Router, book: PlacementBook) -> None:
        for name in ("quiet", "asking", "told"):
            await book.place(asked(name))
        for _ in range(4):
            await asyncio.sleep(0.7)
            await book.place(asked("asking"))
            assert book.output("told", 3) == "placed"
        assert (router.in_flight, book.counts.expired) == (2, 1)
        assert book.prefill_complete("quiet") == "expired"
        with pytest.raises(ConflictError, match="is expired"):
            await book.failed("quiet", "too late")
        await asyncio.sleep(1.1)
        assert book.counts.expired == 3
        assert book.counts.output_tokens == 12

    jumping(scenario, lease_s=1.0)


def test_a_lease_does_not_run_while_another_place_is_sought() -> None:
    async def scenario(router: Router, book: PlacementBook) -> None:
        await book.place(asked("r"))
        router.instance_lost(0)
        router.instance_lost(1)
        failing = asyncio.create_task(book.failed("r", "connection lost"))
        await asyncio.sleep(3)
        router.instance_returned(0)
        assert (await failing).attempt == 2
        assert book.counts.expired == 0
        book.free("r")

    jumping(scenario, lease_s=1.0)


def test_a_failure_is_placed_anew_and_once() -> None:
    async def scenario(router: Router, book: PlacementBook) -> None:
        first = await book.place(asked("r"))
        router.instance_lost(first.placed.instance)
        second, joined = await asyncio.gather(book.failed("r", "refused"), book.failed("r", "refused"))
        assert second is joined
        assert (second.attempt, second.placed.instance) == (2, 1 - first.placed.instance)
        assert await book.failed("r", "refused", attempt=1) is second, "told twice"
        assert await book.place(asked("r")) is second
        with pytest.raises(ConflictError, match="attempt 3 has no place"):
            await book.failed("r", "refused", attempt=3)
        third = await book.failed("r", "refused", attempt=2)
        assert third.attempt == 3
        assert book.counts.failed == 2
        book.free("r")
        with pytest.raises(ConflictError, match="is freed"):
            await book.failed("r", "refused")

    jumping(scenario)


def test_a_failure_too_late_to_be_placed_again_is_rejected() -> None:
    async def scenario(router: Router, book: PlacementBook) -> None:
        await book.place(asked("r", deadline_s=0.5))
        router.instance_lost(0)
        router.instance_lost(1)
        await asyncio.sleep(1)
        router.instance_returned(0)
        with pytest.raises(RejectedError, match="deadline"):
            await book.failed("r", "connection lost")
        assert (book.open, router.in_flight) == (0, 0)
        assert (await book.place(asked("r", deadline_s=0.5))).attempt == 1
        book.free("r")

    jumping(scenario)


def test_another_fleet_takes_over() -> None:
    """As a reload does it: one router after the other, the first stopped while it has requests."""

    async def scenario(first: Router, book: PlacementBook) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        second = Router(FLEET, COST, SchedulerConfig(), clock=JumpingClock(loop))
        running = asyncio.create_task(second.run())
        for name in ("told", "failing", "freed"):
            await book.place(asked(name))
        first.instance_lost(0)
        first.instance_lost(1)
        held = asyncio.create_task(book.place(asked("held")))
        await asyncio.sleep(0.01)
        others = (Upstream("c", "http://10.0.0.3:30000", "vllm"), Upstream("d", "http://10.0.0.4:30000", "vllm"))
        book.fleet = Fleet(second, others)
        assert (await book.place(asked("new"))).upstream in others
        assert book.prefill_complete("told") == "prefilled"
        first.stop()
        with pytest.raises(RejectedError, match="shutdown"):
            await held
        answer = await book.failed("failing", "reset")
        assert answer.upstream in others
        assert answer.attempt == 2
        assert (await book.place(asked("told"))).upstream in UPSTREAMS
        for name in ("failing", "freed", "new"):
            book.free(name)
        await asyncio.sleep(0.1)
        assert (second.in_flight, second.booked) == (0, 0)
        second.stop()
        await running

    jumping(scenario)


def test_freed_in_the_moment_of_a_failure_is_free() -> None:
    """The search for another place is cancelled before its first step: the first place must not stay booked."""

    async def scenario(router: Router, book: PlacementBook) -> None:
        await book.place(asked("r"))
        failing = asyncio.create_task(book.failed("r", "refused"))
        await asyncio.sleep(0)
        book.free("r")
        with pytest.raises(FreedError):
            await failing
        await asyncio.sleep(0.01)
        assert (router.in_flight, router.booked) == (0, 0)

    jumping(scenario)


def test_a_refusal_that_nobody_stays_for_is_no_loose_end() -> None:
    async def scenario(router: Router, book: PlacementBook) -> None:
        router.instance_lost(0)
        router.instance_lost(1)
        waiting = asyncio.create_task(book.place(asked("r")))
        await asyncio.sleep(0.01)
        waiting.cancel()
        book.free("r")
        await asyncio.wait([waiting])
        assert waiting.cancelled()

    jumping(scenario)


def test_what_was_never_placed_is_forgotten() -> None:
    async def scenario(router: Router, book: PlacementBook) -> None:
        with pytest.raises(RejectedError):
            await book.place(asked("r", 9000))
        with pytest.raises(UnknownPlacementError):
            book.prefill_complete("r")
        router.instance_lost(0)
        router.instance_lost(1)
        waiting = asyncio.create_task(book.place(asked("r", 100)))
        await asyncio.sleep(0.01)
        with pytest.raises(ConflictError, match="no place yet"):
            book.output("r", 1)
        with pytest.raises(ConflictError, match="no place yet"):
            await book.failed("r", "impatient")
        book.free("r")
        with pytest.raises(FreedError):
            await waiting
        router.instance_returned(0)
        assert (await book.place(asked("r", 200))).attempt == 1
        book.free("r")

    jumping(scenario)


def test_the_memory_of_what_is_over_is_bounded() -> None:
    async def scenario(router: Router, book: PlacementBook) -> None:
        for k in range(5):
            await book.place(asked(f"r{k}"))
            book.prefill_complete(f"r{k}")
            book.output("r0", 1)
        assert book.prefill_complete("r0") == "prefilled", "heard of last"
        assert book.prefill_complete("r4") == "prefilled"
        for name in ("r1", "r2"):
            with pytest.raises(UnknownPlacementError):
                book.prefill_complete(name)

    jumping(scenario, remembered=3)


def test_a_closed_book_refuses_and_releases() -> None:
    async def scenario(router: Router, book: PlacementBook) -> None:
        await book.place(asked("placed"))
        router.instance_lost(0)
        router.instance_lost(1)
        waiting = asyncio.create_task(book.place(asked("waiting")))
        await asyncio.sleep(0.01)
        book.close()
        for call in (waiting, book.place(asked("new"))):
            with pytest.raises(RejectedError) as refusal:
                await call
            assert refusal.value.reason == "shutdown"

    jumping(scenario)


@pytest.mark.parametrize("name", ["most_waiting", "lease_s", "remembered"])
def test_limits_are_above_zero(name: str) -> None:
    limits: dict[str, Any] = {name: 0}
    with pytest.raises(InputError, match=f"{name} = 0"):
        PlacementBook(Fleet(Router(FLEET, COST, SchedulerConfig()), UPSTREAMS), **limits)


# -- over HTTP -------------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """A service over HTTP, its router, and a client."""

    router: Router
    service: PlacementService
    runner: web.AppRunner
    url: str
    client: aiohttp.ClientSession

    async def call(self, path: str = "", body: Any = None, method: str = "POST") -> tuple[int, Any]:
        status, _, found = await self.whole(path, body, method)
        return status, found

    async def whole(self, path: str = "", body: Any = None, method: str = "POST") -> tuple[int, Any, Any]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        async with self.client.request(method, f"{self.url}/v1/placements{path}", data=data) as answer:
            text = await answer.text()
            return answer.status, answer.headers, json.loads(text) if text else None

    async def until(self, come: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not come():
                await asyncio.sleep(0.002)


@asynccontextmanager
async def bench(**options: Any) -> AsyncIterator[Bench]:
    router = Router(FLEET, COST, SchedulerConfig())

    async def running(app: web.Application) -> AsyncIterator[None]:
        del app
        task = asyncio.create_task(router.run())
        yield
        router.stop()
        await task

    app = web.Application(client_max_size=1 << 24)
    app.cleanup_ctx.append(running)
    service = PlacementService(router, UPSTREAMS, **options)
    service.add_to(app)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = runner.addresses[0]
    try:
        async with aiohttp.ClientSession() as client:
            one = Bench(router, service, runner, f"http://{address[0]}:{address[1]}", client)
            yield one
            await one.until(lambda: not (router.in_flight or router.booked or service.book.open))
    finally:
        await runner.cleanup()


def over_http(scenario: Callable[[Bench], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), bench(**options) as one:
            await scenario(one)

    asyncio.run(main())


def test_many_routers_ask_and_tell() -> None:
    async def scenario(one: Bench) -> None:
        async def life(k: int) -> tuple[int, int]:
            status, found = await one.call("", {"id": f"r{k}", "prompt_tokens": 1 + 67 * k % 4000, "block_ids": [k]})
            assert status == 200
            assert found["id"] == f"r{k}"
            assert (found["upstream"], found["url"]) == (
                UPSTREAMS[found["instance"]].name,
                UPSTREAMS[found["instance"]].url,
            )
            await asyncio.sleep(0.002)
            if k % 7 == 0:
                status, found = await one.call(f"/r{k}/failed", {"reason": "reset", "attempt": 1})
                assert (status, found["attempt"]) == (200, 2)
            for _ in range(2):
                assert await one.call(f"/r{k}/prefill_complete") == (200, {"id": f"r{k}", "state": "prefilled"})
            assert await one.call(f"/r{k}/output", {"tokens": 3}) == (200, {"id": f"r{k}", "state": "prefilled"})
            for _ in range(2):
                assert await one.call(f"/r{k}", method="DELETE") == (204, None)
            return found["instance"], found["unit"]

        places = await asyncio.gather(*(life(k) for k in range(80)))
        assert len(set(places)) >= 5
        assert one.service.book.counts.output_tokens == 240

    over_http(scenario)


def test_two_connections_share_one_answer_and_one_may_go() -> None:
    async def scenario(one: Bench) -> None:
        one.router.instance_lost(0)
        one.router.instance_lost(1)
        body = {"id": "r", "prompt_tokens": 100}
        callers = [asyncio.create_task(one.call("", body)) for _ in range(3)]
        await one.until(lambda: one.service.book.counts.joined == 2)
        callers[0].cancel()
        await asyncio.sleep(0.05)
        assert one.router.in_flight == 1
        one.router.instance_returned(0)
        first, second = await asyncio.gather(*callers[1:])
        assert first == second == await one.call("", body)
        await one.call("/r", method="DELETE")

        one.router.instance_lost(0)
        leaving = asyncio.create_task(one.call("", {"id": "s", "prompt_tokens": 100}))
        await one.until(lambda: one.router.waiting == 1)
        leaving.cancel()
        await one.until(lambda: one.router.in_flight == 0)
        assert one.service.book.counts.withdrawn == 1

    over_http(scenario)


def test_a_router_that_dies_leaves_nothing_booked() -> None:
    async def scenario(one: Bench) -> None:
        _, placed = await one.call("", {"id": "r", "prompt_tokens": 100})
        await one.until(lambda: one.router.booked == 0 and one.service.book.counts.expired == 1)
        assert await one.call("", {"id": "r", "prompt_tokens": 100}) == (200, placed)
        assert await one.call("/r/prefill_complete") == (200, {"id": "r", "state": "expired"})

    over_http(scenario, lease_s=0.05)


def test_rejections_have_status_reason_and_time() -> None:
    async def scenario(one: Bench) -> None:
        async def refused(body: Any) -> tuple[int, str, bool]:
            status, headers, found = await one.whole("", body)
            assert found["error"]["message"]
            assert int(headers.get("Retry-After", 1)) >= 1
            return status, found["error"]["type"], "Retry-After" in headers

        assert await refused({"id": "r", "prompt_tokens": 9000}) == (413, "too_large", False)
        one.router.instance_lost(0)
        one.router.instance_lost(1)
        assert await refused({"id": "r", "prompt_tokens": 9, "deadline_ms": 10}) == (503, "deadline", True)
        assert await refused({"id": "r", "prompt_tokens": 9}) == (503, "deadline", True), "hold_s holds as well"
        waiting = [asyncio.create_task(one.call("", {"id": f"w{k}", "prompt_tokens": 9})) for k in range(2)]
        await one.until(lambda: one.router.waiting == 2)
        assert await refused({"id": "r", "prompt_tokens": 9}) == (429, "overload", True)
        joining = asyncio.create_task(one.call("", {"id": "w0", "prompt_tokens": 9}))
        await one.until(lambda: one.service.book.counts.joined == 1)
        assert await one.call("/w0", method="DELETE") == (204, None)
        status, found = await joining
        assert (status, found["error"]["type"]) == (410, "freed")
        await asyncio.gather(*waiting)

    over_http(scenario, waiting=2, hold_s=1.0)


def test_shutting_down_answers_those_who_wait() -> None:
    async def scenario(one: Bench) -> None:
        await one.call("", {"id": "placed", "prompt_tokens": 9})
        one.router.instance_lost(0)
        one.router.instance_lost(1)
        waiting = asyncio.create_task(one.call("", {"id": "waiting", "prompt_tokens": 9}))
        await one.until(lambda: one.router.waiting == 1)
        await one.runner.cleanup()
        status, found = await waiting
        assert (status, found["error"]["type"]) == (503, "shutdown")

    over_http(scenario)


def test_a_server_that_drains_takes_nothing_new() -> None:
    draining = False

    async def scenario(one: Bench) -> None:
        nonlocal draining
        body = {"id": "r", "prompt_tokens": 9}
        known = await one.call("", body)
        draining = True
        assert await one.call("", body) == known
        assert (await one.call("/r/failed", {"reason": "reset"}))[0] == 200, "it is under way"
        status, found = await one.call("", {"id": "s", "prompt_tokens": 9})
        assert (status, found["error"]["type"]) == (503, "shutdown")
        assert (await one.call("/r/prefill_complete"))[0] == 200

    over_http(scenario, draining=lambda: draining)


def test_every_route_asks_for_admission() -> None:
    async def scenario(one: Bench) -> None:
        calls = [("", "POST"), ("/schema", "GET"), ("/r", "DELETE")]
        calls += [(f"/r/{verb}", "POST") for verb in ("prefill_complete", "output", "failed")]
        for path, method in calls:
            status, found = await one.call(path, None, method)
            assert (status, found["error"]["type"]) == (401, "unauthorized")
        one.client.headers["X-Key"] = "shown"
        assert (await one.call("/schema", method="GET"))[0] == 200

    over_http(scenario, admitted=lambda http: http.headers.get("X-Key") == "shown")


def test_unknown_ids_and_other_bodies() -> None:
    async def scenario(one: Bench) -> None:
        assert (await one.call("/r/prefill_complete"))[0] == 404
        assert (await one.call("/r/output", {"tokens": 1}))[0] == 404
        assert (await one.call("/r/failed", {"reason": "reset"}))[0] == 404
        assert (await one.call("/r", method="DELETE"))[0] == 204
        body = {"id": "r", "prompt_tokens": 9, "block_ids": [1, -2], "priority": 0, "deadline_ms": 1000}
        assert (await one.call("", body))[0] == 200
        others = {"prompt_tokens": 8, "block_ids": [1, 2], "priority": 1, "deadline_ms": 1001}
        for _ in ("while it is placed", "when it is over"):
            for name, value in others.items():
                status, found = await one.call("", body | {name: value})
                assert (status, found["error"]["type"]) == (409, "conflict")
            assert (await one.call("", body))[0] == 200
            await one.call("/r", method="DELETE")
        status, found = await one.call("/r/prefill_complete", {"cached_tokens": 10})
        assert (status, found["state"]) == (200, "freed")

    over_http(scenario)


MISTAKES = [
    (b"{", "body: is not JSON"),
    (b"\xff", "body: is not JSON"),
    (b'{"id": "r", "prompt_tokens": NaN}', "body: is not JSON"),
    (b"[" * 100_000, "body: is"),
    (b"[1]", "body = a list: must be a JSON object"),
    (b"", "id: is missing"),
    (b'{"id": "r"}', "prompt_tokens: is missing"),
    (b'{"id": "r", "prompt_tokens": true}', "prompt_tokens = True: must be a whole number"),
    (b'{"id": "r", "prompt_tokens": "9"}', "prompt_tokens = '9': must be a whole number"),
    (b'{"id": "r", "prompt_tokens": 1.5}', "prompt_tokens = 1.5: must be a whole number"),
    (b'{"id": "r", "prompt_tokens": 1e999}', "prompt_tokens = inf: must be a whole number"),
    (b'{"id": "r", "prompt_tokens": 0}', "prompt_tokens = 0: must be from 1"),
    (b'{"id": "r", "prompt_tokens": 1e300}', "prompt_tokens = a number of many digits: must be from 1"),
    (b'{"id": "", "prompt_tokens": 9}', "id = '': must match"),
    (b'{"id": "../x", "prompt_tokens": 9}', "id = '../x': must match"),
    (b'{"id": "r\\n", "prompt_tokens": 9}', r"id = 'r\n': must match"),
    (b'{"id": "\\ud800", "prompt_tokens": 9}', r"id = '\ud800': must match"),
    (b'{"id": null, "prompt_tokens": 9}', "id = None: must be a text"),
    (b'{"id": "r", "prompt_tokens": 9, "block_ids": 7}', "block_ids = 7: must be a list"),
    (b'{"id": "r", "prompt_tokens": 9, "block_ids": [1, 9223372036854775808]}', "block_ids[1] = 9223372036854775808:"),
    (b'{"id": "r", "prompt_tokens": 9, "block_ids": [1, {}]}', "block_ids[1] = a JSON object: must be a whole number"),
    (b'{"id": "r", "prompt_tokens": 9, "priority": -3000000000}', "priority = -3000000000: must be from"),
    (b'{"id": "r", "prompt_tokens": 9, "deadline_ms": 0}', "deadline_ms = 0: must be from 1"),
    (b'{"id": "r", "prompt_tokens": 9, "deadline": 1}', "'deadline': unknown field; known: id, prompt_tokens"),
]


def test_mistakes_are_named() -> None:
    async def scenario(one: Bench) -> None:
        for body, message in MISTAKES:
            status, found = await one.call("", body)
            assert (status, found["error"]["type"]) == (400, "invalid_request_error")
            assert found["error"]["message"].startswith(message)
        assert (await one.call("", {"id": "r", "prompt_tokens": 9.0}))[0] == 200, "to JSON it is 9"
        mistakes: list[tuple[str, dict[str, Any], str]] = [
            ("prefill_complete", {"cached_tokens": 10}, "cached_tokens = 10: must be at most prompt_tokens = 9"),
            ("prefill_complete", {"cached_tokens": -1}, "cached_tokens = -1: must be from 0"),
            ("output", {}, "tokens: is missing"),
            ("failed", {"reason": "x" * 501}, "reason: has 501 characters; at most 500"),
        ]
        for path, fields, message in mistakes:
            status, found = await one.call(f"/r/{path}", fields)
            assert (status, found["error"]["message"][: len(message)]) == (400, message)
        await one.call("/r", method="DELETE")

    over_http(scenario)


def test_bodies_are_limited() -> None:
    async def scenario(one: Bench) -> None:
        body = json.dumps({"id": "r", "prompt_tokens": 9, "block_ids": list(range(1000))}).encode()

        async def pieces() -> AsyncIterator[bytes]:
            for k in range(0, len(body), 500):
                yield body[k : k + 500]

        assert (await one.call("", body))[0] == 413
        async with one.client.post(f"{one.url}/v1/placements", data=pieces()) as answer:
            assert answer.status == 413
            assert (await answer.json())["error"]["message"] == "the body is larger than 3,000 bytes"
        assert (await one.call("", body[:0]))[0] == 400

    over_http(scenario, body_bytes=3000)


def test_a_service_needs_an_upstream_for_each_instance() -> None:
    router = Router(FLEET, COST, SchedulerConfig())
    with pytest.raises(InputError, match="give one for each of the router's 2 instances"):
        PlacementService(router, UPSTREAMS[:1])
    with pytest.raises(InputError, match="hold_s = 0"):
        PlacementService(router, UPSTREAMS, hold_s=0)


# -- what is published -----------------------------------------------------------------------------------------------


def test_the_published_schema_is_the_one_that_is_checked_by() -> None:
    async def scenario(one: Bench) -> None:
        async with one.client.get(f"{one.url}/v1/placements/schema") as answer:
            assert answer.content_type == "application/schema+json"
            found = json.loads(await answer.text())
        assert found == json.loads(schema_text())

    over_http(scenario)


def test_answers_are_as_published() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)

    def valid(definition: str, value: Any) -> None:
        rules = schema["$defs"][definition] | {"additionalProperties": False}
        jsonschema.Draft202012Validator(rules).validate(value)

    async def scenario(one: Bench) -> None:
        valid("placement", (await one.call("", {"id": "r", "prompt_tokens": 9}))[1])
        valid("placement", (await one.call("/r/failed", {"reason": "reset"}))[1])
        valid("state", (await one.call("/r/output", {"tokens": 1}))[1])
        valid("state", (await one.call("/r/prefill_complete"))[1])
        valid("error", (await one.call("/s/prefill_complete"))[1])

    over_http(scenario)


NUMBERS = st.sampled_from([-(1 << 63) - 1, -(1 << 63), -(1 << 31) - 1, -1, 0, 1, 86_400_001, 1 << 31, 1 << 63])
VALUES = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.just(2.0),
    st.sampled_from(["", "r", "a" * 200, "a" * 201, "x" * 501, "-r", "r/1", "r.1:2~3_4-5", "ä"]),
    st.lists(st.one_of(NUMBERS, st.text(max_size=1)), max_size=3), st.just({}),
)  # fmt: skip


@given(st.data(), st.sampled_from(BODIES))
@settings(max_examples=400, deadline=None)
def test_a_validator_of_schemas_takes_the_same_bodies(data: st.DataObject, definition: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    rules = json.loads(schema_text())["$defs"][definition]
    good: dict[str, Any] = {"id": "r", "prompt_tokens": 9, "tokens": 1, "reason": "reset"}
    body = {name: good[name] for name in rules.get("required", ())}
    for name in data.draw(st.lists(st.sampled_from([*rules["properties"], "other"]), max_size=2)):
        if data.draw(st.booleans()):
            body[name] = data.draw(VALUES)
        else:
            body.pop(name, None)
    try:
        read_body(json.dumps(body).encode(), definition)
        taken = True
    except InputError:
        taken = False
    assert taken == jsonschema.Draft202012Validator(rules).is_valid(body)


def walk_through() -> list[tuple[str, int, Any]]:
    """Return (command, status, answer) of every step of the page."""
    steps = re.findall(r"^(curl .*)\n# (\d+)(.*)$", PAGE.read_text(encoding="utf-8"), re.M)
    return [(command, int(status), json.loads(answer) if answer else None) for command, status, answer in steps]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_page_shows_what_happens() -> None:
    steps = walk_through()
    assert len(steps) == PAGE.read_text(encoding="utf-8").count("curl -X") >= 8

    async def scenario(one: Bench) -> None:
        for command, status, expected in steps:
            shown = command.replace("http://127.0.0.1:8080", one.url) + " -sS --noproxy '*' -w '\\n%{http_code}'"
            process = await asyncio.create_subprocess_shell(shown, stdout=asyncio.subprocess.PIPE)
            output = (await process.communicate())[0].decode()
            text, _, code = output.rpartition("\n")
            found = json.loads(text) if text else None
            for answer in (found, expected):
                if answer and "held_ms" in answer:
                    assert answer.pop("held_ms") >= 0
            assert (command, int(code), found) == (command, status, expected)

    over_http(scenario)


def test_the_page_names_every_field() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, rules in json.loads(schema_text())["$defs"].items():
        missing = [one for one in rules["properties"] if f"`{one}`" not in page]
        assert not missing, name
