"""Looking after the health of upstreams: ejected when they fail, back when they answer again."""

from __future__ import annotations

import asyncio
import errno
from collections import Counter

import aiohttp

from sbs_opt.adapters.http.dynamo import DynamoError, SlowDynamoError, instance_ids, reassigned
from sbs_opt.adapters.http.roster import Roster
from sbs_opt.adapters.serve_config import ServeConfig, Upstream

UPSTREAM_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)
"""What an upstream can fail with."""

_SLOW_LOOKS = 3
"""So many looks in a row without an answer eject an upstream: one may meet a pause."""

_OUR_OWN = frozenset((errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM))


def is_unreachable(error: BaseException) -> bool:
    """Tell whether an upstream takes no connections; a shortage of descriptors or ports here is none of its doing."""
    return isinstance(error, aiohttp.ClientConnectorError) and error.errno not in _OUR_OWN


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
        self._judge(upstream, await self._answers(upstream, self._limits.connect_s))

    async def watch(self, upstream: Upstream) -> None:
        """Look at an upstream until cancelled."""
        while True:
            await asyncio.sleep(self._limits.health_s)
            self._judge(upstream, await self._answers(upstream, self._limits.look_s))

    async def still_there(self, upstream: Upstream, instance_id: int | None) -> bool | None:
        """Tell whether the worker that a request was pinned to is known; Dynamo answers 400 for one that is not.

        Returns None where the front end does not say in time.
        """
        if upstream.kind != "dynamo":
            return True
        return await self._lists(upstream, instance_id, self._limits.look_s)

    def _judge(self, upstream: Upstream, answers: bool | None) -> None:
        self._slow_looks[upstream.name] = self._slow_looks[upstream.name] + 1 if answers is None else 0
        if answers:
            self._roster.is_well(upstream)
        elif answers is False or self._slow_looks[upstream.name] >= _SLOW_LOOKS:
            self._roster.eject(upstream)

    async def _answers(self, upstream: Upstream, patience_s: float) -> bool | None:
        """Tell whether an upstream is well; None = it has not said so in time, or we had no means to ask."""
        if upstream.kind == "dynamo":
            return await self._finds_worker(upstream, patience_s)
        timeout = aiohttp.ClientTimeout(total=patience_s)
        try:
            async with self._session.get(f"{upstream.url}/health", timeout=timeout) as answer:
                return answer.status < 500
        except TimeoutError:
            return None
        except UPSTREAM_ERRORS as error:
            return None if isinstance(error, OSError) and error.errno in _OUR_OWN else False

    async def _finds_worker(self, upstream: Upstream, patience_s: float) -> bool | None:
        """Look for a Dynamo worker among those that its frontend knows."""
        if upstream.instance_id is not None:
            self.instance_ids[upstream.name] = upstream.instance_id
            return await self._lists(upstream, upstream.instance_id, patience_s)
        try:
            known = await instance_ids(self._session, upstream.url, timeout_s=patience_s)
        except SlowDynamoError:
            # A worker without an id cannot be addressed; one with it may be well.
            return None if upstream.name in self.instance_ids else False
        except DynamoError:
            return False
        names = self._workers[upstream.url]
        free = [one for one in known if one not in self._named]
        found = reassigned([self.instance_ids.get(name) for name in names], free)[names.index(upstream.name)]
        if found is None:
            return False
        self.instance_ids[upstream.name] = found
        return True

    async def _lists(self, upstream: Upstream, instance_id: int | None, patience_s: float) -> bool | None:
        try:
            return instance_id in await instance_ids(
                self._session, upstream.url, any_component=True, timeout_s=patience_s
            )
        except SlowDynamoError:
            return None
        except DynamoError:
            return False
