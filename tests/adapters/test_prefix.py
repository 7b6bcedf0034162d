"""Keyed block ids: equal beginnings share leading ids, anything else shares none."""

from __future__ import annotations

import pickle
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.adapters.prefix import PrefixHasher
from sbs_opt.models.errors import InputError

KEY = bytes(range(32))
TOKENS, CHARACTERS = 4, 2.0
SIZE = 8  # characters per block
HASHER = PrefixHasher(KEY, TOKENS, CHARACTERS)

# Few letters, so that blocks repeat; halves of surrogate pairs, which JSON can hold.
TEXT = st.text(alphabet="ab\u00e9\u4e2d\U0001f600\ud800", max_size=60)


def leading_run(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> int:
    n = min(len(first), len(second))
    differs = first[:n] != second[:n]
    return int(differs.argmax()) if differs.any() else n


@given(TEXT, TEXT, TEXT)
def test_ids_agree_exactly_as_far_as_the_whole_blocks(common: str, first: str, second: str) -> None:
    one, two = common + first, common + second
    ids_one, ids_two = HASHER.block_ids({"prompt": one}), HASHER.block_ids({"prompt": two})
    blocks = min(len(one), len(two)) // SIZE
    same = next((k for k in range(blocks) if one[k * SIZE : (k + 1) * SIZE] != two[k * SIZE : (k + 1) * SIZE]), blocks)
    assert leading_run(ids_one, ids_two) == same
    assert not set(ids_one[same:].tolist()) & set(ids_two[same:].tolist())  # chained: never the same again


@given(TEXT)
def test_only_whole_blocks_count_and_ids_are_63_bits(text: str) -> None:
    ids = HASHER.block_ids({"prompt": text})
    assert ids.dtype == np.int64
    assert len(ids) == len(text) // SIZE
    assert (ids >= 0).all()
    assert len(set(ids.tolist())) == len(ids)  # a block that repeats has another id, for it has another past


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=40), st.integers(0, 39))
def test_token_ids_are_cut_into_blocks_of_tokens(tokens: list[int], changed: int) -> None:
    ids = HASHER.block_ids({"prompt": tokens})
    assert len(ids) == len(tokens) // TOKENS
    changed %= len(tokens)
    others = HASHER.block_ids({"prompt": [*tokens[:changed], tokens[changed] ^ 1, *tokens[changed + 1 :]]})
    assert leading_run(ids, others) == min(changed // TOKENS, len(ids))


def test_ids_are_what_the_formula_says() -> None:
    ids = HASHER.block_ids({"prompt": "the same text, cut"})
    first = blake2b(b"text    the same", key=KEY, digest_size=8).digest()
    second = blake2b(first + b" text, c", key=KEY, digest_size=8).digest()
    assert ids.tolist() == [int.from_bytes(digest, "big") % 2**63 for digest in (first, second)]


def test_key_and_kind_of_prompt_matter() -> None:
    request = {"prompt": "abcdefgh" * 4}
    assert not set(HASHER.block_ids(request)) & set(PrefixHasher(KEY[::-1], TOKENS, CHARACTERS).block_ids(request))
    as_tokens = np.frombuffer(("abcdefgh" * 4).encode(), "<i4").tolist()
    assert not set(HASHER.block_ids(request)) & set(HASHER.block_ids({"prompt": as_tokens}))


def test_chats_share_what_they_begin_with() -> None:
    system = {"role": "system", "content": "You answer in one sentence. " * 4}
    ask = [{"role": "user", "content": text} for text in ("first question", "another one")]
    one, two = (HASHER.block_ids({"messages": [system, message]}) for message in ask)
    shared = len("system\n") + len(str(system["content"]))
    assert leading_run(one, two) >= shared // SIZE
    assert one.tolist() != two.tolist()


def test_the_hasher_keeps_no_text() -> None:
    hasher = PrefixHasher(KEY, TOKENS, CHARACTERS)
    before = {name: value for name, value in vars(hasher).items() if name != "_keyed"}
    state = vars(hasher)["_keyed"].digest()
    hasher.block_ids({"prompt": "a secret that must not stay anywhere"})
    assert {name: value for name, value in vars(hasher).items() if name != "_keyed"} == before
    assert vars(hasher)["_keyed"].digest() == state
    assert b"secret" not in pickle.dumps(before)


@pytest.mark.parametrize(
    ("key", "tokens", "ratio", "field"),
    [(b"short", 4, 4.0, "key"), (b"k" * 65, 4, 4.0, "key"), (KEY, 0, 4.0, "block_tokens"), (KEY, 4, 0.5, "characters")],
)
def test_parameters_out_of_range_are_refused(key: bytes, tokens: int, ratio: float, field: str) -> None:
    with pytest.raises(InputError, match=field):
        PrefixHasher(key, tokens, ratio)


def test_a_malformed_body_is_refused() -> None:
    with pytest.raises(InputError, match="prompt"):
        HASHER.block_ids({"prompt": 7})
