"""Policies in wall-clock time on fake engines over HTTP, beside what the simulator predicts of the same requests.

::

    python benchmarks/serve_policies.py [--load 0.7] [--seconds 40] [--policies phase_aware,sbs_auto]

Requests are generated: Poisson arrivals, log-normal prompts, one output token. The router is `sbs-opt serve` in a
process of its own; client and engines share another. Engines, scheduler and simulator have one cost model.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import numpy as np
from tables import columns, head, row

from sbs_opt.adapters.serve_config import Engines, ServeConfig, Upstream
from sbs_opt.instances import offered_load
from sbs_opt.models.errors import ExtrapolationWarning
from sbs_opt.models.requests import Requests, requests_without_prefixes
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.simulator.metrics import measure, middle_of
from sbs_opt.simulator.replay import simulate
from sbs_opt.testing.engines import EngineConfig, FakeEngine
from sbs_opt.testing.fleets import poisson_requests

ENGINES = Engines(ranks=8, chunk_tokens=8192, context_tokens=16_384)
COUNT, LONGEST, CHARACTERS = 2, 12_000, 4
CONFIG = """
port = 0
engines = {{ ranks = {of.ranks}, chunk_tokens = {of.chunk_tokens}, context_tokens = {of.context_tokens} }}
scheduler = {{ policy = "{policy}", lead_ns = {lead_ns} }}
"""
UPSTREAM = """
[[upstreams]]
name = "engine-{k}"
url = "{url}"
kind = "vllm"
"""


def traffic(config: ServeConfig, load: float, seconds: float, seed: int) -> Requests:
    """Return requests that offer `load` for so many seconds."""
    draw = np.random.default_rng(seed)
    prompts = np.minimum(draw.lognormal(6.6, 1.1, 100_000).astype(np.int64) + 1, LONGEST)
    one = poisson_requests(1e-8, 20_000, seed=seed, prompt_tokens=prompts[:20_000])
    rate = 1e-8 * load / offered_load(one, config.cost_model(), config.deployment)
    count = int(rate * seconds * 1e9)
    found = poisson_requests(rate, count, seed=seed, prompt_tokens=prompts[:count])
    return requests_without_prefixes(found.arrival_ns, found.prompt_tokens, np.ones(count, np.int64))


@asynccontextmanager
async def served(engines: list[FakeEngine], policy: str, lead_ns: int) -> AsyncIterator[str]:
    """Run `sbs-opt serve` before engines; yield its URL."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "router.toml"
        text = CONFIG.format(of=ENGINES, policy=policy, lead_ns=lead_ns)
        path.write_text(text + "".join(UPSTREAM.format(k=k, url=one.url) for k, one in enumerate(engines)))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "ignore", "-m", "sbs_opt.cli.main", "serve", "--config", str(path),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        try:
            yield line.split()[-1]
        finally:
            process.terminate()
            await process.wait()


async def live(requests: Requests, policy: str, lead_ns: int) -> tuple[np.ndarray, float, float]:
    """Return TTFT in seconds by request, the share of passes with all ranks active, and the engines' lag in seconds."""
    of = ENGINES
    config = EngineConfig("vllm", of.ranks, of.chunk_tokens, context_tokens=of.context_tokens)
    engines = [FakeEngine(config) for _ in range(COUNT)]
    for engine in engines:
        await engine.start()
    ttft = np.full(len(requests), np.nan)
    text = "word" * LONGEST
    connector = aiohttp.TCPConnector(limit=0)
    async with served(engines, policy, lead_ns) as url, aiohttp.ClientSession(connector=connector) as client:

        async def ask(k: int, tokens: int) -> None:
            body = b'{"model": "fake", "max_tokens": 1, "stream": true, "prompt": "%s"}' % (
                text[: tokens * CHARACTERS].encode()
            )  # fmt: skip
            began = time.monotonic()
            async with client.post(f"{url}/v1/completions", data=body) as answer:
                assert answer.status == 200, await answer.text()
                await answer.content.readany()
                ttft[k] = time.monotonic() - began
                await answer.read()

        gc.collect()
        gc.freeze()
        start = time.monotonic()
        tasks = []
        for k, (at_ns, tokens) in enumerate(zip(requests.arrival_ns, requests.prompt_tokens.tolist(), strict=True)):
            await asyncio.sleep(max(0.0, start + at_ns * 1e-9 - time.monotonic()))
            tasks.append(asyncio.create_task(ask(k, tokens)))
        await asyncio.gather(*tasks)
    passes = [one for engine in engines for one in engine.passes]
    slipped_s = sum(engine.slipped_ns for engine in engines) / 1e9
    for engine in engines:
        await engine.stop()
    return ttft, float(np.mean([np.min(one.tokens) > 0 for one in passes])), slipped_s


def main() -> None:
    """Print TTFT live and simulated by policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--policies", default="phase_aware,sbs_auto")
    parser.add_argument("--lead-ms", type=float, default=15.0)
    given = parser.parse_args()
    warnings.simplefilter("ignore", ExtrapolationWarning)
    upstreams = tuple(Upstream(f"engine-{k}", "http://127.0.0.1:1", "vllm") for k in range(COUNT))
    config = ServeConfig(upstreams, ENGINES)
    requests = traffic(config, given.load, given.seconds, seed=1)
    middle = middle_of(requests.arrival_ns)
    head("Policies on fake engines over HTTP", ("aiohttp",))
    print(
        f"{len(requests)} requests in {given.seconds:g} s, {COUNT} engines × {ENGINES.ranks} ranks, load {given.load}, "
        f"batches committed {given.lead_ms:g} ms before the predicted end of a pass.\n"
    )
    columns(
        "policy", "mean TTFT live", "simulated", "difference", "p99 live", "simulated", "all ranks active", "simulated",
        "engines lagged",
    )  # fmt: skip
    for policy in given.policies.split(","):
        scheduler = SchedulerConfig(policy=policy, lead_ns=int(given.lead_ms * 1e6))
        run = simulate(requests, config.deployment, config.cost_model(), scheduler)
        expected = measure(run, config.deployment)
        everywhere = float(np.mean([np.min(one.tokens) > 0 for one in run.passes]))
        ttft, active, slipped_s = asyncio.run(live(requests, policy, scheduler.lead_ns))
        mean, model = float(ttft[middle].mean()), float(expected.ttft_s.mean())
        row(
            (
                f"`{policy}`", f"{mean:.3f} s", f"{model:.3f} s", f"{mean / model - 1:+.0%}",
                f"{np.percentile(ttft[middle], 99):.3f} s", f"{np.percentile(expected.ttft_s, 99):.3f} s",
                f"{active:.0%}", f"{everywhere:.0%}", f"{slipped_s:.2f} s",
            )
        )  # fmt: skip


if __name__ == "__main__":
    main()
