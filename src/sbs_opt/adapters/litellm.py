"""The scheduler as the routing strategy of a LiteLLM router: one LiteLLM deployment per data-parallel rank.

LiteLLM asks the strategy for a deployment, and asks again when an attempt fails; it tells nobody when a call is
cancelled, and its logging callbacks come late and not for every attempt. So `install` also stands around the router's
completions: a call begins and ends there, whatever becomes of it, and its load is released exactly once.
"""

from __future__ import annotations

import asyncio
import warnings
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import wraps
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from sbs_opt.adapters.prompt import ByRatio, Prompt, PromptLength, read_prompt
from sbs_opt.adapters.router import Placed, RejectedError, Router
from sbs_opt.adapters.serve_config import Engines, ServeConfig, Upstream
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.config import SchedulerConfig

RANK_HEADER = "X-Data-Parallel-Rank"
"""Names the rank of a deployment in its `extra_headers`, and to vLLM in each request."""

ENDPOINTS = ("acompletion", "atext_completion")
"""What is placed; calls of other kinds are left to LiteLLM's own strategy."""

Deployment = Mapping[str, Any]
"""An element of LiteLLM's `model_list`."""

_STREAM_CALL = "_sbs_opt_call"


class SbsRoutingStrategy:
    """Answers LiteLLM's question for a deployment with the scheduler's placement.

    It has the methods of LiteLLM's `CustomRoutingStrategyBase`; use `install` to put it in place.

    Parameters
    ----------
    deployments
        LiteLLM's `model_list`. Those whose `litellm_params.extra_headers` name a rank are units: the prefill instances
        are their engines in the order of `engine_urls`. Every model group with units has all of them.
    router
        Places requests; it is run from the first call on, in the event loop of that call.
    lengths
        How long prompts are; characters over a learned ratio unless given.
    hold_s
        A request that is still held after so many seconds is answered with `litellm.ServiceUnavailableError`.
    failures
        So many failed attempts in a row take an engine out for `rest_s`, unless it is the last.
    rest_s
        Seconds that it stays out.

    Raises
    ------
    InputError
        No deployment has a rank, or a model group lacks some units or has one twice.

    Notes
    -----
    A first token ends the load of a streamed call; of a call that is not streamed only the end of the whole answer is
    heard, so that it stays booked until then and tells nothing of passes. LiteLLM's cooldowns are not looked at.
    """

    def __init__(
        self,
        deployments: Sequence[Deployment],
        router: Router,
        *,
        lengths: PromptLength | None = None,
        hold_s: float = 30.0,
        failures: int = 3,
        rest_s: float = 5.0,
    ) -> None:
        self.router = router
        self.lengths = lengths or ByRatio()
        self.hold_s = hold_s
        self._groups = _units(deployments, router.num_instances, router.num_units)
        self._most_failures, self._rest_s = failures, rest_s
        self._failures = [0] * router.num_instances
        self._out: set[int] = set()
        self._running: asyncio.Task[None] | None = None
        self._closed = False
        self._otherwise: tuple[Callable[..., Awaitable[Any]], Callable[..., Any]] | None = None

    # -- what LiteLLM asks ----------------------------------------------------------------------------------------

    async def async_get_available_deployment(
        self,
        model: str,
        messages: list[Any] | None = None,
        request_kwargs: dict[str, Any] | None = None,
        **rest: Any,
    ) -> Deployment:
        """Return the deployment that a request goes to, once its turn has come.

        Raises
        ------
        litellm.ContextWindowExceededError, litellm.ServiceUnavailableError, litellm.BadRequestError
            The scheduler rejects it: too large, held too long; its prompt cannot be read.
        """
        call, units = _CALL.get(), self._groups.get(model)
        kwargs = {} if request_kwargs is None else request_kwargs
        if units is None or call is None or not messages or rest.get("specific_deployment"):
            if self._otherwise is None:
                raise InputError(f"model = {model!r}: is not placed here; known: {', '.join(self._groups)}")
            found: Deployment = await self._otherwise[0](model=model, messages=messages, request_kwargs=kwargs, **rest)
            return found
        try:
            placed = await call.place(read_prompt(_body(messages, kwargs)))
        except (InputError, RejectedError) as error:
            raise _litellm_error(error, model) from error
        if kwargs.get("extra_headers"):  # they take the place of the deployment's own, the rank among them
            kwargs["extra_headers"] = {**kwargs["extra_headers"], RANK_HEADER: str(placed.unit)}
        return units[placed.instance, placed.unit]

    def get_available_deployment(
        self,
        model: str,
        messages: list[Any] | None = None,
        request_kwargs: dict[str, Any] | None = None,
        **rest: Any,
    ) -> Deployment:
        """Refuse: a call that blocks its thread cannot wait for its turn. Other models go LiteLLM's own way.

        Raises
        ------
        InputError
            The model is placed here.
        """
        if model in self._groups or self._otherwise is None:
            raise InputError(f"model = {model!r}: only asynchronous calls are placed; use acompletion")
        found: Deployment = self._otherwise[1](model=model, messages=messages, request_kwargs=request_kwargs, **rest)
        return found

    # -- running --------------------------------------------------------------------------------------------------

    def watched(self, endpoint: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return an endpoint of LiteLLM's router whose calls are placed and release their load."""

        @wraps(endpoint)
        async def call_endpoint(*args: Any, **kwargs: Any) -> Any:
            call = _Call(self)
            token = _CALL.set(call)
            try:
                answer = await endpoint(*args, **kwargs)
            except BaseException as error:
                call.over(failed=_blames_engine(error))
                raise
            finally:
                _CALL.reset(token)
            if hasattr(type(answer), "__anext__"):
                return _watch(answer, call)
            call.answered(getattr(getattr(answer, "usage", None), "prompt_tokens", None))
            return answer

        return call_endpoint

    async def aclose(self) -> None:
        """Stop the scheduler, once everything told so far is handled; later calls are unavailable."""
        self._closed = True
        running, self._running = self._running, None
        if running is not None:
            self.router.stop()
            await running

    def run_router(self) -> None:
        """Run the router in this event loop, unless it runs; `RejectedError` after `aclose`."""
        if self._closed:
            raise RejectedError("shutdown", None)
        if self._running is None:
            self._running = asyncio.create_task(self.router.run())

    def leave_rest_to(self, ask: Callable[..., Awaitable[Any]], ask_sync: Callable[..., Any]) -> None:
        """Let other strategies, asynchronous and not, answer for what is not placed here."""
        self._otherwise = ask, ask_sync

    # -- engines --------------------------------------------------------------------------------------------------

    def succeeded(self, instance: int) -> None:
        """Note that an engine answered."""
        self._failures[instance] = 0

    def failed(self, instance: int) -> None:
        """Note that an attempt failed. A dead engine has no load: it would draw all requests if it stayed."""
        self._failures[instance] += 1
        last = len(self._out) == self.router.num_instances - 1
        if self._failures[instance] >= self._most_failures and instance not in self._out and not last:
            self._out.add(instance)
            self.router.instance_lost(instance)
            asyncio.get_running_loop().call_later(self._rest_s, self._return, instance)

    def _return(self, instance: int) -> None:
        self._out.discard(instance)
        self._failures[instance] = self._most_failures - 1  # on trial: the next failure takes it out again
        self.router.instance_returned(instance)


def install(
    litellm_router: Any, engines: Engines, scheduler: SchedulerConfig | None = None, **options: Any
) -> SbsRoutingStrategy:
    """Place the completions of a `litellm.Router` with the scheduler.

    Parameters
    ----------
    litellm_router
        A `litellm.Router`, with one deployment per (engine, rank): the engine in `api_base`, the rank in
        `extra_headers`. Its deployments must not change afterwards.
    engines
        What the engines are alike in.
    scheduler
        The policy and its settings.
    options
        Of `SbsRoutingStrategy`.

    Returns
    -------
    SbsRoutingStrategy
        In place; `await` its `aclose` at the end.

    Raises
    ------
    InputError
        As `SbsRoutingStrategy`; the number of ranks is not that of `engines`.

    Notes
    -----
    All calls must come from one event loop.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer routers have other names, and keep these
        deployments = litellm_router.model_list
        otherwise = litellm_router.async_get_available_deployment, litellm_router.get_available_deployment
    router = _router(deployments, engines, scheduler or SchedulerConfig())
    strategy = SbsRoutingStrategy(deployments, router, **options)
    strategy.leave_rest_to(*otherwise)
    register = getattr(litellm_router, "register_plugin", None) or litellm_router.set_custom_routing_strategy
    register(strategy)
    for name in ENDPOINTS:
        setattr(litellm_router, name, strategy.watched(getattr(litellm_router, name)))
    return strategy


def engine_urls(deployments: Sequence[Deployment]) -> list[str]:
    """Return the engines of the deployments that name a rank, in the order of their first one."""
    return list(dict.fromkeys(_url(one) for one in deployments if _rank(one) is not None))


# -- calls -------------------------------------------------------------------------------------------------------


class _Call:
    """A call of LiteLLM's router: placed once per attempt, at most one placement at a time."""

    def __init__(self, strategy: SbsRoutingStrategy) -> None:
        self._strategy = strategy
        self._loop = asyncio.get_running_loop()
        self._placed: Placed | None = None
        self._prompt: Prompt | None = None

    async def place(self, prompt: Prompt) -> Placed:
        self.over(failed=True)  # asked again: the attempt before failed
        strategy = self._strategy
        strategy.run_router()
        self._prompt = prompt
        tokens = max(1, strategy.lengths.tokens(prompt))
        self._placed = await strategy.router.place(tokens, deadline_s=strategy.hold_s)
        return self._placed

    def first_token(self) -> None:
        placed, self._placed = self._placed, None
        if placed is not None:
            self._strategy.router.first_token(placed.id)
            self._strategy.succeeded(placed.instance)

    def answered(self, prompt_tokens: object) -> None:
        """The whole answer is there: when its first token was out is not known."""
        placed, self._placed = self._placed, None
        if placed is not None:
            self._strategy.router.cancelled(placed.id)
            self._strategy.succeeded(placed.instance)
        if self._prompt is not None and isinstance(self._strategy.lengths, ByRatio):
            self._strategy.lengths.learn(self._prompt, prompt_tokens)

    def over(self, failed: bool) -> None:
        placed, self._placed = self._placed, None
        if placed is not None:
            self._strategy.router.cancelled(placed.id)
            if failed:
                self._strategy.failed(placed.instance)

    def abandoned(self) -> None:
        """Its stream was dropped unread; the collector may say so in any thread."""
        if self._placed is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.over, False)


_CALL: ContextVar[_Call | None] = ContextVar("sbs_opt_litellm_call", default=None)


def _watch(stream: Any, call: _Call) -> Any:
    """Let a stream tell its call of its first chunk and its end; it remains an instance of its class."""
    stream.__class__ = _watched_kind(stream.__class__)
    setattr(stream, _STREAM_CALL, call)
    weakref.finalize(stream, call.abandoned).atexit = False
    return stream


def _watched_kind(kind: type[Any]) -> type[Any]:
    """Return a subclass of a stream's class; never kept, since LiteLLM makes a class for each stream."""

    async def anext_(self: Any) -> Any:
        call: _Call = getattr(self, _STREAM_CALL)
        token = _CALL.set(call)  # a stream that breaks asks for another deployment from here
        try:
            chunk = await kind.__anext__(self)
        except BaseException as error:
            call.over(failed=_blames_engine(error))
            raise
        finally:
            _CALL.reset(token)
        call.first_token()
        return chunk

    async def aclose(self: Any) -> None:
        getattr(self, _STREAM_CALL).over(failed=False)
        await kind.aclose(self)

    closing = {"aclose": aclose} if hasattr(kind, "aclose") else {}
    return type(kind.__name__, (kind,), {"__anext__": anext_, **closing})


def _blames_engine(error: BaseException) -> bool:
    """Tell a failure of the engine from one of the client, who cancels or sends what no engine takes."""
    if not isinstance(error, Exception) or isinstance(error, StopAsyncIteration):
        return False
    status = getattr(error, "status_code", None)
    return not isinstance(status, int) or status >= 500 or status == 408


def _litellm_error(error: InputError | RejectedError, model: str) -> Exception:
    """Return what LiteLLM's fallbacks and clients understand."""
    litellm: Any = import_module("litellm")
    if isinstance(error, InputError):
        kind = litellm.BadRequestError
    elif error.reason == "too_large":
        kind = litellm.ContextWindowExceededError
    else:
        kind = litellm.ServiceUnavailableError
    made: Exception = kind(message=f"sbs-opt: {error}", model=model, llm_provider="openai")
    return made


def _body(messages: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request as `read_prompt` takes it; LiteLLM shows a completion's prompt as the content of a message."""
    plain = [one.model_dump() if hasattr(one, "model_dump") else one for one in messages]
    content = plain[0].get("content") if len(plain) == 1 and isinstance(plain[0], Mapping) else None
    if isinstance(content, list) and content and not isinstance(content[0], Mapping):
        return {"prompt": content}
    return {"messages": plain, "tools": kwargs.get("tools")}


# -- deployments -------------------------------------------------------------------------------------------------


def _router(deployments: Sequence[Deployment], engines: Engines, scheduler: SchedulerConfig) -> Router:
    urls = engine_urls(deployments)
    config = ServeConfig(tuple(Upstream(url, url, "vllm") for url in urls), engines, scheduler=scheduler)
    return Router(config.deployment, config.cost_model(), config.scheduler)


def _units(
    deployments: Sequence[Deployment], num_instances: int, num_units: int
) -> dict[str, dict[tuple[int, int], Deployment]]:
    """Return the deployment of every (instance, unit), by model group."""
    instances = {url: k for k, url in enumerate(engine_urls(deployments))}
    if len(instances) != num_instances:
        raise InputError(f"model_list: names ranks of {len(instances)} engines; the router has {num_instances}")
    groups: dict[str, dict[tuple[int, int], Deployment]] = {}
    for one in deployments:
        rank = _rank(one)
        if rank is None:
            continue
        units, unit = groups.setdefault(one["model_name"], {}), (instances[_url(one)], rank)
        if unit in units:
            raise InputError(f"model_list: {one['model_name']} has rank {rank} of {_url(one)} twice; give it once")
        units[unit] = one
    for name, units in groups.items():
        for url, instance in instances.items():
            found = sorted(unit for k, unit in units if k == instance)
            if found != list(range(num_units)):
                raise InputError(f"model_list: {name} has ranks {found} of {url}; give 0 to {num_units - 1}")
    return groups


def _url(deployment: Deployment) -> str:
    base = deployment["litellm_params"].get("api_base")
    parts = urlsplit(base or "")
    if not parts.scheme or not parts.netloc:
        raise InputError(f"model_list: api_base = {base!r}: a deployment with a rank needs http://host:port/v1")
    return f"{parts.scheme}://{parts.netloc}"


def _rank(deployment: Deployment) -> int | None:
    headers = deployment["litellm_params"].get("extra_headers") or {}
    for name, value in headers.items():
        if name.lower() == RANK_HEADER.lower():
            if not str(value).isdecimal():
                raise InputError(f"model_list: {RANK_HEADER} = {value!r}: must be a whole number as text")
            return int(value)
    return None
