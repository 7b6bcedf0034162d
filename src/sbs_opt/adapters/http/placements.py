"""Placements over HTTP, for routers in other languages: ask where a request goes, tell what became of it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from sbs_opt.adapters.http.ask import RETRY_S, UNREADABLE, refusal, rejection
from sbs_opt.adapters.http.placement_book import PlacementBook
from sbs_opt.adapters.http.placement_schema import read_body, schema_text
from sbs_opt.adapters.http.placement_terms import (
    Answer,
    ConflictError,
    CrowdedError,
    Fleet,
    FreedError,
    PlacementRequest,
    UnknownPlacementError,
)
from sbs_opt.adapters.router import RejectedError, Router
from sbs_opt.adapters.serve_config import Upstream
from sbs_opt.models.errors import InputError

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_STATUS: dict[type[Exception], tuple[int, str]] = {
    InputError: (400, "invalid_request_error"),
    UnknownPlacementError: (404, "unknown_placement"),
    ConflictError: (409, "conflict"),
    FreedError: (410, "freed"),
    CrowdedError: (429, "overload"),
}


class PlacementService:
    """The routes under `/v1/placements`; docs/placements.md says what each takes and answers.

    Parameters
    ----------
    router
        Runs in the same event loop.
    upstreams
        The router's instances, in their order.
    admitted
        Whether a request shows what it must; all do unless given.
    draining
        While it says True, no new request is placed.
    waiting
        Requests held for a placement at most; beyond it is 429.
    hold_s
        A request that is still held after this is answered 503, whatever its own deadline.
    lease_s
        A placement of which nothing is told for so long is cancelled and counted.
    remembered
        Requests that are over and still answer the same.
    body_bytes
        Largest body; beyond it is 413.

    Notes
    -----
    The server must run with `handler_cancellation=True`, else nothing shows that a client has left.
    """

    def __init__(
        self,
        router: Router,
        upstreams: Sequence[Upstream],
        *,
        admitted: Callable[[web.Request], bool] = lambda _: True,
        draining: Callable[[], bool] = lambda: False,
        waiting: int = 10_000,
        hold_s: float = 30.0,
        lease_s: float = 120.0,
        remembered: int = 100_000,
        body_bytes: int = 1 << 20,
    ) -> None:
        for name, value in (("hold_s", hold_s), ("body_bytes", body_bytes)):
            if not value > 0:
                raise InputError(f"{name} = {value!r}: must be above 0")
        self.book = PlacementBook(Fleet(router, tuple(upstreams)), waiting, lease_s, remembered, draining)
        self._admitted = admitted
        self._hold_s = hold_s
        self._body_bytes = body_bytes

    def use(self, router: Router, upstreams: Sequence[Upstream], *, waiting: int, hold_s: float) -> None:
        """Place what is asked from now on, also after a failure, with another router on its upstreams, to its limits.

        The former router hears what becomes of its placements as long as they last; whether it runs does not matter.
        """
        self.book.fleet = Fleet(router, tuple(upstreams))
        self.book.most_waiting, self._hold_s = waiting, hold_s

    def add_to(self, app: web.Application) -> None:
        """Add the routes to an application; as it shuts down, all who wait are refused and all bookings released."""
        app.router.add_post("/v1/placements", self._guarded(self._place))
        app.router.add_get("/v1/placements/schema", self._guarded(self._schema))
        app.router.add_delete("/v1/placements/{id}", self._guarded(self._free))
        app.router.add_post("/v1/placements/{id}/prefill_complete", self._guarded(self._prefill_complete))
        app.router.add_post("/v1/placements/{id}/output", self._guarded(self._output))
        app.router.add_post("/v1/placements/{id}/failed", self._guarded(self._failed))
        app.on_shutdown.append(self._shut_down)

    async def _shut_down(self, app: web.Application) -> None:
        del app
        self.book.close()

    # -- handlers -----------------------------------------------------------------------------------------------

    async def _place(self, http: web.Request) -> web.Response:
        body = await self._read(http, "request")
        blocks = body.get("block_ids")
        request = PlacementRequest(
            id=body["id"],
            prompt_tokens=body["prompt_tokens"],
            block_ids=None if blocks is None else tuple(blocks),
            priority=body.get("priority", 0),
            deadline_s=min(self._hold_s, body.get("deadline_ms", math.inf) / 1e3),
        )
        return _told(await self.book.place(request))

    async def _failed(self, http: web.Request) -> web.Response:
        body = await self._read(http, "failed")
        return _told(await self.book.failed(http.match_info["id"], body["reason"], body.get("attempt")))

    async def _prefill_complete(self, http: web.Request) -> web.Response:
        body = await self._read(http, "prefill_complete")
        id_ = http.match_info["id"]
        return web.json_response({"id": id_, "state": self.book.prefill_complete(id_, body.get("cached_tokens"))})

    async def _output(self, http: web.Request) -> web.Response:
        body = await self._read(http, "output")
        id_ = http.match_info["id"]
        return web.json_response({"id": id_, "state": self.book.output(id_, body["tokens"])})

    async def _free(self, http: web.Request) -> web.Response:
        self.book.free(http.match_info["id"])
        return web.Response(status=204)

    async def _schema(self, http: web.Request) -> web.Response:
        del http
        return web.Response(text=schema_text(), content_type="application/schema+json")

    # -- bodies and answers -------------------------------------------------------------------------------------

    async def _read(self, http: web.Request, definition: str) -> dict[str, Any]:
        # The application's own limit is that of whole prompts; a placement's body is smaller.
        return read_body(await http.clone(client_max_size=self._body_bytes).read(), definition)

    def _guarded(self, handler: _Handler) -> _Handler:
        """Return a handler that asks for admission first, and answers errors with their status."""

        async def answer(http: web.Request) -> web.StreamResponse:
            if not self._admitted(http):
                return refusal(401, "unauthorized", "show the bearer token of this server")
            try:
                return await handler(http)
            except web.HTTPRequestEntityTooLarge:
                message = f"the body is larger than {self._body_bytes:,} bytes"
                return refusal(413, "invalid_request_error", message)
            except web.RequestPayloadError:
                return refusal(400, "invalid_request_error", UNREADABLE)
            except RejectedError as error:
                again_s = None if error.reason == "too_large" else error.retry_after_s or RETRY_S
                return rejection(RejectedError(error.reason, again_s))
            except tuple(_STATUS) as error:
                status, kind = next(found for one, found in _STATUS.items() if isinstance(error, one))
                return refusal(status, kind, str(error), RETRY_S if status == 429 else None)

        return answer


def _told(answer: Answer) -> web.Response:
    placed = answer.placed
    return web.json_response(
        {
            "id": answer.id,
            "upstream": answer.upstream.name,
            "instance": placed.instance,
            "unit": placed.unit,
            "held_ms": placed.held_ns / 1e6,
            "url": answer.upstream.url,
            "attempt": answer.attempt,
        }
    )
