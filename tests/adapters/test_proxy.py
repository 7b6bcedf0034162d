"""The proxy in front of fake engines over HTTP: every request is answered once, and nothing stays booked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from sbs_opt.adapters.capture import CaptureWriter
from sbs_opt.adapters.serve_config import Engines, ServeConfig, Upstream
from sbs_opt.instances import read_trace
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.testing.engines import Fault
from tests.adapters.proxy_bench import RANKS, Bench, run, tokens_of


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_every_request_is_answered_once_where_it_was_placed(kind: str) -> None:
    async def scenario(one: Bench) -> None:
        placed: dict[int, tuple[int, int]] = {}
        place = one.proxy.router.place

        async def seen(*arguments: Any, **more: Any) -> Any:
            found = await place(*arguments, **more)
            placed[found.id] = (found.instance, found.unit)
            return found

        one.proxy.router.place = seen  # type: ignore[method-assign]
        answers = await asyncio.gather(*(one.complete(k, 1 + 61 * k % 4000) for k in range(100)))
        assert [status for status, _ in answers] == [200] * 100
        assert [tokens_of(stream) for _, stream in answers] == [4] * 100
        received = one.received()
        assert len(received) == 100
        assert all(len(places) == 1 for places in received.values())
        assert sorted(places[0] for places in received.values()) == sorted(placed.values())

    run(scenario, kind=kind)


def test_bytes_pass_as_they_are() -> None:
    async def scenario(one: Bench) -> None:
        status, through = await one.complete(1, 40)
        body = {"model": "fake", "prompt": list(range(40)), "max_tokens": 4, "stream": True}
        async with one.client.post(f"{one.engines[0].url}/v1/completions", json=body) as answer:
            direct = await answer.read()
        assert status == 200

        assert [len(event) > 20 for event in through.split(b"\n\n")] == [len(e) > 20 for e in direct.split(b"\n\n")]
        chat = {"model": "fake", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 3}
        async with one.client.post(f"{one.url}/v1/chat/completions", json=chat) as answer:
            found = await answer.json()
        assert found["usage"]["completion_tokens"] == 3
        async with one.client.get(f"{one.url}/v1/models") as answer:
            assert (await answer.json())["data"][0]["id"] == "fake"

    run(scenario)


@pytest.mark.parametrize("fault", ["refuse", "reset_before_first", "stall_before_first"])
def test_a_failure_before_the_first_token_goes_elsewhere(fault: str) -> None:
    async def scenario(one: Bench) -> None:
        for engine in one.engines:
            engine.inject(Fault(fault, count=1))  # type: ignore[arg-type]
        answers = await asyncio.gather(*(one.complete(k) for k in range(12)))
        assert [status for status, _ in answers] == [200] * 12
        assert [tokens_of(stream) for _, stream in answers] == [4] * 12

    run(scenario)


def test_a_killed_engine_is_replaced_and_returns() -> None:
    async def scenario(one: Bench) -> None:
        tasks = [asyncio.create_task(one.complete(k, 3000)) for k in range(30)]
        await asyncio.sleep(0.003)
        one.engines[0].kill()
        answers = await asyncio.gather(*tasks)
        # Answers that had begun at the killed engine end with an error event, all others come from elsewhere.
        assert all(status == 200 for status, _ in answers)
        broken = sum(b'"error"' in stream for _, stream in answers)
        assert broken + sum(stream.endswith(b"data: [DONE]\n\n") for _, stream in answers) == 30
        await asyncio.sleep(0.3)
        async with one.client.get(f"{one.url}/metrics") as metrics:
            assert 'sbs_upstream_healthy{upstream="engine-0"} 0.0' in (await metrics.text())
        assert (await one.complete(90))[0] == 200
        await one.engines[0].start()
        await asyncio.sleep(0.4)
        before = len(one.engines[0].received)
        assert {status for status, _ in await asyncio.gather(*(one.complete(100 + k, 3000) for k in range(16)))} == {
            200
        }
        assert len(one.engines[0].received) > before

    run(scenario)


@pytest.mark.parametrize("fault", ["reset_after_first", "stall_after_first"])
def test_a_failure_after_the_first_token_ends_the_stream_with_an_error(fault: str) -> None:
    async def scenario(one: Bench) -> None:
        for engine in one.engines:
            engine.inject(Fault(fault, count=1))  # type: ignore[arg-type]
        answers = await asyncio.gather(*(one.complete(k) for k in range(6)))
        broken = [stream for _, stream in answers if b'"upstream_error"' in stream]
        whole = [stream for _, stream in answers if stream.endswith(b"data: [DONE]\n\n")]
        assert len(broken) + len(whole) == 6
        assert 1 <= len(broken) <= 2
        assert all(len(places) == 1 for places in one.received().values()), "no second answer"

    run(scenario)


def test_a_client_that_leaves_frees_engine_and_booking() -> None:
    async def scenario(one: Bench) -> None:
        for engine in one.engines:
            engine.inject(Fault("stall_before_first", count=4))
        tasks = [asyncio.create_task(one.complete(k)) for k in range(8)]
        await asyncio.sleep(0.1)
        assert one.proxy.router.booked > 0
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(2):
            while one.proxy.router.booked or any(load.running for engine in one.engines for load in engine.loads()):
                await asyncio.sleep(0.01)

    run(scenario)


def test_nobody_answers() -> None:
    async def scenario(one: Bench) -> None:
        for engine in one.engines:
            engine.inject(Fault("refuse", count=100))
        status, body = await one.complete(1)
        assert status == 502
        assert b"no upstream answered" in body
        for engine in one.engines:
            engine.kill()
        await asyncio.sleep(0.3)
        async with one.client.get(f"{one.url}/health") as answer:
            assert answer.status == 503
        status, body = await one.complete(2)
        assert status == 503
        assert json.loads(body)["error"]["type"] in ("deadline", "overload")

    run(scenario)


def test_mistakes_of_clients_have_their_status() -> None:
    async def scenario(one: Bench) -> None:
        async def status(data: bytes, path: str = "/v1/completions") -> int:
            async with one.client.post(one.url + path, data=data) as answer:
                found = await answer.json()
                assert found["error"]["message"]
                return int(answer.status)

        assert await status(b"{") == 400
        assert await status(b"[1]") == 400
        assert await status(b'{"model": "fake"}') == 400
        assert await status(b'{"model": "fake", "prompt": 7}') == 400
        assert await status(b'{"model": "other", "prompt": "x"}') == 404
        assert await status(json.dumps({"model": "fake", "prompt": "x" * 200_000}).encode()) == 413
        assert await status(json.dumps({"model": "fake", "prompt": [1] * 9000}).encode()) == 413
        async with one.client.get(f"{one.url}/nothing") as answer:
            assert answer.status == 404

    run(scenario)


def test_a_token_is_asked_for_where_one_is_set() -> None:
    async def scenario(one: Bench) -> None:
        assert (await one.complete(1))[0] == 401
        one.client.headers["Authorization"] = "Bearer secret"
        assert (await one.complete(2))[0] == 200

    run(scenario, token="secret")


def test_draining_answers_what_is_under_way_and_takes_nothing_new() -> None:
    async def scenario(one: Bench) -> None:
        for engine in one.engines:
            engine.inject(Fault("stall_before_first", count=8))
        tasks = [asyncio.create_task(one.complete(k)) for k in range(8)]
        while one.proxy.open_answers < 8:
            await asyncio.sleep(0.001)
        draining = asyncio.create_task(one.proxy.drain())
        await asyncio.sleep(0)
        status, body = await one.complete(99)
        assert (status, json.loads(body)["error"]["type"]) == (503, "shutdown")
        assert not draining.done()
        for engine in one.engines:
            engine.release()
        assert [status for status, _ in await asyncio.gather(*tasks)] == [200] * 8
        await draining

    run(scenario)


def test_the_capture_is_a_trace_of_the_traffic_without_its_text(tmp_path: Path) -> None:
    secret = "the quick brown fox "

    async def scenario(one: Bench) -> None:
        await asyncio.gather(*(one.complete(k, prompt=secret * (10 + 20 * k), max_tokens=3) for k in range(6)))
        one.engines[0].inject(Fault("stall_before_first", count=9))
        one.engines[1].inject(Fault("stall_before_first", count=9))
        gone = asyncio.create_task(one.complete(7, prompt=secret * 30))
        await asyncio.sleep(0.1)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await asyncio.sleep(0.1)

    path = tmp_path / "live.jsonl"
    with CaptureWriter(path, rotate_bytes=1 << 20, keep=2, block_tokens=16) as capture:
        run(scenario, capture=capture, scheduler=SchedulerConfig(block_tokens=16))
    text = path.read_text(encoding="utf-8")
    assert "fox" not in text
    rows = [json.loads(line) for line in text.splitlines()[1:]]
    assert [row["outcome"] for row in rows] == ["answered"] * 6 + ["cancelled"]
    assert {row["output_tokens"] for row in rows[:6]} == {3}
    assert all(0 <= row["arrival_s"] <= row["first_token_s"] <= row["end_s"] for row in rows[:6])
    longest = max(rows, key=lambda row: row["prompt_tokens"])
    shortest = min(rows[:6], key=lambda row: row["prompt_tokens"])
    shared = shortest["block_ids"]
    assert len(shared) >= 2
    assert longest["block_ids"][: len(shared)] == shared, "equal beginnings have equal ids"
    trace = read_trace(path)
    assert len(trace.requests) == 7
    assert trace.requests.block_tokens == 16


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_what_engines_report_is_shown_with_source_and_age(kind: str) -> None:
    async def scenario(one: Bench) -> None:
        await one.complete(1)
        await asyncio.sleep(0.3)
        async with one.client.get(f"{one.url}/metrics") as answer:
            text = await answer.text()
        for unit in range(RANKS):
            assert f'sbs_reported_load{{figure="running",source="{kind} ' in text.replace("unit=", "unit=")
            assert f'unit="{unit}"' in text
        ages = [float(line.split()[-1]) for line in text.splitlines() if line.startswith("sbs_report_age_seconds{")]
        assert len(ages) == 2
        assert all(0 <= age < 5 for age in ages)

    run(scenario, kind=kind)


def test_reports_that_cannot_be_read_are_counted_and_harm_nothing() -> None:
    async def scenario(one: Bench) -> None:
        one.engines[0].inject(Fault("malformed_loads", count=50))
        one.engines[1].inject(Fault("wrong_rank_loads", count=50))
        await asyncio.sleep(0.3)
        answers = await asyncio.gather(*(one.complete(k) for k in range(10)))
        assert {status for status, _ in answers} == {200}
        async with one.client.get(f"{one.url}/metrics") as answer:
            text = await answer.text()
        assert 'sbs_unreadable_reports_total{error="TelemetryError",upstream="engine-0"}' in text
        assert 'sbs_unreadable_reports_total{error="TelemetryError",upstream="engine-1"}' in text

    run(scenario, kind="sglang")


def test_prompt_lengths_are_learned_from_usage() -> None:
    async def scenario(one: Bench) -> None:
        before = one.proxy.characters_per_token
        for k in range(20):
            options = {"include_usage": True}
            await one.complete(k, prompt="a" * 2000, stream_options=options)
        assert before == 8.0
        assert 3.5 < one.proxy.characters_per_token < 6.5  # the engine counts four characters a token

    run(scenario, characters_per_token=8.0)


def test_immediate_policies_serve_as_well() -> None:
    async def scenario(one: Bench) -> None:
        answers = await asyncio.gather(*(one.complete(k) for k in range(20)))
        assert [status for status, _ in answers] == [200] * 20

    for policy in ("phase_aware", "round_robin", "sbs"):
        run(scenario, scheduler=SchedulerConfig(policy=policy))


def test_listening_to_all_needs_a_token_or_a_word() -> None:
    upstream = Upstream("a", "http://127.0.0.1:1", "vllm")
    with pytest.raises(InputError, match="not loopback"):
        ServeConfig((upstream,), Engines(4), host="0.0.0.0")
    ServeConfig((upstream,), Engines(4), host="0.0.0.0", token="secret")
    ServeConfig((upstream,), Engines(4), host="0.0.0.0", open_to_all=True)
    with pytest.raises(InputError, match="without a path"):
        Upstream("a", "http://127.0.0.1:1/v1", "vllm")
