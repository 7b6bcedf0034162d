"""How long the prompt of an OpenAI request is: its token ids, a tokenizer's count, or a ratio learned from `usage`.

What is read of a body: `prompt` of a completion, `messages` and `tools` of a chat. Of the parts of a message only text
is read; any other part (image, sound, file) counts `OTHER_PART_TOKENS`, and each message `MESSAGE_TOKENS` for the marks
that a chat template sets around it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sbs_opt.instances.files import PathLike
from sbs_opt.instances.source import shown
from sbs_opt.models.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

OTHER_PART_TOKENS = 1024
"""Tokens of a part that is no text: a guess, of the order of one picture; the engine alone knows."""

MESSAGE_TOKENS = 2
"""Tokens of the two marks around a message; its role and line ends are in the text."""

_LARGEST_TOKEN_ID = 2**31 - 1
_TEXT_PARTS = ("text", "input_text")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What was read of a body.

    Parameters
    ----------
    text
        The whole of it in the order of a chat template: tools, then messages; empty where there are token ids.
    token_ids
        The prompt as token ids, or None.
    other_tokens
        Tokens of what is not in `text`: marks around messages, parts that are no text.
    has_other_parts
        Whether there are such parts, so that `other_tokens` is a guess.
    """

    text: str = ""
    token_ids: Sequence[int] | None = None
    other_tokens: int = 0
    has_other_parts: bool = False


Request = Mapping[str, Any] | Prompt
"""A parsed body, or what `read_prompt` made of it: who needs both length and blocks reads once."""


class PromptLength(Protocol):
    """A way to tell how long prompts are."""

    def tokens(self, request: Request) -> int:
        """Return the prompt tokens of `request`, or raise `InputError` where the body is malformed."""
        ...


class ByTokenizer:
    """Count with a local tokenizer.

    Parameters
    ----------
    path
        A `tokenizer.json` as Hugging Face models ship it. Chat templates are not applied: see the module.

    Raises
    ------
    InputError
        The extra `tokenizer` is not installed, or the file is none.

    Notes
    -----
    Counting a long prompt takes milliseconds; other threads run meanwhile.
    """

    def __init__(self, path: PathLike) -> None:
        self._tokenizer = _load_tokenizer(path)

    def tokens(self, request: Request) -> int:
        """See `PromptLength`."""
        prompt = read_prompt(request)
        if prompt.token_ids is not None:
            return len(prompt.token_ids)
        text = prompt.text
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()  # JSON can hold halves of surrogate pairs, UTF-8 cannot
        return len(self._tokenizer.encode(text).ids) + prompt.other_tokens


class ByRatio:
    """Divide characters by a ratio that is learned from what engines report.

    Parameters
    ----------
    characters_per_token
        Where to start, in [`LEAST`, `MOST`].

    Raises
    ------
    InputError
        The start is outside.

    Notes
    -----
    With :math:`x` the ratio that a report implies, gain :math:`g` = 0.1 and :math:`s = \\ln(1 + \\texttt{MOST_MOVE})`,

    .. math:: \\rho \\leftarrow \\rho \\exp(\\text{clip}(g \\ln(x / \\rho), \\pm s))

    Near the truth this is an exponential mean, far from it a step of one size: a report is one vote, however absurd.
    """

    LEAST = 1.0
    MOST = 16.0
    MOST_MOVE = 0.02
    """Share by which one report can move the ratio."""
    SHORTEST_LEARNED = 32
    """Prompts of fewer tokens tell of the chat template and not of the text."""
    _GAIN = 0.1

    def __init__(self, characters_per_token: float = 4.0) -> None:
        if not self.LEAST <= characters_per_token <= self.MOST:
            raise InputError(
                f"characters_per_token = {characters_per_token}: must lie between {self.LEAST} and {self.MOST}"
            )
        self._ratio = float(characters_per_token)

    @property
    def characters_per_token(self) -> float:
        """The ratio as learned so far."""
        return self._ratio

    def tokens(self, request: Request) -> int:
        """See `PromptLength`."""
        prompt = read_prompt(request)
        if prompt.token_ids is not None:
            return len(prompt.token_ids)
        return math.ceil(len(prompt.text) / self._ratio) + prompt.other_tokens

    def learn(self, request: Request, prompt_tokens: object) -> None:
        """Take in what an engine counted (`usage.prompt_tokens`, whatever stands there).

        Passed over is what tells nothing of the ratio: no whole number, and prompts that were given as token ids, have
        parts that are no text, or are short.
        """
        prompt = read_prompt(request)
        if not isinstance(prompt_tokens, int):
            return
        of_text = prompt_tokens - prompt.other_tokens
        if prompt.token_ids is not None or prompt.has_other_parts or not prompt.text:
            return
        if of_text < self.SHORTEST_LEARNED:
            return
        most = math.log1p(self.MOST_MOVE)
        # math.log of each takes integers of any size; their quotient might overflow.
        pull = self._GAIN * (math.log(len(prompt.text)) - math.log(of_text) - math.log(self._ratio))
        moved = self._ratio * math.exp(min(max(pull, -most), most))
        self._ratio = min(max(moved, self.LEAST), self.MOST)


def text_of(request: Request) -> str:
    """Return the text of a prompt, empty where it is token ids; `InputError` where the body is malformed."""
    return read_prompt(request).text


def read_prompt(request: Request) -> Prompt:
    """Return what is read of a body of `/v1/completions` or `/v1/chat/completions`.

    Raises
    ------
    InputError
        The body is malformed; the error names the field.
    """
    if isinstance(request, Prompt):
        return request
    if not isinstance(request, Mapping):
        raise InputError(f"the body is {_kind(request)}; send a JSON object")
    if "messages" in request and "prompt" in request:
        raise InputError("messages: given together with prompt; send one of the two")
    if "messages" in request:
        return _chat(request["messages"], request.get("tools"))
    if "prompt" in request:
        return _completion(request["prompt"])
    raise InputError("messages: missing, and so is prompt; send one of the two")


def _completion(prompt: Any) -> Prompt:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return Prompt(prompt)
    if not isinstance(prompt, list):
        raise InputError(f"prompt: is {_kind(prompt)}; send a text or a list of token ids")
    if not prompt:
        raise InputError("prompt: is an empty list; send a text or token ids")
    kinds = set(map(type, prompt))
    if kinds <= {str, list}:
        raise InputError(f"prompt: holds {len(prompt)} prompts; send one request for each")
    if kinds != {int}:  # bool is a type of its own here
        raise InputError("prompt: the list holds what is no token id; send whole numbers or one text")
    if min(prompt) < 0 or max(prompt) > _LARGEST_TOKEN_ID:
        wrong = next(token for token in prompt if not 0 <= token <= _LARGEST_TOKEN_ID)
        raise InputError(f"prompt: holds {shown(wrong)}; token ids lie between 0 and {_LARGEST_TOKEN_ID}")
    return Prompt(token_ids=prompt)


def _chat(messages: Any, tools: Any) -> Prompt:
    if not isinstance(messages, list):
        raise InputError(f"messages: is {_kind(messages)}; send a list of messages")
    if not messages:
        raise InputError("messages: is empty; send at least one")
    pieces = [] if tools is None else [_json_text("tools", tools)]
    other_parts = 0
    for k, message in enumerate(messages):
        where = f"messages[{k}]"
        if not isinstance(message, Mapping):
            raise InputError(f"{where}: is {_kind(message)}; send an object with role and content")
        role = message.get("role")
        if not isinstance(role, str):
            raise InputError(f"{where}.role: is {_kind(role)}; send a text")
        pieces.append(role)
        other_parts += _add_content(pieces, message, role, where)
        if message.get("tool_calls") is not None:
            pieces.append(_json_text(f"{where}.tool_calls", message["tool_calls"]))
    pieces.append("")
    other_tokens = MESSAGE_TOKENS * len(messages) + OTHER_PART_TOKENS * other_parts
    return Prompt("\n".join(pieces), None, other_tokens, other_parts > 0)


def _add_content(pieces: list[str], message: Mapping[str, Any], role: str, where: str) -> int:
    """Append the text of a message to `pieces`; return how many of its parts are no text."""
    content = message.get("content")
    if isinstance(content, str):
        pieces.append(content)
        return 0
    if content is None and role == "assistant":  # it called tools, or is to be continued
        return 0
    if not isinstance(content, list):
        raise InputError(f"{where}.content: is {_kind(content)}; send a text or a list of parts")
    others = 0
    for k, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str):
            raise InputError(f"{where}.content[{k}].type: is {_kind(kind)}; send parts as objects with a type")
        if kind not in _TEXT_PARTS:
            others += 1
        elif isinstance(text := part.get("text"), str):
            pieces.append(text)
        else:
            raise InputError(f"{where}.content[{k}].text: is {_kind(text)}; send a text")
    return others


def _json_text(field: str, value: Any) -> str:
    if not isinstance(value, list):
        raise InputError(f"{field}: is {_kind(value)}; send a list")
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{field}: cannot be written as JSON ({error}); nest it less deeply") from error


def _kind(value: Any) -> str:
    """Return what `value` is in the words of JSON; a prompt is never quoted."""
    if value is None:
        return "missing or null"
    names = {bool: "a boolean", str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _load_tokenizer(path: PathLike) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise InputError(
            f"tokenizer = {path}: needs the package tokenizers; install it with: pip install 'sbs-opt[tokenizer]'"
        ) from error
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception, whatever is wrong
        raise InputError(f"tokenizer = {path}: is no readable tokenizer.json ({error}); name one") from error
