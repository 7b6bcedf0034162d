"""Which upstreams take requests: ejected when they fail, back when they answer again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import aiohttp

from sbs_opt.adapters.decode_router import DecodeRouter
from sbs_opt.adapters.http.dynamo import DynamoError, instance_ids, reassigned
from sbs_opt.adapters.http.metrics import Metrics
from sbs_opt.adapters.router import Router
from sbs_opt.adapters.serve_config import ServeConfig, Upstream

UPSTREAM_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)
"""What an upstream can fail with."""


class Health:
    """Looks at the health of upstreams from time to time, and tells the routers of what changes.

    `instance_ids` holds what Dynamo's workers are addressed by, by upstream's name.

    Parameters
    ----------
    config
        The upstreams, and how often.
    session
        For the requests.
    router, decode
        They hear of ejected and returned instances; `decode` is None without decode legs.
    metrics
        Show what is healthy.
    """

    def __init__(
        self,
        config: ServeConfig,
        session: aiohttp.ClientSession,
        router: Router,
        decode: DecodeRouter | None,
        metrics: Metrics,
    ) -> None:
        self._limits = config.limits
        self._session = session
        self._metrics = metrics
        self._routers: dict[str, tuple[Router | DecodeRouter, int]] = {}
        for phase, upstreams in ((router, config.prefill_upstreams), (decode, config.decode_upstreams)):
            if phase is not None:
                self._routers |= {upstream.name: (phase, k) for k, upstream in enumerate(upstreams)}
        self._well = {upstream.name: True for upstream in config.upstreams}
        for name in self._well:
            metrics.healthy(name, True)
        self._resting = dict.fromkeys(self._well, 0)
        self.instance_ids: dict[str, int] = {}
        self._workers: dict[str, list[str]] = {}
        for upstream in config.upstreams:
            if upstream.instance_id is None:
                self._workers.setdefault(upstream.url, []).append(upstream.name)
        self._named = {upstream.instance_id for upstream in config.upstreams}

    @property
    def well(self) -> Mapping[str, bool]:
        """Whether each upstream takes requests, by name."""
        return self._well

    def eject(self, upstream: Upstream) -> None:
        """Give an upstream no more requests until it is well; what it has not answered goes elsewhere."""
        if self._well[upstream.name]:
            self._well[upstream.name] = False
            self._metrics.healthy(upstream.name, False)
            router, instance = self._routers[upstream.name]
            router.instance_lost(instance)

    @contextmanager
    def resting(self, upstream: Upstream) -> Iterator[None]:
        """Give an instance nothing new while what failed there is placed elsewhere; the last one is spared."""
        router, instance = self._routers[upstream.name]
        if isinstance(router, DecodeRouter) or not any(
            well and not self._resting[name] and name != upstream.name and self._routers[name][0] is router
            for name, well in self._well.items()
        ):
            yield
            return
        self._resting[upstream.name] += 1
        if self._resting[upstream.name] == 1:
            router.instance_draining(instance)
        try:
            yield
        finally:
            self._resting[upstream.name] -= 1
            if not self._resting[upstream.name] and self._well[upstream.name]:
                router.instance_returned(instance)

    async def resolve(self, upstream: Upstream) -> None:
        """Find out at the start what an upstream is addressed by; one that cannot be found is ejected."""
        if upstream.kind == "dynamo" and not await self._answers(upstream):
            self.eject(upstream)

    async def watch(self, upstream: Upstream) -> None:
        """Look at an upstream until cancelled."""
        while True:
            await asyncio.sleep(self._limits.health_s)
            if not await self._answers(upstream):
                self.eject(upstream)
            elif not self._well[upstream.name]:
                self._well[upstream.name] = True
                self._metrics.healthy(upstream.name, True)
                router, instance = self._routers[upstream.name]
                router.instance_returned(instance)

    async def _answers(self, upstream: Upstream) -> bool:
        if upstream.kind == "dynamo":
            return await self._finds_worker(upstream)
        timeout = aiohttp.ClientTimeout(total=self._limits.connect_s)
        try:
            async with self._session.get(f"{upstream.url}/health", timeout=timeout) as answer:
                return answer.status < 500
        except UPSTREAM_ERRORS:
            return False

    async def _finds_worker(self, upstream: Upstream) -> bool:
        """Look for a Dynamo worker among those that its frontend knows."""
        if upstream.instance_id is not None:
            self.instance_ids[upstream.name] = upstream.instance_id
            return await self.still_there(upstream, upstream.instance_id)
        try:
            known = await instance_ids(self._session, upstream.url, timeout_s=self._limits.connect_s)
        except DynamoError:
            return False
        names = self._workers[upstream.url]
        free = [one for one in known if one not in self._named]
        found = reassigned([self.instance_ids.get(name) for name in names], free)[names.index(upstream.name)]
        if found is None:
            return False
        self.instance_ids[upstream.name] = found
        return True

    async def still_there(self, upstream: Upstream, instance_id: int | None) -> bool:
        """Tell whether the worker that a request was pinned to is known; Dynamo answers 400 for one that is not."""
        if upstream.kind != "dynamo":
            return True
        try:
            return instance_id in await instance_ids(
                self._session, upstream.url, any_component=True, timeout_s=self._limits.connect_s
            )
        except DynamoError:
            return False
