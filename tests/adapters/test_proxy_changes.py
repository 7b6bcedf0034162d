"""Engines, configurations and the router itself change while answers are under way: none is lost, none hangs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

import aiohttp
from aiohttp import web

from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.config import SchedulerConfig
from tests.adapters.proxy_bench import LIMITS, Bench, engine_of, run, until, use

STREAM = {"model": "m", "prompt": [1, 2, 3], "stream": True}


@dataclass
class SlowEngine:
    """Answers, and says that it is well, when it is told to."""

    begin: asyncio.Event = field(default_factory=asyncio.Event)
    end: asyncio.Event = field(default_factory=asyncio.Event)
    well: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0
    looks: int = 0

    async def answer(self, http: web.Request) -> web.StreamResponse:
        self.asked += 1
        body = await http.json()
        await self.begin.wait()
        if not body.get("stream"):
            await self.end.wait()
            return web.json_response({"choices": [{"text": "x"}]})
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(http)
        await out.write(b"data: 1\n\n")
        await self.end.wait()
        await out.write(b"data: [DONE]\n\n")
        return out

    async def health(self, _: web.Request) -> web.StreamResponse:
        self.looks += 1
        await self.well.wait()
        return web.Response()


@asynccontextmanager
async def slow_engine(*, begins: bool = True, ends: bool = True) -> AsyncIterator[tuple[SlowEngine, str]]:
    engine = SlowEngine()
    engine.well.set()
    if begins:
        engine.begin.set()
    if ends:
        engine.end.set()
    async with engine_of(engine.answer, engine.health) as url:
        yield engine, url


async def ask(one: Bench, **body: Any) -> tuple[int, bytes]:
    async with one.client.post(f"{one.url}/v1/completions", json=STREAM | body) as answer:
        return answer.status, await answer.read()


def test_a_reload_lets_answers_end_however_long_they_take() -> None:
    """After `drain_s` the connections of the former configuration were taken away, and its streams hung for ever."""

    async def scenario(one: Bench) -> None:
        async with slow_engine(ends=False) as (engine, url):
            await use(one, url)
            former = one.proxy._core
            begun = asyncio.create_task(ask(one))
            await until(lambda: engine.asked == 1)
            await one.proxy.reload(one.proxy._config)
            await asyncio.sleep(4 * LIMITS.drain_s * 0.1)
            assert "sbs_open_answers 1.0" in await one.metrics()
            engine.end.set()
            assert await begun == (200, b"data: 1\n\ndata: [DONE]\n\n")
            await until(lambda: former not in one.proxy._cores)
            assert (former.router.in_flight, former.router.booked) == (0, 0)

    run(scenario, limits=replace(LIMITS, drain_s=0.1))


def test_what_is_not_over_in_time_is_ended_with_an_error() -> None:
    async def scenario(one: Bench) -> None:
        async with slow_engine(ends=False) as (engine, url), slow_engine(begins=False) as (silent, other):
            await use(one, url)
            stream, whole = asyncio.create_task(ask(one)), asyncio.create_task(ask(one, stream=False))
            await until(lambda: engine.asked == 2)
            await use(one, other)
            waits = asyncio.create_task(ask(one))
            await until(lambda: silent.asked == 1)
            await one.proxy.drain()
            status, events = await stream
            assert status == 200
            assert events.startswith(b"data: 1\n\n")
            assert b"StoppedError" in events
            for status, body in await asyncio.gather(whole, waits):
                assert status == 503
                assert b'"shutdown"' in body
            assert (await ask(one))[0] == 503

    run(scenario, limits=replace(LIMITS, drain_s=0.2))


def test_a_reload_remembers_which_engine_is_not_well() -> None:
    """A new configuration took every engine for well until its first look, and sent all requests to a dead one."""

    async def scenario(one: Bench) -> None:
        async with slow_engine(begins=False) as (hung, url), slow_engine() as (engine, other):
            hung.well.clear()
            await use(one, url, other)
            await until(lambda: not one.proxy._core.roster.well["other-0"])
            await one.proxy.reload(one.proxy._config)
            assert [(await ask(one))[0] for _ in range(6)] == [200] * 6
            assert (hung.asked, engine.asked) == (0, 6)
            hung.well.set()
            await one.proxy.reload(one.proxy._config)
            assert one.proxy._core.roster.well["other-0"]

    run(scenario, limits=replace(LIMITS, connect_s=0.5, look_s=0.1))


def test_one_slow_look_ejects_nobody_and_three_free_what_waits() -> None:
    """The requests of an engine that had been ejected waited for it until `silence_s` was over."""

    async def scenario(one: Bench) -> None:
        async with slow_engine(begins=False) as (hung, url), slow_engine() as (engine, other):
            await use(one, url)
            waits = asyncio.create_task(ask(one))
            await until(lambda: hung.asked == 1)
            hung.well.clear()
            before = hung.looks
            await until(lambda: hung.looks == before + 2)
            assert one.proxy._core.roster.well["other-0"]
            hung.well.set()
            await asyncio.sleep(0.3)
            assert not waits.done()
            await use(one, url, other)
            former = next(core for core in one.proxy._cores if core is not one.proxy._core)
            assert former.open_answers == 1
            second = [asyncio.create_task(ask(one)) for _ in range(8)]
            await until(lambda: hung.asked > 1 and hung.asked + engine.asked == 9)
            hung.well.clear()
            assert [status for status, _ in await asyncio.gather(*second)] == [200] * 8
            assert engine.asked == 8
            hung.begin.set()
            hung.well.set()
            assert (await waits)[0] == 200

    run(scenario, limits=replace(LIMITS, look_s=0.1, silence_s=60.0, hold_s=60.0))


def test_an_answer_in_one_piece_may_take_longer_than_a_silence() -> None:
    """It was generated once per attempt, and the client was told that no upstream answers."""

    async def scenario(one: Bench) -> None:
        async with slow_engine(ends=False) as (engine, url):
            await use(one, url)
            whole = asyncio.create_task(ask(one, stream=False))
            await asyncio.sleep(0.6)
            engine.end.set()
            assert (await whole)[0] == 200
            assert engine.asked == 1
            engine.end.clear()
            assert (await ask(one, stream=False))[0] == 502

    run(scenario, limits=replace(LIMITS, silence_s=0.2, whole_s=2.0, attempts=1))


@pytest.mark.parametrize("policy", ["sbs_auto", "phase_aware"])
def test_silence_is_not_time_held(policy: str) -> None:
    """An engine that is silent for longer than a request may be held left it no time for another."""

    async def scenario(one: Bench) -> None:
        async with slow_engine(begins=False) as (silent, url), slow_engine() as (engine, other):
            await use(one, url, other)
            answers = await asyncio.gather(*(ask(one) for _ in range(8)))
            assert [status for status, _ in answers] == [200] * 8
            assert silent.asked
            assert engine.asked == 8

    run(scenario, limits=replace(LIMITS, silence_s=0.5, hold_s=0.3), scheduler=SchedulerConfig(policy=policy))


def test_an_engine_that_takes_no_body_is_given_up() -> None:
    """The silence of a connection is only counted once all is sent, which never came."""

    async def scenario(one: Bench) -> None:
        connections = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            connections.append(writer)

        server = await asyncio.start_server(talk, "127.0.0.1", 0, limit=1024)
        await use(one, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        body = BytesIO(json.dumps(STREAM | {"prompt": "x" * 12_000_000}).encode())
        async with one.client.post(f"{one.url}/v1/completions", data=body) as answer:
            assert answer.status == 502
        for writer in connections:
            writer.close()
        server.close()

    run(scenario, limits=replace(LIMITS, silence_s=0.5, attempts=1, body_bytes=2**24))


@pytest.mark.parametrize("page", [b"\xff\xfe vllm:num_requests_waiting 1", b"\x1f\x8b\x08"])
def test_a_page_of_telemetry_that_is_no_text_stops_nothing(page: bytes) -> None:
    looks = 0

    async def metrics(_: web.Request) -> web.StreamResponse:
        nonlocal looks
        looks += 1
        return web.Response(body=page)

    async def scenario(one: Bench) -> None:
        engine = SlowEngine()
        for event in (engine.begin, engine.end, engine.well):
            event.set()
        async with engine_of(engine.answer, metrics=metrics) as url:
            await use(one, url)
            await until(lambda: looks > 3)
            assert (await ask(one))[0] == 200

    run(scenario)


def test_an_estimated_length_refuses_nobody() -> None:
    """A text that is too long by its characters alone may well fit; so many token ids do not."""

    async def scenario(one: Bench) -> None:
        async with slow_engine() as (engine, url):
            await use(one, url)
            assert (await ask(one, prompt="x" * 90_000))[0] == 200
            assert engine.asked == 1
            assert (await ask(one, prompt=[1] * 9_000))[0] == 413
            assert engine.asked == 1

    run(scenario)


def test_a_placement_that_is_held_is_not_refused_by_a_reload() -> None:
    async def scenario(one: Bench) -> None:
        async with slow_engine() as (_, url):
            await use(one, "http://127.0.0.1:1")
            body = {"id": "a", "prompt_tokens": 300}
            held = asyncio.create_task(placement(one, body))
            await until(lambda: one.proxy.router.waiting == 1)
            await use(one, url, limits=replace(LIMITS, waiting=7, hold_s=9.0))
            book = one.proxy._placements.book
            assert (book.most_waiting, one.proxy._placements._hold_s) == (7, 9.0)
            status, answer = await held
            assert (status, answer["error"]["type"]) == (503, "deadline")
            assert (await placement(one, {"id": "b", "prompt_tokens": 300}))[0] == 200
            async with one.client.delete(f"{one.url}/v1/placements/b") as freed:
                assert freed.status == 204

    run(scenario, limits=replace(LIMITS, hold_s=0.5))


async def placement(one: Bench, body: dict[str, Any]) -> tuple[int, Any]:
    async with one.client.post(f"{one.url}/v1/placements", json=body) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("where", ["handle", "handle_timer"])
def test_an_error_of_the_scheduler_is_told_and_leaves_nobody_waiting(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(one: Bench) -> None:
        await use(one, "http://127.0.0.1:1")

        def broken(*_: Any, now_ns: int) -> tuple[()]:
            raise AssertionError(f"at {now_ns}")

        failed = one.proxy._core
        setattr(failed.router._scheduler, where, broken)
        with caplog.at_level(logging.CRITICAL):
            status, body = await ask(one)
        assert status == 503
        assert b'"shutdown"' in body
        assert "no longer healthy" in caplog.text
        async with one.client.get(f"{one.url}/health") as answer:
            assert answer.status == 503
        await one.proxy.reload(one.config)
        assert (await one.complete(1))[0] == 200
        await until(lambda: failed not in one.proxy._cores)

    run(scenario, limits=replace(LIMITS, hold_s=0.3))


def test_an_error_of_the_decode_scheduler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(one: Bench) -> None:
        def broken(*_: Any, now_ns: int) -> tuple[()]:
            raise AssertionError(f"at {now_ns}")

        decode = one.proxy._core.decode
        assert decode is not None
        monkeypatch.setattr(decode._scheduler, "handle", broken)
        for k in range(2):
            status, body = await one.complete(k)
            assert (status, b'"shutdown"' in body) == (503, True)
        async with one.client.get(f"{one.url}/health") as answer:
            assert answer.status == 503

    run(scenario, kind="sglang", modes=("prefill", "decode"))


def test_an_estimate_refuses_nobody_on_a_decode_leg_either() -> None:
    async def scenario(one: Bench) -> None:
        assert (await one.complete(1, prompt="x" * 30_000))[0] == 200

    run(scenario, kind="sglang", modes=("prefill", "decode"), kv_tokens=5_000)


def test_a_placement_on_an_engine_that_was_just_ejected_goes_elsewhere() -> None:
    """What was decided and not yet sent when an engine was ejected waited there until `silence_s` was over."""

    async def scenario(one: Bench) -> None:
        async with slow_engine(begins=False) as (hung, url), slow_engine() as (engine, other):
            await use(one, url, other)
            core, place = one.proxy._core, one.proxy.router.place

            async def place_and_eject(*arguments: Any, **more: Any) -> Any:
                placed = await place(*arguments, **more)
                if placed.instance == 0:
                    core.roster.eject(core.config.upstreams[0])
                return placed

            core.router.place = place_and_eject  # type: ignore[method-assign]
            answers = await asyncio.gather(*(ask(one) for _ in range(8)))
            assert [status for status, _ in answers] == [200] * 8
            assert (hung.asked, engine.asked) == (0, 8)

    # What was never sent is no attempt.
    run(scenario, limits=replace(LIMITS, silence_s=60.0, health_s=60.0, attempts=1))


def test_models_are_told_during_a_reload() -> None:
    async def scenario(one: Bench) -> None:
        asked, answer = asyncio.Event(), asyncio.Event()

        async def models(_: web.Request) -> web.StreamResponse:
            asked.set()
            await answer.wait()
            return web.json_response({"data": []})

        async with engine_of(models, rest=models) as url:
            await use(one, url)
            waits = asyncio.create_task(one.client.get(f"{one.url}/v1/models"))
            await asked.wait()
            await one.proxy.reload(one.config)
            await asyncio.sleep(0.1)
            answer.set()
            async with await waits as told:
                assert told.status == 200

    run(scenario)


def test_what_is_recorded_is_of_one_configuration(tmp_path: Any) -> None:
    from sbs_opt.adapters.capture import CaptureWriter

    async def scenario(one: Bench) -> None:
        with pytest.raises(InputError, match="block_tokens"):
            await one.proxy.reload(replace(one.config, scheduler=SchedulerConfig(block_tokens=64)))
        with pytest.raises(InputError, match="characters_per_token"):
            await one.proxy.reload(replace(one.config, characters_per_token=3.0))

    with CaptureWriter(tmp_path / "live.jsonl", rotate_bytes=1 << 20, keep=1) as capture:
        run(scenario, capture=capture)


def test_a_client_that_leaves_between_two_pieces_breaks_no_answer() -> None:
    async def scenario(one: Bench) -> None:
        async with slow_engine(ends=False) as (engine, url):
            await use(one, url)
            async with aiohttp.ClientSession() as client:
                answer = await client.post(f"{one.url}/v1/completions", json=STREAM)
                await answer.content.readany()
                answer.close()
            engine.end.set()
            await until(lambda: not one.proxy.open_answers)
            assert "sbs_broken_answers_total 0.0" in await one.metrics()

    run(scenario)
