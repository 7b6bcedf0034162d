"""Who stands behind a front end: read from answers good and bad, and kept in place while workers come and go."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("aiohttp")

import aiohttp
from aiohttp import web

from sbs_opt.adapters.http.dynamo import DynamoError, instance_ids, reassigned

IDS = st.integers(0, 2**64 - 1)


def instance(number: Any, endpoint: str = "generate", component: str = "backend") -> dict[str, Any]:
    return {"namespace": "dynamo", "component": component, "endpoint": endpoint, "instance_id": number}


def asked(body: bytes, status: int = 200, **options: Any) -> list[int]:
    """Return what is read from a front end that answers so."""

    async def main() -> list[int]:
        async def health(http: web.Request) -> web.Response:
            del http
            return web.Response(status=status, body=body, content_type="application/json")

        app = web.Application()
        app.router.add_get("/health", health)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        try:
            async with aiohttp.ClientSession() as session:
                return await instance_ids(session, f"http://{host}:{port}", **options)
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def health_of(*instances: Any) -> bytes:
    return json.dumps({"status": "healthy", "endpoints": [], "instances": instances}).encode()


def test_ids_are_those_of_workers_ascending_and_exact() -> None:
    most = 2**64 - 1
    body = health_of(instance(most), instance(7, "worker_kv_query_source_7"), instance(most - 1), instance(most))
    assert asked(body) == [most - 1, most]


def test_a_front_end_without_workers_is_well_and_has_none() -> None:
    assert asked(health_of()) == []


def test_one_who_knows_the_id_may_ask_among_all_components() -> None:
    assert asked(health_of(instance(2, component="prefill"), instance(1)), any_component=True) == [1, 2]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 200, "no JSON"),
        (b"[" * 100_000, 200, "no JSON"),
        (b"\xff", 200, "no JSON"),
        (b"[]", 200, "no list of instances"),
        (b"{}", 200, "no list of instances"),
        (b'{"instances": {}}', 200, "no list of instances"),
        (health_of(3), 200, r"instances\[0\] is no object"),
        (health_of(instance(1), instance("2")), 200, r"instances\[1\].instance_id"),
        (health_of(instance(True)), 200, r"instances\[0\].instance_id"),
        (health_of(instance(-1)), 200, r"instances\[0\].instance_id"),
        (health_of(instance(2**64)), 200, r"instances\[0\].instance_id"),
        (health_of(instance(1), instance(2, component="prefill")), 200, "dynamo.backend, dynamo.prefill"),
        (health_of(instance(1)), 503, "status 503"),
        (health_of(instance(1)), 404, "status 404"),
    ],
)
def test_what_cannot_be_read_is_one_error_that_says_where(body: bytes, status: int, said: str) -> None:
    with pytest.raises(DynamoError, match=f"^http://127.0.0.1:\\d+/health: .*{said}"):
        asked(body, status)


def test_nobody_there_is_the_same_error() -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            await instance_ids(session, "http://127.0.0.1:1")

    with pytest.raises(DynamoError, match="ClientConnectorError"):
        asyncio.run(main())


def test_a_silent_front_end_is_the_same_error() -> None:
    async def main() -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            async with aiohttp.ClientSession() as session:
                await instance_ids(session, f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05)

    with pytest.raises(DynamoError, match="TimeoutError"):
        asyncio.run(main())


@st.composite
def places(draw: st.DrawFn) -> tuple[list[int | None], list[int]]:
    """Draw who stood where, and who is there now: some of them, and others."""
    before = draw(st.lists(IDS, max_size=6, unique=True))
    held = [one if draw(st.booleans()) else None for one in before]
    stayed = [one for one in before if draw(st.booleans())]
    listed = draw(st.permutations([*{*stayed, *draw(st.lists(IDS, max_size=4))}]))
    return held, listed


@given(places())
def test_who_stays_keeps_the_place_and_newcomers_fill_the_gaps(drawn: tuple[list[int | None], list[int]]) -> None:
    held, listed = drawn
    now = reassigned(held, listed)
    assert len(now) == len(held)
    placed = [one for one in now if one is not None]
    assert len(set(placed)) == len(placed)
    assert set(placed) <= set(listed)
    for before, after in zip(held, now, strict=True):
        if before is not None and before in listed:
            assert after == before
    assert len(placed) == min(len(held), len(set(listed)))  # nobody is left out while there is a place
    newcomers = [after for before, after in zip(held, now, strict=True) if after is not None and after != before]
    assert newcomers == sorted(newcomers)
    assert reassigned(now, listed) == now


def test_a_worker_that_restarts_takes_its_own_place_again() -> None:
    assert reassigned([None, None], [30, 10]) == [10, 30]
    assert reassigned([10, 30], [30]) == [None, 30]  # not [30, None]
    assert reassigned([None, 30], [30, 40]) == [40, 30]
