"""The bytes of an answer in OpenAI's form: one chunk a token, or the whole."""

from __future__ import annotations

import json
import time
from typing import Any

from sbs_opt.testing.engines.requests import Ask

_TOKEN = " token"


class Answer:
    """The answer to one request, token by token.

    Parameters
    ----------
    ask
        What was asked.
    number
        Makes its id.
    model
        Name of the model.
    """

    def __init__(self, ask: Ask, number: int, model: str) -> None:
        self._ask = ask
        prefix, self._object = ("chatcmpl", "chat.completion") if ask.chat else ("cmpl", "text_completion")
        self._head: dict[str, Any] = {"id": f"{prefix}-{number}", "created": int(time.time()), "model": model}
        self._middle = b""

    def chunks(self, first: int, until: int) -> bytes:
        """Return the events of tokens `first` ≤ k < `until`; with the last token also the usage and the end."""
        parts = [self._chunk(k) for k in range(first, until)]
        if until == self._ask.max_tokens:
            if self._ask.include_usage:
                parts.append(self._event({"choices": [], "usage": self._usage()}))
            parts.append(b"data: [DONE]\n\n")
        return b"".join(parts)

    def whole(self) -> bytes:
        """Return the JSON of an answer that is not streamed."""
        text = _TOKEN * self._ask.max_tokens
        if self._ask.chat:
            choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}}
        else:
            choice = {"index": 0, "text": text, "logprobs": None}
        choice["finish_reason"] = "length"
        whole = {**self._head, "object": self._object, "choices": [choice], "usage": self._usage()}
        return json.dumps(whole).encode()

    def _chunk(self, k: int) -> bytes:
        if 0 < k < self._ask.max_tokens - 1:
            self._middle = self._middle or self._event({"choices": [self._choice(k)]})  # all alike
            return self._middle
        return self._event({"choices": [self._choice(k)]})

    def _choice(self, k: int) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0}
        if self._ask.chat:
            choice["delta"] = {"role": "assistant", "content": _TOKEN} if k == 0 else {"content": _TOKEN}
        else:
            choice["text"] = _TOKEN
        choice["logprobs"] = None
        choice["finish_reason"] = "length" if k == self._ask.max_tokens - 1 else None
        return choice

    def _event(self, fields: dict[str, Any]) -> bytes:
        kind = f"{self._object}.chunk" if self._ask.chat else self._object
        return b"data: " + json.dumps({**self._head, "object": kind, **fields}).encode() + b"\n\n"

    def _usage(self) -> dict[str, int]:
        prompt, output = self._ask.prompt_tokens, self._ask.max_tokens
        return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
