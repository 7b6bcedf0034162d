"""How long a prompt is: what is read of a body, and a ratio that no single report can spoil."""

from __future__ import annotations

import json
import math
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.adapters.prompt import (
    MESSAGE_TOKENS,
    OTHER_PART_TOKENS,
    ByRatio,
    ByTokenizer,
    Prompt,
    PromptLength,
    read_prompt,
    text_of,
)
from sbs_opt.models.errors import InputError

IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


def chat(*messages: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages), **others}


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of one token per word."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "one": 1, "two": 2, "three": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_text_of_a_chat_has_tools_roles_and_text_parts_in_order() -> None:
    request = chat(
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "what is"}, IMAGE, {"type": "text", "text": "this?"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": {"name": "look"}}]},
        tools=[{"type": "function", "function": {"name": "look"}}],
    )
    text = text_of(request)
    wanted = ('"type":"function"', "system\nbe brief", "user\nwhat is\nthis?", 'assistant\n[{"id":"c"')
    places = [text.find(piece) for piece in wanted]
    assert -1 not in places
    assert places == sorted(places)
    assert read_prompt(request).other_tokens == 3 * MESSAGE_TOKENS + OTHER_PART_TOKENS


@pytest.mark.parametrize("length", [ByRatio(1.0), ByRatio(4.0)])
def test_token_ids_are_counted_exactly_and_alone(length: PromptLength) -> None:
    assert length.tokens({"prompt": [5, 6, 7]}) == 3
    assert length.tokens({"prompt": [[5, 6, 7, 8]]}) == 4
    assert text_of({"prompt": [5, 6]}) == ""


def test_a_list_of_one_text_is_that_text() -> None:
    assert text_of({"prompt": ["hello"]}) == text_of({"prompt": "hello"}) == "hello"
    assert ByRatio(4.0).tokens({"prompt": "hello"}) == 2  # rounded up
    assert ByRatio(4.0).tokens({"prompt": ""}) == 0


def test_tokenizer_counts_words_and_the_marks_of_messages(tokenizer_file: Path) -> None:
    length = ByTokenizer(tokenizer_file)
    assert length.tokens({"prompt": "one two three"}) == 3
    assert length.tokens({"prompt": [9, 9]}) == 2
    assert length.tokens(chat({"role": "user", "content": "one two"})) == 3 + MESSAGE_TOKENS
    assert length.tokens({"prompt": json.loads('"one \\ud83d two"')}) == 3  # half of a surrogate pair


def test_a_missing_tokenizer_or_package_is_the_callers_mistake(
    tmp_path: Path, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"tokenizer = .*nothing\.json"):
        ByTokenizer(tmp_path / "nothing.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"pip install 'sbs-opt\[tokenizer\]'"):
        ByTokenizer(tokenizer_file)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "the body is a list"),
        ({}, "messages: missing, and so is prompt"),
        ({"prompt": "a", "messages": []}, "messages: given together with prompt"),
        ({"prompt": None}, "prompt: is missing or null"),
        ({"prompt": 3}, "prompt: is a number"),
        ({"prompt": []}, "prompt: is an empty list"),
        ({"prompt": ["a", "b"]}, "prompt: holds 2 prompts"),
        ({"prompt": [[1], [2]]}, "prompt: holds 2 prompts"),
        ({"prompt": [1, "a"]}, "prompt: the list holds"),
        ({"prompt": [True]}, "prompt: the list holds"),
        ({"prompt": [1.0]}, "prompt: the list holds"),
        ({"prompt": [[]]}, "prompt: is an empty list"),
        ({"prompt": [3, -1]}, "prompt: holds -1"),
        ({"prompt": [2**31]}, "prompt: holds 2147483648"),
        ({"messages": None}, "messages: is missing or null"),
        ({"messages": {}}, "messages: is an object"),
        ({"messages": []}, "messages: is empty"),
        ({"messages": ["hi"]}, r"messages\[0\]: is a text"),
        (chat({"content": "x"}), r"messages\[0\].role"),
        (chat({"role": "user", "content": "x"}, {"role": "user"}), r"messages\[1\].content: is missing"),
        (chat({"role": "user", "content": 4}), r"messages\[0\].content: is a number"),
        (chat({"role": "user", "content": ["x"]}), r"messages\[0\].content\[0\].type"),
        (chat({"role": "user", "content": [{"type": "text"}]}), r"messages\[0\].content\[0\].text: is missing"),
        (chat({"role": "user", "content": "x"}, tools={}), "tools: is an object"),
        (chat({"role": "assistant", "tool_calls": "x"}), r"messages\[0\].tool_calls: is a text"),
    ],
)
def test_a_malformed_body_names_the_field(body: Any, field: str) -> None:
    with pytest.raises(InputError, match=field) as raised:
        ByRatio().tokens(body)
    assert "\n" not in str(raised.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "messages", "role", "content", "type", "text", "tools", "tool_calls"]), inner
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_body_is_read_or_refused(body: Any) -> None:
    with suppress(InputError):
        assert ByRatio().tokens(body) >= 0


def test_what_was_read_is_not_read_again() -> None:
    prompt = read_prompt({"prompt": "hello"})
    assert read_prompt(prompt) is prompt


REPORTS = st.lists(st.tuples(st.integers(1, 10**6), st.integers(-5, 10**7)), max_size=60)


@given(st.floats(1, 16), REPORTS)
def test_one_report_moves_the_ratio_by_a_stated_share_and_never_out_of_bounds(
    start: float, reports: list[tuple[int, int]]
) -> None:
    length = ByRatio(start)
    for characters, tokens in reports:
        before = length.characters_per_token
        length.learn(Prompt("x" * min(characters, 10_000)), tokens)
        after = length.characters_per_token
        assert abs(math.log(after / before)) <= math.log1p(ByRatio.MOST_MOVE) * (1 + 1e-9)
        assert ByRatio.LEAST <= after <= ByRatio.MOST


@given(st.floats(1.5, 12), st.floats(1, 16), st.integers(0, 2**32))
def test_the_ratio_is_found_though_every_tenth_report_is_absurd(truth: float, start: float, seed: int) -> None:
    length = ByRatio(start)
    for k in range(600):
        tokens = 500 + (seed + 7919 * k) % 4000
        absurd = k % 10 == 0
        length.learn(Prompt("x" * round(tokens * truth)), tokens * 1000 if absurd else tokens)
    # The absurd tenth pulls by one step in ten; the mean balances it at ln(1.02) / (9 · 0.1) = 2.2 %.
    assert length.characters_per_token == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("reported", [None, "800", 0, -3, 31, float("nan")])
def test_reports_that_tell_nothing_are_passed_over(reported: object) -> None:
    length = ByRatio(4.0)
    length.learn({"prompt": "x" * 100}, reported)
    length.learn({"prompt": [1] * 100}, 5000)
    length.learn(chat({"role": "user", "content": [{"type": "text", "text": "x" * 9000}, IMAGE]}), 5000)
    assert length.characters_per_token == 4.0


def test_the_marks_of_messages_are_no_text_to_learn_from() -> None:
    length = ByRatio(4.0)
    request = chat({"role": "user", "content": "x" * 4000})
    for _ in range(500):
        length.learn(request, math.ceil(len(text_of(request)) / 4) + MESSAGE_TOKENS)
    assert length.characters_per_token == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize("start", [0.5, 17, float("nan")])
def test_a_start_out_of_bounds_is_refused(start: float) -> None:
    with pytest.raises(InputError, match="characters_per_token"):
        ByRatio(start)
