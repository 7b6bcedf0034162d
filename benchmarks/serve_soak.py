"""A soak of the router: every request ends once and visibly, nothing stays booked, memory stays flat.

Run: python benchmarks/serve_soak.py [--requests 600000] [--concurrency 64] [--plot soak.svg]

Two fake engines of four ranks, the proxy before them and its clients share one process and one event loop. One request
in a hundred comes with a fault: an engine refuses, resets before or after the first token, or dawdles, or the client
leaves. Every few thousand requests an engine is killed and started again. Memory is that of the whole process, judged
as the last quarter of the requests against the second: allocators fill their pools over the first 200,000. All that is
kept of a request is which way it ended. The exit status is 1 when a law is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from tables import head

from sbs_opt.adapters.http.proxy import Proxy
from sbs_opt.adapters.serve_config import Engines, Limits, ServeConfig, Upstream
from sbs_opt.testing.costs import LinearDecode, LinearPrefill, linear_cost_model
from sbs_opt.testing.engines import EngineConfig, FakeEngine, Fault

RANKS, CHUNK_TOKENS, CONTEXT_TOKENS = 4, 4_096, 4_096
SPEED = 20
ENGINE = EngineConfig(
    kind="vllm",
    ranks=RANKS,
    chunk_tokens=CHUNK_TOKENS,
    context_tokens=CONTEXT_TOKENS,
    prefill=LinearPrefill(SPEED * 200_000, SPEED * 25),
    decode=LinearDecode(SPEED * 50_000),
    speed=float(SPEED),
    history=64,
)
COST = linear_cost_model(LinearPrefill(200_000, 25, chunk_tokens=CHUNK_TOKENS), LinearDecode(50_000))
LIMITS = Limits(connect_s=1.0, silence_s=10.0, health_s=0.2, telemetry_s=0.5, hold_s=30.0)
MOST_PROMPT, MOST_OUTPUT = 64, 4
FAULTS = ("refuse", "reset_before_first", "reset_after_first", "slow", "leave")
SLOW_MS, MOST_STAY_S, DOWN_S = 50.0, 0.01, 0.4
NEVER_S, SETTLE_S = 120.0, 20.0
SAMPLES = 400
MOST_GROWTH, LEAST_GROWTH_MIB = 0.03, 3.0
"""Of memory, from the second quarter to the last: what is more than both is no allocator's whim."""

ANSWERED, LEFT = "answered", "left by the client"
FAILED = ("failed: 5xx", "failed: error event", "failed: connection closed")
ENDS = (ANSWERED, *FAILED, LEFT)


class BrokenLawError(Exception):
    """A request ended as none may."""


@dataclass
class Soak:
    """One run: what it consists of, and what came of it."""

    engines: list[FakeEngine]
    proxy: Proxy
    url: str
    client: aiohttp.ClientSession
    given: argparse.Namespace
    draw: random.Random
    started: int = 0
    done: int = 0
    kills: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[int, float]] = field(default_factory=list)

    async def run(self) -> None:
        """Send all requests, so many at a time, and kill an engine now and then."""
        killing = asyncio.create_task(self._kill_and_start())
        try:
            await asyncio.gather(*(self._work() for _ in range(self.given.concurrency)))
        finally:
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)

    async def _work(self) -> None:
        every = max(1, self.given.requests // SAMPLES)
        while self.started < self.given.requests:
            self.started += 1
            try:
                self.ends[await self._request(self.started)] += 1
            except BrokenLawError as error:
                self.broken[str(error)] += 1
            self.done += 1
            if self.done % every == 0:
                self.samples.append((self.done, resident_mib()))

    async def _kill_and_start(self) -> None:
        while True:
            due = (self.kills + 1) * self.given.kill_every
            while self.done < due:
                await asyncio.sleep(0.02)
            engine = self.engines[self.kills % len(self.engines)]
            engine.kill()
            self.kills += 1
            try:
                await asyncio.sleep(DOWN_S)
            finally:
                await engine.start()

    async def _request(self, number: int) -> str:
        """Send one request, with a fault where one is drawn, and return which way it ended."""
        fault = self.draw.choice(FAULTS) if self.draw.random() < self.given.faults else None
        if fault is not None:
            self.faults[fault] += 1
        if fault is not None and fault != "leave":
            self.draw.choice(self.engines).inject(Fault(fault, delay_ms=SLOW_MS))  # type: ignore[arg-type]
        stay_s = self.draw.random() * MOST_STAY_S if fault == "leave" else None
        tokens, streamed = self.draw.randint(1, MOST_OUTPUT), self.draw.random() < 0.5
        prompt = [number % 1_000] * self.draw.randint(1, MOST_PROMPT)
        body = {"model": "fake", "prompt": prompt, "max_tokens": tokens, "stream": streamed}
        try:
            async with asyncio.timeout(stay_s):
                return await self._exchange(body, tokens, streamed)
        except TimeoutError:
            if stay_s is None:
                raise BrokenLawError(f"no end within {NEVER_S:.0f} s") from None
            return LEFT

    async def _exchange(self, body: dict[str, Any], tokens: int, streamed: bool) -> str:
        status = None
        try:
            async with self.client.post(f"{self.url}/v1/completions", json=body) as answer:
                status = answer.status
                content = await answer.read()
        except aiohttp.ServerTimeoutError:
            raise
        except (aiohttp.ClientError, ConnectionError) as error:
            if streamed or status is None:
                raise BrokenLawError(f"cut off without a word: {type(error).__name__}") from error
            return "failed: connection closed"
        try:
            if status >= 500 and "error" in json.loads(content):
                return "failed: 5xx"
            if status != 200:
                raise BrokenLawError(f"answered {status}")
            return of_stream(content, tokens) if streamed else of_whole(content, tokens)
        except (ValueError, LookupError, TypeError) as error:
            raise BrokenLawError(f"a malformed answer of status {status}: {type(error).__name__}") from error

    async def settle(self) -> None:
        """Wait until nothing is under way any more, for a limited time, and note what still is."""
        try:
            async with asyncio.timeout(SETTLE_S):
                while any(self._left_over().values()):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            for name, count in self._left_over().items():
                if count:
                    self.broken[f"{name} = {count} at the end"] += 1

    def _left_over(self) -> dict[str, int]:
        return {
            "in_flight": self.proxy.router.in_flight,
            "booked": int(self.proxy.router.booked),
            "open answers": self.proxy.open_answers,
            "requests in engines": sum(load.running + load.waiting for one in self.engines for load in one.loads()),
        }


def of_stream(content: bytes, tokens: int) -> str:
    """Return which way a streamed answer ended, its tokens counted."""
    *events, rest = content.split(b"\n\n")
    data = [event.removeprefix(b"data: ") for event in events if event.startswith(b"data: ")]
    ended = data.count(b"[DONE]")
    parsed = [json.loads(event) for event in data if event != b"[DONE]"]
    errors = sum("error" in event for event in parsed)
    produced = sum(bool(event["choices"][0]["text"]) for event in parsed if "error" not in event)
    if ended and errors:
        raise BrokenLawError("a stream that ends with [DONE] and with an error event")
    if rest or ended + errors != 1:
        raise BrokenLawError(f"a stream with {ended} ends and {errors} errors, {len(rest)} bytes after them")
    if errors and produced <= tokens and "error" in parsed[-1]:
        return "failed: error event"
    if produced != tokens:
        raise BrokenLawError(f"a stream of {produced} tokens where {tokens} were asked for")
    return ANSWERED


def of_whole(content: bytes, tokens: int) -> str:
    """Return `ANSWERED` for an answer that is not streamed and has its tokens."""
    produced = len(json.loads(content)["choices"][0]["text"].split())
    if produced != tokens:
        raise BrokenLawError(f"an answer of {produced} tokens where {tokens} were asked for")
    return ANSWERED


@asynccontextmanager
async def soak_of(given: argparse.Namespace) -> AsyncIterator[Soak]:
    """Start engines, proxy and client."""
    engines = [FakeEngine(ENGINE) for _ in range(2)]
    for engine in engines:
        await engine.start()
    upstreams = tuple(Upstream(f"engine-{k}", engine.url, "vllm") for k, engine in enumerate(engines))
    shape = Engines(ranks=RANKS, chunk_tokens=CHUNK_TOKENS, context_tokens=CONTEXT_TOKENS)
    proxy = Proxy(ServeConfig(upstreams, shape, limits=LIMITS), cost_model=COST)
    runner = web.AppRunner(proxy.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1_024).start()
    host, port = runner.addresses[0][:2]
    timeout = aiohttp.ClientTimeout(total=NEVER_S)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as client:
            yield Soak(engines, proxy, f"http://{host}:{port}", client, given, random.Random(given.seed))
    finally:
        await runner.cleanup()
        for engine in engines:
            await engine.stop()


def resident_mib() -> float:
    """Return resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def judge_memory(samples: list[tuple[int, float]], broken: Counter[str]) -> None:
    """Print memory by quarters, and note growth from the second to the last."""
    size = len(samples) // 4
    if not size:
        print("memory: too few requests to judge")
        return
    quarters = [samples[k * size : (k + 1) * size] for k in range(4)]
    means = [sum(mib for _, mib in quarter) / size for quarter in quarters]
    growth, allowed = means[3] - means[1], max(MOST_GROWTH * means[1], LEAST_GROWTH_MIB)
    apart = quarters[3][0][0] - quarters[1][0][0]  # requests from one quarter to the other
    flat = growth <= allowed
    print(f"memory by quarters: {', '.join(f'{mean:.1f}' for mean in means)} MiB; last against second: {growth:+.1f}")
    print(f"memory is {'flat' if flat else 'NOT flat'}: {growth * 2**20 / apart:+,.0f} bytes a request,")
    print(f"where this run would not see a leak below {allowed * 2**20 / apart:,.0f}")
    if not flat:
        broken[f"memory grew by {growth:.1f} MiB from the second quarter to the last"] += 1


def draw_memory(samples: list[tuple[int, float]], path: Path) -> None:
    """Draw resident memory over requests: into a file with matplotlib, else as text."""
    if not samples:
        return
    if find_spec("matplotlib") is None:
        step = max(1, len(samples) // 20)
        most = max(mib for _, mib in samples)
        for done, mib in samples[step - 1 :: step]:
            print(f"{done:>10,} {mib:8.1f} MiB {'#' * round(60 * mib / most)}")
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    axes.plot(*zip(*samples, strict=True), linewidth=1)
    axes.set(xlabel="requests that have ended", ylabel="resident memory / MiB", ylim=(0, None))
    figure.savefig(path)
    print(f"memory is drawn in {path}")


async def soak(given: argparse.Namespace) -> bool:
    """Run and report; return whether every law held."""
    async with soak_of(given) as one:
        start_s = time.monotonic()
        await one.run()
        await one.settle()
        spent_s = time.monotonic() - start_s
    print(f"{one.done:,} requests in {spent_s:,.0f} s, {one.done / spent_s:,.0f}/s; engines killed {one.kills} times")
    print("faults: " + ", ".join(f"{name} {one.faults[name]:,}" for name in FAULTS))
    print("ends: " + ", ".join(f"{name} {one.ends[name]:,}" for name in ENDS))
    print("left over: " + ", ".join(f"{name} {count}" for name, count in one._left_over().items()))
    if one.done != given.requests:
        one.broken["requests without an end"] = given.requests - one.done
    judge_memory(one.samples, one.broken)
    draw_memory(one.samples, given.plot)
    for law, times in one.broken.items():
        print(f"BROKEN, {times:,} times: {law}")
    return not one.broken


def at_least_one(text: str) -> int:
    """Read a count."""
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return count


def main() -> int:
    """Parse, run, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=at_least_one, default=600_000)
    parser.add_argument("--concurrency", type=at_least_one, default=64)
    parser.add_argument("--faults", type=float, default=0.01, help="share of the requests that come with one")
    parser.add_argument("--kill-every", type=at_least_one, default=4_000, help="requests between two kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=Path("serve_soak.svg"))
    given = parser.parse_args()
    head("Soak of the router", ("aiohttp",))
    return 0 if asyncio.run(soak(given)) else 1


if __name__ == "__main__":
    sys.exit(main())
