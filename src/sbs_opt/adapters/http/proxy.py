"""A streaming reverse proxy whose every request goes where the scheduler says."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from sbs_opt.adapters.capture import CaptureWriter, FinishedRequest
from sbs_opt.adapters.http.metrics import Metrics
from sbs_opt.adapters.http.telemetry import Telemetry
from sbs_opt.adapters.prefix import PrefixHasher
from sbs_opt.adapters.prompt import ByRatio, ByTokenizer, Prompt, read_prompt
from sbs_opt.adapters.router import Placed, RejectedError, Router
from sbs_opt.adapters.serve_config import ServeConfig, Upstream
from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import CostModel
from sbs_opt.models.errors import InputError

_HOP_BY_HOP = frozenset(
    ("connection", "content-length", "host", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip
_RANK_HEADER = "X-data-parallel-rank"
_STATUS = {"too_large": 413, "deadline": 503, "overload": 503, "shutdown": 503}
_RETRY_S = 1
_TAIL_BYTES = 1024
"""Where `usage` stands in an answer."""

_USAGE = {
    name: re.compile(rb'"%b"\s*:\s*(\d{1,15})' % name.encode()) for name in ("prompt_tokens", "completion_tokens")
}  # fmt: skip


@dataclass(slots=True)
class _Ask:
    """A request on its way through: what is known of it for the capture. No text outlives the answer."""

    body: dict[str, Any]
    prompt: Prompt
    prompt_tokens: int
    arrival_ns: int
    placed: Placed | None = None
    first_token_ns: int | None = None
    events: int = 0
    output_tokens: int | None = None
    outcome: str = "rejected"


class _UpstreamError(Exception):
    """An upstream failed before the first byte of its answer: another may still give it."""


class Proxy:
    """OpenAI's completions in front of data-parallel engines.

    Parameters
    ----------
    config
        See `ServeConfig`.
    capture
        Takes every request that is over; None keeps nothing.
    cost_model
        What passes of the engines take; default: that of the profiles in `config`.

    Notes
    -----
    A body is read whole, since its prompt decides where it goes; the answer is passed on byte for byte as it comes,
    no faster than the client takes it. An upstream that fails before the first byte is tried no further and the
    request is placed anew; after it the stream ends with an error event. No text is logged or kept.
    """

    def __init__(
        self, config: ServeConfig, capture: CaptureWriter | None = None, *, cost_model: CostModel | None = None
    ) -> None:
        self._config = config
        self._capture = capture
        self.router = Router(config.deployment, cost_model or config.cost_model(), config.scheduler)
        self._ratio = ByRatio(config.characters_per_token)
        self._lengths = ByTokenizer(config.tokenizer) if config.tokenizer else self._ratio
        blocks = config.scheduler.block_tokens
        self._hasher = PrefixHasher(os.urandom(32), blocks, config.characters_per_token) if blocks else None
        self.metrics = Metrics(self.router, config.upstreams)
        self._healthy = [True] * len(config.upstreams)
        self._session: aiohttp.ClientSession | None = None
        self._draining = False

    @property
    def characters_per_token(self) -> float:
        """The ratio of characters to tokens as learned so far."""
        return self._ratio.characters_per_token

    def app(self) -> web.Application:
        """Return the application; it starts and stops the scheduler with itself."""
        app = web.Application(client_max_size=self._config.limits.body_bytes)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.cleanup_ctx.append(self._running)
        return app

    async def drain(self) -> None:
        """Take nothing new, and wait for the answers that are under way, for a limited time."""
        self._draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.limits.drain_s):
                while self.metrics.open_answers:
                    await asyncio.sleep(0.02)

    async def _running(self, app: web.Application) -> AsyncIterator[None]:
        del app
        limits = self._config.limits
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s, sock_read=limits.silence_s)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        tasks = [asyncio.create_task(self.router.run())]
        telemetry = Telemetry(self._config, self._session, self.metrics)
        for k in range(len(self._config.upstreams)):
            tasks += [asyncio.create_task(self._watch(k)), asyncio.create_task(telemetry.watch(k))]
        yield
        for task in tasks[1:]:
            task.cancel()
        self.router.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    # -- answers ------------------------------------------------------------------------------------------------

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        """Answer one request; an error of ours has OpenAI's form."""
        if not self._admitted(http):
            return _refusal(401, "unauthorized", "show the bearer token of this server")
        if self._draining:
            return _refusal(503, "shutdown", "the server is stopping", _RETRY_S)
        body, problem = await self._read(http)
        if body is None:
            return problem or _refusal(400, "invalid_request_error", "the body is not a JSON object")
        if self.router.waiting >= self._config.limits.waiting:
            return _refusal(429, "overload", "too many requests are waiting", _RETRY_S)
        try:
            prompt = read_prompt(body)
            ask = _Ask(body, prompt, max(1, self._lengths.tokens(prompt)), time.time_ns())
            blocks = None if self._hasher is None else self._hasher.block_ids(prompt)
        except InputError as error:
            return _refusal(400, "invalid_request_error", str(error))
        try:
            with self.metrics.answering():
                return await self._place_and_answer(http, ask, blocks)
        except asyncio.CancelledError:
            ask.outcome = "cancelled"
            raise
        finally:
            self._note(ask, blocks)

    async def _place_and_answer(self, http: web.Request, ask: _Ask, blocks: IntArray | None) -> web.StreamResponse:
        hold_s = self._config.limits.hold_s
        try:
            ask.placed = await self.router.place(ask.prompt_tokens, block_ids=blocks, deadline_s=hold_s)
        except RejectedError as error:
            return self._rejected(error)
        try:
            return await self._answer(http, ask, ask.placed)
        finally:
            self.router.cancelled(ask.placed.id)  # of no effect once its first token was told

    def _note(self, ask: _Ask, blocks: IntArray | None) -> None:
        """Write a request that is over to the capture; what cannot be written is counted, and no error of a client."""
        if self._capture is None:
            return
        placed = ask.placed
        output = ask.output_tokens if ask.output_tokens is not None else max(0, ask.events - 1)
        try:
            self._capture.write(
                FinishedRequest(
                    arrival_ns=ask.arrival_ns,
                    end_ns=time.time_ns(),
                    prompt_tokens=ask.prompt_tokens,
                    output_tokens=output if ask.first_token_ns else 0,
                    outcome=ask.outcome,
                    first_token_ns=ask.first_token_ns,
                    placement=None if placed is None else (placed.instance, placed.unit),
                    block_ids=() if blocks is None else blocks,
                )
            )
        except OSError:
            self.metrics.uncaptured()

    async def _read(self, http: web.Request) -> tuple[dict[str, Any] | None, web.Response | None]:
        try:
            body = json.loads(await http.read())
        except web.HTTPRequestEntityTooLarge:
            limit = self._config.limits.body_bytes
            return None, _refusal(413, "invalid_request_error", f"the body is larger than {limit:,} bytes")
        except (ValueError, RecursionError):
            return None, None
        return (body, None) if isinstance(body, dict) else (None, None)

    async def _answer(self, http: web.Request, ask: _Ask, placed: Placed) -> web.StreamResponse:
        """Pass a request on until an upstream answers, each failure to another place."""
        for attempt in range(1, int(self._config.limits.attempts) + 1):
            try:
                return await self._forward(http, ask, placed)
            except _UpstreamError as error:
                self.metrics.failed(placed.instance)
                if attempt == self._config.limits.attempts:
                    ask.outcome = "failed"
                    return _refusal(502, "upstream_error", f"no upstream answered: {error}", _RETRY_S)
                try:
                    ask.placed = placed = await self.router.place_again(placed, str(error))
                except RejectedError as rejected:
                    return self._rejected(rejected)
        raise AssertionError("limits.attempts is at least 1")

    async def _forward(self, http: web.Request, ask: _Ask, placed: Placed) -> web.StreamResponse:
        """Send a request to its unit and stream the answer back."""
        upstream = self._config.upstreams[placed.instance]
        headers, payload = _pinned(upstream, _passed_on(http.headers, self._config.token), ask.body, placed.unit)
        assert self._session is not None
        try:
            answer = await self._session.post(upstream.url + http.path, data=payload, headers=headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                self._eject(placed.instance)
            raise _UpstreamError(f"{upstream.name}: {type(error).__name__}") from error
        async with answer:
            if answer.status >= 500:
                raise _UpstreamError(f"{upstream.name}: status {answer.status}")
            try:
                first = await answer.content.readany()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise _UpstreamError(f"{upstream.name}: {type(error).__name__}") from error
            ask.outcome = "answered" if answer.status < 400 else "refused"
            if answer.status < 400:
                self.router.first_token(placed.id)
                ask.first_token_ns = time.time_ns()
            self.metrics.answered(placed, answer.status)
            return await self._stream(http, ask, answer, first)

    async def _stream(
        self, http: web.Request, ask: _Ask, answer: aiohttp.ClientResponse, first: bytes
    ) -> web.StreamResponse:
        """Pass an answer on byte for byte; a failure on the way ends it visibly."""
        out = web.StreamResponse(status=answer.status, headers=_answer_headers(answer.headers))
        await out.prepare(http)
        chunk, tail = first, b""
        try:
            while chunk:
                await out.write(chunk)
                ask.events += chunk.count(b"data: ")
                tail = (tail + chunk)[-_TAIL_BYTES:]
                chunk = await answer.content.readany()
            self._learn(ask, tail)
        except (aiohttp.ClientError, TimeoutError) as error:  # of the upstream; a client that has gone cancels us
            self.metrics.broken()
            ask.outcome = "broken"
            if "text/event-stream" not in answer.headers.get("Content-Type", ""):
                if http.transport is not None:
                    http.transport.close()  # half a JSON document must not look like a whole one
                return out
            event = {"error": {"type": "upstream_error", "message": f"the answer broke off: {type(error).__name__}"}}
            await out.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await out.write_eof()
        return out

    def _learn(self, ask: _Ask, tail: bytes) -> None:
        """Take from the end of an answer what the engine counted."""
        counted = {name: pattern.search(tail) for name, pattern in _USAGE.items()}
        if found := counted["completion_tokens"]:
            ask.output_tokens = int(found[1])
        if found := counted["prompt_tokens"]:
            self._ratio.learn(ask.prompt, int(found[1]))

    def _rejected(self, error: RejectedError) -> web.Response:
        self.metrics.rejected(error.reason)
        retry = None if error.retry_after_s is None else max(1, round(error.retry_after_s))
        return _refusal(_STATUS[error.reason], error.reason, f"not placed: {error.reason}", retry)

    def _admitted(self, http: web.Request) -> bool:
        if self._config.token is None:
            return True
        shown = http.headers.get("Authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(shown.encode(), self._config.token.encode())

    # -- upstreams ----------------------------------------------------------------------------------------------

    def _eject(self, instance: int) -> None:
        if self._healthy[instance]:
            self._healthy[instance] = False
            self.metrics.healthy(instance, False)
            self.router.instance_lost(instance)

    async def _watch(self, instance: int) -> None:
        """Look at an upstream's health from time to time; one that is gone is ejected, one that is back returns."""
        assert self._session is not None
        upstream, limits = self._config.upstreams[instance], self._config.limits
        timeout = aiohttp.ClientTimeout(total=limits.connect_s)
        while True:
            await asyncio.sleep(limits.health_s)
            try:
                async with self._session.get(f"{upstream.url}/health", timeout=timeout) as answer:
                    well = answer.status < 500
            except (aiohttp.ClientError, TimeoutError, OSError):
                well = False
            if not well:
                self._eject(instance)
            elif not self._healthy[instance]:
                self._healthy[instance] = True
                self.metrics.healthy(instance, True)
                self.router.instance_returned(instance)

    # -- the rest -----------------------------------------------------------------------------------------------

    async def _models(self, http: web.Request) -> web.StreamResponse:
        if not self._admitted(http):
            return _refusal(401, "unauthorized", "show the bearer token of this server")
        assert self._session is not None
        for upstream, well in zip(self._config.upstreams, self._healthy, strict=True):
            if well:
                try:
                    async with self._session.get(f"{upstream.url}/v1/models") as answer:
                        return web.Response(
                            status=answer.status, body=await answer.read(), content_type="application/json"
                        )
                except (aiohttp.ClientError, TimeoutError, OSError):
                    continue
        return _refusal(503, "overload", "no upstream answers", _RETRY_S)

    async def _health(self, http: web.Request) -> web.Response:
        del http
        if self._draining or not any(self._healthy):
            return web.json_response({"status": "draining" if self._draining else "no upstream"}, status=503)
        return web.json_response({"status": "ok"})

    async def _metrics(self, http: web.Request) -> web.Response:
        del http
        return web.Response(body=self.metrics.text(), headers={"Content-Type": self.metrics.content_type})


def _pinned(
    upstream: Upstream, headers: dict[str, str], body: dict[str, Any], unit: int
) -> tuple[dict[str, str], bytes]:
    """Return headers and payload of a request that goes to a unit of an upstream."""
    if upstream.kind == "sglang":
        body = body | {"routed_dp_rank": unit}
    elif upstream.kind == "vllm":
        headers = headers | {_RANK_HEADER: str(unit)}
    return headers, json.dumps(body, ensure_ascii=False).encode()


def _passed_on(headers: Mapping[str, str], token: str | None) -> dict[str, str]:
    """Return a client's headers without those of its connection, without a rank of its own, and without our token."""
    dropped = _HOP_BY_HOP | {_RANK_HEADER.lower()} | ({"authorization"} if token else set())
    return {name: value for name, value in headers.items() if name.lower() not in dropped}


def _answer_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}


def _refusal(status: int, kind: str, message: str, retry_after_s: int | None = None) -> web.Response:
    """Return an error as OpenAI writes it."""
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return web.json_response({"error": {"type": kind, "message": message}}, status=status, headers=headers)
