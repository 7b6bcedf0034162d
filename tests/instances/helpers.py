"""What several tests of traces use: writing small files, comparing requests, drawing some."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from sbs_opt.models.errors import TraceError
from sbs_opt.models.requests import Requests

AZURE_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"


def write(folder: Path, content: str | bytes, name: str = "trace") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def mooncake(*rows: tuple[int, int, int, list[int]]) -> str:
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)


def blocks_of(requests: Requests, i: int) -> list[int]:
    blocks: list[int] = requests.block_id[requests.block_offset[i] : requests.block_offset[i + 1]].tolist()
    return blocks


def equal(a: Requests, b: Requests) -> bool:
    names = ("arrival_ns", "prompt_tokens", "output_tokens", "block_offset", "block_id", "session")
    return a.block_tokens == b.block_tokens and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)


def failed(field: str, problem: str) -> TraceError:
    """The maker of errors that parsers are given."""
    return TraceError(f"{field}: {problem}")


@st.composite
def some_requests(draw: st.DrawFn) -> Requests:
    n = draw(st.integers(1, 8))
    prompt = np.array(draw(st.lists(st.integers(0, 200), min_size=n, max_size=n)))
    has_blocks = draw(st.booleans())
    count = -(-prompt // 16) if has_blocks else 0 * prompt
    seen: dict[int, int] = {}
    ids = [seen.setdefault(draw(st.integers(0, 5)), len(seen)) for _ in range(int(count.sum()))]
    labels: dict[int, int] = {}
    drawn = draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n))
    session = [-1 if s < 0 else labels.setdefault(s, len(labels)) for s in drawn]
    arrival = np.sort(np.array(draw(st.lists(st.integers(0, 2**62), min_size=n, max_size=n))))
    output = np.array(draw(st.lists(st.integers(0, 2**40), min_size=n, max_size=n)))
    offset = np.concatenate(([0], np.cumsum(count)))
    return Requests(arrival, prompt, output, offset, np.array(ids, np.int64), 16 * has_blocks, np.array(session))
