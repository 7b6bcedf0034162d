"""LiteLLM asks the scheduler, in front of fake engines over HTTP: every call is answered, and nothing stays booked."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sbs_opt.adapters.litellm import RANK_HEADER, SbsRoutingStrategy, engine_urls, install
from sbs_opt.adapters.router import Placed, Router
from sbs_opt.adapters.serve_config import Engines
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.testing.costs import LinearDecode, LinearPrefill, linear_cost_model
from sbs_opt.testing.fleets import small_deployment

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*ReadOnly:UserWarning"),  # pydantic, of LiteLLM's own types
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # sessions that LiteLLM leaves open
]

RANKS = 4
COST = linear_cost_model(LinearPrefill(4_000_000, 500, chunk_tokens=4096), LinearDecode(1_000_000))
ENGINES = Engines(ranks=RANKS, chunk_tokens=4096, context_tokens=8192)
NAME: ContextVar[str] = ContextVar("name")


def deployment(url: str, rank: int | None, group: str = "fake") -> dict[str, Any]:
    headers = {} if rank is None else {"extra_headers": {RANK_HEADER: str(rank)}}
    params = {"model": "openai/fake", "api_base": f"{url}/v1", "api_key": "none", **headers}
    return {"model_name": group, "litellm_params": params}


def grid(urls: list[str]) -> list[dict[str, Any]]:
    return [deployment(url, rank) for url in urls for rank in range(RANKS)]


# -- without LiteLLM ---------------------------------------------------------------------------------------------


def test_the_module_needs_no_litellm() -> None:
    code = "import sys; sys.modules['litellm'] = None; import sbs_opt.adapters.litellm"
    subprocess.run([sys.executable, "-c", code], check=True)


def strategy(deployments: list[dict[str, Any]], **options: Any) -> SbsRoutingStrategy:
    fleet = small_deployment(2, RANKS, chunk_tokens=4096, context_tokens=8192)
    return SbsRoutingStrategy(deployments, Router(fleet, COST, SchedulerConfig()), **options)


URLS = ["http://b:1", "http://a:2"]


def test_engines_count_in_the_order_of_the_list() -> None:
    others = [deployment("http://elsewhere", None, "hosted")]
    assert engine_urls([*others, *grid(URLS)]) == URLS
    strategy(others + grid(URLS)[::-1])


@pytest.mark.parametrize(
    ("deployments", "message"),
    [
        ([deployment("http://a", None)], "ranks of 0 engines"),
        (grid(["http://a"]), "ranks of 1 engines; the router has 2"),
        (grid(URLS)[:-1], r"ranks \[0, 1, 2\] of http://a:2; give 0 to 3"),
        ([*grid(URLS), deployment(URLS[0], 2)], "rank 2 of http://b:1 twice"),
        ([*grid(URLS), deployment(URLS[0], 0, "half")], "half has ranks"),
        ([*grid(URLS), deployment("a:3", 0)], "api_base = 'a:3/v1'"),
    ],
)
def test_a_list_that_is_no_grid_is_refused(deployments: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        strategy(deployments)


def test_a_call_that_blocks_is_refused() -> None:
    with pytest.raises(InputError, match="use acompletion"):
        strategy(grid(URLS)).get_available_deployment("fake")


class Stream:
    """Two chunks, or an error in the place of one of them."""

    def __init__(self, fails_at: int | None) -> None:
        self._chunks, self._fails_at = iter(range(2)), fails_at

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> int:
        for chunk in self._chunks:
            if chunk == self._fails_at:
                raise ConnectionError
            return chunk
        raise StopAsyncIteration

    async def aclose(self) -> None:
        return None


def run_bare(scenario: Callable[[SbsRoutingStrategy], Awaitable[None]], **options: Any) -> None:
    """Run a scenario without LiteLLM; nothing may be in flight or booked when it ends."""

    async def main() -> None:
        ours = strategy(grid(URLS), **options)
        async with asyncio.timeout(20):
            await scenario(ours)
            await ours.aclose()
        assert (ours.router.in_flight, ours.router.booked) == (0, 0)

    asyncio.run(main())


MESSAGES = [{"role": "user", "content": "word " * 100}]


@pytest.mark.parametrize("fails_at", [0, 1, None])
def test_the_load_of_a_stream_ends_with_its_first_token_or_its_failure(fails_at: int | None) -> None:
    async def scenario(ours: SbsRoutingStrategy) -> None:
        async def complete() -> Stream:
            await ours.async_get_available_deployment("fake", MESSAGES)
            return Stream(fails_at)

        stream = await ours.watched(complete)()
        assert isinstance(stream, Stream)
        assert ours.router.in_flight == 1
        chunks = []
        try:
            async for chunk in stream:
                chunks.append(chunk)
                assert ours.router.in_flight == 0
        except ConnectionError:
            assert fails_at is not None
        assert len(chunks) == (2 if fails_at is None else fails_at)
        assert ours.router.in_flight == 0

    run_bare(scenario)


def test_nothing_of_a_stream_is_kept() -> None:
    async def scenario(ours: SbsRoutingStrategy) -> None:
        async def complete() -> Stream:
            class Own(Stream):  # LiteLLM too makes a class for each stream, which holds the request
                pass

            return Own(None)

        stream = await ours.watched(complete)()
        kinds = [weakref.ref(kind) for kind in type(stream).__mro__[:2]]
        del stream
        gc.collect()
        assert [kind() for kind in kinds] == [None, None]

    run_bare(scenario)


def test_an_engine_that_fails_in_a_row_draws_no_more_requests() -> None:
    failures = []

    async def scenario(ours: SbsRoutingStrategy) -> None:
        async def complete() -> None:
            found = await ours.async_get_available_deployment("fake", MESSAGES)
            if found["litellm_params"]["api_base"].startswith(URLS[0]):
                failures.append(found)
                raise ConnectionError

        call = ours.watched(complete)
        for _ in range(30):
            with suppress(ConnectionError):
                await call()

    run_bare(scenario, failures=3, rest_s=60.0)
    assert len(failures) == 3


def test_what_the_client_does_wrong_is_no_failure_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    class WrongError(Exception):
        status_code = 400

    lost: list[int] = []
    monkeypatch.setattr(Router, "instance_lost", lambda _, instance: lost.append(instance))

    async def scenario(ours: SbsRoutingStrategy) -> None:
        async def complete() -> None:
            await ours.async_get_available_deployment("fake", MESSAGES)
            raise WrongError

        for _ in range(10):
            with pytest.raises(WrongError):
                await ours.watched(complete)()

    run_bare(scenario, failures=2)
    assert not lost


# -- with it -----------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """Two engines, and a LiteLLM router whose strategy is ours."""

    engines: list[Any]
    llm: Any
    strategy: SbsRoutingStrategy
    placed: dict[str, list[Placed]] = field(default_factory=dict)

    async def complete(self, number: int, *, stream: bool = False, **more: Any) -> str:
        """Return the text of an answer."""
        NAME.set(f"r{number}")
        messages = [{"role": "user", "content": "word " * (50 + number * 37 % 800)}]
        ask = {"model": "fake", "messages": messages, "max_tokens": 4, "stream": stream} | more
        answer = await self.llm.acompletion(extra_headers={"x-request-id": f"r{number}"}, **ask)
        if not stream:
            return str(answer.choices[0].message.content)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])

    def check_ranks(self) -> None:
        """The last place of every call is where it arrived last."""
        for name, places in self.placed.items():
            received = [(k, engine.received[name]) for k, engine in enumerate(self.engines) if name in engine.received]
            last = places[-1]
            assert (last.instance, last.unit) in received
            assert set(received) <= {(one.instance, one.unit) for one in places}

    async def emptied(self) -> None:
        router = self.strategy.router
        async with asyncio.timeout(5):
            while router.in_flight or router.booked:
                gc.collect()
                await asyncio.sleep(0.01)
        assert (router.in_flight, router.waiting, router.booked) == (0, 0, 0)


@asynccontextmanager
async def bench(retries: int = 3, **options: Any) -> AsyncIterator[Bench]:
    litellm = pytest.importorskip("litellm")
    pytest.importorskip("aiohttp")
    from sbs_opt.testing.engines import EngineConfig, FakeEngine

    litellm.suppress_debug_info = True
    config = EngineConfig(
        "vllm", RANKS, 4096, context_tokens=8192, prefill=COST.prefill, decode=COST.decode
    )  # fmt: skip
    async with FakeEngine(config) as one, FakeEngine(config) as two, asyncio.timeout(60):
        deployments = [*grid([one.url, two.url]), deployment(one.url, None, "plain")]
        llm = litellm.Router(model_list=deployments, num_retries=retries, retry_after=0, disable_cooldowns=True)
        made = Bench([one, two], llm, install(llm, ENGINES, **options))
        router, place = made.strategy.router, made.strategy.router.place

        async def noted(*args: Any, **kwargs: Any) -> Placed:
            placed = await place(*args, **kwargs)
            made.placed.setdefault(NAME.get(), []).append(placed)
            return placed

        router.place = noted  # type: ignore[method-assign]
        try:
            yield made
            await made.emptied()
        finally:
            await made.strategy.aclose()


def test_every_call_is_answered_by_the_rank_that_was_chosen() -> None:
    async def main() -> None:
        async with bench() as b:
            answers = await asyncio.gather(*(b.complete(k, stream=k % 2 == 0) for k in range(60)))
            assert all(answers)
            assert {name: len(places) for name, places in b.placed.items()} == {f"r{k}": 1 for k in range(60)}
            b.check_ranks()
            assert len({(places[0].instance, places[0].unit) for places in b.placed.values()}) == 2 * RANKS

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["refuse", "reset_before_first"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_before_the_first_token_is_placed_again(kind: Any, stream: bool) -> None:
    from sbs_opt.testing.engines.faults import Fault

    async def main() -> None:
        async with bench() as b:
            for engine in b.engines:
                engine.inject(Fault(kind, count=3))
            assert all(await asyncio.gather(*(b.complete(k, stream=stream) for k in range(30))))
            assert sum(len(places) for places in b.placed.values()) > 30
            b.check_ranks()

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_whose_every_attempt_fails_releases_its_load(stream: bool) -> None:
    from sbs_opt.testing.engines.faults import Fault

    async def main() -> None:
        async with bench(retries=0, failures=100) as b:
            for engine in b.engines:
                engine.inject(Fault("reset_before_first", count=100))
            answers = await asyncio.gather(*(b.complete(k, stream=stream) for k in range(6)), return_exceptions=True)
            assert all(isinstance(answer, Exception) for answer in answers)

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_cancelled_calls_release_their_load(stream: bool) -> None:
    from sbs_opt.testing.engines.faults import Fault

    async def main() -> None:
        async with bench() as b:
            for engine in b.engines:
                engine.inject(Fault("stall_before_first", count=100))
            tasks = [asyncio.create_task(b.complete(k, stream=stream)) for k in range(20)]
            while not any(engine.received for engine in b.engines):
                await asyncio.sleep(0.005)
            assert b.strategy.router.in_flight
            for task in tasks:
                task.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)
            await b.emptied()
            for engine in b.engines:
                engine.release()
            assert all(await asyncio.gather(*(b.complete(k, stream=stream) for k in range(20, 30))))

    asyncio.run(main())


@pytest.mark.parametrize("closed", [False, True])
def test_a_stream_that_is_not_read_to_its_end_releases_its_load(closed: bool) -> None:
    async def main() -> None:
        streams = []  # what is closed is released at once, not only when it is collected
        async with bench() as b:
            for k in range(4):
                NAME.set(f"r{k}")
                messages = [{"role": "user", "content": "word " * 100}]
                answer = await b.llm.acompletion(model="fake", messages=messages, max_tokens=50, stream=True)
                assert isinstance(answer, pytest.importorskip("litellm").CustomStreamWrapper)
                if k % 2:
                    await anext(answer)
                if closed:
                    await answer.aclose()
                    streams.append(answer)
                del answer
            await b.emptied()

    asyncio.run(main())


def test_a_dead_engine_is_left_alone_until_it_returns() -> None:
    async def main() -> None:
        async with bench(failures=2, rest_s=0.3) as b:
            dead, alive = b.engines
            dead.kill()
            assert all(await asyncio.gather(*(b.complete(k, stream=True) for k in range(20))))
            assert not dead.received
            assert len(alive.received) == 20
            await dead.start()
            async with asyncio.timeout(20):
                number = 20
                while not dead.received:
                    await asyncio.gather(*(b.complete(number + k) for k in range(10)))
                    number += 10

    asyncio.run(main())


def test_other_models_and_errors_are_as_litellm_knows_them() -> None:
    litellm = pytest.importorskip("litellm")

    async def main() -> None:
        async with bench(retries=0) as b:
            assert await b.complete(0, model="plain")
            assert not b.placed
            long = [{"role": "user", "content": "word " * 20_000}]
            with pytest.raises(litellm.ContextWindowExceededError):
                await b.complete(1, messages=long)
            with pytest.raises(litellm.BadRequestError, match="content"):
                await b.complete(2, messages=[{"role": "user", "content": 7}])
            NAME.set("ids")
            answer = await b.llm.atext_completion(model="fake", prompt=list(range(300)), max_tokens=2)
            assert answer.choices[0].text
            stream = await b.llm.atext_completion(model="fake", prompt="word " * 300, max_tokens=4, stream=True)
            await anext(stream)
            assert b.strategy.router.in_flight == 0
            assert [chunk async for chunk in stream]
            assert len(b.placed["ids"]) == 2
            with pytest.raises(InputError, match="use acompletion"):
                b.llm.completion(model="fake", messages=[{"role": "user", "content": "word"}])

    asyncio.run(main())


def test_a_request_that_is_held_too_long_is_unavailable() -> None:
    litellm = pytest.importorskip("litellm")

    async def main() -> None:
        async with bench(retries=0, hold_s=0.05) as b:
            for instance in range(2):
                b.strategy.router.instance_lost(instance)
            with pytest.raises(litellm.ServiceUnavailableError, match="rejected: deadline"):
                await b.complete(0)
            await b.strategy.aclose()
            with pytest.raises(litellm.ServiceUnavailableError, match="rejected: shutdown"):
                await b.complete(1)

    asyncio.run(main())


def test_the_example_runs() -> None:
    pytest.importorskip("litellm")
    pytest.importorskip("aiohttp")
    example = Path(__file__).parents[2] / "examples" / "litellm_router.py"
    done = subprocess.run([sys.executable, str(example)], check=True, capture_output=True, text=True, timeout=60)
    assert "40 of 40 answered" in done.stdout
