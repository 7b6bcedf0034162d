"""The router in an event loop: every request is answered once, and nothing stays booked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.adapters.router import Placed, RejectedError, Router, place_batch
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.events import Event, PassEnded
from sbs_opt.testing.costs import LinearPrefill, linear_cost_model
from sbs_opt.testing.fleets import small_deployment

COST = linear_cost_model(LinearPrefill(3_000_000, 100, chunk_tokens=4096))
FLEET = small_deployment(2, 4, chunk_tokens=4096, context_tokens=8192)
POLICIES = ("sbs_auto", "sbs", "phase_aware", "round_robin")
PASS_S = 0.003


def run(scenario: Callable[[Router], Awaitable[None]], policy: str = "sbs_auto") -> Router:
    """Run a scenario against a router; nothing may be in flight or booked when it ends."""

    async def main() -> Router:
        router = Router(FLEET, COST, SchedulerConfig(policy=policy))
        running = asyncio.create_task(router.run())
        async with asyncio.timeout(20):
            await scenario(router)
            router.stop()
            await running
        return router

    router = asyncio.run(main())
    assert (router.in_flight, router.waiting, router.booked) == (0, 0, 0)
    return router


async def served(router: Router, tokens: int) -> Placed:
    placed = await router.place(tokens)
    await asyncio.sleep(PASS_S)
    router.first_token(placed.id)
    return placed


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_is_placed_once_and_released(policy: str) -> None:
    placements: list[Placed] = []

    async def scenario(router: Router) -> None:
        tasks = []
        for k in range(120):
            tasks.append(asyncio.create_task(served(router, 1 + 67 * k % 5000)))
            if k % 8 == 7:
                await asyncio.sleep(0.004)
        placements.extend(await asyncio.gather(*tasks))

    run(scenario, policy)
    assert sorted(placed.id for placed in placements) == list(range(120))
    assert len({(placed.instance, placed.unit) for placed in placements}) >= 5


def test_requests_that_come_together_are_spread() -> None:
    async def scenario(router: Router) -> None:
        placements = await asyncio.gather(*(served(router, 1000) for _ in range(4)))
        assert len({(placed.instance, placed.unit) for placed in placements}) == 4

    run(scenario)


def test_a_client_that_leaves_while_held_or_sent_frees_its_load() -> None:
    async def scenario(router: Router) -> None:
        first = await router.place(4096)
        held = [asyncio.create_task(router.place(4096)) for _ in range(40)]
        await asyncio.sleep(0.001)
        for task in held:
            task.cancel()
        results = await asyncio.gather(*held, return_exceptions=True)
        for result in results:
            if isinstance(result, Placed):  # it was quicker than its client
                router.cancelled(result.id)
        router.cancelled(first.id)
        router.cancelled(first.id)
        assert (router.waiting, router.in_flight, router.booked) == (0, 0, 0)

    run(scenario)


def test_a_failed_dispatch_is_placed_again() -> None:
    async def scenario(router: Router) -> None:
        placed = await router.place(500)
        again = await router.place_again(placed, "connection refused")
        assert again.id == placed.id
        assert again.window_id > placed.window_id
        router.first_token(again.id)

    for policy in POLICIES:
        run(scenario, policy)


def test_what_a_lost_instance_had_goes_elsewhere() -> None:
    async def scenario(router: Router) -> None:
        placements = await asyncio.gather(*(router.place(800) for _ in range(8)))
        lost = placements[0].instance
        router.instance_lost(lost)
        for placed in placements:
            if placed.instance == lost:
                again = await router.place_again(placed, "connection lost")
                assert again.instance != lost
            router.first_token(placed.id)
        await asyncio.sleep(0.01)
        router.instance_returned(lost)
        places = [await served(router, 3000) for _ in range(6)]
        assert lost in {placed.instance for placed in places}

    run(scenario)


def test_too_large_and_too_late_are_rejected_with_a_reason() -> None:
    async def scenario(router: Router) -> None:
        with pytest.raises(RejectedError) as large:
            await router.place(9000)
        assert large.value.reason == "too_large"
        router.instance_lost(0)
        router.instance_lost(1)
        with pytest.raises(RejectedError) as late:
            await router.place(10, deadline_s=0.01)
        assert late.value.reason == "deadline"
        with pytest.raises(InputError, match="at least 1"):
            await router.place(0)

    run(scenario)


def test_a_request_rejected_while_it_is_sent_is_told_when_it_asks_again() -> None:
    """Its instance was lost, and its deadline passed before another took it: `place_again` raised a KeyError."""

    async def scenario(router: Router) -> None:
        placed = await router.place(500, deadline_s=0.02)
        router.instance_lost(0)
        router.instance_lost(1)
        await asyncio.sleep(0.06)
        with pytest.raises(RejectedError, match="deadline"):
            await router.place_again(placed, "connection lost")

    run(scenario)


def test_a_request_that_was_taken_for_answered_can_be_placed_again() -> None:
    """Two passes that left nothing queued make the scheduler forget it: `place_again` waited for ever."""

    async def scenario(router: Router) -> None:
        placed = await router.place(500)
        nothing = np.zeros(router.num_units, np.int64)
        for _ in range(2):
            await asyncio.sleep(0.01)
            router.pass_ended(placed.instance, 3_000_000, nothing, nothing)
        await asyncio.sleep(0.01)
        assert router.booked == 0
        again = await router.place_again(placed, "reset")
        router.first_token(again.id)

    run(scenario)


def test_what_is_held_when_the_router_stops_is_rejected() -> None:
    async def scenario(router: Router) -> None:
        router.instance_lost(0)
        router.instance_lost(1)
        held = asyncio.create_task(router.place(500))
        await asyncio.sleep(0.01)
        router.stop()
        with pytest.raises(RejectedError, match="shutdown"):
            await held
        with pytest.raises(RejectedError, match="shutdown"):
            await router.place(500)

    router = Router(FLEET, COST, SchedulerConfig())

    async def main() -> None:
        running = asyncio.create_task(router.run())
        async with asyncio.timeout(5):
            await scenario(router)
            await running

    asyncio.run(main())
    assert (router.in_flight, router.waiting) == (0, 0)


@pytest.mark.parametrize(
    "asked",
    [{"prompt_tokens": 0}, {"prompt_tokens": 2**63}, {"prompt_tokens": 5, "deadline_s": float("inf")},
     {"prompt_tokens": 5, "deadline_s": float("nan")}, {"prompt_tokens": 5, "block_ids": np.array([1.5])}],
)  # fmt: skip
def test_a_request_that_cannot_be_read_leaves_nothing(asked: dict[str, Any]) -> None:
    async def scenario(router: Router) -> None:
        with pytest.raises(InputError):
            await router.place(**asked)

    run(scenario)


def test_passes_reported_by_an_engine_replace_inferred_ones() -> None:
    heard: list[PassEnded] = []

    async def scenario(router: Router) -> None:
        feed = router._driver.feed

        def listen(event: Event) -> None:
            if isinstance(event, PassEnded):
                heard.append(event)
            feed(event)

        router._driver.feed = listen  # type: ignore[method-assign]
        nothing = np.zeros(router.num_units, np.int64)
        for _ in range(3):
            await served(router, 100)
        assert len(heard) == 3
        for instance in (0, 1):
            router.pass_ended(instance, 3_000_000, nothing, nothing)
        for _ in range(3):
            await served(router, 100)
        assert len(heard) == 5
        router.instance_lost(0)
        router.instance_returned(0)
        router.pass_ended(0, 3_000_000, nothing, nothing)

    run(scenario)
    assert [e.pass_number for e in heard if e.instance == 0][-1] == 0  # a lost instance counts from 0 again
    for instance in (0, 1):
        numbers = [event.pass_number for event in heard[:5] if event.instance == instance]
        assert numbers == list(range(len(numbers)))


@given(st.lists(st.integers(1, 8192), min_size=1, max_size=60), st.sampled_from(POLICIES))
@settings(max_examples=30, deadline=None)
def test_a_batch_is_placed_without_a_loop(prompts: list[int], policy: str) -> None:
    places = place_batch(prompts, FLEET, COST, SchedulerConfig(policy=policy))
    assert len(places) == len(prompts)
    assert all(0 <= instance < 2 and 0 <= unit < 4 for instance, unit in places)


def test_a_batch_longest_first_is_balanced() -> None:
    places = place_batch([4000, 1000, 1000, 1000, 1000], FLEET, COST, SchedulerConfig(policy="sbs_auto"))
    load = np.zeros((2, 4), np.int64)
    for (instance, unit), tokens in zip(places, [4000, 1000, 1000, 1000, 1000], strict=True):
        load[instance, unit] += tokens
    assert load.max() == 4000
    with pytest.raises(InputError, match="too_large"):
        place_batch([9000], FLEET, COST, SchedulerConfig())
