"""Passing requests on to upstreams and their answers back, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from sbs_opt.adapters.http.ask import Ask, broken_event
from sbs_opt.adapters.http.health import UPSTREAM_ERRORS
from sbs_opt.adapters.serve_config import Upstream

_HOP_BY_HOP = frozenset(
    ("connection", "content-length", "host", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip
_BY_OURSELVES = frozenset(("content-encoding", "expect"))
"""Of a request: its body was unpacked, and asked for, by this server."""

_EVENT = b"data: "
_DONE = b"data: [DONE]\n\n"
_TAIL_BYTES = 1024
"""Where `usage` stands in an answer."""

_USAGE = {
    name: re.compile(rb'"%b"\s*:\s*(\d{1,15})' % name.encode()) for name in ("prompt_tokens", "completion_tokens")
}  # fmt: skip


class UpstreamError(Exception):
    """An upstream failed before the first byte of its answer: another may still give it.

    Parameters
    ----------
    upstream
        Which one.
    what
        What happened, without a word of the request.
    unreachable
        Whether it takes no connections at all.
    """

    def __init__(self, upstream: Upstream, what: str, *, unreachable: bool = False) -> None:
        super().__init__(f"{upstream.name}: {what}")
        self.upstream = upstream
        self.unreachable = unreachable


@dataclass(slots=True)
class Opened:
    """An answer whose first bytes are there."""

    answer: aiohttp.ClientResponse
    first: bytes


async def open_answer(
    session: aiohttp.ClientSession,
    upstream: Upstream,
    path: str,
    headers: Mapping[str, str],
    payload: bytes,
    *,
    method: str = "POST",
) -> Opened:
    """Send a request and wait for the first bytes of its answer.

    Raises
    ------
    UpstreamError
        No connection, none of an answer, or one of status 500 and above.
    """
    try:
        answer = await session.request(
            method, upstream.url + path, data=payload or None, headers=headers, allow_redirects=False
        )
    except UPSTREAM_ERRORS as error:
        unreachable = isinstance(error, aiohttp.ClientConnectorError)
        raise UpstreamError(upstream, type(error).__name__, unreachable=unreachable) from error
    try:
        if answer.status >= 500:
            raise UpstreamError(upstream, f"status {answer.status}")
        return Opened(answer, await answer.content.readany())
    except UPSTREAM_ERRORS as error:
        answer.close()
        raise UpstreamError(upstream, type(error).__name__) from error
    except BaseException:
        answer.close()
        raise


async def pass_on(
    http: web.Request, ask: Ask, opened: Opened, begun: Callable[[], None]
) -> tuple[web.StreamResponse, bytes, bool]:
    """Stream an answer to the client, no faster than it takes it; `begun` is called once its first bytes are out.

    Returns the response, the end of what was passed on, and whether the answer is whole; one that breaks off ends
    visibly: a stream with an error event, anything else with a closed connection.
    """
    answer = opened.answer
    out = web.StreamResponse(status=answer.status, headers=_passed_back(answer.headers))
    await out.prepare(http)
    tail = opened.first[-_TAIL_BYTES:]
    ask.events += opened.first.count(_EVENT)
    try:
        await out.write(opened.first)
        begun()
        while chunk := await answer.content.readany():
            await out.write(chunk)
            ask.events += chunk.count(_EVENT)
            tail = (tail + chunk)[-_TAIL_BYTES:]
    except (aiohttp.ClientError, TimeoutError) as error:  # of the upstream; a client that has gone cancels us
        if tail.endswith(_DONE):  # all was said, only the end of the connection was rough
            await out.write_eof()
            return out, tail, True
        if "text/event-stream" not in answer.headers.get("Content-Type", ""):
            if http.transport is not None:
                http.transport.close()  # half a JSON document must not look like a whole one
            return out, tail, False
        with suppress(ConnectionError):
            await out.write(broken_event(error))
            await out.write_eof()
        return out, tail, False
    await out.write_eof()
    return out, tail, True


def usage_in(tail: bytes) -> dict[str, int]:
    """Return what an engine counted, as far as the end of its answer says so."""
    found = {name: pattern.search(tail) for name, pattern in _USAGE.items()}
    return {name: int(match[1]) for name, match in found.items() if match}


def passed_on(headers: CIMultiDictProxy[str], dropped: Set[str]) -> CIMultiDict[str]:
    """Return a client's headers without those of its connection, and without some more (in lower case)."""
    return _without(headers, _HOP_BY_HOP | _BY_OURSELVES | dropped)


def _passed_back(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return _without(headers, _HOP_BY_HOP)


def _without(headers: CIMultiDictProxy[str], dropped: Set[str]) -> CIMultiDict[str]:
    """Return headers, those that come twice included, without some, and without those that `Connection` names."""
    if more := headers.get("Connection"):
        dropped = dropped | {name.strip().lower() for name in more.split(",")}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)
