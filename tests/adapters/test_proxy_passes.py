"""Engines that tell the proxy when their passes end."""

from __future__ import annotations

import asyncio
import socket

import numpy as np
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")
pytest.importorskip("msgspec")

import msgspec

from sbs_opt.adapters.serve_config import Engines, ServeConfig, Upstream
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.events import Event, PassEnded
from tests.adapters.proxy_bench import RANKS, Bench, run


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def message(worker: str, rank: int, counter: int, tokens: int) -> bytes:
    work = dict.fromkeys(
        ("num_prefill_requests", "sum_prefill_tokens", "var_prefill_length", "sum_prefill_kv_tokens",
         "num_decode_requests", "sum_decode_kv_tokens", "var_decode_kv_tokens"), 0
    )  # fmt: skip
    return bytes(
        msgspec.msgpack.encode(
            {"version": 1, "worker_id": worker, "dp_rank": rank, "counter_id": counter, "wall_time": 0.004,
             "scheduled_requests": {**work, "num_prefill_requests": 1, "sum_prefill_tokens": tokens},
             "queued_requests": work}
        )
    )  # fmt: skip


def test_reported_passes_take_the_place_of_inferred_ones_and_survive_a_reload() -> None:
    port, heard = free_port(), list[PassEnded]()

    async def scenario(one: Bench) -> None:
        async def told(counter: int, tokens: int) -> None:
            for collator in one.proxy._core.passes._collators:
                collator._wait_ns = 10**10  # on a busy machine datagrams come further apart than those of engines
            feed = one.proxy.router._driver.feed

            def listen(event: Event) -> None:
                if isinstance(event, PassEnded):
                    heard.append(event)
                feed(event)

            one.proxy.router._driver.feed = listen  # type: ignore[method-assign]
            before = len(heard)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for rank in range(RANKS):
                    sender.sendto(message("engine-1", rank, counter, tokens), ("127.0.0.1", port))
                sender.sendto(message("nobody", 0, counter, tokens), ("127.0.0.1", port))
                sender.sendto(b"\x00", ("127.0.0.1", port))
            async with asyncio.timeout(5):
                while len(heard) == before:
                    await asyncio.sleep(0.005)

        await told(7, 120)
        await one.proxy.reload(one.config)
        await told(1, 130)
        assert (await one.complete(1))[0] == 200
        text = await one.metrics()
        assert "sbs_malformed_pass_reports 2.0" in text

    run(scenario, passes=f"127.0.0.1:{port}")
    assert [(e.instance, e.pass_number, e.duration_ns) for e in heard[:2]] == [(1, 0, 4_000_000)] * 2
    assert [e.tokens_run.tolist() for e in heard[:2]] == [[120] * RANKS, [130] * RANKS]
    assert all(np.array_equal(e.tokens_queued, np.zeros(RANKS)) for e in heard[:2])


def test_an_address_that_cannot_be_had_is_named() -> None:
    async def scenario(one: Bench) -> None:
        raise AssertionError("it must not have started")

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match="passes = "):
            run(scenario, passes=f"127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(InputError, match="host:port"):
        ServeConfig((Upstream("a", "http://127.0.0.1:1", "vllm"),), Engines(4), passes="29500")
