"""`sbs-opt serve` as a process of its own: it serves, drains on SIGTERM, and tells mistakes in a line."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import Run

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

import aiohttp

from sbs_opt.testing.costs import LinearDecode, LinearPrefill, linear_cost_model
from sbs_opt.testing.engines import EngineConfig, FakeEngine, Fault

COST = linear_cost_model(LinearPrefill(200_000_000, chunk_tokens=4096), LinearDecode(1_000_000))
ENGINE = EngineConfig(kind="vllm", ranks=2, chunk_tokens=4096, prefill=COST.prefill, decode=COST.decode)


def config(url: str, port: int = 0) -> str:
    return f"""
port = {port}
engines = {{ ranks = 2, chunk_tokens = 4_096 }}
limits = {{ drain_s = 10.0 }}

[[upstreams]]
name = "a"
url = "{url}"
kind = "vllm"
"""


def test_it_serves_and_drains(tmp_path: Path) -> None:
    async def main() -> None:
        async with FakeEngine(replace(ENGINE)) as engine:
            (tmp_path / "router.toml").write_text(config(engine.url), encoding="utf-8")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "sbs_opt.cli.main", "serve", "--config", str(tmp_path / "router.toml"),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            line = (await process.stdout.readline()).decode()
            assert line.startswith("serving 1 upstreams on http://127.0.0.1:")
            url = line.split()[-1]
            async with aiohttp.ClientSession() as client:

                async def complete(name: str = "first") -> bytes:
                    body = {"model": "fake", "prompt": "hello " * 50, "max_tokens": 3, "stream": True}
                    headers = {"x-request-id": name}
                    async with client.post(f"{url}/v1/completions", json=body, headers=headers) as answer:
                        assert answer.status == 200
                        return bytes(await answer.read())

                assert (await complete()).endswith(b"data: [DONE]\n\n")
                under_way = [asyncio.create_task(complete(f"{k}")) for k in range(3)]
                while len(engine.received) < 4:
                    await asyncio.sleep(0.01)
                process.send_signal(signal.SIGTERM)
                assert all(answer.endswith(b"data: [DONE]\n\n") for answer in await asyncio.gather(*under_way))
            _, errors = await asyncio.wait_for(process.communicate(), 20)
            assert process.returncode == 0
            assert all(b"is extrapolated" in line for line in errors.splitlines())  # two ranks were never measured

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_hangup_reads_the_configuration_again_and_a_mistake_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with FakeEngine(replace(ENGINE)) as one, FakeEngine(replace(ENGINE)) as two:
            path = tmp_path / "router.toml"
            path.write_text(config(one.url), encoding="utf-8")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "ignore", "-m", "sbs_opt.cli.main", "serve", "--config", str(path),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            assert process.stderr is not None
            url = (await process.stdout.readline()).decode().split()[-1]
            async with aiohttp.ClientSession() as client:

                async def complete(name: str) -> None:
                    body = {"model": "fake", "prompt": "hello", "max_tokens": 1, "stream": True}
                    headers = {"x-request-id": name}
                    async with client.post(f"{url}/v1/completions", json=body, headers=headers) as answer:
                        assert answer.status == 200
                        await answer.read()

                await complete("first")
                for mistake in ("colour = 'red'\n", "bootstrap_port = 'x'\n"):
                    path.write_text(config(one.url) + mistake, encoding="utf-8")
                    process.send_signal(signal.SIGHUP)
                    assert b"stays as it was" in await process.stderr.readline()
                await complete("second")
                path.write_text(config(two.url), encoding="utf-8")
                process.send_signal(signal.SIGHUP)
                assert b"read again" in await process.stdout.readline()
                await complete("third")
                async with client.get(f"{url}/metrics") as answer:
                    text = await answer.text()
                assert 'sbs_reloads_total{outcome="refused"} 2.0' in text
                assert 'sbs_reloads_total{outcome="taken"} 1.0' in text
            process.terminate()
            await process.communicate()
            assert process.returncode == 0
            assert (set(one.received), set(two.received)) == ({"first", "second"}, {"third"})

    asyncio.run(asyncio.wait_for(main(), 60))


def test_told_to_stop_it_ends_what_is_not_over_in_time_and_exits(tmp_path: Path) -> None:
    async def main() -> None:
        async with FakeEngine(replace(ENGINE)) as engine:
            engine.inject(Fault("stall_after_first"))
            path = tmp_path / "router.toml"
            path.write_text(config(engine.url).replace("drain_s = 10.0", "drain_s = 0.5"), encoding="utf-8")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "ignore", "-m", "sbs_opt.cli.main", "serve", "--config", str(path),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            url = (await process.stdout.readline()).decode().split()[-1]
            body = {"model": "fake", "prompt": "hello " * 50, "max_tokens": 30, "stream": True}
            async with (
                aiohttp.ClientSession() as client,
                client.post(f"{url}/v1/completions", json=body) as answer,
            ):
                first = await answer.content.readany()
                process.send_signal(signal.SIGTERM)
                rest = await answer.read()
            assert first.startswith(b"data: ")
            assert b'"upstream_error"' in rest
            _, errors = await asyncio.wait_for(process.communicate(), 30)
            assert (process.returncode, errors) == (0, b"")

    asyncio.run(asyncio.wait_for(main(), 60))


def test_told_to_stop_while_it_starts_it_stops(tmp_path: Path) -> None:
    """It waits for an engine that does not say whether it is well, for a minute."""

    async def main() -> None:
        asked = asyncio.Event()
        kept = []

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            kept.append(writer)
            await reader.readline()
            asked.set()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        path = tmp_path / "router.toml"
        text = config(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        path.write_text(text.replace("drain_s = 10.0", "connect_s = 60.0"), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "ignore", "-m", "sbs_opt.cli.main", "serve", "--config", str(path),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await asked.wait()
        process.send_signal(signal.SIGTERM)
        output = await asyncio.wait_for(process.communicate(), 30)
        assert (process.returncode, output) == (0, (b"", b""))
        for writer in kept:
            writer.close()
        server.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_in_shadow_the_existing_router_decides_and_a_file_says_what_ours_would_have_done(tmp_path: Path) -> None:
    async def main() -> None:
        async with FakeEngine(replace(ENGINE)) as engine:
            path, log = tmp_path / "router.toml", tmp_path / "shadow.jsonl"
            text = config("http://127.0.0.1:1") + f'[shadow]\nurl = "{engine.url}"\nstretch_s = 1\n'
            path.write_text(text, encoding="utf-8")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "ignore", "-m", "sbs_opt.cli.main", "serve", "--config", str(path), "--shadow",
                str(log), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            url = (await process.stdout.readline()).decode().split()[-1]
            body = {"model": "fake", "prompt": "hello " * 40, "max_tokens": 2, "stream": True}
            async with aiohttp.ClientSession() as client:
                for _ in range(6):
                    async with client.post(f"{url}/v1/completions", json=body) as answer:
                        assert (await answer.read()).endswith(b"data: [DONE]\n\n")
                async with client.get(f"{url}/health") as answer:
                    assert answer.status == 200
            process.terminate()
            await process.communicate()
            assert process.returncode == 0
            rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
            requests = [row for row in rows if row["kind"] == "request"]
            assert len(requests) == 6
            assert all(row["policy_ttft_s"] > 0 and row["measured_ttft_s"] > 0 for row in requests)
            assert "hello" not in log.read_text(encoding="utf-8")

    asyncio.run(asyncio.wait_for(main(), 60))


def test_shadow_is_asked_for_twice_or_not_at_all(run: Run) -> None:
    Path("router.toml").write_text(config("http://127.0.0.1:1"), encoding="utf-8")
    done = run("serve", "--config", "router.toml", "--shadow", "x.jsonl")
    assert done.status == 2
    assert "[shadow]" in done.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("upstreams = 3", "[[upstreams]]"),
        ("", "needs a ranks"),
        ("engines = { ranks = 4 }", "give at least one"),
        (config("ftp://x"), "write http://host:port"),
        (config("http://[::1"), "write http://host:port"),
        (config("http://127.0.0.1:1/?"), "write http://host:port"),
        (config("http://me:secret@127.0.0.1:1"), "write http://host:port"),
        (config("http://127.0.0.1:99999"), "write http://host:port"),
        (config("x").replace('url = "x"', "url = 5"), "upstreams: url = 5: must be a text"),
        ("token = 5\n" + config("http://127.0.0.1:1"), "token = 5: must be a text"),
        ('characters_per_token = "4"\n' + config("http://127.0.0.1:1"), "must be a number"),
        (config("http://127.0.0.1:1").replace("ranks = 2", "ranks = true"), "ranks = True: must be a whole number"),
        (config("http://127.0.0.1:1").replace("ranks = 2", "ranks = 0"), "ranks = 0: must be at least 1"),
        (config("http://127.0.0.1:1") + "\n[scheduler]\npolicy = 'best'\n", "best"),
        (config("http://127.0.0.1:1") + "phase = 'decode'\n", "legs are known of kind sglang"),
        (config("http://127.0.0.1:1").replace("vllm", "sglang") + "phase = 'prefill'\n", "prefill legs need decode"),
        (config("http://127.0.0.1:1") + "[shadow]\nurl = 'http://127.0.0.1:2'\nbaseline = 'x'\n", "policy = 'x'"),
        (config("http://127.0.0.1:1") + "colour = 'red'\n", "unknown key 'colour'"),
        ("host = [", "is not TOML"),
    ],
)
def test_mistakes_in_the_configuration_are_one_line(run: Run, text: str, said: str) -> None:
    Path("router.toml").write_text(text, encoding="utf-8")
    done = run("serve", "--config", "router.toml")
    assert done.status == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_a_port_that_is_taken_is_told(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        Path("router.toml").write_text(config("http://127.0.0.1:1", taken.getsockname()[1]), encoding="utf-8")
        done = run("serve", "--config", "router.toml")
    assert done.status == 2
    assert "cannot listen" in done.err
