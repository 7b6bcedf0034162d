"""Faults on command."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("aiohttp")

import aiohttp

from sbs_opt.testing.costs import LinearPrefill
from sbs_opt.testing.engines import FakeEngine, Fault
from tests.testing.engines.bench import (
    COMPLETIONS,
    ENDLESS,
    FAST,
    ask,
    assert_empty,
    body,
    loaded,
    requests_in,
    served,
    stream,
    until,
)


def test_refused() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        engine.inject(Fault("refuse", count=2))
        statuses = [(await ask(engine, client, body(), x_request_id=str(k)))[0] for k in range(3)]
        assert statuses == [503, 503, 200]
        assert len(engine.received) == 3

    served(FAST, scenario)


def test_reset_before_the_first_token() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        engine.inject(Fault("reset_before_first"))
        with pytest.raises((aiohttp.ClientOSError, ConnectionResetError), match="reset"):
            await ask(engine, client, body())
        assert (await ask(engine, client, body()))[0] == 200

    served(FAST, scenario)


def test_reset_after_the_first_token() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        engine.inject(Fault("reset_after_first"))
        got: list[bytes] = []

        async def reading() -> None:
            async with client.post(engine.url + COMPLETIONS, json=body(10, 50, stream=True)) as response:
                while piece := await response.content.readany():
                    got.append(piece)

        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await reading()
        assert b"".join(got).count(b"data: ") == 1
        await until(lambda: not requests_in(engine))
        assert_empty(engine)
        assert len(await stream(engine, client, body(10, 50))) == 50

    served(FAST, scenario)


@pytest.mark.parametrize(("kind", "tokens"), [("stall_before_first", 0), ("stall_after_first", 1)])
@pytest.mark.parametrize("leaves", [False, True])
def test_stalled(kind: Any, tokens: int, leaves: bool) -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        got: list[bytes] = []

        async def reading() -> None:
            async with client.post(engine.url + COMPLETIONS, json=body(10, 6, stream=True)) as response:
                while piece := await response.content.readany():
                    got.append(piece)

        engine.inject(Fault(kind))
        task = asyncio.create_task(reading())
        await until(lambda: len(engine.steps) == 5)  # the engine has done with it
        await until(lambda: b"".join(got).count(b'"text"') == tokens)
        await asyncio.sleep(0.05)
        assert b"".join(got).count(b'"text"') == tokens
        assert not task.done()
        if leaves:
            task.cancel()
        else:
            engine.release()
            await task
            assert b"".join(got).count(b'"text"') == 6
        assert (await ask(engine, client, body()))[0] == 200

    served(FAST, scenario)


def test_slow() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        engine.inject(Fault("slow", delay_ms=150))
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        events = await stream(engine, client, body(10, 3))
        assert len(events) == 3
        assert loop.time() - start_s >= 0.15

    served(FAST, scenario)


@pytest.mark.parametrize("kind", ["sglang", "vllm"])
def test_reports_of_load_go_wrong(kind: Any) -> None:
    path = "/metrics" if kind == "vllm" else "/v1/loads"

    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        async def get() -> str:
            async with client.get(engine.url + path) as response:
                return await response.text()

        idle = await get()
        engine.inject(Fault("stale_loads"))
        tasks = await loaded(engine, client)
        stale = await get()
        assert re.sub(r"timestamp[^,]*", "", stale) == re.sub(r"timestamp[^,]*", "", idle)
        assert await get() != stale
        engine.inject(Fault("wrong_rank_loads"))
        assert re.findall(r'(?:engine="|dp_rank": )(\d+)', await get())[:3] == ["3", "4", "5"]
        engine.inject(Fault("malformed_loads"))
        cut = await get()
        assert cut.endswith("{")
        with pytest.raises(json.JSONDecodeError):
            json.loads(cut)
        assert '"0"' in await get() or '"dp_rank": 0' in await get()
        for task in tasks:
            task.cancel()

    served(replace(ENDLESS, kind=kind), scenario)


def test_faults_over_http() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        assert (await ask(engine, client, {"kind": "refuse", "count": 1}, "/faults"))[0] == 200
        assert (await ask(engine, client, body()))[0] == 503
        assert (await ask(engine, client, {"kind": "refuse", "after_ms": 3_600_000}, "/faults"))[0] == 200
        assert (await ask(engine, client, body()))[0] == 200
        await ask(engine, client, {"kind": "refuse", "count": 9}, "/faults")
        async with client.delete(engine.url + "/faults") as response:
            assert response.status == 200
        assert (await ask(engine, client, body()))[0] == 200
        for wrong in ({"kind": "melt"}, {"count": 1}, {"kind": "slow", "for": 3}, {"kind": "slow", "count": 0}):
            status, answer = await ask(engine, client, wrong, "/faults")
            assert (status, "error" in answer) == (400, True)

    served(FAST, scenario)


def test_kill_and_revive() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        await ask(engine, client, body(10, 1))
        url = engine.url
        cut = asyncio.create_task(ask(engine, client, body(10, 10**9)))
        stalled = asyncio.create_task(ask(engine, client, body(10, 10**9)))
        await until(lambda: requests_in(engine) == 2 and bool(engine.steps))
        engine.inject(Fault("refuse", count=100))
        engine.kill()
        for task in (cut, stalled):
            with pytest.raises((aiohttp.ClientConnectionError, ConnectionError)):
                await task
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(engine, client, body())
        assert_empty(engine)
        await engine.start()
        assert engine.url == url
        assert (await ask(engine, client, body(10, 2)))[0] == 200  # the faults are forgotten
        assert [record.number for record in engine.passes] == list(range(len(engine.passes)))
        assert sum(load.prefilled_tokens for load in engine.loads()) == 10  # as of a new process
        assert_empty(engine)

    served(FAST, scenario)


@pytest.mark.parametrize("turns", range(6))
def test_a_connection_made_in_the_moment_of_a_kill_is_cut(turns: int) -> None:
    """However far its acceptance had come; the engine that is started again does not know it."""
    data = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n" + b'{"prompt": "abc"}'

    async def scenario(engine: FakeEngine, _: aiohttp.ClientSession) -> None:
        address = ("127.0.0.1", int(engine.url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=20) as connection:
            for _turn in range(turns):
                await asyncio.sleep(0)
            engine.kill()
            await asyncio.sleep(0.01)
            await engine.start()

            def exchange() -> bytes:
                try:
                    connection.sendall(data)
                    return connection.recv(100)
                except ConnectionError:
                    return b""

            assert await asyncio.to_thread(exchange) == b""

    served(replace(FAST, prefill=LinearPrefill(1)), scenario)
