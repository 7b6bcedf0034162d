"""Fake engines behave like engines: barrier, chunks, pins, streams, reports of load, and faults on command."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("aiohttp")

import aiohttp

from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import InputError
from sbs_opt.testing.costs import LinearDecode, LinearPrefill
from sbs_opt.testing.engines import EngineConfig, FakeEngine, Fault, PassRecord, StepRecord
from sbs_opt.testing.engines.ranks import PassWork, Ranks, Sequence, StepWork

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


# Passes and steps ---------------------------------------------------------------------------------------------------


def test_passes_and_steps_last_what_the_cost_model_says() -> None:
    config = EngineConfig(ranks=4, chunk_tokens=2_000, slots=4, speed=500.0)
    prompts = [100, 5_000, 700, 1_999, 2_001, 3, 4_000, 60, 900, 1]

    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        await asyncio.gather(*(ask(engine, client, body(p, 5, routed_dp_rank=k % 3)) for k, p in enumerate(prompts)))
        cost = config.cost_model()
        assert engine.passes
        assert engine.steps
        for k, ran in enumerate(engine.passes):
            assert ran.number == k
            assert ran.duration_ns == cost.prefill.pass_ns(ran.pairs, ran.tokens, ran.context_tokens)
            assert ran.tokens.max() <= config.chunk_tokens
            assert ran.tokens[3] == 0  # nothing was sent there: it takes part all the same
        for step in engine.steps:
            assert step.duration_ns == cost.decode.step_ns(step.kv_tokens, step.sequences)
            assert 0 < step.sequences.max() <= config.slots
        expected = [sum(prompts[rank::3]) for rank in range(3)]
        assert sum(ran.tokens for ran in engine.passes).tolist() == [*expected, 0]  # type: ignore[union-attr]
        # A prompt of n tokens has n(n+1)/2 pairs, however it was cut.
        assert sum(int(ran.pairs.sum()) for ran in engine.passes) == sum(p * (p + 1) // 2 for p in prompts)
        works: list[PassRecord | StepRecord] = [*engine.passes, *engine.steps]
        timeline = sorted(works, key=lambda work: work.start_ns)
        for before, after in pairwise(timeline):
            assert after.start_ns >= before.start_ns + before.duration_ns
        assert_empty(engine)

    served(config, scenario)


def test_a_long_prompt_keeps_its_rest_at_the_head() -> None:
    ranks = Ranks(FAST)
    grown: list[str] = []
    for name, rank, tokens in (("long", 1, 2_500), ("behind", 1, 300), ("other", 2, 10)):
        ranks.submit(Sequence(rank, tokens, 1, lambda name=name: grown.append(name)))  # type: ignore[misc]
    seen = []
    while work := ranks.begin(0):
        assert isinstance(work, PassWork)
        before = list(grown)
        ranks.end(work)
        seen.append((work.record.tokens.tolist(), work.record.context_tokens.tolist(), grown[len(before) :]))
    assert seen == [
        ([0, 1_000, 10], [0, 1_000, 10], ["other"]),
        ([0, 1_000, 0], [0, 2_000, 0], []),
        ([0, 800, 0], [0, 2_800, 0], ["long", "behind"]),
    ]


def test_prefill_goes_before_decode() -> None:
    ranks = Ranks(FAST)
    ranks.submit(Sequence(0, 5, 10, lambda: None))
    kinds = []
    for k in range(4):
        work = ranks.begin(0)
        assert work is not None
        kinds.append(type(work))
        if k == 1:
            ranks.submit(Sequence(1, 5, 10, lambda: None))
        ranks.end(work)
    assert kinds == [PassWork, StepWork, PassWork, StepWork]


def test_slots_hold_prompts_back() -> None:
    ranks = Ranks(replace(FAST, slots=1))
    first, second = (Sequence(0, 5, 2, lambda: None) for _ in range(2))
    ranks.submit(first)
    ranks.submit(second)
    done = []
    while work := ranks.begin(0):
        ranks.end(work)
        done.append((first.produced, second.produced))
    assert done == [(1, 0), (2, 0), (2, 1), (2, 2)]


def test_the_prefill_leg_has_no_slots() -> None:
    ranks = Ranks(replace(FAST, mode="prefill", slots=1))
    for _ in range(3):
        ranks.submit(Sequence(0, 5, 1, lambda: None))
    work = ranks.begin(0)
    assert work is not None
    ranks.end(work)
    assert ranks.begin(0) is None


def test_decode_leg_starts_at_once() -> None:
    ranks = Ranks(replace(FAST, mode="decode"))
    sequence = Sequence(2, 100, 3, lambda: None)
    ranks.submit(sequence)
    kv = []
    while work := ranks.begin(0):
        assert isinstance(work, StepWork)
        kv.append(work.record.kv_tokens.tolist())
        ranks.end(work)
    assert kv == [[0, 0, 101], [0, 0, 102]]  # the first token comes with the cache
    assert sequence.produced == 3


@given(
    lengths=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4_000), st.integers(1, 4)), max_size=25),
    withdrawn=st.dictionaries(st.integers(0, 60), st.integers(0, 24), max_size=8),
    mode=st.sampled_from(["unified", "prefill", "decode"]),
    slots=st.integers(1, 3),
)
def test_books_return_to_zero_whatever_is_withdrawn(
    lengths: list[tuple[int, int, int]], withdrawn: dict[int, int], mode: Any, slots: int
) -> None:
    ranks = Ranks(replace(FAST, mode=mode, slots=slots))
    sequences = [Sequence(rank, tokens, 1 if mode == "prefill" else out, lambda: None) for rank, tokens, out in lengths]
    for sequence in sequences:
        ranks.submit(sequence)
    left: set[int] = set()
    for round_ in range(1_000):
        work = ranks.begin(0)
        index = withdrawn.get(round_)
        if index is not None and index < len(sequences):  # in the middle of a pass or step
            left |= set() if sequences[index].finished else {index}
            ranks.withdraw(sequences[index])
            ranks.withdraw(sequences[index])
        assert all(min(load.running, load.waiting, load.queued_tokens, load.kv_tokens) >= 0 for load in ranks.loads())
        if work is None:
            break
        ranks.end(work)
    for k, sequence in enumerate(sequences):
        assert sequence.finished == (k not in left)
    for load in ranks.loads():
        assert (load.running, load.waiting, load.queued_tokens, load.kv_tokens) == (0, 0, 0, 0)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5_000)), min_size=1, max_size=15))
def test_every_token_runs_exactly_once(requests: list[tuple[int, int]]) -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        answers = await asyncio.gather(
            *(ask(engine, client, body(tokens, 1, routed_dp_rank=rank)) for rank, tokens in requests)
        )
        assert [answer["usage"]["prompt_tokens"] for _, answer in answers] == [tokens for _, tokens in requests]
        ran = np.sum([record.tokens for record in engine.passes], axis=0).tolist()
        assert ran == [sum(tokens for at, tokens in requests if at == rank) for rank in range(3)]
        assert [load.prefilled_tokens for load in engine.loads()] == ran
        assert_empty(engine)

    served(replace(FAST, speed=1_000.0), scenario)


def gaps_between(engine: FakeEngine) -> list[int]:
    timeline: list[PassRecord | StepRecord] = [*engine.passes, *engine.steps]
    return [after.start_ns - before.start_ns - before.duration_ns for before, after in pairwise(timeline)]


def test_work_under_way_follows_without_drift() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        await ask(engine, client, body(9_500, 30))
        assert [int(record.tokens.max()) for record in engine.passes] == [1_000] * 9 + [500]
        assert len(engine.steps) == 29
        assert sum(gaps_between(engine)) == engine.slipped_ns

    served(FAST, scenario)


def test_time_that_cannot_be_caught_up_is_told() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        answer = asyncio.create_task(ask(engine, client, body(9_500, 1)))
        await until(lambda: bool(engine.passes))
        time.sleep(0.2)  # nothing else runs meanwhile
        await answer
        assert sum(gaps_between(engine)) == engine.slipped_ns > 0

    served(replace(FAST, prefill=LinearPrefill(100_000_000)), scenario)


def test_the_first_token_waits_for_the_end_of_its_pass() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        await ask(engine, client, body(5, 1))
        assert loop.time() - start_s >= 0.2  # one second at five times the speed
        assert engine.passes[0].duration_ns == 1_000_000_000

    served(replace(FAST, prefill=LinearPrefill(1_000_000_000), speed=5.0), scenario)


def test_a_failing_cost_model_leaves_no_client_waiting() -> None:
    class Failing(LinearPrefill):
        def pass_ns(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> int:
            if new_tokens.any():
                raise ArithmeticError("no law")
            return 0

    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.ClientError):
            await ask(engine, client, body())

    served(replace(FAST, prefill=Failing(1)), scenario)


# Requests -----------------------------------------------------------------------------------------------------------


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


# Legs of a disaggregated deployment -----------------------------------------------------------------------------------


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

    served(replace(FAST, mode="prefill"), scenario)


def test_decode_leg_needs_no_pass() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        events = await stream(engine, client, body(5_000, 4, routed_dp_rank=1, bootstrap_room=0))
        assert len(events) == 4
        assert not engine.passes
        assert len(engine.steps) == 3

    served(replace(FAST, mode="decode"), scenario)


# Clients that leave -------------------------------------------------------------------------------------------------


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


# Reports of load -----------------------------------------------------------------------------------------------------


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


def test_sglangs_loads_agree_with_inspection() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        tasks = await loaded(engine, client)
        async with client.get(engine.url + "/v1/loads") as response:
            rows = (await response.json())["loads"]
        assert [row["dp_rank"] for row in rows] == [0, 1, 2]
        assert sum(row["num_waiting_uncached_tokens"] for row in rows) == sum(engine.queued_tokens()) > 0
        for row, load in zip(rows, engine.loads(), strict=True):
            assert (row["num_running_reqs"], row["num_waiting_reqs"]) == (load.running, load.waiting)
            assert row["num_waiting_uncached_tokens"] == load.queued_tokens
            assert row["num_used_tokens"] == load.kv_tokens
            assert row["num_total_tokens"] == load.kv_tokens + load.queued_tokens
            assert row["max_total_num_tokens"] == 8 * 20_000
            assert row["token_usage"] == load.kv_tokens / 160_000
            assert row["max_running_requests"] == 8
            assert row["total_prefill_uncached_tokens"] == row["total_prefill_busy_us"] == 0  # no pass has ended
            assert row["timestamp"] > 0
        for task in tasks:
            task.cancel()

    served(ENDLESS, scenario)


def test_prefill_counters_grow_when_a_pass_ends() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        await ask(engine, client, body(1_500, 1, routed_dp_rank=1))
        async with client.get(engine.url + "/v1/loads") as response:
            rows = (await response.json())["loads"]
        assert [row["total_prefill_uncached_tokens"] for row in rows] == [0, 1_500, 0]
        wall_us = sum(record.duration_ns for record in engine.passes) / FAST.speed / 1e3
        assert [row["total_prefill_busy_us"] for row in rows] == [0, round(wall_us), 0]

    served(FAST, scenario)


def test_vllms_metrics_agree_with_inspection() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        tasks = await loaded(engine, client)
        async with client.get(engine.url + "/metrics") as response:
            assert response.content_type == "text/plain"
            text = await response.text()
        values = {
            (name, int(rank)): float(value)
            for name, rank, value in re.findall(r'^(vllm:\w+)\{engine="(\d+)",model_name="fake"\} (\S+)$', text, re.M)
        }
        assert len(values) == 9
        assert len([line for line in text.splitlines() if not line.startswith("#")]) == 9
        for rank, load in enumerate(engine.loads()):
            assert values["vllm:num_requests_running", rank] == load.running
            assert values["vllm:num_requests_waiting", rank] == load.waiting
            assert values["vllm:kv_cache_usage_perc", rank] == load.kv_tokens / 160_000
        for task in tasks:
            task.cancel()

    served(replace(ENDLESS, kind="vllm"), scenario)


def test_other_endpoints() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        async with client.get(engine.url + "/v1/models") as response:
            assert [row["id"] for row in (await response.json())["data"]] == ["fake"]
        async with client.get(engine.url + "/health") as response:
            assert response.status == 200
        async with client.get(engine.url + "/server_info") as response:
            assert (await response.json())["dp_size"] == 3
        for path in ("/metrics", "/v1/loads"):
            async with client.get(engine.url + path) as response:
                assert response.status == 404

    served(replace(FAST, kind="openai"), scenario)


# Faults -------------------------------------------------------------------------------------------------------------


def test_refused() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        engine.inject(Fault("refuse", count=2))
        statuses = [(await ask(engine, client, body(), x_request_id=str(k)))[0] for k in range(3)]
        assert statuses == [503, 503, 200]
        assert len(engine.received) == 3

    served(FAST, scenario)


def test_reset_before_the_first_token() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        engine.inject(Fault("reset_before_first"))
        with pytest.raises((aiohttp.ClientOSError, ConnectionResetError), match="reset"):
            await ask(engine, client, body())
        assert (await ask(engine, client, body()))[0] == 200

    served(FAST, scenario)


def test_reset_after_the_first_token() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        engine.inject(Fault("reset_after_first"))
        got: list[bytes] = []

        async def reading() -> None:
            async with client.post(engine.url + COMPLETIONS, json=body(10, 50, stream=True)) as response:
                while piece := await response.content.readany():
                    got.append(piece)

        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await reading()
        assert b"".join(got).count(b"data: ") == 1
        await until(lambda: not requests_in(engine))
        assert_empty(engine)
        assert len(await stream(engine, client, body(10, 50))) == 50

    served(FAST, scenario)


@pytest.mark.parametrize(("kind", "tokens"), [("stall_before_first", 0), ("stall_after_first", 1)])
@pytest.mark.parametrize("leaves", [False, True])
def test_stalled(kind: Any, tokens: int, leaves: bool) -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        got: list[bytes] = []

        async def reading() -> None:
            async with client.post(engine.url + COMPLETIONS, json=body(10, 6, stream=True)) as response:
                while piece := await response.content.readany():
                    got.append(piece)

        engine.inject(Fault(kind))
        task = asyncio.create_task(reading())
        await until(lambda: len(engine.steps) == 5)  # the engine has done with it
        await until(lambda: b"".join(got).count(b'"text"') == tokens)
        await asyncio.sleep(0.05)
        assert b"".join(got).count(b'"text"') == tokens
        assert not task.done()
        if leaves:
            task.cancel()
        else:
            engine.release()
            await task
            assert b"".join(got).count(b'"text"') == 6
        assert (await ask(engine, client, body()))[0] == 200

    served(FAST, scenario)


def test_slow() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        engine.inject(Fault("slow", delay_ms=150))
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        events = await stream(engine, client, body(10, 3))
        assert len(events) == 3
        assert loop.time() - start_s >= 0.15

    served(FAST, scenario)


@pytest.mark.parametrize("kind", ["sglang", "vllm"])
def test_reports_of_load_go_wrong(kind: Any) -> None:
    path = "/metrics" if kind == "vllm" else "/v1/loads"

    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        async def get() -> str:
            async with client.get(engine.url + path) as response:
                return await response.text()

        idle = await get()
        engine.inject(Fault("stale_loads"))
        tasks = await loaded(engine, client)
        stale = await get()
        assert re.sub(r"timestamp[^,]*", "", stale) == re.sub(r"timestamp[^,]*", "", idle)
        assert await get() != stale
        engine.inject(Fault("wrong_rank_loads"))
        assert re.findall(r'(?:engine="|dp_rank": )(\d+)', await get())[:3] == ["3", "4", "5"]
        engine.inject(Fault("malformed_loads"))
        cut = await get()
        assert cut.endswith("{")
        with pytest.raises(json.JSONDecodeError):
            json.loads(cut)
        assert '"0"' in await get() or '"dp_rank": 0' in await get()
        for task in tasks:
            task.cancel()

    served(replace(ENDLESS, kind=kind), scenario)


def test_faults_over_http() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        assert (await ask(engine, client, {"kind": "refuse", "count": 1}, "/faults"))[0] == 200
        assert (await ask(engine, client, body()))[0] == 503
        assert (await ask(engine, client, {"kind": "refuse", "after_ms": 3_600_000}, "/faults"))[0] == 200
        assert (await ask(engine, client, body()))[0] == 200
        await ask(engine, client, {"kind": "refuse", "count": 9}, "/faults")
        async with client.delete(engine.url + "/faults") as response:
            assert response.status == 200
        assert (await ask(engine, client, body()))[0] == 200
        for wrong in ({"kind": "melt"}, {"count": 1}, {"kind": "slow", "for": 3}, {"kind": "slow", "count": 0}):
            status, answer = await ask(engine, client, wrong, "/faults")
            assert (status, "error" in answer) == (400, True)

    served(FAST, scenario)


def test_kill_and_revive() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        await ask(engine, client, body(10, 1))
        url = engine.url
        cut = asyncio.create_task(ask(engine, client, body(10, 10**9)))
        stalled = asyncio.create_task(ask(engine, client, body(10, 10**9)))
        await until(lambda: requests_in(engine) == 2 and bool(engine.steps))
        engine.inject(Fault("refuse", count=100))
        engine.kill()
        for task in (cut, stalled):
            with pytest.raises((aiohttp.ClientConnectionError, ConnectionError)):
                await task
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(engine, client, body())
        assert_empty(engine)
        await engine.start()
        assert engine.url == url
        assert (await ask(engine, client, body(10, 2)))[0] == 200  # the faults are forgotten
        assert [record.number for record in engine.passes] == list(range(len(engine.passes)))
        assert sum(load.prefilled_tokens for load in engine.loads()) == 10  # as of a new process
        assert_empty(engine)

    served(FAST, scenario)


# Settings and the command -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "tgi"}, "kind = 'tgi'"),
        ({"mode": "both"}, "mode = 'both'"),
        ({"ranks": 0}, "ranks = 0"),
        ({"chunk_tokens": 1.5}, "chunk_tokens = 1.5"),
        ({"slots": True}, "slots = True"),
        ({"context_tokens": -1}, "context_tokens = -1"),
        ({"history": 0}, "history = 0"),
        ({"speed": 0}, "speed = 0"),
        ({"speed": float("nan")}, "speed = nan"),
        ({"speed": "fast"}, "speed = 'fast'"),
        ({"model": ""}, "model = ''"),
        ({"ranks": 4, "prefill": EngineConfig(ranks=8).cost_model().prefill}, "4 entries, the instance has 8 units"),
    ],
)
def test_settings_out_of_range(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        replace(FAST, **change)


def test_faults_out_of_range() -> None:
    kind: Any = "melt"
    with pytest.raises(InputError, match="kind = 'melt'"):
        Fault(kind)
    with pytest.raises(InputError, match="count = 0"):
        Fault("slow", count=0)
    with pytest.raises(InputError, match=r"after_ms = -1"):
        Fault("slow", after_ms=-1)


def test_memory_is_bounded() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        for k in range(5):
            await ask(engine, client, body(), x_request_id=str(k))
        assert [record.number for record in engine.passes] == [3, 4]
        assert [record.number for record in engine.steps] == [3, 4]
        assert list(engine.received) == ["3", "4"]

    served(replace(FAST, history=2), scenario)


def test_starting_twice_is_a_mistake() -> None:
    async def scenario(engine: FakeEngine, _: aiohttp.ClientSession) -> None:
        with pytest.raises(InputError, match="stop it first"):
            await engine.start()

    served(FAST, scenario)


COMMAND = [sys.executable, "-m", "sbs_opt.testing.engines"]


def test_the_command_serves_until_sigterm() -> None:
    command = [*COMMAND, "--kind", "vllm", "--ranks", "2", "--speed", "100", "--model", "m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with urllib.request.urlopen(f"{url}/v1/models", timeout=20) as response:
                assert json.load(response)["data"][0]["id"] == "m"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_the_command_refuses_mistakes_in_one_line() -> None:
    done = subprocess.run([*COMMAND, "--ranks", "0"], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("ranks = 0: must be a whole number of at least 1")
    assert len(done.stderr.splitlines()) == 1


def test_imports_without_aiohttp() -> None:
    program = "import sys; sys.modules['aiohttp'] = None; import sbs_opt.testing.engines as e; e.EngineConfig(ranks=2)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=20)
