"""Who is given requests follows from who is well, rests and settles, in whatever order that was heard of."""

from __future__ import annotations

import asyncio
import errno
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

import aiohttp
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.adapters.http.errors import is_unreachable, look_of
from sbs_opt.adapters.http.health import Health
from sbs_opt.adapters.http.metrics import Metrics
from sbs_opt.adapters.http.roster import Roster
from sbs_opt.adapters.router import Router
from sbs_opt.adapters.serve_config import Engines, Limits, ServeConfig, Upstream
from sbs_opt.scheduler.config import SchedulerConfig
from tests.adapters.proxy_bench import COST, engine_of

NAMES = "abc"
STEPS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["well", "settling", "resting"])), max_size=30)


def roster_of(policy: str, former: Roster | None = None, **changes: Any) -> tuple[Roster, Router, ServeConfig]:
    upstreams = tuple(Upstream(name, f"http://127.0.0.1:{k + 1}", "vllm") for k, name in enumerate(NAMES))
    config = ServeConfig(
        tuple(replace(upstream, **changes) for upstream in upstreams),
        Engines(ranks=4),
        scheduler=SchedulerConfig(policy=policy),
    )
    router = Router(config.deployment, COST, config.scheduler)
    return Roster(config, router, None, Metrics({}), former), router, config


def active(router: Router) -> set[str]:
    takes = router._scheduler._active.tolist()  # type: ignore[attr-defined]
    return {name for name, one in zip(NAMES, takes, strict=True) if one}


@given(STEPS, st.sampled_from(["sbs_auto", "phase_aware"]))
def test_who_is_given_requests_follows_from_the_state_alone(steps: list[tuple[str, str]], policy: str) -> None:
    async def main() -> None:
        roster, router, config = roster_of(policy)
        upstream_of = {upstream.name: upstream for upstream in config.upstreams}
        well, settling, rests = set(NAMES), set[str](), dict[str, AbstractContextManager[None]]()
        for name, what in steps:
            upstream = upstream_of[name]
            if what == "well":
                (roster.eject if name in well else roster.is_well)(upstream)
                well ^= {name}
            elif what == "settling":
                (roster.has_settled if name in settling else roster.settles)(upstream)
                settling ^= {name}
            elif name in rests:
                rests.pop(name).__exit__(None, None, None)
            else:
                rests[name] = roster.resting(upstream)
                rests[name].__enter__()
            fit = well - settling
            expected = fit - set(rests) or fit or (well if policy == "phase_aware" else set())
            assert active(router) == expected
            assert {one for one, is_well in roster.well.items() if is_well} == well

    asyncio.run(main())


def test_the_next_configuration_knows_what_was_not_well() -> None:
    async def main() -> None:
        former, _, config = roster_of("sbs_auto")
        former.eject(config.upstreams[1])
        assert active(roster_of("sbs_auto", former)[1]) == {"a", "c"}
        # Another kind of upstream, though of the same name, is another upstream.
        assert active(roster_of("sbs_auto", former, kind="sglang")[1]) == set(NAMES)

    asyncio.run(main())


def test_a_shortage_of_our_own_is_no_fault_of_an_upstream() -> None:
    """Without a free descriptor every engine was ejected, and all that they ran was given up."""
    key = aiohttp.client_reqrep.ConnectionKey("h", 1, False, True, None, None, None, None)
    for number, unreachable in ((errno.ECONNREFUSED, True), (errno.EMFILE, False), (errno.EADDRNOTAVAIL, False)):
        error = aiohttp.ClientConnectorError(key, OSError(number, "x"))
        assert is_unreachable(error) is unreachable
        assert look_of(error) == ("ill" if unreachable else "not asked")
    assert not is_unreachable(aiohttp.ServerDisconnectedError())
    assert look_of(aiohttp.ClientConnectorDNSError(key, OSError(errno.EBUSY, "x"))) == "slow"


@pytest.mark.parametrize("kind", ["vllm", "dynamo"])
def test_whom_we_have_no_means_to_ask_stays(kind: str) -> None:
    class WithoutDescriptors(aiohttp.BaseConnector):
        async def _create_connection(self, *arguments: Any, **more: Any) -> Any:
            raise OSError(errno.EMFILE, "Too many open files")

    async def main() -> None:
        roster, router, config = roster_of("sbs_auto", kind=kind, instance_id=7 if kind == "dynamo" else None)
        async with aiohttp.ClientSession(connector=WithoutDescriptors()) as session:
            looking = Health(config, session, roster)
            for _ in range(5):
                await looking.first_look(config.upstreams[0])
            assert active(router) == set(NAMES)
            assert not await looking.is_gone(config.upstreams[0], 7)

    asyncio.run(main())


def test_what_an_ejected_upstream_had_goes_to_one_that_settles() -> None:
    """At the moment of its loss nobody took requests, and an immediate policy refused all that it had."""

    async def main() -> None:
        roster, router, config = roster_of("phase_aware")
        running = asyncio.create_task(router.run())
        for upstream in config.upstreams[1:]:
            roster.settles(upstream)
        placed = await router.place(100)
        assert placed.instance == 0
        roster.eject(config.upstreams[0])
        again = await router.place_again(placed, "ejected", deadline_s=5.0)
        assert again.instance in (1, 2)
        router.cancelled(again.id)
        router.stop()
        await running

    asyncio.run(main())


def test_a_front_end_of_dynamo_that_is_slow_keeps_its_workers() -> None:
    workers = {"instances": [{"endpoint": "generate", "instance_id": 7 + k} for k in range(3)]}
    slow = asyncio.Event()

    async def health(_: web.Request) -> web.StreamResponse:
        if slow.is_set():
            await asyncio.sleep(60)
        return web.json_response(workers)

    async def main() -> None:
        async with engine_of(health, health) as url, aiohttp.ClientSession() as session:
            roster, router, config = roster_of("sbs_auto", kind="dynamo", url=url)
            limits = Limits(connect_s=5.0, look_s=0.05, health_s=0.001)
            looking = Health(replace(config, limits=limits), session, roster)
            await asyncio.gather(*(looking.first_look(upstream) for upstream in config.upstreams))
            assert sorted(looking.instance_ids.values()) == [7, 8, 9]
            slow.set()
            for _ in range(2):
                looking._judge(config.upstreams[0], await looking._look(config.upstreams[0], 0.05))
            assert active(router) == set(NAMES)
            assert not await looking.is_gone(config.upstreams[0], 7)
            looking._judge(config.upstreams[0], await looking._look(config.upstreams[0], 0.05))
            assert active(router) == {"b", "c"}
            slow.clear()
            workers["instances"].pop(1)
            assert await looking.is_gone(config.upstreams[1], 8)

    asyncio.run(main())
