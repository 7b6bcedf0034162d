"""A request on its way through the proxy, and what the proxy itself answers."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from sbs_opt.adapters.capture import FinishedRequest
from sbs_opt.adapters.prompt import Prompt
from sbs_opt.adapters.router import Placed, RejectedError
from sbs_opt.models.checks import IntArray

RETRY_S = 1
UNREADABLE = "the body is not packed as its headers say"
_STATUS = {"too_large": 413, "deadline": 503, "overload": 503, "shutdown": 503}


@dataclass(slots=True)
class Ask:
    """A request on its way through, and what the capture will know of it. No text outlives the answer.

    Parameters
    ----------
    raw, body
        As it came, and as it was read.
    prompt, prompt_tokens, blocks
        Its prompt, how long that is taken to be, and its prefix blocks or None.
    """

    raw: bytes
    body: dict[str, Any]
    prompt: Prompt
    prompt_tokens: int
    blocks: IntArray | None
    arrival_ns: int = field(default_factory=time.time_ns)
    placed: Placed | None = None
    first_token_ns: int | None = None
    events: int = 0
    output_tokens: int | None = None
    outcome: str = "rejected"

    @property
    def streamed(self) -> bool:
        """Whether its answer comes token by token."""
        return bool(self.body.get("stream"))

    def finished(self) -> FinishedRequest:
        """Return what is told of the request once it is over."""
        placed = self.placed
        output = self.output_tokens if self.output_tokens is not None else max(0, self.events - 1)
        return FinishedRequest(
            arrival_ns=self.arrival_ns,
            end_ns=time.time_ns(),
            prompt_tokens=self.prompt_tokens,
            output_tokens=output if self.first_token_ns else 0,
            outcome=self.outcome,
            # An answer in one piece does not show when its first token was there.
            first_token_ns=self.first_token_ns if self.streamed else None,
            placement=None if placed is None else (placed.instance, placed.unit),
            block_ids=() if self.blocks is None else self.blocks,
        )


def unread(raw: bytes) -> Ask:
    """Return a request that is passed on and nothing more."""
    return Ask(raw, {}, Prompt(), 1, None)


def refusal(status: int, kind: str, message: str, retry_after_s: int | None = None) -> web.Response:
    """Return an error as OpenAI writes it."""
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return web.json_response({"error": {"type": kind, "message": message}}, status=status, headers=headers)


def rejection(error: RejectedError) -> web.Response:
    """Return the answer to a request that the scheduler rejects."""
    retry = None if error.retry_after_s is None else max(1, round(error.retry_after_s))
    return refusal(_STATUS[error.reason], error.reason, f"not placed: {error.reason}", retry)


def broken_event(error: Exception) -> bytes:
    """Return the event that ends a stream visibly."""
    told = {"error": {"type": "upstream_error", "message": f"the answer broke off: {type(error).__name__}"}}
    return b"data: " + json.dumps(told).encode() + b"\n\n"
