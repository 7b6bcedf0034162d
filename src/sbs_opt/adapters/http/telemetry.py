"""Looking at what engines report of their load, from time to time."""

from __future__ import annotations

import asyncio
import time

import aiohttp

from sbs_opt.adapters.http.metrics import Metrics
from sbs_opt.adapters.serve_config import ServeConfig
from sbs_opt.adapters.telemetry import LoadSnapshot, TelemetryError, parse_sglang_loads, parse_vllm_metrics

_PATHS = {"sglang": "/v1/loads?include=core", "vllm": "/metrics"}


class Telemetry:
    """Polls the load of upstreams into metrics: figures, their source and their age.

    Placement does not use them: it goes by what it has booked itself, which is exact where all traffic comes through
    the router, while reports are as old as their polling.

    Parameters
    ----------
    config
        Which upstreams, of which kind, how often.
    session
        For the requests.
    metrics
        Take the figures.
    """

    def __init__(self, config: ServeConfig, session: aiohttp.ClientSession, metrics: Metrics) -> None:
        self._config = config
        self._session = session
        self._metrics = metrics

    async def watch(self, instance: int) -> None:
        """Poll one upstream until cancelled; an upstream that reports nothing is asked no more than others."""
        upstream = self._config.upstreams[instance]
        if upstream.kind not in _PATHS:
            return
        while True:
            try:
                self._metrics.reported(instance, await self._snapshot(upstream.url, upstream.kind), time.monotonic())
            except (aiohttp.ClientError, TimeoutError, OSError, TelemetryError) as error:
                self._metrics.unreadable(instance, type(error).__name__)
            await asyncio.sleep(self._config.limits.telemetry_s)

    async def _snapshot(self, url: str, kind: str) -> LoadSnapshot:
        timeout = aiohttp.ClientTimeout(total=self._config.limits.connect_s)
        async with self._session.get(url + _PATHS[kind], timeout=timeout) as answer:
            if answer.status >= 400:
                raise TelemetryError(f"status {answer.status}")
            if kind == "sglang":
                return parse_sglang_loads(await answer.read(), ranks=self._config.engines.ranks)
            return parse_vllm_metrics(await answer.text())
