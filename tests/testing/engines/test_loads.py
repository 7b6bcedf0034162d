"""Reports of load agree with what the ranks hold."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

pytest.importorskip("aiohttp")

import aiohttp

from sbs_opt.testing.engines import FakeEngine
from tests.testing.engines.bench import ENDLESS, FAST, ask, body, loaded, served


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
