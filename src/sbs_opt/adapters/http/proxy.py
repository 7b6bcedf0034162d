"""A streaming reverse proxy whose every request goes where the scheduler says."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Protocol

from aiohttp import web

from sbs_opt.adapters.capture import FinishedRequest
from sbs_opt.adapters.http.ask import RETRY_S, UNREADABLE, Ask, refusal, unread
from sbs_opt.adapters.http.core import Core
from sbs_opt.adapters.http.metrics import Metrics
from sbs_opt.adapters.http.placements import PlacementService
from sbs_opt.adapters.pass_feed_listener import PassListener
from sbs_opt.adapters.prefix import PrefixHasher
from sbs_opt.adapters.prompt import ByRatio, ByTokenizer, PromptLength, read_prompt
from sbs_opt.adapters.router import Router
from sbs_opt.adapters.serve_config import ServeConfig
from sbs_opt.adapters.telemetry_passes import ForwardPass
from sbs_opt.models.cost import CostModel
from sbs_opt.models.errors import InputError


class Recorder(Protocol):
    """Takes requests that are over."""

    def arrived(self, arrival_ns: int) -> None:
        """Hear of a request that `write` will be called for."""
        ...

    def write(self, request: FinishedRequest) -> None:
        """Take one; an `OSError` is counted and hurts no client."""
        ...


class Proxy:
    """OpenAI's completions in front of data-parallel engines.

    Parameters
    ----------
    config
        See `ServeConfig`.
    recorders
        Take every request that is over: a capture, a shadow's log.
    cost_model
        What passes of the engines take; default: that of the profiles in `config`.

    Notes
    -----
    A body is read whole, since its prompt decides where it goes; the answer is passed on byte for byte as it comes,
    no faster than the client takes it. An upstream that fails before the first byte is tried no further and the
    request is placed anew; after it the stream ends with an error event. No text is logged or kept.
    """

    def __init__(self, config: ServeConfig, *recorders: Recorder, cost_model: CostModel | None = None) -> None:
        self._config = config
        self._recorders = recorders
        self._given_cost_model = cost_model
        self._ratio = ByRatio(config.characters_per_token)
        self._lengths = self._lengths_of(config)
        # One key for the life of the process: a capture's prefixes match across reloads.
        self._key = os.urandom(32)
        self._hasher = self._hasher_of(config)
        self.metrics = Metrics(
            {
                "sbs_waiting": ("Requests without a placement", lambda: self._sum_of("waiting")),
                "sbs_in_flight": ("Requests without a first token", lambda: self._sum_of("in_flight")),
                "sbs_booked": ("Booked tokens and requests", lambda: self._sum_of("booked")),
                "sbs_open_answers": ("Answers under way", lambda: self.open_answers),
                "sbs_open_placements": ("Placements told and not over", lambda: self._placements.book.open),
                "sbs_expired_placements": (
                    "Such of which nothing was told for too long",
                    lambda: self._placements.book.counts.expired,
                ),
                "sbs_pass_reports": ("Messages of engines on their passes", lambda: self._heard("passes")),
                "sbs_malformed_pass_reports": ("Such that cannot be read", lambda: self._heard("malformed")),
            }
        )
        self._core = self._core_of(config)
        self._placements = PlacementService(
            self._core.router,
            config.prefill_upstreams,
            admitted=self._admitted,
            draining=lambda: self._draining,
            waiting=config.limits.waiting,
            hold_s=config.limits.hold_s,
        )
        self._former: dict[asyncio.Task[None], Core] = {}
        self._listener: PassListener | None = None
        self._draining = False

    @property
    def router(self) -> Router:
        """What places requests under the present configuration."""
        return self._core.router

    @property
    def open_answers(self) -> int:
        """Answers under way, those under former configurations included."""
        return sum(core.open_answers for core in self._cores)

    @property
    def _cores(self) -> tuple[Core, ...]:
        """The present configuration at work, and former ones whose answers are under way."""
        return self._core, *self._former.values()

    def _sum_of(self, figure: str) -> int:
        return sum(int(getattr(core.router, figure)) for core in self._cores)

    @property
    def characters_per_token(self) -> float:
        """The ratio of characters to tokens as learned so far."""
        return self._ratio.characters_per_token

    def app(self) -> web.Application:
        """Return the application; it starts and stops the scheduler with itself."""
        shadows = self._config.shadow is not None
        app = web.Application(client_max_size=0 if shadows else self._config.limits.body_bytes)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        if shadows:
            app.router.add_route("*", "/{path:.*}", self._pass_unread)
        else:
            app.router.add_get("/v1/models", self._models)
            self._placements.add_to(app)
        app.cleanup_ctx.append(self._running)
        return app

    async def drain(self) -> None:
        """Take nothing new, and wait for the answers that are under way, for a limited time; end what is left."""
        self._draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.limits.drain_s):
                await asyncio.gather(*(core.drained() for core in self._cores))
        await asyncio.gather(*(core.stop() for core in self._cores))

    async def reload(self, config: ServeConfig) -> None:
        """Serve new requests under another configuration; those under way end under the one that they began with.

        Raises
        ------
        InputError
            It changes what needs a restart: where this listens, the limit of bodies, a shadow, prefix blocks that are
            being recorded. The present configuration stays.
        """
        if self._config.shadow is not None or config.shadow is not None:
            raise InputError("shadow: needs a restart: what is recorded is of one configuration")
        if self._recorders:
            if (blocks := config.scheduler.block_tokens) != self._config.scheduler.block_tokens:
                raise InputError(f"scheduler: block_tokens = {blocks}: needs a restart: a capture runs")
            if (ratio := config.characters_per_token) != self._config.characters_per_token:
                raise InputError(f"characters_per_token = {ratio}: needs a restart: a capture runs")
        for name in ("host", "port", "passes"):
            old, new = getattr(self._config, name), getattr(config, name)
            if old != new:
                raise InputError(f"{name} = {new!r}: needs a restart; this process listens at {old!r}")
        if config.limits.body_bytes != self._config.limits.body_bytes:
            raise InputError(f"limits: body_bytes = {config.limits.body_bytes!r}: needs a restart")
        lengths, hasher, core = self._lengths_of(config), self._hasher_of(config), self._core_of(config, self._core)
        await core.start()
        former, self._core = self._core, core
        limits = config.limits
        self._placements.use(core.router, config.prefill_upstreams, waiting=limits.waiting, hold_s=limits.hold_s)
        self._config, self._lengths, self._hasher = config, lengths, hasher
        await self._listen()
        task = asyncio.create_task(self._retire(former))
        self._former[task] = former
        task.add_done_callback(self._former.pop)

    async def _retire(self, core: Core) -> None:
        await core.drained()
        await core.stop()

    async def _running(self, app: web.Application) -> AsyncIterator[None]:
        del app
        await self._core.start()
        try:
            await self._listen()
        except InputError:
            await self._core.stop()
            raise
        yield
        if self._listener is not None:
            self._listener.close()
        for task in tuple(self._former):
            task.cancel()
        await asyncio.gather(*(core.stop() for core in self._cores))

    async def _listen(self) -> None:
        """Hear what engines tell of their passes, where that is configured."""
        address = self._config.passes_address()
        if address is None:
            return
        names = {upstream.name: k for k, upstream in enumerate(self._config.prefill_upstreams)}
        if self._listener is not None:
            self._listener.attend(names)
            return
        host, port = address
        self._listener = PassListener(self._pass_told, workers=names, host=host, port=port)
        try:
            await self._listener.start()
        except OSError as error:
            raise InputError(f"passes = {self._config.passes!r}: cannot listen: {error.strerror}") from error

    def _heard(self, count: str) -> int:
        return 0 if self._listener is None else int(getattr(self._listener.counts, count))

    def _pass_told(self, instance: int, message: ForwardPass) -> None:
        self._core.passes.told(instance, message)

    def _core_of(self, config: ServeConfig, former: Core | None = None) -> Core:
        return Core(config, self._given_cost_model or config.cost_model(), self.metrics, self._ratio, former)

    def _lengths_of(self, config: ServeConfig) -> PromptLength:
        return ByTokenizer(config.tokenizer) if config.tokenizer else self._ratio

    def _hasher_of(self, config: ServeConfig) -> PrefixHasher | None:
        blocks = config.scheduler.block_tokens
        return PrefixHasher(self._key, blocks, config.characters_per_token) if blocks else None

    # -- answers ------------------------------------------------------------------------------------------------

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        """Answer one request; an error of ours has OpenAI's form."""
        if not self._admitted(http):
            return refusal(401, "unauthorized", "show the bearer token of this server")
        if self._draining:
            return refusal(503, "shutdown", "the server is stopping", RETRY_S)
        try:
            raw = await http.read()
        except web.HTTPRequestEntityTooLarge:
            limit = self._config.limits.body_bytes
            return refusal(413, "invalid_request_error", f"the body is larger than {limit:,} bytes")
        except web.RequestPayloadError:
            return refusal(400, "invalid_request_error", UNREADABLE)
        core = self._core
        if core.router.waiting >= core.config.limits.waiting:
            return refusal(429, "overload", "too many requests are waiting", RETRY_S)
        try:
            ask = self._ask(raw)
        except InputError as error:
            if core.shadows:  # what cannot be read here may be read there
                return await self._answer(core, http, unread(raw))
            return refusal(400, "invalid_request_error", str(error))
        for recorder in self._recorders:
            recorder.arrived(ask.arrival_ns)
        try:
            return await self._answer(core, http, ask)
        finally:
            self._note(ask)

    async def _answer(self, core: Core, http: web.Request, ask: Ask) -> web.StreamResponse:
        if self._draining:  # while its body was read
            return refusal(503, "shutdown", "the server is stopping", RETRY_S)
        try:
            return await core.answer(http, ask)
        except InputError as error:
            return refusal(400, "invalid_request_error", str(error))
        except asyncio.CancelledError:
            ask.outcome = "cancelled"
            raise
        except ConnectionError as error:  # it left between two pieces of its answer
            ask.outcome = "cancelled"
            raise asyncio.CancelledError from error

    async def _pass_unread(self, http: web.Request) -> web.StreamResponse:
        """Pass on what is none of this server's: in a shadow clients find what they are used to."""
        if not self._admitted(http):
            return refusal(401, "unauthorized", "show the bearer token of this server")
        try:
            raw = await http.read()
        except web.RequestPayloadError:
            return refusal(400, "invalid_request_error", UNREADABLE)
        return await self._answer(self._core, http, unread(raw))

    def _ask(self, raw: bytes) -> Ask:
        try:
            body: Any = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InputError("the body is no JSON") from error
        if not isinstance(body, dict) or not body:
            raise InputError("the body is no JSON object, or an empty one")
        prompt = read_prompt(body)
        blocks = None if self._hasher is None else self._hasher.block_ids(prompt)
        tokens = max(1, self._lengths.tokens(prompt))
        if prompt.token_ids is None and (self._config.tokenizer is None or prompt.has_other_parts):
            # An estimate refuses nobody: the engine knows whether the prompt is too long.
            engines = self._config.engines
            # The first token comes along on a decode leg.
            tokens = min(tokens, engines.context_tokens, engines.kv_tokens - self._config.disaggregated)
        return Ask(raw, body, prompt, tokens, blocks)

    def _note(self, ask: Ask) -> None:
        """Tell the recorders of a request that is over; what cannot be written is counted, and no error of a client."""
        if not self._recorders:
            return
        finished = ask.finished()
        for recorder in self._recorders:
            try:
                recorder.write(finished)
            except OSError:
                self.metrics.uncaptured()

    def _admitted(self, http: web.Request) -> bool:
        if self._config.token is None:
            return True
        shown = http.headers.get("Authorization", "").removeprefix("Bearer ")
        # What a client shows may be no UTF-8.
        return hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), self._config.token.encode())

    # -- the rest -----------------------------------------------------------------------------------------------

    async def _models(self, http: web.Request) -> web.StreamResponse:
        if not self._admitted(http):
            return refusal(401, "unauthorized", "show the bearer token of this server")
        return await self._core.models()

    async def _health(self, http: web.Request) -> web.Response:
        del http
        if self._draining or not self._core.serves:
            return web.json_response({"status": "draining" if self._draining else "no upstream"}, status=503)
        return web.json_response({"status": "ok"})

    async def _metrics(self, http: web.Request) -> web.Response:
        del http
        return web.Response(body=self.metrics.text(), headers={"Content-Type": self.metrics.content_type})
