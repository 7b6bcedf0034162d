"""Passing requests on to upstreams and their answers back, byte for byte."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from io import BytesIO

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from sbs_opt.adapters.http.ask import Ask, broken_event
from sbs_opt.adapters.http.errors import UPSTREAM_ERRORS, is_unreachable
from sbs_opt.adapters.serve_config import Upstream

_HOP_BY_HOP = frozenset(
    ("connection", "content-length", "host", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip
_BY_OURSELVES = frozenset(("content-encoding", "expect"))
"""Of a request: its body was unpacked, and asked for, by this server."""

_EVENT = b"data: "
_DONE = b"data: [DONE]\n\n"
_LARGE_BYTES = 2**18
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
    asked
        Whether anything was sent to it.
    """

    def __init__(self, upstream: Upstream, what: str, *, unreachable: bool = False, asked: bool = True) -> None:
        super().__init__(f"{upstream.name}: {what}")
        self.upstream = upstream
        self.unreachable = unreachable
        self.asked = asked


@dataclass(slots=True)
class Opened:
    """An answer whose first bytes are there."""

    answer: aiohttp.ClientResponse
    first: bytes


async def open_answer(
    session: aiohttp.ClientSession,
    upstream: Upstream,
    http: web.Request,
    headers: Mapping[str, str],
    payload: bytes,
    silence: aiohttp.ClientTimeout,
    unanswered: set[asyncio.Timeout],
    *,
    any_status: bool = False,
) -> Opened:
    """Send a request and wait for the first bytes of its answer.

    Parameters
    ----------
    session, upstream, http, headers, payload
        What is sent, and where: the client's method and path.
    silence
        What the upstream may take; its `sock_read` is also the limit for the whole of a request to be taken.
    unanswered
        Holds that limit meanwhile: who brings it forward gives the upstream up.
    any_status
        Whether an answer of status 500 and above is one as well.

    Raises
    ------
    UpstreamError
        No connection, none of an answer, or one of status 500 and above.
    """
    answer: aiohttp.ClientResponse | None = None
    try:
        async with asyncio.timeout(silence.sock_read) as limit:
            unanswered.add(limit)
            try:
                answer = await session.request(
                    http.method, URL(upstream.url + http.rel_url.raw_path_qs, encoded=True),
                    data=_in_pieces(payload), headers=headers, timeout=silence, allow_redirects=False,
                )  # fmt: skip
                if answer.status >= 500 and not any_status:
                    raise UpstreamError(upstream, f"status {answer.status}")
                return Opened(answer, await answer.content.readany())
            finally:
                unanswered.discard(limit)
    except BaseException as error:
        if answer is not None:
            answer.close()
        if not isinstance(error, UPSTREAM_ERRORS):
            raise
        raise UpstreamError(upstream, type(error).__name__, unreachable=is_unreachable(error)) from error


async def pass_on(
    http: web.Request, ask: Ask, opened: Opened, begun: Callable[[], None]
) -> tuple[web.StreamResponse, bytes, bool]:
    """Stream an answer to the client, no faster than it takes it; `begun` is called once its first bytes are out.

    Returns the response, the end of what was passed on, and whether the answer is whole; one that breaks off ends
    visibly: a stream with an error event, anything else with a closed connection.

    Raises
    ------
    ConnectionError
        The client has gone.
    """
    answer = opened.answer
    out = web.StreamResponse(status=answer.status, headers=_passed_back(answer.headers))
    await out.prepare(http)
    tail, chunk = b"", opened.first
    broken: Exception | None = None
    await out.write(chunk)
    begun()
    while chunk:
        ask.events += chunk.count(_EVENT)
        tail = (tail + chunk)[-_TAIL_BYTES:]
        try:
            chunk = await answer.content.readany()
        except (aiohttp.ClientError, TimeoutError) as error:
            broken = error
            break
        await out.write(chunk)
    stream = "text/event-stream" in answer.headers.get("Content-Type", "")
    if broken is None and stream and not _is_framed(answer):
        broken = aiohttp.ServerDisconnectedError()  # the end of the connection alone tells of no end
    if broken is not None and not tail.endswith(_DONE):  # else all was said, only the end was rough
        if stream:
            await out.write(broken_event(broken))
            await out.write_eof()
        elif http.transport is not None:
            http.transport.close()  # half a JSON document must not look like a whole one
        return out, tail, False
    await out.write_eof()
    return out, tail, True


def _in_pieces(payload: bytes) -> bytes | BytesIO | None:
    """Return a body so that a large one is not written at once: others are served in between."""
    if len(payload) > _LARGE_BYTES:
        return BytesIO(payload)
    return payload or None


def _is_framed(answer: aiohttp.ClientResponse) -> bool:
    """Tell whether the end of an answer can be told from the end of its connection."""
    return "Content-Length" in answer.headers or "chunked" in answer.headers.get("Transfer-Encoding", "").lower()


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
