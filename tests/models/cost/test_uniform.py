"""Uniform passes and steps, as benchmarks are published, against the cost model they are made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.models.cost.uniform import predict_pass, predict_step
from sbs_opt.models.errors import ExtrapolationWarning, InputError
from tests.models.cost.cases import Chunk, decode, prefill, work

PREFILL = {overlap: prefill(overlap=overlap) for overlap in (False, True)}
COST = PREFILL[False]


@pytest.mark.parametrize(
    ("prompt", "tokens", "cached", "chunks"),
    [
        (4096, 16384, 0, [(4096, 0)] * 4),
        (4096, 4096, 0, [(4096, 0)]),
        (4096, 10000, 0, [(4096, 0), (4096, 0), (1808, 0)]),
        (4096, 4096, 3072, [(1024, 3072)] * 4),
        (1, 3, 0, [(1, 0)] * 3),
    ],
)
def test_prompts_that_fit_fill_the_pass(prompt: int, tokens: int, cached: int, chunks: list[Chunk]) -> None:
    found = predict_pass(COST, prompt_tokens=prompt, tokens_per_unit=tokens, cached_tokens=cached)
    same = work([chunks] * 4)
    assert found.passes == 1
    assert found.seconds == COST.pass_ns(*same) / 1e9
    assert found.tokens_per_s_per_gpu == pytest.approx(tokens / found.seconds)
    assert found.budget == COST.budget(*same)
    assert found.layer == COST.layer_times(*same)


def test_a_longer_prompt_takes_passes() -> None:
    found = predict_pass(COST, prompt_tokens=50_000, tokens_per_unit=16384, cached_tokens=1000)
    chunks = [(16384, 1000), (16384, 17384), (16232, 33768)]
    passes = [COST.pass_ns(*work([[chunk]] * 4)) for chunk in chunks]
    assert found.passes == 3
    assert found.seconds == pytest.approx(sum(passes) / 3e9)
    assert found.tokens_per_s_per_gpu == pytest.approx(49_000 / (sum(passes) / 1e9))
    budgets = [COST.budget(*work([[chunk]] * 4)) for chunk in chunks]
    assert found.budget.attention == pytest.approx(np.mean([budget.attention for budget in budgets]))
    assert found.budget.total == pytest.approx(found.seconds * 1e9, abs=1)


@given(st.integers(1, 40_000), st.integers(0, 40_000), st.integers(1000, 20_000), st.booleans())
def test_a_layer_is_part_of_the_pass(new: int, cached: int, tokens: int, overlap: bool) -> None:
    found = predict_pass(
        PREFILL[overlap], prompt_tokens=new + cached, tokens_per_unit=tokens, cached_tokens=cached
    )  # fmt: skip
    assert found.passes == (1 if new <= tokens else -(-new // tokens))
    assert 58 * found.layer.layer / 1e3 < found.seconds < 62 * found.layer.layer / 1e3
    assert found.budget.total / 1e9 == pytest.approx(found.seconds, abs=1e-8)


@given(st.integers(1, 16384), st.integers(0, 8192))
def test_tokens_in_the_cache_save_time(new: int, cached: int) -> None:
    hit = predict_pass(COST, prompt_tokens=new + cached, tokens_per_unit=new, cached_tokens=cached)
    whole = predict_pass(COST, prompt_tokens=new + cached, tokens_per_unit=new + cached)
    assert hit.seconds <= whole.seconds + 1e-9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_tokens": 0, "tokens_per_unit": 8}, "cached = 0: must be less than prompt = 0"),
        (
            {"prompt_tokens": 10, "tokens_per_unit": 8, "cached_tokens": 10},
            "cached = 10: must be less than prompt = 10",
        ),
        ({"prompt_tokens": 10, "tokens_per_unit": 8, "cached_tokens": -1}, "cached = -1"),
        ({"prompt_tokens": 10, "tokens_per_unit": 0}, "tokens_per_unit = 0: a pass runs at least one token"),
        ({"prompt_tokens": 1001, "tokens_per_unit": 1}, "a prompt of 1,001 takes 1,001 passes; give more"),
    ],
)
def test_passes_that_cannot_be_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict_pass(COST, **arguments)


@given(st.integers(1, 128), st.integers(1, 20_000))
def test_a_step_puts_out_a_token_per_sequence(sequences: int, kv: int) -> None:
    cost = decode()
    found = predict_step(cost, sequences=sequences, kv_tokens=kv)
    batch = np.full(4, sequences)
    assert found.seconds == cost.step_ns(batch * kv, batch) / 1e9
    assert found.tokens_per_s_per_gpu == pytest.approx(sequences / found.seconds)
    assert found.budget == cost.budget(batch * kv, batch)
    assert found.layer == cost.layer_times(batch * kv, batch)


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
