"""What goes wrong around a router: each case is provoked, and booked load is zero after it (see `proxy_bench`)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from aiohttp import web

from sbs_opt.adapters.serve_config import Engines
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.testing.engines import Fault
from tests.adapters.proxy_bench import LIMITS, Bench, engine_of, proxy_of, run, tokens_of, under_way, until, use


def statuses(answers: list[tuple[int, bytes]]) -> list[int]:
    return [status for status, _ in answers]


@pytest.mark.parametrize("policy", ["sbs_auto", "phase_aware"])
def test_what_an_engine_refuses_goes_to_another_however_idle_the_first(policy: str) -> None:
    async def scenario(one: Bench) -> None:
        one.engines[0].inject(Fault("refuse", count=1000))
        answers = await asyncio.gather(*(one.complete(k) for k in range(20)))
        answers += [await one.complete(100 + k) for k in range(5)]
        assert statuses(answers) == [200] * 25
        attempts = [sum(engine == 0 for engine, _ in places) for places in one.received().values()]
        assert max(attempts) == 1, "nobody is sent twice to the engine that refused"

    run(scenario, scheduler=SchedulerConfig(policy=policy))


@pytest.mark.parametrize("policy", ["sbs_auto", "phase_aware"])
def test_no_engine_is_asked_twice_for_a_request_before_all_were_asked(policy: str) -> None:
    """The last one that failed was left out, and what failed at once before it was the least loaded again."""

    async def scenario(one: Bench) -> None:
        for engine in one.engines[:2]:
            engine.inject(Fault("refuse", count=1_000))
        one.engines[2].inject(Fault("stall_before_first", count=4))
        stalled = [asyncio.create_task(one.complete(k, 4000)) for k in range(4)]
        await until(lambda: len(one.engines[2].received) == 4)
        for k in range(8):
            assert statuses([await one.complete(10 + k)]) == [200]
        one.engines[2].release()
        assert statuses(await asyncio.gather(*stalled)) == [200] * 4

    limits = replace(LIMITS, silence_s=20.0)
    run(scenario, modes=("unified",) * 3, scheduler=SchedulerConfig(policy=policy), limits=limits)


def test_the_only_engine_is_asked_again() -> None:
    async def scenario(one: Bench) -> None:
        one.engines[0].inject(Fault("reset_before_first", count=1))
        assert (await one.complete(1))[0] == 200

    run(scenario, modes=("unified",))


def test_an_engine_that_is_not_there_at_the_start_is_left_out_until_it_is() -> None:
    async def scenario(one: Bench) -> None:
        answers = await asyncio.gather(*(one.complete(k) for k in range(12)))
        assert statuses(answers) == [200] * 12
        assert not one.engines[0].received
        await one.engines[0].start()
        await until(lambda: one.proxy._core.roster.well["engine-0"])
        answers = await asyncio.gather(*(one.complete(20 + k, 3000) for k in range(12)))
        assert statuses(answers) == [200] * 12
        assert one.engines[0].received

    run(scenario, dead=(0,))


def test_a_full_buffer_is_429_and_held_too_long_is_503() -> None:
    async def scenario(one: Bench) -> None:
        for engine in one.engines:
            engine.kill()
        await until(lambda: not any(one.proxy._core.roster.well.values()))
        held = asyncio.create_task(one.complete(0))
        await until(lambda: one.proxy.router.waiting == 1)
        async with one.client.post(f"{one.url}/v1/completions", json={"model": "fake", "prompt": "x"}) as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) >= 1
        status, body = await held
        assert status == 503
        assert b'"deadline"' in body
        assert 'sbs_rejections_total{reason="deadline"} 1.0' in await one.metrics()

    run(scenario, limits=replace(LIMITS, waiting=1, hold_s=0.5))


def test_stale_and_absent_reports_change_nothing() -> None:
    async def scenario(one: Bench) -> None:
        one.engines[0].inject(Fault("stale_loads", count=1000))
        answers = await asyncio.gather(*(one.complete(k, 3000) for k in range(20)))
        assert statuses(answers) == [200] * 20

    run(scenario, kind="sglang")
    run(scenario, kind="openai")  # reports nothing at all


def test_an_engine_with_prompts_of_others_takes_nothing_at_the_start() -> None:
    """A router that is started again finds engines at work: it waits for what they report to be gone."""

    async def scenario(one: Bench) -> None:
        # The first engine is busy with prompts that did not come through this router.
        url = f"{one.engines[0].url}/v1/completions"
        body = {"model": "fake", "prompt": [1] * 8000, "max_tokens": 1, "routed_dp_rank": 0}
        others = [asyncio.create_task(post(one, url, body)) for _ in range(30)]
        await until(lambda: one.engines[0].loads()[0].waiting > 20)
        async with proxy_of(one.config) as (proxy, one.url):
            before = set(one.engines[0].received)
            answers = await asyncio.gather(*(one.complete(k) for k in range(8)))
            assert statuses(answers) == [200] * 8
            assert set(one.engines[0].received) == before
            await asyncio.gather(*others)
            await until(lambda: bool(proxy.router._scheduler._active.all()))  # type: ignore[attr-defined]

    run(scenario, kind="sglang")


@pytest.mark.parametrize("policy", ["sbs_auto", "phase_aware"])
def test_a_reload_does_not_wait_for_its_own_requests(policy: str) -> None:
    """It took what the engines ran for the work of others, and under an immediate policy refused everything."""

    async def scenario(one: Bench) -> None:
        tasks = [asyncio.create_task(one.complete(k, 8000, max_tokens=1)) for k in range(60)]
        await until(lambda: all(any(load.waiting for load in engine.loads()) for engine in one.engines))
        await one.proxy.reload(one.config)
        assert one.proxy.router._scheduler._active.all()  # type: ignore[attr-defined]
        assert statuses(await asyncio.gather(*tasks)) == [200] * 60

    run(scenario, kind="sglang", scheduler=SchedulerConfig(policy=policy), limits=replace(LIMITS, silence_s=20.0))


async def post(one: Bench, url: str, body: dict[str, Any]) -> None:
    async with one.client.post(url, json=body) as answer:
        await answer.read()


def test_a_reload_serves_new_requests_and_lets_the_others_end() -> None:
    async def scenario(one: Bench) -> None:
        for engine in one.engines:
            engine.inject(Fault("stall_before_first", count=4))
        former = [asyncio.create_task(one.complete(k)) for k in range(4)]
        await until(lambda: one.proxy.router.in_flight == 4 and not one.proxy.router.waiting)
        router = one.proxy.router
        await one.proxy.reload(replace(one.config, upstreams=one.config.upstreams[:1]))
        assert one.proxy.router is not router
        stalled = len(one.engines[1].received)
        for engine in one.engines:
            engine.release()
        answers = await asyncio.gather(*(one.complete(10 + k) for k in range(10)))
        assert statuses(answers) == [200] * 10
        assert len(one.engines[1].received) == stalled, "an upstream that is no longer named gets nothing"
        assert statuses(await asyncio.gather(*former)) == [200] * 4
        assert (router.in_flight, router.booked) == (0, 0)

    run(scenario)


def test_a_reload_with_a_mistake_leaves_everything_as_it_was() -> None:
    async def scenario(one: Bench) -> None:
        router = one.proxy.router
        for wrong, name in (
            (replace(one.config, port=1234), "port"),
            (replace(one.config, limits=replace(one.config.limits, body_bytes=5)), "body_bytes"),
            (replace(one.config, engines=Engines(ranks=4, hardware="abacus")), "abacus"),
        ):
            with pytest.raises(InputError, match=name):
                await one.proxy.reload(wrong)
        assert one.proxy.router is router
        assert (await one.complete(1))[0] == 200

    run(scenario)


def test_no_cookie_of_one_client_reaches_the_request_of_another() -> None:
    shown: list[str | None] = []

    async def upstream(http: web.Request) -> web.Response:
        shown.append(http.headers.get("Cookie"))
        return web.json_response({"choices": []}, headers={"Set-Cookie": "session=alice; Path=/"})

    async def scenario(one: Bench) -> None:
        async with engine_of(upstream, upstream) as url:
            await use(one, url.replace("127.0.0.1", "localhost"))  # a cookie jar keeps none of an address
            for _ in range(2):
                one.client.cookie_jar.clear()
                body = {"model": "m", "prompt": "x"}
                async with one.client.post(f"{one.url}/v1/completions", json=body) as answer:
                    assert answer.status == 200

    run(scenario)
    assert set(shown) == {None}


def test_a_client_cannot_choose_its_rank() -> None:
    async def scenario(one: Bench) -> None:
        for k in range(8):
            one.client.headers["X-data-parallel-rank"] = "3"
            await one.complete(k, routed_dp_rank=3, data_parallel_rank=3)
        places = [place for found in one.received().values() for place in found]
        assert {rank for _, rank in places} != {3}

    run(scenario, kind="sglang")
    run(scenario, kind="vllm")


def test_a_client_that_reads_slowly_slows_its_upstream_and_nobody_else() -> None:
    """Back-pressure: what the client does not take is not gathered in the router."""

    sent = 0

    async def upstream(http: web.Request) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(http)
        for _ in range(4000):
            await answer.write(b"data: " + b"x" * 16_000 + b"\n\n")
            sent += 16_008
        await answer.write_eof()
        return answer

    async def scenario(one: Bench) -> None:
        async with engine_of(upstream) as url:
            await use(one, url)
            async with one.client.post(f"{one.url}/v1/completions", json={"model": "m", "prompt": "x"}) as answer:
                await answer.content.read(1000)
                previous = -1
                while sent > previous:  # it comes to a standstill by itself
                    previous = sent
                    await asyncio.sleep(0.3)
                assert sent < 40_000_000, "of 64 MB that the upstream has, the buffers of the way take their part"
                answer.close()

    run(scenario, limits=replace(LIMITS, silence_s=10.0))


# -- disaggregated prefill and decode -----------------------------------------------------------------------------

LEGS = ("prefill", "prefill", "decode", "decode")


def test_both_legs_of_a_request_meet_and_the_decode_leg_answers() -> None:
    async def scenario(one: Bench) -> None:
        answers = await asyncio.gather(*(one.complete(k, 1 + 61 * k % 4000) for k in range(60)))
        assert statuses(answers) == [200] * 60
        assert [tokens_of(stream) for _, stream in answers] == [4] * 60
        for places in one.received().values():
            assert sorted(engine // 2 for engine, _ in places) == [0, 1], "one prefill leg, one decode leg"
        ranks = {rank for places in one.received().values() for engine, rank in places if engine >= 2}
        assert len(ranks) == 4, "decode is spread as well"

    run(scenario, kind="sglang", modes=LEGS, limits=replace(LIMITS, silence_s=20.0))


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("fault", ["refuse", "reset_before_first"])
def test_a_leg_that_fails_before_the_first_token_takes_both_elsewhere(victim: int, fault: str) -> None:
    async def scenario(one: Bench) -> None:
        one.engines[victim].inject(Fault(fault, count=2))  # type: ignore[arg-type]
        answers = await asyncio.gather(*(one.complete(k) for k in range(12)))
        assert statuses(answers) == [200] * 12
        assert [tokens_of(stream) for _, stream in answers] == [4] * 12

    run(scenario, kind="sglang", modes=LEGS)


@pytest.mark.parametrize("victim", [0, 2])
def test_a_leg_that_fails_always_is_not_asked_twice_for_a_request(victim: int) -> None:
    """What fails at once is always the least loaded: a decode engine that did drew every request back to itself."""

    async def scenario(one: Bench) -> None:
        one.engines[victim].inject(Fault("refuse", count=1_000))
        for k in range(6):
            assert statuses([await one.complete(k)]) == [200]

    run(scenario, kind="sglang", modes=LEGS, limits=replace(LIMITS, attempts=2))


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_leg_loses_nobody(victim: int) -> None:
    async def scenario(one: Bench) -> None:
        tasks = [asyncio.create_task(one.complete(k, 3000)) for k in range(24)]
        await asyncio.sleep(0.01)
        one.engines[victim].kill()
        answers = await asyncio.gather(*tasks)
        assert statuses(answers) == [200] * 24
        for _, stream in answers:
            assert stream.endswith(b"data: [DONE]\n\n") or b'"upstream_error"' in stream
        assert statuses([await one.complete(50 + k) for k in range(4)]) == [200] * 4

    run(scenario, kind="sglang", modes=LEGS)


def test_a_client_that_leaves_both_legs_frees_them() -> None:
    async def scenario(one: Bench) -> None:
        for engine in one.engines:
            engine.inject(Fault("stall_before_first", count=8))
        tasks = [asyncio.create_task(one.complete(k)) for k in range(8)]
        await until(lambda: sum(len(engine.received) for engine in one.engines) == 16)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: not any(load.running + load.waiting for engine in one.engines for load in engine.loads()))
        await until(lambda: not one.proxy.open_answers)
        assert under_way(one.proxy) == 0

    run(scenario, kind="sglang", modes=LEGS)


def test_a_step_of_the_clock_holds_nobody() -> None:
    """`time.monotonic` never steps back; a machine that was asleep for an hour may make it jump ahead."""

    async def scenario(one: Bench) -> None:
        clock = one.proxy.router._clock
        ahead = 0
        real = time.monotonic_ns
        clock.now_ns = lambda: real() + ahead  # type: ignore[method-assign]
        for jump in (3_600 * 10**9, 7_200 * 10**9, 0):
            tasks = [asyncio.create_task(one.complete(jump // 10**9 + k)) for k in range(8)]
            await asyncio.sleep(0.002)
            ahead += jump
            for status, body in await asyncio.gather(*tasks):
                assert status == 200 or b'"deadline"' in body  # what is held past its deadline is told so

    run(scenario)


def test_an_answer_that_breaks_off_after_its_end_is_whole() -> None:
    """The engine resets the connection after `[DONE]`: the client got an answer and an error in one stream."""

    async def scenario(one: Bench) -> None:
        for engine in one.engines:
            engine.inject(Fault("reset_after_first", count=20))
        answers = await asyncio.gather(*(one.complete(k, max_tokens=1) for k in range(20)))
        assert statuses(answers) == [200] * 20
        for _, stream in answers:
            assert (b"[DONE]" in stream) != (b'"upstream_error"' in stream)

    run(scenario)


def test_answers_in_one_piece_release_their_load_and_tell_no_pass() -> None:
    async def scenario(one: Bench) -> None:
        answers = await asyncio.gather(*(one.complete(k, stream=False, max_tokens=40) for k in range(12)))
        assert statuses(answers) == [200] * 12
        assert one.proxy.router._pass_number == [0, 0]

    run(scenario)


def test_placements_are_asked_for_beside_completions() -> None:
    async def scenario(one: Bench) -> None:
        url = f"{one.url}/v1/placements"
        async with one.client.post(url, json={"id": "a", "prompt_tokens": 300}) as answer:
            assert answer.status == 401
        one.client.headers["Authorization"] = "Bearer secret"
        async with one.client.post(url, json={"id": "a", "prompt_tokens": 300}) as answer:
            placed = await answer.json()
        assert placed["upstream"] in ("engine-0", "engine-1")
        assert one.proxy.router.booked > 0
        assert "sbs_open_placements 1.0" in await one.metrics()
        await one.proxy.reload(one.config)
        async with one.client.delete(f"{url}/a") as answer:
            assert answer.status == 204
        await until(lambda: not one.proxy._former)  # it was booked under the former configuration

    run(scenario, token="secret")
