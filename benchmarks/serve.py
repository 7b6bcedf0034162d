"""What the router costs: added latency, CPU, memory and saturation beside a plain pass-through proxy.

Run: python benchmarks/serve.py [--seconds 20] [--repeats 3] [--rates 50,200] [--proxies phase_aware,sbs_auto]
         [--litellm PROGRAM]

Upstream and client share the first core, the proxy under test has the second one. Both are bare protocols on uvloop,
since an HTTP library on either side would saturate before the proxies do. Arrivals are Poisson and open-loop: a slow
answer holds no later request back. Every answer has 16 server-sent events; the first one tells how long the upstream
kept it, and that is subtracted from the time to the first byte: timers of 1 ms would else hide what a proxy adds.
Latencies and CPU are the best of the repeats, proxies alternating; the first second of every run is thrown away.
LiteLLM's proxy is measured where the program `litellm` of an environment with `litellm[proxy]` is named.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import uvloop
from aiohttp import web
from serve_traffic import CHUNKS, Upstream, offer
from tables import columns, head, row

LOW_RATES = (10, 20, 30, 50, 75, 100, 150, 200, 300)
RATES = (400, 800, 1000, 1200, 1400, 1600, 1800, 2000, 2400, 2800, 3200)
MOST_P99_S, LEAST_COMPLETED = 0.050, 0.98
WARM_S, STEP_S = 1.0, 5.0
CLIENT_CORE, PROXY_CORE = 0, 1
CONFIG = """
port = 0
[engines]
ranks = 8
[scheduler]
policy = "{policy}"
"""
LITELLM = """
model_list:
  - model_name: m
    litellm_params: {{model: text-completion-openai/m, api_base: "http://127.0.0.1:{port}/v1", api_key: none}}
general_settings: {{dangerously_permit_weak_or_unset_master_key: true}}
"""
UPSTREAM = """
[[upstreams]]
name = "engine-{k}"
url = "http://127.0.0.1:{port}"
kind = "vllm"
"""


async def upstream() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


async def pass_through(url: str) -> None:
    """Stream what an upstream answers, deciding nothing: what any proxy on these libraries pays."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
    dropped = {"host", "content-length", "transfer-encoding", "connection", "keep-alive"}

    async def forward(http: web.Request) -> web.StreamResponse:
        body = await http.read()
        headers = {name: value for name, value in http.headers.items() if name.lower() not in dropped}
        async with session.post(url + http.path, data=body, headers=headers) as answer:
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in dropped}
            out = web.StreamResponse(status=answer.status, headers=headers)
            await out.prepare(http)
            with suppress(aiohttp.ClientConnectionResetError):  # the client gave up
                while chunk := await answer.content.readany():
                    await out.write(chunk)
                await out.write_eof()
            return out

    app = web.Application()
    app.router.add_post("/v1/completions", forward)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


@dataclass
class Proxy:
    """What stands at a port; no process where clients go straight to the upstream."""

    name: str
    port: int
    process: subprocess.Popen[str] | None

    def cpu_s(self) -> float:
        """Return user and system time so far, in seconds."""
        if self.process is None:
            return 0.0
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> str:
        """Return resident memory in MiB."""
        if self.process is None:
            return "—"
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return f"{int(found[1]) / 1024:.0f}" if found else "—"

    def held(self) -> tuple[float, float]:
        """Return the sum of all holds so far in seconds, and their number."""
        if not self.name.startswith("sbs-opt"):
            return 0.0, 0.0
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            text = answer.read().decode()
        total, count = (re.search(rf"^sbs_held_seconds_{name} (\S+)", text, re.M) for name in ("sum", "count"))
        return (float(total[1]), float(count[1])) if total and count else (0.0, 0.0)


@dataclass
class Run:
    """Figures of one run, in seconds."""

    offered: int
    completed: float
    p50: float
    p99: float
    p99_since_due: float
    late_p99: float
    cpu_per_thousand: float
    held: float
    taken: float
    """Share of the proxy's core that other processes had."""


def core_busy_s() -> float:
    """Return how long the proxies' core has been busy so far, in seconds."""
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{PROXY_CORE} "))
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def run(proxy: Proxy, rate: float, seconds: float, seed: int) -> Run:
    """Offer Poisson arrivals to a proxy."""
    draw = np.random.default_rng(seed)
    due = np.cumsum(draw.exponential(1 / rate, int(rate * (seconds + WARM_S))))
    (held, holds), cpu, busy, began = proxy.held(), proxy.cpu_s(), core_busy_s(), time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        calls = runner.run(offer(proxy.port, due.tolist()))
    cpu, busy, lasted = proxy.cpu_s() - cpu, core_busy_s() - busy, time.monotonic() - began
    held_after, holds_after = proxy.held()
    answered = sum(call.complete for call in calls)
    calls = [call for call, at in zip(calls, due, strict=True) if at >= WARM_S]
    first = np.array([call.first - call.sent - call.kept for call in calls if call.first])
    since_due = np.array([call.first - call.due - call.kept if call.first else np.inf for call in calls])
    p50, p99 = np.percentile(first, (50, 99)) if len(first) else (np.inf, np.inf)
    return Run(
        len(calls),
        sum(call.complete for call in calls) / len(calls),
        float(p50),
        float(p99),
        float(np.percentile(since_due, 99, method="higher")),
        float(np.percentile([call.sent - call.due for call in calls if call.sent], 99)),
        1000 * cpu / max(answered, 1),
        (held_after - held) / max(holds_after - holds, 1),
        max(0.0, busy - cpu) / lasted,
    )


@contextmanager
def started(core: int, *command: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start a process on a core; yield it and the port that its first line names."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, {core})  # threads that it starts later inherit this
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline().rsplit(":", 1)[1])
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    """Tell whether something answers a GET."""
    try:
        with urllib.request.urlopen(url):
            return True
    except OSError:
        return False


@contextmanager
def started_litellm(program: str, config: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start LiteLLM's proxy with one worker; yield it and its port once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    os.sched_setaffinity(process.pid, {PROXY_CORE})
    try:
        until = time.monotonic() + 120
        while not answers(f"http://127.0.0.1:{port}/health/liveliness"):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{program}: does not answer; is litellm[proxy] installed there?")
            time.sleep(0.5)
        yield process, port
    finally:
        process.kill()
        process.wait()


@contextmanager
def proxies(policies: list[str], litellm: str | None) -> Iterator[list[Proxy]]:
    """Start upstream and proxies."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        begin = stack.enter_context
        _, port = begin(started(CLIENT_CORE, sys.executable, __file__, "upstream"))
        found = [Proxy("none", port, None)]
        process, at = begin(started(PROXY_CORE, sys.executable, __file__, "pass-through", f"http://127.0.0.1:{port}"))
        found.append(Proxy("pass-through", at, process))
        for policy in policies:
            path = folder / f"{policy}.toml"
            path.write_text(CONFIG.format(policy=policy) + "".join(UPSTREAM.format(k=k, port=port) for k in range(4)))
            program = str(Path(sys.executable).with_name("sbs-opt"))
            process, at = begin(started(PROXY_CORE, program, "serve", "--config", str(path)))
            found.append(Proxy(f"sbs-opt serve, {policy}", at, process))
        if litellm is not None:
            path = folder / "litellm.yaml"
            path.write_text(LITELLM.format(port=port))
            process, at = begin(started_litellm(litellm, path))
            found.append(Proxy("LiteLLM's proxy", at, process))
        for proxy in found:
            run(proxy, min(rates_of(proxy)), 2.0, seed=0)
        yield found


def rates_of(proxy: Proxy) -> tuple[int, ...]:
    """Return the rates at which a proxy is tried."""
    return LOW_RATES + RATES if proxy.name.startswith("LiteLLM") else RATES


def ms(seconds: float) -> str:
    """Return milliseconds with two decimals."""
    return f"{1000 * seconds:.2f}"


def latencies(tested: list[Proxy], rates: list[float], seconds: float, repeats: int) -> None:
    """Print what each proxy adds at low rates."""
    columns(
        "requests/s", "proxy", "first byte p50, p99 (ms)", "added p50, p99 (ms)", "mean hold (ms)",
        "CPU s per 1,000", "memory (MiB)", "completed", "core taken by others",
    )  # fmt: skip
    for rate in rates:
        runs = [[run(proxy, rate, seconds, seed) for proxy in tested] for seed in range(repeats)]
        of = list(zip(*runs, strict=True))

        def best(k: int, figure: Callable[[Run], float], of: list[tuple[Run, ...]] = of) -> float:
            return min(map(figure, of[k]))

        for k, proxy in enumerate(tested):
            p50, p99 = best(k, lambda r: r.p50), best(k, lambda r: r.p99)
            added = f"{ms(p50 - best(0, lambda r: r.p50))}, {ms(p99 - best(0, lambda r: r.p99))}" if k else "—"
            row([
                f"{rate:g}", proxy.name, f"{ms(p50)}, {ms(p99)}", added, ms(best(k, lambda r: r.held)),
                f"{best(k, lambda r: r.cpu_per_thousand):.2f}", proxy.memory(),
                f"{min(r.completed for r in of[k]):.2%}", f"{best(k, lambda r: r.taken):.0%}",
            ])  # fmt: skip


def saturation(proxy: Proxy, repeats: int) -> None:
    """Print the highest rate that a proxy sustains, and what broke at the next one."""
    sustained: tuple[int, Run] | None = None
    for rate in rates_of(proxy):
        for seed in range(repeats):
            one = run(proxy, rate, STEP_S, seed)
            if well := one.p99_since_due <= MOST_P99_S and one.completed >= LEAST_COMPLETED:
                break
        if not well:
            break
        sustained = rate, one
    broke = f"{rate}: p99 {ms(one.p99_since_due)} ms, completed {one.completed:.1%}, core taken {one.taken:.0%}"
    if sustained is None:
        row([proxy.name, "none", *["—"] * 4, broke])
        return
    at, best = sustained
    figures = ms(best.p99_since_due), ms(best.late_p99), f"{best.cpu_per_thousand:.2f}", f"{best.taken:.0%}"
    row([proxy.name, at, *figures, "not reached" if well else broke])


def measure(given: argparse.Namespace) -> None:
    """Print both tables."""
    if os.cpu_count() == 1:
        raise SystemExit("needs two cores: one for upstream and client, one for the proxy")
    os.sched_setaffinity(0, {CLIENT_CORE})
    rates = [float(rate) for rate in given.rates.split(",") if rate]
    with proxies([name for name in given.proxies.split(",") if name], given.litellm) as tested:
        if rates:
            head("What the router adds", ("aiohttp", "uvloop"))
            print(f"{CHUNKS} events, {given.seconds:g} s, best of {given.repeats}; the machine may have been shared.\n")
            latencies(tested, rates, given.seconds, given.repeats)
        if not given.no_saturation:
            head("Where it saturates", ("aiohttp", "uvloop"))
            print(f"Highest rate with p99 of the first byte, from when the request was due, ≤ {ms(MOST_P99_S)} ms and")
            print(f"≥ {LEAST_COMPLETED:.0%} completed, {STEP_S:g} s each, best of {given.repeats}.\n")
            figures = "p99 (ms)", "client late p99 (ms)", "CPU s per 1,000", "core taken"
            columns("proxy", "requests/s", *figures, "broke at")
            for proxy in tested:
                saturation(proxy, given.repeats)


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", nargs="?", default="measure", choices=("measure", "upstream", "pass-through"))
    parser.add_argument("url", nargs="?", default="", help="of the upstream of the pass-through")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rates", default="50,200")
    parser.add_argument("--proxies", default="phase_aware,sbs_auto", help="policies of sbs-opt serve")
    parser.add_argument("--litellm", metavar="PROGRAM", help="of an environment with litellm[proxy]; use --rates 20")
    parser.add_argument("--no-saturation", action="store_true")
    given = parser.parse_args()
    if given.role == "measure":
        measure(given)
    else:
        uvloop.run(upstream() if given.role == "upstream" else pass_through(given.url))


if __name__ == "__main__":
    main()
