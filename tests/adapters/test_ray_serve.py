"""Ray Serve asks the scheduler: every request goes to the replica that was chosen, and nothing stays booked."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from sbs_opt.models.errors import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own, where it is installed
    from sbs_opt.adapters.ray_serve import SbsRequestRouter

RANKS = 4
NUMBERS: dict[str, Any] = {
    "instances": 2, "engines": {"ranks": RANKS, "chunk_tokens": 4096, "context_tokens": 8192, "kv_tokens": 40_000},
}  # fmt: skip


class ReplicaId(NamedTuple):
    unique_id: str


def bare_router(**more: Any) -> Any:
    """Return a router that has no Ray around it."""
    router = SbsRequestRouter.__new__(SbsRequestRouter)
    router.initialize_state(**NUMBERS | more)
    return router


def replicas(*names: str, **stats: int) -> list[Any]:
    return [SimpleNamespace(replica_id=ReplicaId(name), routing_stats={"rank": stats.get(name)}) for name in names]


def pending(name: str, *args: Any, **kwargs: Any) -> Any:
    return SimpleNamespace(
        args=args,
        kwargs=kwargs,
        metadata=SimpleNamespace(internal_request_id=name),
        routing_context=SimpleNamespace(should_backoff=False),
    )


def run(router: Any, scenario: Callable[[], Any]) -> None:
    """Run a scenario; nothing may be in flight or booked when it ends."""

    async def main() -> None:
        async with asyncio.timeout(20):
            await scenario()
            await asyncio.sleep(0.01)
            router.sbs_router.stop()
            await router._running

    asyncio.run(main())
    assert (router.sbs_router.in_flight, router.sbs_router.waiting, router.sbs_router.booked) == (0, 0, 0)


EIGHT = replicas(*"hgfedcba")


def test_without_ray_only_its_use_is_an_error() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from sbs_opt.adapters.ray_serve import SbsRequestRouter\n"
        "from sbs_opt.models.errors import InputError\n"
        "try: SbsRequestRouter()\n"
        "except InputError as error: assert 'pip install' in str(error)\n"
        "else: sys.exit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="give fields of Engines"):
        bare_router(engines={"rank": 4})
    with pytest.raises(InputError, match="at least one"):
        bare_router(instances=0)


def test_replicas_take_ranks_in_the_order_of_their_ids_and_keep_them() -> None:
    router = bare_router()

    def names() -> list[str | None]:
        return [None if one is None else one.unique_id for one in router._seats]

    router._seat(EIGHT)
    assert names() == list("abcdefgh")
    router._seat([one for one in EIGHT if one.replica_id.unique_id not in "bg"])
    assert names() == ["a", None, "c", "d", "e", "f", None, "h"]
    assert router._whole == [False, False]
    ids = [one for one in EIGHT if one.replica_id.unique_id not in "bg"] + replicas("A", "B", "C")
    router._seat(ids)
    assert names() == ["a", "A", "c", "d", "e", "f", "B", "h"]
    assert router._whole == [True, True]


def test_replicas_take_the_ranks_that_they_report() -> None:
    router = bare_router(rank_stat="rank")
    router._seat(replicas(*"abcdefg", a=7, b=6, c=5, d=4, e=0, f=1, g=8))
    assert [one and one.unique_id for one in router._seats] == ["e", "f", None, None, "d", "c", "b", "a"]
    assert router._whole == [False, True]


@pytest.mark.parametrize("prefill_only", [False, True])
def test_requests_are_placed_where_ranks_are_and_released_once(prefill_only: bool) -> None:
    router = bare_router(prefill_only=prefill_only)
    chosen: set[str] = set()

    async def one(k: int) -> None:
        asked = pending(f"r{k}", prompt_tokens=500 + 50 * k)
        groups = await router.choose_replicas(EIGHT, asked)
        assert [len(group) for group in groups] == [1]
        assert asked.routing_context.should_backoff
        at = groups[0][0].replica_id
        chosen.add(at.unique_id)
        await asyncio.sleep(0.002)
        router.on_request_completed(EIGHT[0].replica_id if at != EIGHT[0].replica_id else EIGHT[1].replica_id, f"r{k}")
        assert f"r{k}" in router._requests  # an attempt elsewhere ended: not this one
        for _ in range(2):
            router.on_request_completed(at, f"r{k}")

    async def scenario() -> None:
        router._seat(EIGHT)
        await asyncio.gather(*(one(k) for k in range(40)))

    run(router, scenario)
    assert chosen == set("abcdefgh")


def test_an_instance_that_lacks_a_rank_takes_no_requests() -> None:
    router = bare_router()

    async def scenario() -> None:
        here = [one for one in EIGHT if one.replica_id.unique_id != "b"]  # of the first instance
        router._seat(EIGHT)
        router._seat(here)
        for k in range(12):
            ((replica,),) = await router.choose_replicas(here, pending(f"r{k}", {"prompt": [1] * 300}))
            assert replica.replica_id.unique_id in "efgh"
            router.on_request_completed(replica.replica_id, f"r{k}")

    run(router, scenario)


def test_requests_that_are_asked_for_again_given_up_or_too_large() -> None:
    router = bare_router(hold_s=0.5)

    async def scenario() -> None:
        router._seat(EIGHT)
        asked = pending("again", {"messages": [{"role": "user", "content": "word " * 100}]})
        for _ in range(3):
            ((replica,),) = await router.choose_replicas(EIGHT, asked)
        assert router.sbs_router.in_flight == 1
        router.on_request_completed(replica.replica_id, "again")
        assert await router.choose_replicas(EIGHT, pending("large", prompt_tokens=100_000)) == [EIGHT]
        ((replica,),) = await router.choose_replicas(EIGHT, pending("absurd", prompt_tokens=2**63))
        router.on_request_completed(replica.replica_id, "absurd")
        assert await router.choose_replicas(EIGHT, None) == [EIGHT]
        router._seat([])
        assert await router.choose_replicas(EIGHT, pending("held", b"what is this")) == []
        held = asyncio.create_task(router.choose_replicas(EIGHT, pending("gone", prompt_tokens=10)))
        await asyncio.sleep(0.005)
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held

    run(router, scenario)


# -- with Ray ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_replicas_of_ray_serve() -> None:
    ray = pytest.importorskip("ray")
    serve = pytest.importorskip("ray.serve")
    config = import_module("ray.serve.config").RequestRouterConfig(
        request_router_class="sbs_opt.adapters.ray_serve.SbsRequestRouter", request_router_kwargs=NUMBERS
    )

    class Rank:
        async def __call__(self, prompt_tokens: int, seconds: float = 0.02) -> str:
            await asyncio.sleep(seconds)
            return str(serve.get_replica_context().replica_id.unique_id)

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        options = {"num_replicas": 2 * RANKS, "max_ongoing_requests": 64, "ray_actor_options": {"num_cpus": 0}}
        handle = serve.run(serve.deployment(**options, request_router_config=config)(Rank).bind())
        handle.remote(prompt_tokens=10).result(timeout_s=20)
        router: Any = handle._router._asyncio_router.request_router
        assert isinstance(router, SbsRequestRouter)
        chosen: list[str] = []
        choose = router.choose_replicas

        async def noted(candidate_replicas: Any, pending_request: Any = None) -> Any:
            groups = await choose(candidate_replicas, pending_request)
            chosen.extend(replica.replica_id.unique_id for group in groups for replica in group)
            return groups

        setattr(router, "choose_replicas", noted)  # noqa: B010
        responses = [handle.remote(prompt_tokens=200 + 100 * k) for k in range(40)]
        answers = [response.result(timeout_s=30) for response in responses]
        assert sorted(answers) == sorted(chosen)
        assert len(set(answers)) > RANKS  # of both instances
        given_up = [handle.remote(prompt_tokens=3000, seconds=5.0) for _ in range(20)]
        for k, response in enumerate(given_up):
            time.sleep(0.01 * (k % 3))
            response.cancel()
        for _ in itertools.takewhile(lambda _: router.sbs_router.in_flight or router.sbs_router.booked, range(500)):
            time.sleep(0.02)
        assert (router.sbs_router.in_flight, router.sbs_router.booked) == (0, 0)
    finally:
        serve.shutdown()
        ray.shutdown()
