"""Looking at what engines report of their load, from time to time."""

from __future__ import annotations

import asyncio
import time

import aiohttp

from sbs_opt.adapters.http.errors import UPSTREAM_ERRORS
from sbs_opt.adapters.http.metrics import Metrics
from sbs_opt.adapters.http.roster import Roster
from sbs_opt.adapters.router import Router
from sbs_opt.adapters.serve_config import ServeConfig, Upstream
from sbs_opt.adapters.telemetry import LoadSnapshot, TelemetryError, parse_sglang_loads, parse_vllm_metrics

_PATHS = {"sglang": "/v1/loads?include=core", "vllm": "/metrics"}
_SETTLING_S = 0.05
"""Between two looks at an engine that is about to take its first request."""


class Telemetry:
    """Polls the load of upstreams into metrics: figures, their source and their age.

    Placement does not use them: it goes by what it has booked itself, which is exact where all traffic comes through
    the router, while reports are as old as their polling and do not say of when their figures are. What the router
    believes to wait is shown beside what is reported.

    Parameters
    ----------
    config
        Which upstreams, of which kind, how often.
    session
        For the requests.
    router
        What it believes is shown beside.
    roster
        Hears of engines that settle, and have settled.
    metrics
        Take the figures.
    """

    def __init__(
        self, config: ServeConfig, session: aiohttp.ClientSession, router: Router, roster: Roster, metrics: Metrics
    ) -> None:
        self._roster = roster
        self._config = config
        self._session = session
        self._router = router
        self._metrics = metrics
        self._settling: dict[str, float] = {}

    async def settle(self, upstream: Upstream) -> None:
        """Look at an upstream at the start: where prompts of others wait, it takes nothing until they are gone."""
        snapshot = await self._look(upstream)
        if snapshot is not None and _waits(snapshot) and upstream in self._config.prefill_upstreams:
            self._settling[upstream.name] = time.monotonic() + self._config.limits.settle_s
            self._roster.settles(upstream)

    async def watch(self, upstream: Upstream) -> None:
        """Poll one upstream until cancelled; one of a kind that reports nothing is not asked."""
        while upstream.kind in _PATHS:
            settling = upstream.name in self._settling
            await asyncio.sleep(
                min(_SETTLING_S, self._config.limits.telemetry_s) if settling else self._config.limits.telemetry_s
            )
            snapshot = await self._look(upstream)
            if settling and (snapshot is None or not _waits(snapshot) or self._is_over(upstream)):
                del self._settling[upstream.name]
                self._roster.has_settled(upstream)

    def _is_over(self, upstream: Upstream) -> bool:
        return time.monotonic() > self._settling[upstream.name]

    async def _look(self, upstream: Upstream) -> LoadSnapshot | None:
        """Return what an upstream reports and show it in the metrics; None when there is nothing to be had."""
        if upstream.kind not in _PATHS:
            return None
        try:
            snapshot = await self._snapshot(upstream)
        except (*UPSTREAM_ERRORS, TelemetryError) as error:
            self._metrics.unreadable(upstream.name, type(error).__name__)
            return None
        self._metrics.reported(upstream.name, snapshot, time.monotonic())
        if upstream in self._config.prefill_upstreams:
            instance = self._config.prefill_upstreams.index(upstream)
            self._metrics.believed(upstream.name, self._router.queued_tokens(instance))
        return snapshot

    async def _snapshot(self, upstream: Upstream) -> LoadSnapshot:
        timeout = aiohttp.ClientTimeout(total=self._config.limits.connect_s)
        ranks = self._config.ranks_of(upstream)
        async with self._session.get(upstream.url + _PATHS[upstream.kind], timeout=timeout) as answer:
            if answer.status >= 400:
                raise TelemetryError(f"status {answer.status}")
            if upstream.kind == "sglang":
                return parse_sglang_loads(await answer.read(), ranks=ranks)
            return parse_vllm_metrics((await answer.read()).decode("utf-8", "replace"), ranks=ranks)


def _waits(snapshot: LoadSnapshot) -> bool:
    return any(load.waiting for load in snapshot.ranks)
