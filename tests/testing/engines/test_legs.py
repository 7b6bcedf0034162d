"""The legs of a disaggregated deployment, each at its engine, meet in a room of the prefill engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("aiohttp")

import aiohttp

from sbs_opt.testing.costs import LinearPrefill
from sbs_opt.testing.engines import EngineConfig, FakeEngine, Fault
from tests.testing.engines.bench import COMPLETIONS, ENDLESS, FAST, ask, assert_empty, body, served, stream, until

PREFILL, DECODE = replace(FAST, mode="prefill"), replace(FAST, mode="decode")
SLOW = replace(PREFILL, prefill=LinearPrefill(200_000_000), speed=1.0)
HELD = replace(ENDLESS, mode="prefill")
"""No prefill ends."""


@dataclass
class Pair:
    """A prefill and a decode engine, and a client that sends to both what a router would."""

    prefill: FakeEngine
    decode: FakeEngine
    client: aiohttp.ClientSession

    def fields(self, room: int, tokens: int = 30, max_tokens: int = 4, **more: Any) -> dict[str, Any]:
        port = urlsplit(self.prefill.url).port
        meeting = {"bootstrap_host": "127.0.0.1", "bootstrap_port": port, "bootstrap_room": room}
        return body(tokens, max_tokens, **(meeting | more))

    def prefills(self, room: int, **more: Any) -> asyncio.Task[tuple[int, Any]]:
        fields = self.fields(room, **more)
        return asyncio.create_task(ask(self.prefill, self.client, fields, x_request_id=str(room)))

    def decodes(self, room: int, **more: Any) -> asyncio.Task[tuple[int, Any]]:
        fields = self.fields(room, **more)
        return asyncio.create_task(ask(self.decode, self.client, fields, x_request_id=str(room)))


def paired(
    scenario: Callable[[Pair], Awaitable[None]], prefill: EngineConfig = PREFILL, decode: EngineConfig = DECODE
) -> None:
    async def with_both(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        async with FakeEngine(decode) as other:
            await scenario(Pair(engine, other, client))
            await until(lambda: all(load.running + load.waiting == 0 for load in other.loads()))
            assert_empty(other)

    served(prefill, with_both)


def assert_transfer_failed(answer: tuple[int, Any], says: str) -> None:
    status, whole = answer
    assert status == 500
    assert "KV transfer failed" in whole["error"]["message"]
    assert says in whole["error"]["message"]


# One leg alone --------------------------------------------------------------------------------------------------------


def test_prefill_leg_answers_small_json_and_follows_the_room() -> None:
    cases: list[tuple[dict[str, Any], int, int | None]] = [
        ({"bootstrap_room": 7, "routed_dp_rank": 1}, 200, 1),
        ({"bootstrap_room": 8}, 200, 2),
        ({"bootstrap_room": 7, "routed_dp_rank": 2}, 500, None),
        ({"bootstrap_room": 7, "routed_dp_rank": 2, "disagg_prefill_dp_rank": 2}, 200, 2),
        ({"routed_dp_rank": 2}, 200, 2),
    ]

    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        for k, (fields, status, rank) in enumerate(cases):
            found, answer = await ask(engine, client, body(30, 50, stream=True, **fields), x_request_id=str(k))
            assert found == status
            assert engine.received.get(str(k)) == rank
            if status == 200:
                assert answer["usage"]["completion_tokens"] == 1
            else:
                assert "follow_bootstrap_room conflict" in answer["error"]["message"]
        assert not engine.steps

    served(PREFILL, scenario)


@pytest.mark.parametrize("fake", [False, True])
def test_decode_leg_needs_no_pass(fake: bool) -> None:
    meeting = {"bootstrap_host": "2.2.2.2", "bootstrap_port": 1} if fake else {}

    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        events = await stream(engine, client, body(5_000, 4, routed_dp_rank=1, bootstrap_room=0, **meeting))
        assert len(events) == 4
        assert not engine.passes
        assert len(engine.steps) == 3

    served(DECODE, scenario)


def test_a_fake_transfer_holds_no_room() -> None:
    async def scenario(pair: Pair) -> None:
        status, _ = await pair.prefills(8, bootstrap_host="2.2.2.2")
        assert status == 200
        assert pair.prefill.received["8"] == 2
        assert pair.prefill.rooms == 0

    paired(scenario)


@pytest.mark.parametrize("kind", ["vllm", "openai"])
def test_rooms_are_sglangs(kind: Any) -> None:
    async def scenario(pair: Pair) -> None:
        assert [(await leg)[0] for leg in (pair.decodes(1), pair.prefills(1))] == [200, 200]
        async with pair.client.get(f"{pair.prefill.url}/bootstrap/rooms/1") as answer:
            assert answer.status == 404

    paired(scenario, replace(PREFILL, kind=kind), replace(DECODE, kind=kind))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bootstrap_port": None}, "bootstrap_port = None"),
        ({"bootstrap_port": 70_000}, "bootstrap_port = 70000"),
        ({"bootstrap_port": "80"}, "bootstrap_port = '80'"),
        ({"bootstrap_room": None}, "bootstrap_room = None"),
        ({"bootstrap_room": 1.5}, "bootstrap_room = 1.5"),
        ({"bootstrap_host": 7}, "bootstrap_host = 7"),
        ({"bootstrap_host": ""}, "bootstrap_host = ''"),
        ({"bootstrap_host": "a/b"}, "bootstrap_host = 'a/b'"),
    ],
)
def test_decode_legs_that_cannot_meet_are_refused(change: dict[str, Any], says: str) -> None:
    async def scenario(pair: Pair) -> None:
        status, answer = await pair.decodes(1, **change)
        assert status == 400
        assert says in answer["error"]["message"]

    paired(scenario)


def test_the_prefill_engine_names_its_bootstrap_port() -> None:
    async def scenario(pair: Pair) -> None:
        async with pair.client.get(f"{pair.prefill.url}/server_info") as answer:
            assert (await answer.json())["disaggregation_bootstrap_port"] == urlsplit(pair.prefill.url).port
        async with pair.client.get(f"{pair.decode.url}/server_info") as answer:
            assert "disaggregation_bootstrap_port" not in await answer.json()
        async with pair.client.get(f"{pair.prefill.url}/bootstrap/rooms/x") as answer:
            assert answer.status == 400

    paired(scenario)


# Both legs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefill_first", [False, True])
def test_the_decode_leg_waits_for_its_prefill_whichever_came_first(prefill_first: bool) -> None:
    async def scenario(pair: Pair) -> None:
        decoding = asyncio.create_task(stream(pair.decode, pair.client, pair.fields(5))) if not prefill_first else None
        if decoding is not None:
            await until(lambda: pair.prefill.rooms == 1)
        prefilling = pair.prefills(5)
        await until(lambda: "5" in pair.prefill.received)
        decoding = decoding or asyncio.create_task(stream(pair.decode, pair.client, pair.fields(5)))
        while not decoding.done():
            assert pair.prefill.passes or not pair.decode.steps
            await asyncio.sleep(0.002)
        events = await decoding
        assert len(events) == 4  # the first token included
        status, answer = await prefilling
        assert (status, answer["usage"]["completion_tokens"]) == (200, 1)
        assert len(pair.prefill.passes) == 1
        assert len(pair.decode.steps) == 3
        assert pair.prefill.rooms == 0

    paired(scenario, SLOW)


def test_a_decode_leg_may_come_after_the_prefill_answer() -> None:
    async def scenario(pair: Pair) -> None:
        assert (await pair.prefills(5))[0] == 200
        assert pair.prefill.rooms == 1
        status, answer = await pair.decodes(5)
        assert (status, answer["usage"]["completion_tokens"]) == (200, 4)
        assert pair.prefill.rooms == 0

    paired(scenario)


def test_the_transfer_takes_its_time() -> None:
    async def scenario(pair: Pair) -> None:
        await pair.prefills(5)
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        assert (await pair.decodes(5))[0] == 200
        assert loop.time() - start_s >= 0.15  # 30 tokens of 50 ms at ten times the speed

    paired(scenario, decode=replace(DECODE, transfer_ns_per_token=50_000_000))


def test_a_room_that_does_not_come_fails_its_decode_leg() -> None:
    async def scenario(pair: Pair) -> None:
        assert_transfer_failed(await pair.decodes(5), "status 404")
        assert pair.prefill.rooms == 0

    paired(scenario, replace(PREFILL, bootstrap_wait_s=0.05))


def test_a_refused_prefill_fails_its_decode_leg() -> None:
    async def scenario(pair: Pair) -> None:
        pair.prefill.inject(Fault("refuse"))
        decoding = pair.decodes(5)
        assert (await pair.prefills(5))[0] == 503
        assert_transfer_failed(await decoding, "status 410")
        pair.prefill.inject(Fault("reset_before_first"))
        with pytest.raises((aiohttp.ClientOSError, ConnectionResetError)):
            await pair.prefills(6)
        assert_transfer_failed(await pair.decodes(6), "status 410")

    paired(scenario)


def test_an_answer_that_is_withheld_holds_no_cache_back() -> None:
    async def scenario(pair: Pair) -> None:
        pair.prefill.inject(Fault("stall_before_first"))
        prefilling = pair.prefills(5)
        assert (await pair.decodes(5))[0] == 200
        assert not prefilling.done()
        pair.prefill.release()
        assert (await prefilling)[0] == 200

    paired(scenario)


def test_a_room_is_held_by_one_request() -> None:
    async def scenario(pair: Pair) -> None:
        first = pair.prefills(5)
        await until(lambda: "5" in pair.prefill.received)
        status, answer = await pair.prefills(5)
        assert status == 400
        assert "bootstrap_room = 5 is held" in answer["error"]["message"]
        assert (await pair.decodes(5))[0] == (await first)[0] == 200

    paired(scenario, SLOW)


# Legs that are left ---------------------------------------------------------------------------------------------------


def test_leaving_the_decode_leg_ends_its_wait() -> None:
    async def scenario(pair: Pair) -> None:
        decoding = pair.decodes(5)
        await until(lambda: pair.prefill.rooms == 1)  # awaited only
        decoding.cancel()
        await until(lambda: pair.prefill.rooms == 0)
        assert (pair.prefill.rooms, decoding.cancelled()) == (0, True)

    paired(scenario)


def test_leaving_the_prefill_leg_withdraws_its_room() -> None:
    async def scenario(pair: Pair) -> None:
        prefilling, decoding = pair.prefills(5), pair.decodes(5)
        await until(lambda: "5" in pair.prefill.received and "5" in pair.decode.received)
        prefilling.cancel()
        assert_transfer_failed(await decoding, "status 410")
        assert pair.prefill.rooms == 0

    paired(scenario, HELD)


def test_a_prefill_engine_killed_under_both_legs() -> None:
    async def scenario(pair: Pair) -> None:
        prefilling, decoding = pair.prefills(5), pair.decodes(5)
        await until(lambda: "5" in pair.prefill.received and "5" in pair.decode.received)
        pair.prefill.kill()
        with pytest.raises((aiohttp.ClientConnectionError, ConnectionError)):
            await prefilling
        assert_transfer_failed(await decoding, "bootstrap_room 5")
        assert pair.prefill.rooms == 0

    paired(scenario, HELD)


@pytest.mark.parametrize("revived", [False, True])
def test_a_prefill_engine_killed_between_the_legs(revived: bool) -> None:
    async def scenario(pair: Pair) -> None:
        assert (await pair.prefills(5))[0] == 200
        pair.prefill.kill()
        if revived:
            await pair.prefill.start()
        assert_transfer_failed(await pair.decodes(5), "status 404" if revived else "Connect")

    paired(scenario, replace(PREFILL, bootstrap_wait_s=0.05))


def test_a_decode_engine_killed_while_it_waits_leaves_no_wait_behind() -> None:
    async def scenario(pair: Pair) -> None:
        decoding = pair.decodes(5)
        await until(lambda: pair.prefill.rooms == 1)
        pair.decode.kill()
        with pytest.raises((aiohttp.ClientConnectionError, ConnectionError)):
            await decoding
        await until(lambda: pair.prefill.rooms == 0)

    paired(scenario)


def test_50_rooms_end_each_where_they_should() -> None:
    """A good prefill engine and one that never ends, to be killed, feed the same decode engine at once."""
    ends = ("good", "late", "refused", "withdrawn", "left", "killed")

    async def scenario(pair: Pair) -> None:
        async with FakeEngine(HELD) as held:
            fleets = {end: pair if k < 3 else Pair(held, pair.decode, pair.client) for k, end in enumerate(ends)}
            expected = {room: ends[room % len(ends)] for room in range(50)}
            prefills, decodes = {}, {}
            for room, end in expected.items():
                wrong = {"routed_dp_rank": (room + 1) % 3} if end == "refused" else {}  # not the room's rank
                if end != "late":
                    prefills[room] = fleets[end].prefills(room, **wrong)
                decodes[room] = fleets[end].decodes(room, max_tokens=1 + room % 5)
            waiting = {room for room, end in expected.items() if end in ("withdrawn", "left", "killed")}
            await until(lambda: waiting <= {int(name) for name in held.received} and len(pair.decode.received) == 50)
            for room, end in expected.items():
                if end == "withdrawn":
                    prefills[room].cancel()
                elif end == "left":
                    decodes[room].cancel()
                elif end == "late":
                    prefills[room] = pair.prefills(room)
            gone = [decodes[room] for room in expected if expected[room] == "withdrawn"]
            for answer in await asyncio.gather(*gone):
                assert_transfer_failed(answer, "status 410")
            assert not any(decodes[room].done() for room in expected if expected[room] == "killed")
            held.kill()
            results = dict(zip(decodes, await asyncio.gather(*decodes.values(), return_exceptions=True), strict=True))
            firsts = dict(zip(prefills, await asyncio.gather(*prefills.values(), return_exceptions=True), strict=True))
            for room, end in expected.items():
                result, first = results[room], firsts[room]
                if end == "left":
                    assert isinstance(result, asyncio.CancelledError)
                    continue
                assert isinstance(result, tuple)
                if end in ("good", "late"):
                    assert (result[0], result[1]["usage"]["completion_tokens"]) == (200, 1 + room % 5)
                    assert isinstance(first, tuple)
                    assert first[0] == 200
                else:
                    assert_transfer_failed(result, "")
                    if end == "refused":
                        assert isinstance(first, tuple)
                        assert first[0] == 500
                    else:
                        assert isinstance(first, aiohttp.ClientConnectionError | asyncio.CancelledError)
            assert pair.prefill.rooms == held.rooms == 0

    paired(scenario)


def test_a_stream_that_is_refused_has_no_first_byte() -> None:
    async def scenario(pair: Pair) -> None:
        fields = pair.fields(5, stream=True)
        async with pair.client.post(pair.decode.url + COMPLETIONS, json=fields) as answer:
            assert (answer.status, answer.content_type) == (500, "application/json")

    paired(scenario, replace(PREFILL, bootstrap_wait_s=0.05))
