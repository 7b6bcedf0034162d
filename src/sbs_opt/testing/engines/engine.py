"""A fake data-parallel engine over HTTP."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from sbs_opt.models.errors import InputError
from sbs_opt.testing.engines.answers import Answer
from sbs_opt.testing.engines.bootstrap import ROOMS_PATH, cache_source, held_room
from sbs_opt.testing.engines.config import EngineConfig
from sbs_opt.testing.engines.delivery import Delivery
from sbs_opt.testing.engines.faults import Fault, FaultBox
from sbs_opt.testing.engines.pacing import ModelClock, Pacer
from sbs_opt.testing.engines.ranks import PassWork, Ranks, Sequence, StepWork
from sbs_opt.testing.engines.records import PassRecord, RankLoad, StepRecord
from sbs_opt.testing.engines.requests import Ask, RequestError, read_ask, read_fields
from sbs_opt.testing.engines.rooms import Rooms
from sbs_opt.testing.engines.telemetry import report

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_JSON = "application/json"


class FakeEngine:
    """A data-parallel engine over HTTP that takes the time of the cost model and answers with made-up tokens.

    ``async with FakeEngine(config) as engine`` serves at `engine.url`; all of it runs in the caller's event loop. A
    request waits in its rank's queue; a pass takes up to `chunk_tokens` from the head of every queue and ends for all
    ranks at once; the pass that runs the last of a prompt puts out its first token. Passes go before decode steps.

    Of SGLang also the legs of a disaggregated deployment: a request goes to an engine with `mode="prefill"` and one
    with `mode="decode"` at once, with the `bootstrap_host`, `bootstrap_port` (those of the prefill engine's `url`) and
    `bootstrap_room` on both. The decode leg waits for the end of the prefill leg, and answers 500 when that failed.

    Parameters
    ----------
    config
        What the engine is.
    port
        Where it listens, on 127.0.0.1; 0 takes a free one, which it keeps when it is started again.

    Attributes
    ----------
    url
        Where it serves, without a path; empty before the first start.
    received
        The rank of every well-formed request that came with a header `x-request-id`, refused or not; the last
        `config.history` of them, of a repeated id the last rank.
    """

    def __init__(self, config: EngineConfig, port: int = 0) -> None:
        self.config = config
        self.url = ""
        self.received: OrderedDict[str, int] = OrderedDict()
        self._port = port
        self._passes: deque[PassRecord] = deque(maxlen=config.history)
        self._steps: deque[StepRecord] = deque(maxlen=config.history)
        self._faults = FaultBox()
        self._released = asyncio.Event()
        self._ranks = Ranks(config)
        self._rooms = Rooms(config.bootstrap_wait_s)
        self._clock: ModelClock | None = None
        self._pacer: Pacer | None = None
        self._running: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None
        self._arriving: set[asyncio.Task[Any]] = set()
        self._web: web.Server | None = None
        self._numbers = itertools.count()
        self._places = itertools.count()
        self._routes = self._route_table()

    async def start(self) -> None:
        """Serve; after `stop` or `kill` again on the same port, with empty ranks."""
        if self._listener is not None:
            raise InputError(f"the engine is running at {self.url}: stop it first")
        # Disconnected clients cancel their handler, which takes the request out of its rank.
        self._web = web.Server(self._handle_while_running, handler_cancellation=True, access_log=None)
        self._listener = listener = socket.create_server(("127.0.0.1", self._port), backlog=4_096)
        listener.setblocking(False)
        # An asyncio.Server leaves a connection hanging that it accepts in the moment when it is closed.
        asyncio.get_running_loop().add_reader(listener, self._accept, listener, self._web)
        self._port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._clock = self._clock or ModelClock(self.config.speed)
        self._pacer = Pacer(self._ranks, self._clock, self._record)
        self._running = asyncio.create_task(self._run(self._pacer))

    async def stop(self) -> None:
        """Stop serving; requests under way are cut off."""
        web_server = self._web
        self.kill()
        while web_server is not None and web_server.connections:
            await asyncio.sleep(0.001)  # the handlers are being cancelled

    def kill(self) -> None:
        """Close the listening socket and every connection at once, and forget queues, counters and faults."""
        if self._listener is None or self._web is None or self._running is None:
            return
        self._running.get_loop().remove_reader(self._listener)
        self._listener.close()
        for connection in self._web.connections:
            if connection.transport is not None:
                connection.transport.abort()
        self._running.cancel()
        self._listener = self._web = self._running = None
        self._faults.clear()
        self._ranks = Ranks(self.config, self._ranks.passes, self._ranks.steps)
        self._rooms = Rooms(self.config.bootstrap_wait_s)

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()

    @property
    def passes(self) -> list[PassRecord]:
        """The passes that have ended, the last `config.history` of them."""
        return list(self._passes)

    @property
    def steps(self) -> list[StepRecord]:
        """The decode steps that have ended, the last `config.history` of them."""
        return list(self._steps)

    @property
    def slipped_ns(self) -> int:
        """Modelled time lost since the last start because the process could not keep up; see `Pacer`."""
        return self._pacer.slipped_ns if self._pacer else 0

    @property
    def rooms(self) -> int:
        """Bootstrap rooms that are remembered: awaited, held by a prefill leg, or over and not asked for yet."""
        return len(self._rooms)

    def loads(self) -> list[RankLoad]:
        """Return the load of every rank."""
        return self._ranks.loads()

    def queued_tokens(self) -> list[int]:
        """Return the prompt tokens of every rank that are in no pass yet."""
        return [load.queued_tokens for load in self.loads()]

    def inject(self, fault: Fault) -> None:
        """Let something go wrong with the next requests."""
        self._faults.add(fault, time.monotonic(), report(self.config, self.loads()))

    def release(self) -> None:
        """Forget the faults to come, and let what is stalled go on."""
        self._faults.clear()
        self._released.set()
        self._released = asyncio.Event()

    def _accept(self, listener: socket.socket, server: web.Server) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it left before its turn
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        arriving = loop.create_task(loop.connect_accepted_socket(server, connection))
        self._arriving.add(arriving)
        arriving.add_done_callback(self._arriving.discard)

    async def _run(self, pacer: Pacer) -> None:
        try:
            await pacer.run()
        except Exception:
            self.kill()  # a cost model that fails must not leave clients waiting
            raise

    def _record(self, work: PassWork | StepWork) -> None:
        if isinstance(work, PassWork):
            self._passes.append(work.record)
        else:
            self._steps.append(work.record)

    def _route_table(self) -> dict[tuple[str, str], _Handler]:
        routes: dict[tuple[str, str], _Handler] = {
            ("POST", "/v1/completions"): self._completions,
            ("POST", "/v1/chat/completions"): self._chat_completions,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): self._health,
            ("GET", "/server_info"): self._server_info,
            ("POST", "/faults"): self._post_fault,
            ("DELETE", "/faults"): self._delete_faults,
        }
        if self.config.kind == "sglang":
            routes["GET", "/v1/loads"] = self._report
            if self.config.mode == "prefill":
                routes["GET", ROOMS_PATH] = self._room
        elif self.config.kind == "vllm":
            routes["GET", "/metrics"] = self._report
        return routes

    async def _handle_while_running(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._web is None or request.protocol not in self._web.connections:
            if request.transport is not None:
                request.transport.abort()  # accepted in the moment of a kill, which did not see it
            raise asyncio.CancelledError
        return await self._handle(request)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = ROOMS_PATH if request.path.startswith(f"{ROOMS_PATH}/") else request.path
        handler = self._routes.get((request.method, path))
        try:
            if handler is None:
                raise RequestError(404, f"no {request.method} {request.path} here", code="not_found")
            return await handler(request)
        except RequestError as error:
            return web.Response(status=error.status, body=error.body(), content_type=_JSON)

    async def _completions(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._generate(request, chat=False)

    async def _chat_completions(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._generate(request, chat=True)

    async def _generate(self, request: web.BaseRequest, chat: bool) -> web.StreamResponse:
        fields = read_fields(await request.content.read())
        source = cache_source(fields, self.config)
        with self._rooms.leg(held_room(fields, self.config)) as prefilled:  # what is refused below fails its room
            ask = read_ask(fields, request.headers, chat, self.config)
            rank = ask.rank if ask.rank is not None else next(self._places) % self.config.ranks
            self._note(request.headers.get("x-request-id"), rank)
            delivery = Delivery(request, self._faults.take_for_request(time.monotonic()), self._released)
            if delivery.kind == "refuse":
                raise RequestError(503, "refused on command", "service_unavailable")
            if delivery.kind == "reset_before_first":
                await delivery.reset()
            if source is not None:
                await source.ready()
                await self._transfer(ask.prompt_tokens)

            def grown() -> None:
                prefilled()
                delivery.grown.set()

            return await self._answer(ask, delivery, Sequence(rank, ask.prompt_tokens, ask.max_tokens, grown))

    async def _transfer(self, tokens: int) -> None:
        assert self._clock is not None, "a request is handled while the engine runs"
        if taken_ns := tokens * self.config.transfer_ns_per_token:
            await asyncio.sleep(self._clock.wall_s(taken_ns))

    async def _answer(self, ask: Ask, delivery: Delivery, sequence: Sequence) -> web.StreamResponse:
        ranks, pacer = self._ranks, self._pacer
        assert pacer is not None, "a request is handled while the engine runs"
        ranks.submit(sequence)
        pacer.wake()
        try:
            if delivery.kind == "stall_before_first":
                await delivery.released.wait()
            answer = Answer(ask, next(self._numbers), self.config.model)
            return await (delivery.stream if ask.stream else delivery.whole)(answer, sequence)
        except ConnectionError:
            raise asyncio.CancelledError from None  # the client left as we wrote: no error of the engine
        finally:
            ranks.withdraw(sequence)

    def _note(self, request_id: str | None, rank: int) -> None:
        if request_id is None:
            return
        self.received[request_id] = rank
        if len(self.received) > self.config.history:
            self.received.popitem(last=False)

    async def _models(self, _: web.BaseRequest) -> web.StreamResponse:
        row = {"id": self.config.model, "object": "model", "owned_by": "sbs_opt", "created": 0}
        return _json({"object": "list", "data": [{**row, "max_model_len": self.config.context_tokens}]})

    async def _health(self, _: web.BaseRequest) -> web.StreamResponse:
        return web.Response()

    async def _server_info(self, _: web.BaseRequest) -> web.StreamResponse:
        mode = "null" if self.config.mode == "unified" else self.config.mode
        info = {"dp_size": self.config.ranks, "disaggregation_mode": mode, "version": "fake"}
        if ("GET", ROOMS_PATH) in self._routes:
            info["disaggregation_bootstrap_port"] = self._port
        return _json(info)

    async def _room(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer when the prefill leg that holds a room has ended."""
        name = request.path.removeprefix(ROOMS_PATH).removeprefix("/")
        try:
            room = int(name)
        except ValueError:
            raise RequestError(400, f"bootstrap room {name!r} must be a whole number") from None
        ready = await self._rooms.outcome(room)
        if ready is None:
            raise RequestError(404, f"no prefill leg came to bootstrap room {room}", code="not_found")
        if not ready:
            raise RequestError(410, f"the prefill leg of bootstrap room {room} failed", code="gone")
        return _json({"bootstrap_room": room})

    async def _report(self, _: web.BaseRequest) -> web.StreamResponse:
        fault, stale = self._faults.take_for_report(time.monotonic())
        kind = fault.kind if fault else None
        body = report(self.config, self.loads(), self.config.ranks if kind == "wrong_rank_loads" else 0)
        if kind == "stale_loads":
            body = stale
        elif kind == "malformed_loads":
            body = body[: len(body) // 2] + b"{"
        return web.Response(body=body, content_type="text/plain" if self.config.kind == "vllm" else _JSON)

    async def _post_fault(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            fields = json.loads(await request.content.read())
            self.inject(Fault(**fields))
        except (ValueError, TypeError) as error:
            raise RequestError(400, f"not a fault: {error}") from None
        return _json({"injected": fields})

    async def _delete_faults(self, _: web.BaseRequest) -> web.StreamResponse:
        self.release()
        return _json({"released": True})


def _json(value: Any) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), content_type=_JSON)
