"""A fake engine and a client before it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest

pytest.importorskip("aiohttp")

import aiohttp

from sbs_opt.testing.costs import LinearDecode, LinearPrefill
from sbs_opt.testing.engines import EngineConfig, FakeEngine

T = TypeVar("T")
Scenario = Callable[[FakeEngine, aiohttp.ClientSession], Awaitable[T]]

FAST = EngineConfig(
    ranks=3,
    chunk_tokens=1_000,
    slots=8,
    context_tokens=20_000,
    prefill=LinearPrefill(1_000_000, 100, 1),
    decode=LinearDecode(500_000, 1, 1_000),
    speed=10.0,
)
ENDLESS = replace(FAST, prefill=LinearPrefill(3_600_000_000_000), speed=1.0)
"""The first pass outlasts every test: what is queued stays as it is."""

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def served(config: EngineConfig, scenario: Scenario[T]) -> T:
    """Run a scenario against an engine."""

    async def main() -> T:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=20)
        )
        async with session as client, FakeEngine(config) as engine:
            return await scenario(engine, client)

    return asyncio.run(main())


def body(tokens: int = 10, max_tokens: int = 2, **more: Any) -> dict[str, Any]:
    return {"model": "fake", "prompt": [7] * tokens, "max_tokens": max_tokens, **more}


async def ask(
    engine: FakeEngine, client: aiohttp.ClientSession, fields: dict[str, Any], path: str = COMPLETIONS, **headers: str
) -> tuple[int, Any]:
    """Return status and JSON of a request; underscores of header names become dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post(engine.url + path, json=fields, headers=named) as response:
        return response.status, await response.json()


async def stream(
    engine: FakeEngine, client: aiohttp.ClientSession, fields: dict[str, Any], path: str = COMPLETIONS
) -> list[Any]:
    """Return the events of a streamed answer, which must be well formed and end with [DONE]."""
    async with client.post(engine.url + path, json={**fields, "stream": True}) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        raw = await response.read()
    *events, rest = raw.split(b"\n\n")
    assert rest == b""
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    assert events[-1] == b"data: [DONE]"
    return [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


def requests_in(engine: FakeEngine) -> int:
    return sum(load.running + load.waiting for load in engine.loads())


def assert_empty(engine: FakeEngine) -> None:
    for load in engine.loads():
        assert (load.running, load.waiting, load.queued_tokens, load.kv_tokens) == (0, 0, 0, 0)


async def loaded(engine: FakeEngine, client: aiohttp.ClientSession) -> list[asyncio.Task[tuple[int, Any]]]:
    """Give rank 0 a request in a pass, rank 1 nothing, rank 2 one that is partly run and one that waits."""
    headers = [{"X_data_parallel_rank": rank} for rank in ("2", "2", "0")]
    requests = [body(tokens, 1) for tokens in (1_500, 40, 10)]
    tasks = [
        asyncio.create_task(ask(engine, client, fields, **named))
        for fields, named in zip(requests, headers, strict=True)
    ]
    await until(lambda: requests_in(engine) == 3)
    return tasks
