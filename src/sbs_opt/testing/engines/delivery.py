"""Sends the tokens of one request to its client, with the faults that were asked for."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field

from aiohttp import web

from sbs_opt.testing.engines.answers import Answer
from sbs_opt.testing.engines.faults import Fault, FaultKind
from sbs_opt.testing.engines.ranks import Sequence


@dataclass(slots=True)
class Delivery:
    """The answer to one request on its way.

    Parameters
    ----------
    request, fault
        What came in, and what is to go wrong with it.
    released
        Set when what is stalled may go on.
    grown
        To be set whenever the request's sequence has more tokens.
    """

    request: web.BaseRequest
    fault: Fault | None
    released: asyncio.Event
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def kind(self) -> FaultKind | None:
        """Kind of the fault."""
        return self.fault.kind if self.fault else None

    async def stream(self, answer: Answer, sequence: Sequence) -> web.StreamResponse:
        """Send tokens as they come; the head of the response goes with the first of them."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        fails_after_first = self.kind in ("reset_after_first", "stall_after_first")
        sent = 0
        while sent < sequence.max_tokens:
            await self._more_than(sent, sequence)
            await self._dawdle()
            until = 1 if fails_after_first and not sent else sequence.produced
            if not sent:
                await response.prepare(self.request)
            await response.write(answer.chunks(sent, until))
            if not sent:
                await self._fail_after_first()
            sent = until
        await response.write_eof()
        return response

    async def whole(self, answer: Answer, sequence: Sequence) -> web.StreamResponse:
        """Send the answer at its end; faults after the first token come when it would have been sent."""
        await self._more_than(0, sequence)
        await self._fail_after_first()
        await self._more_than(sequence.max_tokens - 1, sequence)
        await self._dawdle()
        return web.Response(body=answer.whole(), content_type="application/json")

    async def reset(self) -> None:
        """Close the connection with a TCP reset, which cancels the handler."""
        if self.request.transport is not None:
            connection = self.request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.request.transport.abort()
        await asyncio.Event().wait()

    async def _more_than(self, tokens: int, sequence: Sequence) -> None:
        while sequence.produced <= tokens:
            self.grown.clear()
            await self.grown.wait()

    async def _dawdle(self) -> None:
        if self.fault is not None and self.kind == "slow":
            await asyncio.sleep(self.fault.delay_ms / 1e3)

    async def _fail_after_first(self) -> None:
        if self.kind == "reset_after_first":
            await self.reset()
        elif self.kind == "stall_after_first":
            await self.released.wait()
