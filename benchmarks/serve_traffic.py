"""The traffic of benchmarks/serve.py: an upstream that streams and a client that offers requests, bare protocols."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

CHUNKS, FIRST_S, GAP_S = 16, 0.002, 0.001
PROMPT_CHARACTERS = 4000
CONNECTIONS, GRACE_S = 64, 2.0
BODY = b'{"model": "m", "prompt": "%s", "max_tokens": 16, "stream": true}' % (b"word " * (PROMPT_CHARACTERS // 5))
REQUEST = (
    b"POST /v1/completions HTTP/1.1\r\nHost: router\r\nContent-Type: application/json\r\nAccept: */*\r\n"
    b"User-Agent: benchmark\r\nContent-Length: %d\r\n\r\n" % len(BODY)
) + BODY
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WELL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
EVENT = b'data: {"id": "cmpl-0", "choices": [{"index": 0, "text": " word"}], "kept_us": "%09d"}\n\n'
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_KEPT = re.compile(rb'"kept_us": "(\d{9})"')


class Upstream(asyncio.Protocol):
    """Answers every POST with 16 events, every GET with an empty object."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._buffer, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            asked, self._buffer = self._buffer[:4], self._buffer[whole:]
            if asked == b"POST":
                asyncio.get_running_loop().call_later(FIRST_S, self._send, time.monotonic(), 0)
            else:
                self._transport.write(WELL)

    def _send(self, came: float, number: int) -> None:
        if self._transport.is_closing():
            return
        event = EVENT % int((time.monotonic() - came) * 1e6)
        begin, end = b"" if number else ANSWER, b"0\r\n\r\n" if number == CHUNKS - 1 else b""
        self._transport.write(b"%s%x\r\n%s\r\n%s" % (begin, len(event), event, end))
        if not end:
            asyncio.get_running_loop().call_later(GAP_S, self._send, came, number + 1)


@dataclass(slots=True)
class Call:
    """One request: when it was due, sent, and first answered, in seconds; for how long the upstream kept it."""

    due: float
    sent: float = 0.0
    first: float = 0.0
    kept: float = 0.0
    complete: bool = False


class Caller(asyncio.Protocol):
    """A kept-alive connection of the client."""

    def __init__(self, idle: list[Caller]) -> None:
        self._idle = idle
        self._call: Call | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`; an unanswered request stays incomplete."""
        if self in self._idle:
            self._idle.remove(self)

    def ask(self, call: Call) -> None:
        """Send a request."""
        self._call, self._seen = call, b""
        call.sent = time.monotonic()
        self.transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        call = self._call
        if call is None:
            return
        self._seen += data
        if not call.first:
            if not self._seen.startswith(b"HTTP/1.1 200"):
                self.transport.close()
            elif b"\n\n" in self._seen[self._seen.find(b"data: ") :]:
                # A proxy that writes events anew leaves out for how long the upstream kept it: about as long as meant.
                kept = _KEPT.search(self._seen)
                call.first, call.kept = time.monotonic(), int(kept[1]) / 1e6 if kept else FIRST_S
        if self._seen.endswith(b"\r\n0\r\n\r\n"):
            call.complete = self._seen.count(b"data: {") >= CHUNKS  # LiteLLM adds one
            self._call = None
            self._idle.append(self)


async def offer(port: int, due: list[float]) -> list[Call]:
    """Send requests at their times, in seconds from now, each at once whatever became of those before it."""
    loop, idle, callers, tasks = asyncio.get_running_loop(), list[Caller](), list[Caller](), set[asyncio.Task[None]]()

    async def connect(call: Call | None) -> None:
        _, caller = await loop.create_connection(lambda: Caller(idle), "127.0.0.1", port)
        callers.append(caller)
        if call is None:
            idle.append(caller)
        else:
            caller.ask(call)

    for _ in range(CONNECTIONS):  # the others are made when all of these are busy
        await connect(None)
    begin = time.monotonic() + 0.05
    calls = [Call(begin + at) for at in due]
    for call in calls:
        while (left := call.due - time.monotonic()) > 0:
            await asyncio.sleep(left)
        if idle:
            idle.pop().ask(call)
        else:
            tasks.add(asyncio.create_task(connect(call)))
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until and not all(call.complete for call in calls):
        await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for caller in callers:
        caller.transport.close()
    return calls
