"""Fake engines answer as engines do: pins, prompts, streams, clients that leave."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("aiohttp")

import aiohttp

from sbs_opt.testing.costs import LinearDecode
from sbs_opt.testing.engines import FakeEngine
from tests.testing.engines.bench import (
    CHAT,
    COMPLETIONS,
    FAST,
    ask,
    assert_empty,
    body,
    requests_in,
    served,
    stream,
    until,
)


@pytest.mark.parametrize(
    ("kind", "fields", "headers", "rank"),
    [
        ("sglang", {"routed_dp_rank": 2}, {}, 2),
        ("sglang", {"data_parallel_rank": 2}, {}, 2),
        ("sglang", {"routed_dp_rank": 2}, {"X_data_parallel_rank": "1"}, 1),
        ("vllm", {}, {"X_Data_Parallel_Rank": "2"}, 2),
        ("vllm", {"routed_dp_rank": 2}, {}, 0),
        ("openai", {"routed_dp_rank": 2}, {"X_data_parallel_rank": "1"}, 0),
    ],
)
def test_pins(kind: Any, fields: dict[str, Any], headers: dict[str, str], rank: int) -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        status, _ = await ask(engine, client, body(**fields), x_request_id="one", **headers)
        assert status == 200
        assert dict(engine.received) == {"one": rank}
        assert engine.passes[0].tokens.tolist() == [10 if k == rank else 0 for k in range(3)]

    served(replace(FAST, kind=kind), scenario)


def test_without_a_pin_ranks_take_turns() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        for k in range(5):
            await ask(engine, client, body(), x_request_id=str(k))
        assert list(engine.received.values()) == [0, 1, 2, 0, 1]

    served(FAST, scenario)


@pytest.mark.parametrize(
    ("kind", "fields", "headers", "status", "says"),
    [
        ("sglang", {"routed_dp_rank": 3}, {}, 400, "rank 3 is out of range"),
        ("sglang", {"routed_dp_rank": "1"}, {}, 400, "routed_dp_rank = '1'"),
        ("vllm", {}, {"X_data_parallel_rank": "-1"}, 400, "rank -1 is out of range"),
        ("vllm", {}, {"X_data_parallel_rank": "x"}, 400, "'x'"),
        ("openai", {"model": "other"}, {}, 404, "'other'"),
        ("openai", {"prompt": [1] * 20_001}, {}, 400, "20001 tokens"),
        ("openai", {"prompt": ""}, {}, 400, "empty"),
        ("openai", {"prompt": ["a", "b"]}, {}, 400, "prompt"),
        ("openai", {"max_tokens": 0}, {}, 400, "max_tokens = 0"),
        ("openai", {"stream_options": 3}, {}, 400, "stream_options"),
    ],
)
def test_mistakes_are_answered_in_openais_form(
    kind: Any, fields: dict[str, Any], headers: dict[str, str], status: int, says: str
) -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        found, answer = await ask(engine, client, {**body(), **fields}, **headers)
        assert found == status
        assert says in answer["error"]["message"]
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert_empty(engine)

    served(replace(FAST, kind=kind), scenario)


def test_what_is_no_request_is_refused() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        for data in (b"{", b"[]", b"\xff"):
            async with client.post(engine.url + COMPLETIONS, data=data) as response:
                assert response.status == 400
                assert "error" in await response.json()
        for messages in (None, ["x"], [{"role": "user", "content": 3}], []):
            status, _ = await ask(engine, client, {"messages": messages}, CHAT)
            assert status == 400
        async with client.get(engine.url + COMPLETIONS) as response:
            assert response.status == 404

    served(FAST, scenario)


def test_prompt_lengths() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "12345"}, {"type": "text", "text": "678"}]}]
    cases: list[tuple[str, dict[str, Any], int]] = [
        (COMPLETIONS, {"prompt": [3, 4, 5]}, 3),
        (COMPLETIONS, {"prompt": "123456789"}, 3),
        (CHAT, {"messages": [{"role": "system", "content": "12345"}, {"role": "user", "content": "6789"}]}, 3),
        (CHAT, {"messages": parts}, 2),
    ]

    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        for path, fields, tokens in cases:
            _, answer = await ask(engine, client, fields, path)
            assert answer["usage"] == {"prompt_tokens": tokens, "completion_tokens": 16, "total_tokens": tokens + 16}

    served(replace(FAST, speed=1_000.0), scenario)


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_streams(usage: bool, max_tokens: int) -> None:
    options = {"stream_options": {"include_usage": True}} if usage else {}
    chat = {"messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": max_tokens, **options}

    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        texts = await stream(engine, client, body(8, max_tokens, **options))
        chats = await stream(engine, client, chat, CHAT)
        for events, name in ((texts, "text_completion"), (chats, "chat.completion.chunk")):
            assert {event["object"] for event in events} == {name}
            assert len({event["id"] for event in events}) == 1
            if usage:
                last = events.pop()
                assert last["choices"] == []
                assert last["usage"]["completion_tokens"] == max_tokens
            assert not any("usage" in event for event in events)
            assert len(events) == max_tokens
            reasons = [event["choices"][0]["finish_reason"] for event in events]
            assert reasons == [None] * (max_tokens - 1) + ["length"]
        assert all(event["choices"][0]["text"] for event in texts)
        assert [event["choices"][0]["delta"].get("role") for event in chats] == ["assistant"] + [None] * (
            max_tokens - 1
        )
        assert all(event["choices"][0]["delta"]["content"] for event in chats)

    served(FAST, scenario)


def test_tokens_are_streamed_as_they_come() -> None:
    """The second token takes an hour; the first is there all the same."""

    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        async with client.post(engine.url + COMPLETIONS, json=body(stream=True)) as response:
            assert (await response.content.readline()).startswith(b"data: {")
        await until(lambda: not requests_in(engine))

    served(replace(FAST, decode=LinearDecode(3_600_000_000_000), speed=1.0), scenario)


def test_whole_answers_have_their_tokens() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        _, text = await ask(engine, client, body(8, 5))
        _, chat = await ask(engine, client, {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}, CHAT)
        assert (text["object"], chat["object"]) == ("text_completion", "chat.completion")
        assert len(text["choices"][0]["text"].split()) == 5
        assert len(chat["choices"][0]["message"]["content"].split()) == 5
        assert text["choices"][0]["finish_reason"] == chat["choices"][0]["finish_reason"] == "length"

    served(FAST, scenario)


def test_300_at_once_are_all_answered_once() -> None:
    lengths = [(1 + 37 * k % 900, 1 + 7 * k % 12, bool(k % 2)) for k in range(300)]

    async def one(engine: FakeEngine, client: aiohttp.ClientSession, k: int) -> int:
        tokens, out, streamed = lengths[k]
        if not streamed:
            _, answer = await ask(engine, client, body(tokens, out), x_request_id=str(k))
            return int(answer["usage"]["completion_tokens"])
        headers = {"x-request-id": str(k)}
        async with client.post(engine.url + COMPLETIONS, json=body(tokens, out, stream=True), headers=headers) as got:
            return (await got.text()).count('"text"')

    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        produced = await asyncio.gather(*(one(engine, client, k) for k in range(300)))
        assert produced == [out for _, out, _ in lengths]
        assert set(engine.received) == {str(k) for k in range(300)}
        assert sum(int(record.tokens.sum()) for record in engine.passes) == sum(tokens for tokens, _, _ in lengths)
        # Every token beyond a request's first took one sequence one step.
        assert sum(int(step.sequences.sum()) for step in engine.steps) == sum(out - 1 for _, out, _ in lengths)
        assert_empty(engine)

    served(replace(FAST, speed=200.0), scenario)


def test_a_client_that_leaves_frees_its_slot_and_its_place() -> None:
    hour = 3_600 * 10**6  # tokens: a decode that does not end by itself

    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        running = asyncio.create_task(ask(engine, client, body(10, hour, routed_dp_rank=1)))
        await until(lambda: engine.loads()[1].running == 1)
        queued = asyncio.create_task(ask(engine, client, body(4_000, 1, routed_dp_rank=1)))
        await until(lambda: engine.queued_tokens() == [0, 4_000, 0])
        patient = asyncio.create_task(ask(engine, client, body(20, 1, routed_dp_rank=1)))
        await until(lambda: engine.queued_tokens() == [0, 4_020, 0])
        queued.cancel()
        await until(lambda: engine.queued_tokens() == [0, 20, 0])
        assert not patient.done()  # the one slot is taken
        running.cancel()
        status, _ = await patient
        assert status == 200
        await until(lambda: not requests_in(engine))
        assert_empty(engine)
        assert sum(int(record.tokens.sum()) for record in engine.passes) == 30

    served(replace(FAST, slots=1), scenario)
