"""Which upstreams take requests: the routers hear of every change, and of nothing else."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sbs_opt.adapters.decode_router import DecodeRouter
from sbs_opt.adapters.http.metrics import Metrics
from sbs_opt.adapters.router import Router
from sbs_opt.adapters.serve_config import ServeConfig, Upstream
from sbs_opt.scheduler.policies import policy_info


class Roster:
    """The upstreams of a configuration: well or not, and of those that are well who is given requests.

    An upstream that settles, still busy with the work of others, or rests, having just failed a request, is given none
    where another one may be. Nobody rests where nobody else is left. Where all that are left settle, requests wait,
    under a policy by which they can.

    Parameters
    ----------
    config
        The upstreams.
    router, decode
        They hear of instances that are lost, drain and return; `decode` is None without decode legs.
    metrics
        Show what is well.
    former
        Of the configuration before: what was not well there is not well here.

    Attributes
    ----------
    unanswered
        Time limits of requests that have no first byte yet, by upstream's name: they are over with the upstream.
    """

    def __init__(
        self,
        config: ServeConfig,
        router: Router,
        decode: DecodeRouter | None,
        metrics: Metrics,
        former: Roster | None = None,
    ) -> None:
        self._metrics = metrics
        self._prefill, self._router = config.prefill_upstreams, router
        self._instances: dict[str, tuple[Router | DecodeRouter, int]] = {
            upstream.name: (router, k) for k, upstream in enumerate(self._prefill)
        }
        if decode is not None:
            self._instances |= {upstream.name: (decode, k) for k, upstream in enumerate(config.decode_upstreams)}
        self._waits = policy_info(config.scheduler.policy, "prefill").late_binding
        self._well = {upstream.name: True for upstream in config.upstreams}
        self._given = dict(self._well)
        self._settling: set[str] = set()
        self._resting: Counter[str] = Counter()
        self.unanswered: defaultdict[str, set[asyncio.Timeout]] = defaultdict(set)
        self._upstreams = config.upstreams
        for upstream in config.upstreams:
            metrics.healthy(upstream.name, True)
            if former is not None and upstream in former._upstreams and not former.well[upstream.name]:
                self.eject(upstream)

    @property
    def well(self) -> Mapping[str, bool]:
        """Whether each upstream can take requests, by name."""
        return self._well

    def eject(self, upstream: Upstream) -> None:
        """Give an upstream no more requests until it is well; what it has not answered goes elsewhere."""
        if not self._well[upstream.name]:
            return
        self._well[upstream.name] = self._given[upstream.name] = False
        self._metrics.healthy(upstream.name, False)
        self._tell()  # first: who is spared takes what this one had
        router, instance = self._instances[upstream.name]
        router.instance_lost(instance)
        self.give_up(upstream.name)

    def is_well(self, upstream: Upstream) -> None:
        """Give an upstream requests again."""
        if not self._well[upstream.name]:
            self._well[upstream.name] = True
            self._metrics.healthy(upstream.name, True)
            self._tell()

    def give_up(self, name: str) -> None:
        """Wait no longer for the first bytes of an upstream's answers."""
        for limit in self.unanswered[name]:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

    def settles(self, upstream: Upstream) -> None:
        """Let an upstream that runs prompts finish those of others first, until `has_settled`."""
        self._settling.add(upstream.name)
        self._tell()

    def has_settled(self, upstream: Upstream) -> None:
        """Take it that what an upstream runs are requests of this router."""
        self._settling.discard(upstream.name)
        self._tell()

    @contextmanager
    def resting(self, upstream: Upstream) -> Iterator[None]:
        """Give an upstream nothing new while what failed there is placed elsewhere."""
        self._resting[upstream.name] += 1
        self._tell()
        try:
            yield
        finally:
            self._resting[upstream.name] -= 1
            self._tell()

    def _tell(self) -> None:
        """Tell the routers what has changed: first who takes requests again, then who takes none."""
        well = [upstream.name for upstream in self._prefill if self._well[upstream.name]]
        settled = [name for name in well if name not in self._settling]
        rested = [name for name in settled if not self._resting[name]]
        takes = set(rested or settled or ([] if self._waits else well))
        for upstream in self._upstreams:
            name = upstream.name
            if self._well[name] and not self._given[name] and (name in takes or upstream.phase == "decode"):
                self._given[name] = True
                router, instance = self._instances[name]
                router.instance_returned(instance)
        for instance, upstream in enumerate(self._prefill):
            if self._given[upstream.name] and upstream.name not in takes:
                self._given[upstream.name] = False
                self._router.instance_draining(instance)
