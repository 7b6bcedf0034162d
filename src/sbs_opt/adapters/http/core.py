"""One configuration at work: its routers, its upstreams, and the answers that go through them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Coroutine, Mapping, Set
from contextlib import ExitStack, suppress
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from sbs_opt.adapters.batch_placement import warm_up
from sbs_opt.adapters.decode_router import DecodeRouter
from sbs_opt.adapters.http.ask import RETRY_S, Ask, refusal, rejection
from sbs_opt.adapters.http.errors import UPSTREAM_ERRORS
from sbs_opt.adapters.http.health import Health
from sbs_opt.adapters.http.metrics import Metrics
from sbs_opt.adapters.http.pins import RANK_HEADERS, pin, pin_legs, with_fields
from sbs_opt.adapters.http.roster import Roster
from sbs_opt.adapters.http.streaming import Opened, UpstreamError, open_answer, pass_on, passed_on, usage_in
from sbs_opt.adapters.http.telemetry import Telemetry
from sbs_opt.adapters.pass_feed import PassCollator, PassOver
from sbs_opt.adapters.pass_feed_asyncio import PassFeed
from sbs_opt.adapters.prompt import ByRatio
from sbs_opt.adapters.router import Placed, RejectedError, Router
from sbs_opt.adapters.serve_config import ServeConfig, Upstream
from sbs_opt.models.cost import CostModel

_LAST_WORDS_S = 1.0
"""For answers that are broken off to be told so."""

_LOGGER = logging.getLogger(__name__)


class StoppedError(aiohttp.ClientError):
    """This server stops before an answer is over."""


class Core:
    """Places requests and answers them, under one configuration.

    Parameters
    ----------
    config
        See `ServeConfig`.
    cost_model
        What passes of the engines take.
    metrics
        Counts what happens.
    ratio
        Learns from what engines count.
    former
        What served before, under another configuration.
    """

    def __init__(
        self, config: ServeConfig, cost_model: CostModel, metrics: Metrics, ratio: ByRatio, former: Core | None = None
    ) -> None:
        self.config = config
        self._metrics = metrics
        self._ratio = ratio
        self._cost_model = cost_model
        deployment = config.deployment
        self.router = Router(deployment, cost_model, config.scheduler)
        self.decode = DecodeRouter(deployment, cost_model, config.scheduler) if config.disaggregated else None
        self._prefill, self._decoding = config.prefill_upstreams, config.decode_upstreams
        self._shadowed = Upstream("shadowed", config.shadow.url, "openai") if config.shadow else None
        # There is one decision point; in a shadow it is not this one.
        ranks = frozenset() if config.shadow else RANK_HEADERS
        self._dropped = ranks | {"authorization"} if config.token else ranks
        # Rooms of two runs of this process must not meet in an engine that outlives them.
        self._rounds = itertools.count(secrets.randbits(32) << 16)
        self.passes = PassFeed([PassCollator(self.router.num_units) for _ in self._prefill], self._pass_over)
        limits = config.limits
        self._silence_streamed, self._silence_whole = (
            aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s, sock_read=silence_s)
            for silence_s in (limits.silence_s, limits.whole_s)
        )
        self.open_answers = 0
        self.roster: Roster = Roster(
            config, self.router, self.decode, metrics, None if former is None else former.roster
        )
        self._settles = former is None  # else what the engines run are our own requests
        self._begun: set[aiohttp.ClientResponse] = set()
        self._broken = self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to place; engines that are busy with the work of others are given time to settle."""
        warm_up(self.config.deployment, self._cost_model, self.config.scheduler)
        # What a shadow stands before may close a kept connection as a request comes, and is not asked twice.
        connector = (
            aiohttp.TCPConnector(limit=0, force_close=True)
            if self.shadows
            else aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        )
        # No cookie of one client may reach an upstream with the request of another, nor a packed answer a client that
        # did not ask for one: what is named here stands in for headers that the client has not sent.
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=self._silence_streamed, auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(), headers={"Accept-Encoding": "identity"},
        )  # fmt: skip
        self.health = Health(self.config, self._session, self.roster)
        telemetry = Telemetry(self.config, self._session, self.router, self.roster, self._metrics)
        self._begin(self.router.run())
        if self.shadows:
            return
        try:
            await asyncio.gather(*(self.health.first_look(upstream) for upstream in self.config.upstreams))
            if self._settles:
                await asyncio.gather(*(telemetry.settle(upstream) for upstream in self.config.upstreams))
        except BaseException:
            await self.stop()
            raise
        for upstream in self.config.upstreams:
            self._begin(self.health.watch(upstream))
            self._begin(telemetry.watch(upstream))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something for as long as this runs; an error in it is a mistake of ours, and told as such."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = True
            _LOGGER.critical("the router is no longer healthy: an error of its own", exc_info=error)

    async def stop(self) -> None:
        """Let go of the upstreams; answers that are under way end visibly."""
        self.passes.close()
        for task in self._tasks[1:]:
            task.cancel()
        self.break_off()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self.drained()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    def break_off(self) -> None:
        """Place nothing more; end what is under way with an error."""
        self._stopped = True
        self.router.stop()
        for answer in tuple(self._begun):
            answer.content.set_exception(StoppedError())
        for name in tuple(self.roster.unanswered):
            self.roster.give_up(name)

    async def drained(self) -> None:
        """Return when no answer is under way and no request waits."""
        while self.open_answers or self.router.waiting:
            await asyncio.sleep(0.02)

    def _pass_over(self, instance: int, over: PassOver) -> None:
        # No engine counts the rest of a prompt that has begun as queued: the router's own figure does.
        self.router.pass_ended(instance, over.duration_ns, over.tokens_run)

    @property
    def shadows(self) -> bool:
        """Whether an existing router decides."""
        return self._shadowed is not None

    @property
    def serves(self) -> bool:
        """Whether requests have somewhere to go."""
        if self._broken or (self.decode is not None and self.decode.failed):
            return False
        if self._shadowed is not None:
            return True
        legs = (self._prefill, self._decoding) if self.decode is not None else (self._prefill,)
        return all(any(self.roster.well[upstream.name] for upstream in leg) for leg in legs)

    async def models(self) -> web.Response:
        """Return the models of the first upstream that tells them."""
        self.open_answers += 1
        try:
            for upstream in self.config.upstreams:
                if not self.roster.well[upstream.name]:
                    continue
                with suppress(*UPSTREAM_ERRORS):
                    async with self._session.get(f"{upstream.url}/v1/models") as answer:
                        body = await answer.read()
                        return web.Response(status=answer.status, body=body, content_type="application/json")
        finally:
            self.open_answers -= 1
        return refusal(503, "overload", "no upstream answers", RETRY_S)

    # -- answers ------------------------------------------------------------------------------------------------

    async def answer(self, http: web.Request, ask: Ask) -> web.StreamResponse:
        """Place a request and pass its answer on."""
        self.open_answers += 1
        try:
            if self._shadowed is not None:
                return await self._shadow(http, ask, self._shadowed)
            return await self._place_and_answer(http, ask)
        except RejectedError as error:
            self._metrics.rejected(error.reason)
            return rejection(error)
        finally:
            self.open_answers -= 1

    async def _place_and_answer(self, http: web.Request, ask: Ask) -> web.StreamResponse:
        limits = self.config.limits
        begin_s = time.monotonic()
        ask.placed = placed = await self._place(ask, limits.hold_s)
        held_s = time.monotonic() - begin_s
        failed: set[Upstream] = set()
        try:
            attempts = 0
            while True:
                try:
                    return await self._forward(http, ask, placed, failed)
                except UpstreamError as error:
                    failed.add(error.upstream)
                    self._metrics.failed(error.upstream.name)
                    if error.unreachable:
                        self.roster.eject(error.upstream)
                    attempts += error.asked
                    if attempts >= limits.attempts:
                        ask.outcome = "failed"
                        return refusal(502, "upstream_error", f"no upstream answered: {error}", RETRY_S)
                    begin_s = time.monotonic()
                    left_s = max(0.0, limits.hold_s - held_s)
                    ask.placed = placed = await self._place_anew(ask, placed, str(error), failed, left_s)
                    held_s += time.monotonic() - begin_s
        finally:
            self.router.cancelled(placed.id)  # of no effect once its first token was told

    async def _place(self, ask: Ask, hold_s: float) -> Placed:
        return await self.router.place(ask.prompt_tokens, block_ids=ask.blocks, deadline_s=hold_s)

    async def _place_anew(self, ask: Ask, placed: Placed, reason: str, failed: Set[Upstream], hold_s: float) -> Placed:
        with ExitStack() as rests:
            for upstream in failed:
                rests.enter_context(self.roster.resting(upstream))
            if self.router.has(placed.id):
                return await self.router.place_again(placed, reason, deadline_s=hold_s)
            ask.first_token_ns = None  # its prompt was done, and is lost with the decode leg that failed
            return await self._place(ask, hold_s)

    async def _forward(self, http: web.Request, ask: Ask, placed: Placed, failed: Set[Upstream]) -> web.StreamResponse:
        """Send a request to the unit that it was placed on, and its answer back; `failed` has failed it before."""
        if self.decode is not None:
            second = self.decode.place(ask.prompt_tokens, avoid=self._failed_decode(failed))
            return await self._forward_legs(http, ask, placed, second)
        upstream = self._prefill[placed.instance]
        instance_id = self.health.instance_ids.get(upstream.name)
        pins, fields = pin(upstream, instance_id, placed.unit)
        payload = with_fields(ask.raw, ask.body, fields)
        headers = self._headers(http)
        headers.update(pins)
        opened = await self._open(http, ask, upstream, headers, payload)
        if opened.answer.status == 400 and await self.health.is_gone(upstream, instance_id):
            opened.answer.close()
            raise UpstreamError(upstream, "its worker is gone", unreachable=True)
        return await self._answered(http, ask, placed, upstream, opened)

    def _failed_decode(self, failed: Set[Upstream]) -> list[int]:
        """Return the decode instances that a request is not to come back to; none where no other is left."""
        well = [k for k, upstream in enumerate(self._decoding) if self.roster.well[upstream.name]]
        avoided = [k for k in well if self._decoding[k] in failed]
        return avoided if len(avoided) < len(well) else []

    async def _open(
        self, http: web.Request, ask: Ask, upstream: Upstream, headers: Mapping[str, str], payload: bytes
    ) -> Opened:
        if not self.roster.well[upstream.name]:  # since it was placed there, a moment ago
            raise UpstreamError(upstream, "ejected", asked=False)
        silence = self._silence_streamed if ask.streamed else self._silence_whole
        unanswered = self.roster.unanswered[upstream.name]
        return await open_answer(self._session, upstream, http, headers, payload, silence, unanswered)

    async def _forward_legs(
        self, http: web.Request, ask: Ask, placed: Placed, decode_place: tuple[int, int, int]
    ) -> web.StreamResponse:
        """Send both legs of a request together: decode answers, prefill tells that the prompt is done."""
        assert self.decode is not None
        number, instance, decode_unit = decode_place
        prefill, decode = self._prefill[placed.instance], self._decoding[instance]
        legs: list[asyncio.Task[Any]] = []
        try:
            fields = pin_legs(prefill, placed.unit, decode_unit, next(self._rounds), self.config.engines.ranks)
            payloads = [with_fields(ask.raw, ask.body, of) for of in fields]
            headers = self._headers(http)
            first = asyncio.create_task(self._run_prompt(http, ask, placed, prefill, headers, payloads[0]))
            second = asyncio.create_task(self._open(http, ask, decode, headers, payloads[1]))
            legs = [first, second]
            await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED)
            if first.done() and (refused := first.result()) is not None:
                ask.outcome = "refused"
                self._metrics.answered(prefill.name, placed, refused.status)
                return refused
            return await self._answered(http, ask, placed, decode, await second)
        finally:
            self.decode.finished(number)
            for leg in legs:
                leg.cancel()
            for opened in await asyncio.gather(*legs, return_exceptions=True):
                if isinstance(opened, Opened):
                    opened.answer.close()

    async def _run_prompt(
        self,
        http: web.Request,
        ask: Ask,
        placed: Placed,
        upstream: Upstream,
        headers: Mapping[str, str],
        payload: bytes,
    ) -> web.Response | None:
        """Run a prefill leg to its end, which tells that the prompt is done; return its answer where it refuses."""
        opened = await self._open(http, ask, upstream, headers, payload)
        try:
            body = opened.first + await opened.answer.read()
        except UPSTREAM_ERRORS as error:
            raise UpstreamError(upstream, type(error).__name__) from error
        finally:
            opened.answer.close()
        if opened.answer.status >= 400:
            return web.Response(status=opened.answer.status, body=body, content_type=opened.answer.content_type)
        self._first_token(ask, placed)
        return None

    async def _shadow(self, http: web.Request, ask: Ask, upstream: Upstream) -> web.StreamResponse:
        """Pass a request to the existing router as it came."""
        try:
            # How long it may take, and with which status it answers, is between it and its clients.
            opened = await open_answer(
                self._session, upstream, http, self._headers(http), ask.raw, aiohttp.ClientTimeout(total=None),
                self.roster.unanswered[upstream.name], any_status=True,
            )  # fmt: skip
        except UpstreamError as error:
            self._metrics.failed(upstream.name)
            ask.outcome = "failed"
            return refusal(502, "upstream_error", f"no upstream answered: {error}", RETRY_S)
        return await self._answered(http, ask, None, upstream, opened)

    async def _answered(
        self, http: web.Request, ask: Ask, placed: Placed | None, upstream: Upstream, opened: Opened
    ) -> web.StreamResponse:
        """Pass an answer on, and learn from it."""
        status = opened.answer.status
        ask.outcome = "answered" if status < 400 else "refused"

        def begun() -> None:  # after the first bytes, which nobody is to wait for longer than necessary
            if status < 400:
                self._first_token(ask, placed, alone=ask.streamed)
            self._metrics.answered(upstream.name, placed, status)

        self._begun.add(opened.answer)
        if self._stopped:
            opened.answer.content.set_exception(StoppedError())
        try:
            response, tail, whole = await pass_on(http, ask, opened, begun)
        finally:
            self._begun.discard(opened.answer)
            opened.answer.close()  # of no effect where it was read to its end
        if not whole:
            self._metrics.broken()
            ask.outcome = "broken"
            return response
        counted = usage_in(tail)
        ask.output_tokens = counted.get("completion_tokens")
        if "prompt_tokens" in counted:
            self._ratio.learn(ask.prompt, counted["prompt_tokens"])
        return response

    def _first_token(self, ask: Ask, placed: Placed | None, *, alone: bool = True) -> None:
        """Note that a prompt is done; its token tells the end of a pass only where it comes `alone`."""
        if ask.first_token_ns is None:
            ask.first_token_ns = time.time_ns()
        if placed is not None:
            if alone:
                self.router.first_token(placed.id)
            else:
                self.router.cancelled(placed.id)

    def _headers(self, http: web.Request) -> CIMultiDict[str]:
        return passed_on(http.headers, self._dropped)
