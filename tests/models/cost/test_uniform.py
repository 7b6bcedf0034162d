"""Uniform passes and steps, as benchmarks are published, against the cost model they are made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.models.cost.uniform import predict_pass, predict_step
from sbs_opt.models.errors import ExtrapolationWarning, InputError
from tests.models.cost.cases import Chunk, decode, prefill, work

PREFILL = {overlap: prefill(overlap=overlap) for overlap in (False, True)}
COST = PREFILL[False]


def stream(prompt: int, tokens: int, cached: int) -> list[list[Chunk]]:
    """Return the chunks of each pass, token by token, until a pass ends with a prompt."""
    passes: list[list[Chunk]] = []
    done = 0
    while not passes or done:
        room, chunks = tokens, []
        while room:
            take = min(room, prompt - done)
            chunks.append((take, cached + done))
            done = (done + take) % prompt
            room -= take
        passes.append(chunks)
    return passes


@pytest.mark.parametrize(
    ("prompt", "tokens", "cached", "passes"),
    [
        (4096, 16384, 0, 1),
        (4096, 4096, 0, 1),
        (1024, 4096, 3072, 1),
        (1, 3, 0, 1),
        (8192, 2048, 0, 4),
        (5000, 2000, 100, 5),
        (3000, 4500, 0, 2),
    ],
)
def test_a_stream_of_prompts_fills_its_passes(prompt: int, tokens: int, cached: int, passes: int) -> None:
    found = predict_pass(COST, prompt_tokens=prompt, tokens_per_unit=tokens, cached_tokens=cached)
    works = [work([chunks] * 4) for chunks in stream(prompt, tokens, cached)]
    assert found.passes == len(works) == passes
    seconds = [COST.pass_ns(*one) / 1e9 for one in works]
    assert found.seconds == pytest.approx(np.mean(seconds))
    assert found.tokens_per_s_per_gpu == pytest.approx(tokens / np.mean(seconds))
    assert found.budget.attention == pytest.approx(np.mean([COST.budget(*one).attention for one in works]))
    assert found.layer.gemm == pytest.approx(np.mean([COST.layer_times(*one).gemm for one in works]))


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 300), st.integers(0, 5000))
@settings(max_examples=40)
def test_passes_are_those_of_the_stream(prompt: int, tokens: int, scale: int, cached: int) -> None:
    prompt, tokens = scale * prompt, scale * tokens
    works = stream(prompt, tokens, cached)
    found = predict_pass(COST, prompt_tokens=prompt, tokens_per_unit=tokens, cached_tokens=cached)
    assert found.passes == len(works)
    assert found.seconds == pytest.approx(np.mean([COST.pass_ns(*work([one] * 4)) for one in works]) / 1e9)


@given(st.integers(200, 4000), st.integers(0, 40_000), st.integers(1000, 8000), st.booleans())
@settings(max_examples=20)
def test_a_layer_is_part_of_the_pass(new: int, cached: int, tokens: int, overlap: bool) -> None:
    tokens -= tokens % new if tokens >= new else 0
    found = predict_pass(PREFILL[overlap], prompt_tokens=new, tokens_per_unit=tokens, cached_tokens=cached)
    assert 58 * found.layer.layer / 1e3 < found.seconds < 62 * found.layer.layer / 1e3
    assert found.budget.total / 1e9 == pytest.approx(found.seconds, abs=1e-8)


@given(st.integers(1, 16384), st.integers(0, 8192))
def test_tokens_in_the_cache_save_time(new: int, cached: int) -> None:
    hit = predict_pass(COST, prompt_tokens=new, tokens_per_unit=new, cached_tokens=cached)
    whole = predict_pass(COST, prompt_tokens=new + cached, tokens_per_unit=new + cached)
    assert hit.seconds <= whole.seconds + 1e-9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_tokens": 0, "tokens_per_unit": 8}, "prompt_tokens = 0: must be at least 1"),
        ({"prompt_tokens": 10, "tokens_per_unit": 8, "cached_tokens": -1}, "cached_tokens = -1: must not be negative"),
        ({"prompt_tokens": 10, "tokens_per_unit": 0}, "tokens_per_unit = 0: must be at least 1"),
        ({"prompt_tokens": 1001, "tokens_per_unit": 1}, "a prompt takes 1,001 passes; give more"),
    ],
)
def test_passes_that_cannot_be_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict_pass(COST, **arguments)


def test_more_than_the_alltoall_takes_is_told() -> None:
    with pytest.warns(ExtrapolationWarning, match="takes 128 per unit"):
        predict_step(decode(), sequences=129, kv_tokens=10)


@pytest.mark.parametrize(("sequences", "kv"), [(-1, 5), (5, -1)])
def test_a_step_refuses_negative_counts(sequences: int, kv: int) -> None:
    with pytest.raises(InputError, match="must not be negative"):
        predict_step(decode(), sequences=sequences, kv_tokens=kv)


@pytest.mark.parametrize(("acceptance", "kept"), [(0.0, 1.0), (0.5, 1.75), (0.85, 1 + 0.85 + 0.7225), (1.0, 3.0)])
def test_drafts_are_kept_only_after_those_before_them(acceptance: float, kept: float) -> None:
    found = predict_step(decode(drafts=2), sequences=32, kv_tokens=4000, acceptance=acceptance)
    assert found.tokens_per_s_per_gpu == pytest.approx(32 * kept / found.seconds)


@pytest.mark.parametrize("acceptance", [-0.1, 1.1, float("nan")])
def test_acceptance_is_a_share(acceptance: float) -> None:
    with pytest.raises(InputError, match=r"acceptance = .*: is a share, from 0 to 1"):
        predict_step(decode(), sequences=1, kv_tokens=1, acceptance=acceptance)
