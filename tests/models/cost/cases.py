"""Cost models and work of passes that several test modules share; without evidence, so that no size is out of range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import DecodeCost, PrefillCost, load_hardware, load_model
from sbs_opt.models.cost.model import ModelProfile

H800 = replace(load_hardware("h800"), evidence=())
V3, KIMI, QWEN = (load_model(name) for name in ("deepseek-v3", "kimi-k2", "qwen3-235b-a22b"))

Work = tuple[IntArray, IntArray, IntArray]
"""Pairs, new tokens and context tokens of each unit."""
Chunk = tuple[int, int]
"""New tokens, cached tokens."""


def prefill(
    units: int = 4, *, overlap: bool = False, imbalance: float = 1.0, chunk: int = 16384, model: ModelProfile = V3
) -> PrefillCost:
    """Return the prefill cost on H800."""
    return PrefillCost(
        H800, model, units=units, chunk_tokens=chunk, overlap=overlap, expert_imbalance=imbalance
    )  # fmt: skip


def decode(
    units: int = 4, *, overlap: bool = False, imbalance: float = 1.0, drafts: int = 0, model: ModelProfile = V3
) -> DecodeCost:
    """Return the decode cost on H800."""
    return DecodeCost(
        H800, model, units=units, overlap=overlap, expert_imbalance=imbalance, draft_tokens=drafts
    )  # fmt: skip


def work(units: Sequence[Sequence[Chunk]]) -> Work:
    """Return the work of a pass from each unit's chunks, by the definition of pairs and context."""
    pairs = [sum(c * p + c * (c + 1) // 2 for c, p in chunks) for chunks in units]
    new = [sum(c for c, _ in chunks) for chunks in units]
    context = [sum(c + p for c, p in chunks) for chunks in units]
    return np.array(pairs, np.int64), np.array(new, np.int64), np.array(context, np.int64)


Chunks = st.lists(st.tuples(st.integers(1, 16384), st.integers(0, 100_000)), max_size=4)
Works = st.lists(Chunks, min_size=4, max_size=4).map(work)
"""Work of four units."""
