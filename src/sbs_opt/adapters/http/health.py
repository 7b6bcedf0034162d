"""Looking after the health of upstreams: ejected when they fail, back when they answer again."""

from __future__ import annotations

import asyncio
from collections import Counter

import aiohttp

from sbs_opt.adapters.http.dynamo import DynamoError, instance_ids, reassigned
from sbs_opt.adapters.http.errors import UPSTREAM_ERRORS, Look, look_of
from sbs_opt.adapters.http.roster import Roster
from sbs_opt.adapters.serve_config import ServeConfig, Upstream

_SLOW_LOOKS = 3
"""So many looks in a row without an answer eject an upstream: one may meet a pause."""


class Health:
    """Looks at upstreams from time to time, and keeps the roster.

    `instance_ids` holds what Dynamo's workers are addressed by, by upstream's name.

    Parameters
    ----------
    config
        The upstreams, and how often.
    session
        For the requests.
    roster
        Hears of what fails and what is well.
    """

    def __init__(self, config: ServeConfig, session: aiohttp.ClientSession, roster: Roster) -> None:
        self._limits = config.limits
        self._session = session
        self._roster = roster
        self._slow_looks: Counter[str] = Counter()
        self.instance_ids: dict[str, int] = {}
        self._workers: dict[str, list[str]] = {}
        for upstream in config.upstreams:
            if upstream.instance_id is None:
                self._workers.setdefault(upstream.url, []).append(upstream.name)
        self._named = {upstream.instance_id for upstream in config.upstreams}

    async def first_look(self, upstream: Upstream) -> None:
        """Look at an upstream at the start, for as long as a connection may take, and find what it is addressed by."""
        self._judge(upstream, await self._look(upstream, self._limits.connect_s))

    async def watch(self, upstream: Upstream) -> None:
        """Look at an upstream until cancelled."""
        while True:
            await asyncio.sleep(self._limits.health_s)
            self._judge(upstream, await self._look(upstream, self._limits.look_s))

    async def is_gone(self, upstream: Upstream, instance_id: int | None) -> bool:
        """Tell whether the worker that a request was pinned to is there no more; Dynamo answers 400 for one."""
        return upstream.kind == "dynamo" and await self._listed(upstream, instance_id, self._limits.look_s) == "ill"

    def _judge(self, upstream: Upstream, look: Look) -> None:
        if look == "slow":
            self._slow_looks[upstream.name] += 1
        elif look != "not asked":
            self._slow_looks[upstream.name] = 0
        if look == "well":
            self._roster.is_well(upstream)
        elif look == "ill" or self._slow_looks[upstream.name] >= _SLOW_LOOKS:
            self._roster.eject(upstream)

    async def _look(self, upstream: Upstream, patience_s: float) -> Look:
        if upstream.kind == "dynamo":
            return await self._find_worker(upstream, patience_s)
        timeout = aiohttp.ClientTimeout(total=patience_s)
        try:
            async with self._session.get(f"{upstream.url}/health", timeout=timeout) as answer:
                return "well" if answer.status < 500 else "ill"
        except UPSTREAM_ERRORS as error:
            return look_of(error)

    async def _find_worker(self, upstream: Upstream, patience_s: float) -> Look:
        """Look for a Dynamo worker among those that its frontend knows."""
        if upstream.instance_id is not None:
            self.instance_ids[upstream.name] = upstream.instance_id
            return await self._listed(upstream, upstream.instance_id, patience_s)
        try:
            known = await instance_ids(self._session, upstream.url, timeout_s=patience_s)
        except DynamoError as error:
            # A worker without an id cannot be addressed; one with it may be well.
            return error.look if upstream.name in self.instance_ids else "ill"
        names = self._workers[upstream.url]
        free = [one for one in known if one not in self._named]
        found = reassigned([self.instance_ids.get(name) for name in names], free)[names.index(upstream.name)]
        if found is None:
            return "ill"
        self.instance_ids[upstream.name] = found
        return "well"

    async def _listed(self, upstream: Upstream, instance_id: int | None, patience_s: float) -> Look:
        try:
            known = await instance_ids(self._session, upstream.url, any_component=True, timeout_s=patience_s)
        except DynamoError as error:
            return error.look
        return "well" if instance_id in known else "ill"
