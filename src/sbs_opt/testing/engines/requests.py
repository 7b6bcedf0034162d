"""What a request for a generation asks for, in OpenAI's form with the fields of SGLang and vLLM that pin it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sbs_opt.testing.engines.config import EngineConfig

_RANK_HEADER = "X-data-parallel-rank"


class RequestError(Exception):
    """A request that is answered with an error in OpenAI's form."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code

    def body(self) -> bytes:
        """Return the JSON of the error."""
        error = {"message": str(self), "type": self.kind, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that can be served.

    Parameters
    ----------
    chat
        Whether it came to `/v1/chat/completions`.
    prompt_tokens, max_tokens
        Lengths of prompt and answer.
    stream, include_usage
        How the answer is given; without streaming it always has its usage.
    rank
        Where it is pinned to, or None.
    """

    chat: bool
    prompt_tokens: int
    max_tokens: int
    stream: bool
    include_usage: bool
    rank: int | None


def read_fields(body: bytes) -> dict[str, Any]:
    """Read the body of a request.

    Raises
    ------
    RequestError
        400 on malformed JSON, or what is no object.
    """
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise RequestError(400, f"malformed JSON: {error}") from None
    if not isinstance(fields, dict):
        raise RequestError(400, "the body must be a JSON object")
    return fields


def read_ask(fields: dict[str, Any], headers: Mapping[str, str], chat: bool, config: EngineConfig) -> Ask:
    """Read a request.

    Raises
    ------
    RequestError
        400 on a field of the wrong type, a rank that does not exist or a prompt longer than the context; 404 on an
        unknown model; 500 where SGLang's prefill refuses the pair of rank and `bootstrap_room`.
    """
    if fields.get("model", config.model) != config.model:
        raise RequestError(404, f"The model {fields['model']!r} does not exist.", code="model_not_found")
    prompt_tokens = _prompt_tokens(fields, chat)
    if prompt_tokens > config.context_tokens:
        raise RequestError(
            400,
            f"The prompt has {prompt_tokens} tokens, the model's maximum context length is {config.context_tokens}.",
            code="context_length_exceeded",
        )
    options = fields.get("stream_options") or {}
    if not isinstance(options, dict):
        raise RequestError(400, "stream_options must be an object")
    return Ask(
        chat,
        prompt_tokens,
        1 if config.mode == "prefill" else _max_tokens(fields),
        stream=bool(fields.get("stream")) and config.mode != "prefill",
        include_usage=bool(options.get("include_usage")),
        rank=_rank(fields, headers, config),
    )


def _prompt_tokens(fields: dict[str, Any], chat: bool) -> int:
    prompt = _contents(fields.get("messages")) if chat else fields.get("prompt")
    if isinstance(prompt, str):
        tokens = -(-len(prompt) // 4)
    elif isinstance(prompt, list) and all(type(token) is int for token in prompt):
        tokens = len(prompt)
    else:
        raise RequestError(400, "prompt must be a text or a list of token ids")
    if not tokens:
        raise RequestError(400, "the prompt is empty")
    return tokens


def _contents(messages: Any) -> str:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RequestError(400, "messages must be a list of objects")
    texts = []
    for message in messages:
        content = message.get("content") or ""
        parts = [{"text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise RequestError(400, "content must be a text or a list of parts")
        texts += [str(part.get("text", "")) for part in parts]
    return "".join(texts)


def _max_tokens(fields: dict[str, Any]) -> int:
    asked = fields.get("max_completion_tokens")
    if asked is None:
        asked = fields.get("max_tokens")
    if asked is None:
        return 16
    if type(asked) is not int or asked < 1:
        raise RequestError(400, f"max_tokens = {asked!r} must be a whole number of at least 1")
    return asked


def _rank(fields: dict[str, Any], headers: Mapping[str, str], config: EngineConfig) -> int | None:
    """Return the pinned rank; of SGLang also the rank that follows from the bootstrap room."""
    if config.kind == "openai":
        return None
    rank = None
    if config.kind == "sglang":
        rank = whole_number(fields, "routed_dp_rank")
        if rank is None:
            rank = whole_number(fields, "data_parallel_rank")  # its older name
    if _RANK_HEADER in headers:
        try:
            rank = int(headers[_RANK_HEADER])
        except ValueError:
            raise RequestError(400, f"{_RANK_HEADER} = {headers[_RANK_HEADER]!r} must be a whole number") from None
    if rank is not None and not 0 <= rank < config.ranks:
        raise RequestError(400, f"data-parallel rank {rank} is out of range [0, {config.ranks})")
    if config.kind == "sglang" and config.mode == "prefill":
        return _follow_bootstrap_room(fields, rank, config.ranks)
    return rank


def _follow_bootstrap_room(fields: dict[str, Any], rank: int | None, ranks: int) -> int | None:
    room = whole_number(fields, "bootstrap_room")
    if room is None:
        return rank
    if rank is None:
        return room % ranks
    # A leg that is told the prefill rank does not ask the room for it.
    if room % ranks != rank and whole_number(fields, "disagg_prefill_dp_rank") is None:
        message = f"follow_bootstrap_room conflict: bootstrap_room {room} % {ranks} is not the routed rank {rank}"
        raise RequestError(500, message, "internal_server_error")
    return rank


def whole_number(fields: dict[str, Any], name: str) -> int | None:
    """Return a field that may be missing; what is no whole number is a `RequestError` with 400."""
    value = fields.get(name)
    if value is not None and type(value) is not int:
        raise RequestError(400, f"{name} = {value!r} must be a whole number")
    return value
