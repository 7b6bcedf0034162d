"""A proxy in front of fake engines, for tests: whatever a scenario does, all load is released at its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
from aiohttp import web

from sbs_opt.adapters.capture import CaptureWriter
from sbs_opt.adapters.http.proxy import Proxy
from sbs_opt.adapters.serve_config import Engines, Limits, ServeConfig, Upstream
from sbs_opt.testing.costs import LinearDecode, LinearPrefill, linear_cost_model
from sbs_opt.testing.engines import EngineConfig, FakeEngine

RANKS = 4
COST = linear_cost_model(LinearPrefill(4_000_000, 500, chunk_tokens=4096), LinearDecode(1_000_000))
ENGINE = EngineConfig(
    kind="vllm", ranks=RANKS, chunk_tokens=4096, context_tokens=8192, prefill=COST.prefill, decode=COST.decode
)  # fmt: skip
LIMITS = Limits(
    body_bytes=100_000,
    connect_s=0.5,
    silence_s=1.0,
    health_s=0.1,
    look_s=0.5,
    telemetry_s=0.05,
    hold_s=3.0,
    drain_s=2.0,
)


@dataclass
class Bench:
    """Two engines, a proxy before them, and a client."""

    engines: list[FakeEngine]
    proxy: Proxy
    url: str
    client: aiohttp.ClientSession
    config: ServeConfig

    async def complete(self, number: int, tokens: int = 500, **more: Any) -> tuple[int, bytes]:
        body = {"model": "fake", "prompt": list(range(tokens)), "max_tokens": 4, "stream": True} | more
        headers = {"x-request-id": f"r{number}"}
        async with self.client.post(f"{self.url}/v1/completions", json=body, headers=headers) as answer:
            return answer.status, await answer.read()

    async def metrics(self) -> str:
        async with self.client.get(f"{self.url}/metrics") as answer:
            return await answer.text()

    def received(self) -> dict[str, list[tuple[int, int]]]:
        """Return where every request arrived, (engine, rank)."""
        found: dict[str, list[tuple[int, int]]] = {}
        for k, engine in enumerate(self.engines):
            for name, rank in engine.received.items():
                found.setdefault(name, []).append((k, rank))
        return found


@asynccontextmanager
async def bench(
    kind: str = "vllm",
    capture: CaptureWriter | None = None,
    limits: Limits = LIMITS,
    modes: Sequence[str] = ("unified", "unified"),
    dead: Sequence[int] = (),
    kv_tokens: int = 400_000,
    **changes: Any,
) -> AsyncIterator[Bench]:
    """Start engines, one for each of `modes` (those in `dead` only take a port), and a proxy before them."""
    engines = [FakeEngine(replace(ENGINE, kind=kind, mode=mode)) for mode in modes]  # type: ignore[arg-type]
    upstreams = []
    for k, (engine, mode) in enumerate(zip(engines, modes, strict=True)):
        await engine.start()
        legs = {} if mode == "unified" else {"phase": mode, "bootstrap_port": int(engine.url.rpartition(":")[2])}
        upstreams.append(Upstream(f"engine-{k}", engine.url, kind, **legs))  # type: ignore[arg-type]
        if k in dead:
            await engine.stop()
    config = ServeConfig(
        tuple(upstreams),
        Engines(ranks=RANKS, chunk_tokens=4096, context_tokens=8192, kv_tokens=kv_tokens),
        limits=limits,
        **changes,
    )
    try:
        async with proxy_of(config, capture) as (proxy, url), aiohttp.ClientSession() as client:
            yield Bench(engines, proxy, url, client, config)
    finally:
        for engine in engines:
            await engine.stop()


@asynccontextmanager
async def proxy_of(config: ServeConfig, capture: CaptureWriter | None = None) -> AsyncIterator[tuple[Proxy, str]]:
    """Start a proxy; yield it and its URL. Whatever happens, all load is released."""
    proxy = Proxy(config, *([capture] if capture else []))
    runner = web.AppRunner(proxy.app(), handler_cancellation=True, access_log=None)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield proxy, f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with asyncio.timeout(5):
            while under_way(proxy):
                await asyncio.sleep(0.01)
    finally:
        await runner.cleanup()


def under_way(proxy: Proxy) -> int:
    """Return all that is booked, under former configurations as well."""
    figures = proxy._sum_of("in_flight") + proxy._sum_of("booked") + proxy.open_answers
    return figures + sum(core.decode.booked for core in proxy._cores if core.decode is not None)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def well(_: web.Request) -> web.StreamResponse:
    return web.Response()


@asynccontextmanager
async def engine_of(handler: Handler, health: Handler = well, **more: Handler) -> AsyncIterator[str]:
    """Start an engine that answers completions with `handler`, more paths with more, all else with `rest`."""
    app = web.Application()
    app.router.add_post("/v1/completions", handler)
    app.router.add_get("/health", health)
    rest = more.pop("rest", None)
    for path, other in more.items():
        app.router.add_get(f"/{path}", other)
    if rest is not None:
        app.router.add_route("*", "/{path:.*}", rest)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def use(one: Bench, *urls: str, **changes: Any) -> None:
    """Put engines behind the proxy in place of those that it has."""
    kind = one.config.upstreams[0].kind
    upstreams = tuple(Upstream(f"other-{k}", url, kind) for k, url in enumerate(urls))
    await one.proxy.reload(replace(one.proxy._config, upstreams=upstreams, **changes))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def run(scenario: Callable[[Bench], Awaitable[None]], **changes: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), bench(**changes) as one:
            await scenario(one)

    asyncio.run(main())


def tokens_of(stream: bytes) -> int:
    events = [line[6:] for line in stream.decode().split("\n\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    return sum(bool(json.loads(event)["choices"][0]["text"]) for event in events[:-1])
