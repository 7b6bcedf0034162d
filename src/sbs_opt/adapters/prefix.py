"""Prefix blocks of a prompt as keyed hashes: equal beginnings give equal ids, and the ids tell nothing of the text."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np

from sbs_opt.adapters.prompt import Request, read_prompt
from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import InputError

_DIGEST_BYTES = 8
_TOKEN_BYTES = 4
_MASK = np.uint64(2**63 - 1)  # ids are int64 and never negative
_TEXT_ROOT, _TOKENS_ROOT = b"text    ", b"tokens  "  # what stands before the first block: the two never meet


class PrefixHasher:
    """Chained block ids.

    Parameters
    ----------
    key
        16 to 64 secret bytes. Without it neither can the text be guessed from ids, nor ids be made for a text.
    block_tokens
        Tokens per block, at least 1.
    characters_per_token
        How many characters stand for a token where there is only text. Keep it fixed: another value cuts elsewhere, and
        no id of before is met again.

    Raises
    ------
    InputError
        A parameter is outside of its range.

    Notes
    -----
    With :math:`b_j` the j-th whole block, :math:`d_j = \\text{BLAKE2b}_{key}(d_{j-1} b_j)`, 8 bytes, and the id is
    :math:`d_j` without its top bit. Nothing is kept between calls. Two different prefixes share an id with a chance of
    about 2⁻⁶³ per pair.

    References
    ----------
    Aumasson, Neves, Wilcox-O'Hearn, Winnerlein: BLAKE2: simpler, smaller, fast as MD5. ACNS 2013; RFC 7693.
    """

    def __init__(self, key: bytes, block_tokens: int, characters_per_token: float) -> None:
        if not 16 <= len(key) <= blake2b.MAX_KEY_SIZE:
            raise InputError(f"key: holds {len(key)} bytes; give 16 to {blake2b.MAX_KEY_SIZE} random ones")
        if block_tokens < 1:
            raise InputError(f"block_tokens = {block_tokens}: must be at least 1")
        if not 1 <= characters_per_token <= 16:
            raise InputError(f"characters_per_token = {characters_per_token}: must lie between 1 and 16")
        self._keyed = blake2b(key=key, digest_size=_DIGEST_BYTES)
        self._block_tokens = block_tokens
        self._block_characters = round(block_tokens * characters_per_token)

    @property
    def block_tokens(self) -> int:
        """Tokens per block."""
        return self._block_tokens

    def block_ids(self, request: Request) -> IntArray:
        """Return int64[k], the ids of the whole blocks of a prompt; `InputError` where the body is malformed."""
        prompt = read_prompt(request)
        if prompt.token_ids is not None:
            root = _TOKENS_ROOT
            tokens = np.asarray(prompt.token_ids, dtype=f"<i{_TOKEN_BYTES}").tobytes()
            blocks = _pieces(tokens, self._block_tokens * _TOKEN_BYTES)
        else:
            root = _TEXT_ROOT
            blocks = self._text_blocks(prompt.text)
        chain = bytearray()
        digest = root
        for block in blocks:
            hashed = self._keyed.copy()  # the key is absorbed once, not once per block
            hashed.update(digest)
            hashed.update(block)
            digest = hashed.digest()
            chain += digest
        return (np.frombuffer(chain, np.dtype(">u8")) & _MASK).astype(np.int64)

    def _text_blocks(self, text: str) -> Iterator[bytes]:
        if text.isascii():
            return _pieces(text.encode(), self._block_characters)
        size = self._block_characters
        starts = range(0, len(text) - size + 1, size)
        # JSON can hold halves of surrogate pairs, which plain UTF-8 refuses.
        return (text[start : start + size].encode("utf-8", "surrogatepass") for start in starts)


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Yield the whole pieces of `size` bytes; the rest is left out."""
    return (data[start : start + size] for start in range(0, len(data) - size + 1, size))
