"""The router in front of Dynamo's own front end and mocker: what runs where is compared with what was commanded.

Needs the packages of `requirements-dynamo.txt`, see `docs/dynamo.md`; skipped where they are not installed.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dynamo._core", reason="Dynamo is not installed: see docs/dynamo.md")

import aiohttp
import numpy as np
from aiohttp import web

from sbs_opt.adapters.capture import CaptureWriter
from sbs_opt.adapters.http.dynamo import instance_ids
from sbs_opt.adapters.http.proxy import Proxy
from sbs_opt.adapters.serve_config import Engines, Limits, ServeConfig, Upstream
from sbs_opt.adapters.telemetry import ForwardPass
from tests.heavy import dynamo_fleet as mocker
from tests.heavy.dynamo_fleet import RANKS, WORKERS, Fleet, dynamo_fleet, wait_until
from tests.heavy.tiny_model import VOCABULARY

pytestmark = pytest.mark.heavy

ENGINES = Engines(
    ranks=RANKS, chunk_tokens=mocker.CHUNK_TOKENS, kv_tokens=mocker.KV_TOKENS, context_tokens=mocker.CHUNK_TOKENS
)  # fmt: skip
LIMITS = Limits(hold_s=30.0, silence_s=60.0, health_s=0.2)
HEARD_S = 20.0

PIN = ("x-dynamo-worker-instance-id", "x-dynamo-dp-rank")
MODES = ("kv", "direct")
"""Dynamo's own KV router, which the pin overrules, and the mode that takes nothing but pins."""

Place = tuple[int, int]
"""Instance id of a worker, and rank."""


@dataclass(frozen=True)
class Answer:
    """What came back of a request: status, where Dynamo says that it ran, and how many tokens."""

    status: int
    place: Place
    tokens: int


@dataclass
class Bench:
    """A client of our router."""

    url: str
    client: aiohttp.ClientSession

    async def complete(
        self, prompt_tokens: int, *, stream: bool = True, pinned: Place | None = None, **more: Any
    ) -> Answer:
        """Send a prompt of token ids; `pinned` is what a client may try that pins its request itself."""
        body: dict[str, Any] = {
            "model": mocker.MODEL,
            "prompt": [3 + (prompt_tokens * 31 + k * k) % (VOCABULARY - 3) for k in range(prompt_tokens)],
            "max_tokens": 4,
            "stream": stream,
            "nvext": {"extra_fields": ["worker_id"]},
        }
        headers = {name: str(value) for name, value in zip(PIN, pinned or (), strict=False)}
        async with self.client.post(f"{self.url}/v1/completions", json=body | more, headers=headers) as answer:
            return _read(answer.status, await answer.read(), stream)


def _read(status: int, body: bytes, stream: bool) -> Answer:
    if status != 200:
        return Answer(status, (-1, -1), 0)
    texts = [part[6:] for part in body.decode().split("\n\n") if part.startswith("data: {")] if stream else [body]
    events = [json.loads(text) for text in texts]
    ran = {(one["nvext"]["worker_id"]["prefill_worker_id"], one["nvext"]["worker_id"]["prefill_dp_rank"])
           for one in events}  # fmt: skip
    assert len(ran) == 1
    return Answer(status, ran.pop(), sum(len(one["choices"][0]["text"].split()) for one in events))


@asynccontextmanager
async def router(fleet: Fleet, capture: Path, instances: list[int | None]) -> AsyncIterator[Bench]:
    """Run our router in front of the workers; `instances` names their ids, None leaves it to the router to ask."""
    upstreams = tuple(Upstream(f"worker-{k}", fleet.url, "dynamo", instance_id=one) for k, one in enumerate(instances))
    with CaptureWriter(capture, rotate_bytes=1 << 24, keep=1) as written:
        proxy = Proxy(ServeConfig(upstreams, ENGINES, LIMITS), written, cost_model=mocker.COST)
        runner = web.AppRunner(proxy.app(), handler_cancellation=True, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        try:
            async with aiohttp.ClientSession() as client:
                yield Bench(f"http://{host}:{port}", client)
        finally:
            await runner.cleanup()


def placements(capture: Path) -> dict[int, tuple[int, int]]:
    """Return (instance, unit) of each prompt length, as the router wrote it down."""
    lines = [json.loads(line) for line in capture.read_text().splitlines()[1:]]
    assert {line["outcome"] for line in lines} == {"answered"}
    places = {line["prompt_tokens"]: (line["placement"][0], line["placement"][1]) for line in lines}
    assert len(places) == len(lines)  # no length twice: a length tells which request it is
    return places


def commanded(capture: Path, ids: list[int]) -> dict[int, Place]:
    """Return the same with the id of the worker that stands for the instance."""
    return {length: (ids[instance], unit) for length, (instance, unit) in placements(capture).items()}


def workers_of(fleet: Fleet) -> list[int]:
    async def ask() -> list[int]:
        async with aiohttp.ClientSession() as session:
            return await instance_ids(session, fleet.url)

    return asyncio.run(ask())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once something holds; it is an error that it does not for a minute."""
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.05)


def prefill_tokens(fleet: Fleet, since: int) -> Counter[Place]:
    """Return the prompt tokens that each rank computed, in the passes reported from the `since`-th on."""
    found: Counter[Place] = Counter()
    for one in fleet.passes()[since:]:
        found[int(one.worker_id), one.rank] += one.scheduled.prefill_tokens
    return +found


@pytest.fixture(scope="module", params=MODES)
def fleet(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    with dynamo_fleet(tmp_path_factory.mktemp("dynamo"), request.param) as running:
        yield running


def test_the_workers_named_over_http_are_those_that_report_passes(fleet: Fleet) -> None:
    ids = workers_of(fleet)
    assert len(ids) == WORKERS
    assert {(one, rank) for one in ids for rank in range(RANKS)} == fleet.heard_of()


def test_one_at_a_time_each_pass_runs_the_request_on_the_rank_that_was_commanded(fleet: Fleet, tmp_path: Path) -> None:
    ids, since = workers_of(fleet), len(fleet.passes())
    lengths = [1 + 37 * k for k in range(40)]

    async def scenario() -> None:
        async with router(fleet, tmp_path / "capture.jsonl", [None] * WORKERS) as one:
            for k, length in enumerate(lengths):
                answer = await one.complete(length, stream=k % 2 == 0)
                assert (answer.status, answer.tokens) == (200, 4)

    asyncio.run(scenario())
    placed = commanded(tmp_path / "capture.jsonl", ids)
    assert sorted(placed) == lengths

    def seen() -> list[tuple[int, Place]]:
        return [
            (one.scheduled.prefill_tokens, (int(one.worker_id), one.rank))
            for one in fleet.passes()[since:]
            if one.scheduled.prefill_tokens
        ]

    wait_until(lambda: len(seen()) >= len(lengths), HEARD_S)
    assert sorted(seen()) == sorted(placed.items())


@pytest.mark.parametrize("named", [False, True], ids=["ids asked for", "ids configured, in another order"])
def test_a_burst_runs_where_it_was_commanded(fleet: Fleet, tmp_path: Path, named: bool) -> None:
    ids, since = workers_of(fleet), len(fleet.passes())
    if named:
        ids.reverse()
    lengths = [5 + 17 * k for k in range(200)]
    ran: dict[int, Place] = {}

    async def scenario() -> None:
        async with router(fleet, tmp_path / "capture.jsonl", [*ids] if named else [None] * WORKERS) as one:

            async def send(k: int, length: int) -> None:
                await asyncio.sleep(0.004 * k)
                answer = await one.complete(length, stream=k % 3 != 0)
                assert (answer.status, answer.tokens) == (200, 4)
                ran[length] = answer.place

            async with asyncio.timeout(120):
                shuffled = [lengths[k * 83 % len(lengths)] for k in range(len(lengths))]
                await asyncio.gather(*(send(k, length) for k, length in enumerate(shuffled)))

    asyncio.run(scenario())
    placed = commanded(tmp_path / "capture.jsonl", ids)
    assert ran == placed
    assert set(placed.values()) == fleet.heard_of()  # all ranks of both workers had their part

    expected: Counter[Place] = Counter()
    for length, place in placed.items():
        expected[place] += length
    wait_until(lambda: prefill_tokens(fleet, since).total() >= expected.total(), HEARD_S)
    assert prefill_tokens(fleet, since) == expected


def test_no_pin_of_a_client_counts(fleet: Fleet, tmp_path: Path) -> None:
    ids = workers_of(fleet)
    answers: dict[int, Place] = {}

    async def scenario() -> None:
        async with router(fleet, tmp_path / "capture.jsonl", [None] * WORKERS) as one:
            for k in range(2 * RANKS):
                own = {"backend_instance_id": ids[0], "dp_rank": 0, "extra_fields": ["worker_id"]}
                one.client.headers["x-worker-instance-id"] = str(ids[0])
                answers[10 + k] = (await one.complete(10 + k, pinned=(ids[0], 0), nvext=own)).place

    asyncio.run(scenario())
    assert answers == commanded(tmp_path / "capture.jsonl", ids)
    assert len(set(answers.values())) > 1


def test_a_pass_takes_as_long_as_its_fullest_rank(fleet: Fleet) -> None:
    """What a cost model of the mocker takes for granted: ranks step together, by a law of the tokens."""
    ids, since = workers_of(fleet), len(fleet.passes())

    async def scenario() -> None:
        async with aiohttp.ClientSession() as client:
            one = Bench(fleet.url, client)
            places = [(ids[k % WORKERS], k % RANKS) for k in range(8)]
            await asyncio.gather(
                *(one.complete(100 + 700 * k, pinned=place, max_tokens=1) for k, place in enumerate(places))
            )

    def whole_passes() -> list[list[ForwardPass]]:
        passes: dict[tuple[str, int], list[ForwardPass]] = {}
        for one in fleet.passes()[since:]:
            passes.setdefault((one.worker_id, one.counter), []).append(one)
        return [ranks for ranks in passes.values() if len(ranks) == RANKS]

    asyncio.run(scenario())
    wait_until(lambda: len(whole_passes()) >= 2, HEARD_S)
    for ranks in whole_passes():
        assert len({one.duration_ns for one in ranks}) == 1
        tokens = np.array([one.scheduled.prefill_tokens for one in ranks])
        law_ns = mocker.COST.prefill.pass_ns(np.zeros_like(tokens), tokens, np.zeros_like(tokens))
        assert ranks[0].duration_ns == pytest.approx(law_ns, rel=0.08)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["told to stop", "killed"])
@pytest.mark.parametrize("mode", MODES)
def test_a_worker_that_dies_costs_no_request_and_is_back_in_its_place(
    tmp_path: Path, how: signal.Signals, mode: str
) -> None:
    """A front end answers for the dead: with 5xx until its lease ends, then with 400, as if the client were wrong."""
    answers: dict[int, Answer] = {}

    async def scenario(fleet: Fleet) -> int:
        async with router(fleet, tmp_path / "capture.jsonl", [None] * WORKERS) as one:

            async def send() -> Answer:
                length = 10 + len(answers)
                answers[length] = answer = await one.complete(length)
                return answer

            async def both_used() -> bool:
                await send()
                return len({answer.place[0] for answer in [*answers.values()][-2 * RANKS :]}) == WORKERS

            async def forgotten() -> bool:
                await send()
                return len(await instance_ids(one.client, fleet.url)) == WORKERS - 1

            await until(both_used)
            fleet.workers[0].send_signal(how)
            await until(forgotten)
            (survivor,) = await instance_ids(one.client, fleet.url)
            for _ in range(2 * RANKS):
                assert (await send()).place[0] == survivor
            fleet.workers[0] = fleet.start_worker()
            await until(both_used)
            return survivor

    with dynamo_fleet(tmp_path, mode) as fleet:
        before = workers_of(fleet)
        survivor = asyncio.run(scenario(fleet))
        after = workers_of(fleet)
    assert {(answer.status, answer.tokens) for answer in answers.values()} == {(200, 4)}
    (newcomer,) = {*after} - {*before}
    kept = before.index(survivor)
    instance_of = {one: k for k, one in enumerate(before)} | {newcomer: 1 - kept}
    assert {
        length: (instance_of[answer.place[0]], answer.place[1]) for length, answer in answers.items()
    } == placements(tmp_path / "capture.jsonl")
