"""The scheduler as a request router of Ray Serve: one replica per data-parallel rank.

RequestRouterConfig(
    request_router_class="sbs_opt.adapters.ray_serve.SbsRequestRouter",
    request_router_kwargs={"instances": 2, "engines": {"ranks": 8}, "scheduler": {"policy": "sbs_auto"}},
)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

from sbs_opt.adapters.prompt import ByRatio, read_prompt
from sbs_opt.adapters.router import Placed, RejectedError, Router
from sbs_opt.adapters.serve_config import Engines, ServeConfig, Upstream
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.config import config_from_dict

_log = logging.getLogger(__name__)
_MOST_TOKENS = 2**31 - 1


class _NoRay:
    """Stands where Ray's class would, so that the module imports without it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise InputError("ray: is not installed; SbsRequestRouter needs it: pip install 'ray[serve]'")


def _base() -> Any:
    try:
        return import_module("ray.serve.request_router").RequestRouter
    except ImportError:
        return _NoRay


class SbsRequestRouter(_base()):  # type: ignore[misc]
    """Sends each request to the replica that the scheduler chooses, when it says so.

    Ray Serve builds it and hands `request_router_kwargs` to `initialize_state`. Of a request Ray tells when it was
    answered whole; its load is booked until then.

    Notes
    -----
    Every proxy, and every deployment that holds a handle, has a router of its own that knows of its own requests only.
    """

    most_held: ClassVar[int] = 512
    """Requests held for a placement at once; Ray would stop at two for each replica."""

    def initialize_state(
        self,
        *,
        instances: int,
        engines: Mapping[str, Any],
        scheduler: Mapping[str, Any] | None = None,
        rank_stat: str | None = None,
        prefill_only: bool = False,
        unread_tokens: int = 1024,
        hold_s: float = 30.0,
    ) -> None:
        """Take in the deployment's numbers.

        Parameters
        ----------
        instances
            Prefill instances: the deployment has `instances` × `engines.ranks` replicas.
        engines, scheduler
            Fields of `Engines` and `SchedulerConfig`.
        rank_stat
            Key in what `record_routing_stats` of a replica returns: instance × ranks + rank. Without it replicas take
            free ranks in the order of their ids, which is right only where ranks do not run passes together.
        prefill_only
            Answers end with their first token, so that their ends tell of passes.
        unread_tokens
            Prompt tokens of a request whose arguments hold neither a length (`prompt_tokens`) nor an OpenAI body.
        hold_s
            A request that is still held after this is asked for again, behind the others.

        Raises
        ------
        InputError
            An unknown field or a value out of range.
        """
        try:
            alike = Engines(**engines)
        except TypeError as error:
            raise InputError(f"engines = {dict(engines)!r}: {error}; give fields of Engines") from error
        names = [f"instance-{k}" for k in range(instances)]
        upstreams = tuple(Upstream(name, f"http://{name}", "openai") for name in names)
        config = ServeConfig(upstreams, alike, scheduler=config_from_dict(dict(scheduler or {})))
        self.sbs_router = Router(config.deployment, config.cost_model(), config.scheduler)
        self._lengths = ByRatio()
        self._rank_stat, self._prefill_only = rank_stat, prefill_only
        self._unread_tokens, self._hold_s = unread_tokens, hold_s
        self._seats: list[Any] = [None] * (instances * alike.ranks)
        self._whole = [True] * instances  # the scheduler begins with all of them
        self._requests: dict[str, tuple[Placed, Any]] = {}
        self._running: asyncio.Task[None] | None = None

    @property
    def max_num_routing_tasks(self) -> int:
        """Requests that are held at once."""
        return self.most_held

    # -- requests -----------------------------------------------------------------------------------------------

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any | None = None
    ) -> list[list[Any]]:
        """Return the one replica that a request goes to, once its turn has come.

        A request that no scheduler can place, for its size, goes to any replica: the engine says what is wrong with it.
        """
        if pending_request is None:
            return [candidate_replicas]
        self._run_router()
        pending_request.routing_context.should_backoff = True  # else Ray asks again without a pause
        name = pending_request.metadata.internal_request_id
        self._release(name)  # asked again: its replica was full or gone
        try:
            placed = await self.sbs_router.place(self._tokens(pending_request), deadline_s=self._hold_s)
        except RejectedError as error:
            return [candidate_replicas] if error.reason == "too_large" else []
        seat = placed.instance * self.sbs_router.num_units + placed.unit
        replica = next((one for one in candidate_replicas if one.replica_id == self._seats[seat]), None)
        if replica is None:  # it went meanwhile
            self.sbs_router.cancelled(placed.id)
            return []
        self._requests[name] = placed, replica.replica_id
        return [[replica]]

    async def _choose_replica_for_request(self, pending_request: Any, **options: Any) -> Any:
        """Release what was placed for a request that its caller gives up before it is sent; Ray tells nobody."""
        try:
            return await super()._choose_replica_for_request(pending_request, **options)
        except BaseException:
            self._release(pending_request.metadata.internal_request_id)
            raise

    def on_request_completed(self, replica_id: Any, internal_request_id: str) -> None:
        """Release a request's load."""
        placed, at = self._requests.get(internal_request_id, (None, None))
        if placed is None or at != replica_id:  # an earlier attempt, told late
            return
        if self._prefill_only:
            del self._requests[internal_request_id]
            self.sbs_router.first_token(placed.id)
        else:
            self._release(internal_request_id)

    def _release(self, name: str) -> None:
        placed, _ = self._requests.pop(name, (None, None))
        if placed is not None:
            self.sbs_router.cancelled(placed.id)

    def _run_router(self) -> None:
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self.sbs_router.run())

    def _tokens(self, pending_request: Any) -> int:
        """Return the length of a prompt; it must not raise, or Ray would never answer the request."""
        given = pending_request.kwargs.get("prompt_tokens")
        if isinstance(given, int) and 0 < given <= _MOST_TOKENS:
            return given
        for value in (*pending_request.args, *pending_request.kwargs.values()):
            body = value.model_dump() if hasattr(value, "model_dump") else value
            if isinstance(body, Mapping) and ("messages" in body or "prompt" in body):
                try:
                    return max(1, self._lengths.tokens(read_prompt(body)))
                except InputError:
                    break
        return self._unread_tokens

    # -- replicas -----------------------------------------------------------------------------------------------

    def update_replicas(self, replicas: list[Any]) -> None:
        """Give replicas their ranks; an instance that lacks one takes no requests."""
        self._seat(replicas)
        super().update_replicas(replicas)

    def on_replica_actor_died(self, replica_id: Any) -> None:
        """Free the rank of a replica that is gone."""
        super().on_replica_actor_died(replica_id)
        self._seats = [None if one == replica_id else one for one in self._seats]
        self._tell_instances()

    def _seat(self, replicas: Sequence[Any]) -> None:
        if self._rank_stat is None:
            here = {one.replica_id for one in replicas}
            seats = [one if one in here else None for one in self._seats]
            new = sorted(here - set(seats), key=lambda one: str(one.unique_id))
            free = [k for k, one in enumerate(seats) if one is None]
            for seat, replica_id in zip(free, new, strict=False):  # replicas beyond the ranks are left out
                seats[seat] = replica_id
        else:
            seats = [None] * len(self._seats)
            for one in replicas:
                told = (one.routing_stats or {}).get(self._rank_stat)
                if isinstance(told, int) and 0 <= told < len(seats):
                    seats[told] = one.replica_id
        self._seats = seats
        self._tell_instances()

    def _tell_instances(self) -> None:
        ranks = self.sbs_router.num_units
        for instance, was_whole in enumerate(self._whole):
            whole = None not in self._seats[instance * ranks : (instance + 1) * ranks]
            if whole and not was_whole:
                self.sbs_router.instance_returned(instance)
            elif was_whole and not whole:
                _log.info("instance %d lacks a rank and takes no requests", instance)
                self.sbs_router.instance_lost(instance)
            self._whole[instance] = whole
