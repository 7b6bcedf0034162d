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

_SLOW_LOOKS = 3
"""So many looks in a row without an answer eject an upstream: one may meet a pause."""


class Health:
    """Looks at the health of upstreams from time to time, and tells the routers of what changes.

    `instance_ids` holds what Dynamo's workers are addressed by, by upstream's name; `unanswered` the time limits of
    requests that have no first byte yet: they are over with the upstream.

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
        self._slow_looks = dict.fromkeys(self._well, 0)
        self.unanswered: dict[str, set[asyncio.Timeout]] = {name: set() for name in self._well}
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
            self.give_up(upstream)

    def give_up(self, upstream: Upstream) -> None:
        """Wait no longer for the first bytes of its answers."""
        now_s = asyncio.get_running_loop().time()
        for limit in self.unanswered[upstream.name]:
            if not limit.expired():
                limit.reschedule(now_s)

    def back(self, upstream: Upstream) -> None:
        """Give an upstream requests again, unless something else keeps it from them."""
        if self._well[upstream.name] and not self._resting[upstream.name]:
            router, instance = self._routers[upstream.name]
            router.instance_returned(instance)

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
            self.back(upstream)

    async def resolve(self, upstream: Upstream) -> None:
        """Look at an upstream at the start, and find out what it is addressed by; one that is not there is ejected."""
        if await self._answers(upstream) is not True:
            self.eject(upstream)

    async def watch(self, upstream: Upstream) -> None:
        """Look at an upstream until cancelled."""
        while True:
            await asyncio.sleep(self._limits.health_s)
            answers = await self._answers(upstream)
            self._slow_looks[upstream.name] = self._slow_looks[upstream.name] + 1 if answers is None else 0
            if answers is False or self._slow_looks[upstream.name] >= _SLOW_LOOKS:
                self.eject(upstream)
            elif answers and not self._well[upstream.name]:
                self._well[upstream.name] = True
                self._metrics.healthy(upstream.name, True)
                self.back(upstream)

    async def _answers(self, upstream: Upstream) -> bool | None:
        """Tell whether an upstream is well; None = it has not said so in time."""
        if upstream.kind == "dynamo":
            return await self._finds_worker(upstream)
        timeout = aiohttp.ClientTimeout(total=self._limits.connect_s)
        try:
            async with self._session.get(f"{upstream.url}/health", timeout=timeout) as answer:
                return answer.status < 500
        except TimeoutError:
            return None
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
