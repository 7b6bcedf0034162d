"""Shapes of models: FLOPs and bytes against figures that are published or can be counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.models.cost.model import GroupedAttention, ModelProfile, Shape
from sbs_opt.models.errors import InputError
from tests.models.cost.cases import KIMI, QWEN, V3, decode, prefill


def flops(shapes: tuple[Shape, ...]) -> float:
    """Return the FLOP of one token."""
    return 2.0 * sum(k * n for k, n in shapes)


def test_deepseek_per_token_and_layer() -> None:
    """374.2 MFLOP projections, of which 33.6 kv_b; 792.7 feed-forward; 81,920 and 278,528 FLOP a pair."""
    shape = V3.attention
    projections = flops((*shape.projections(V3.hidden), *shape.context_projections))
    assert projections / 1e6 == pytest.approx(374.2, abs=0.05)
    assert flops(shape.context_projections) / 1e6 == pytest.approx(33.6, abs=0.05)
    experts = (V3.top_experts + V3.shared_experts) * flops(V3.feed_forward(V3.expert_width))
    assert experts / 1e6 == pytest.approx(792.7, abs=0.05)
    assert flops(V3.feed_forward(V3.dense_width)) / 1e6 == pytest.approx(792.7, abs=0.05)
    assert shape.pair_flops == 81920
    assert shape.decode_flops == 278528
    assert shape.kv_bytes == 1152


def test_query_and_latent_are_one_gemm() -> None:
    """22.0 and 8.3 MFLOP of q_a and kv_a run as one of n = 1536 + 576."""
    assert V3.attention.projections(V3.hidden)[0] == (7168, 2112)


def test_absorption_keeps_the_weights_of_kv_b() -> None:
    for model in (V3, KIMI):
        shape = model.attention
        assert flops(shape.absorbed_projections) == flops(shape.context_projections)


def test_kimi_has_half_the_heads_and_more_experts() -> None:
    assert KIMI.attention.pair_flops == V3.attention.pair_flops / 2
    assert KIMI.attention.kv_bytes == V3.attention.kv_bytes
    assert (KIMI.routed_experts, KIMI.moe_layers) == (384, 60)


def test_grouped_query_attention_counted_by_hand() -> None:
    """4 query heads of 8 values share 2 heads of keys and values; a hidden vector of 16."""
    shape = GroupedAttention(heads=4, kv_heads=2, head_dim=8)
    assert shape.projections(16) == ((16, 32 + 16 + 16), (32, 16))
    assert not any((shape.context_projections, shape.absorbed_projections))
    assert shape.pair_flops == shape.decode_flops == 2 * 4 * (8 + 8)
    assert shape.context_bytes == shape.kv_bytes == 2 * (16 + 16)
    # Query and key (48 values) are read and written in BF16, the output (32) is read in BF16 and written in FP8.
    assert shape.elementwise_bytes == (4 * 48 + 3 * 32, 0.0)


def test_elementwise_bytes_counted_by_hand() -> None:
    """DeepSeek-V3: query 24,576 values rotated, output 16,384 quantised, 22 bytes a hidden value, shared expert."""
    new = 4 * 24576 + 3 * 16384 + 22 * 7168 + 5 * 2048
    assert V3.elementwise_bytes == pytest.approx((new, 2 * (16384 + 24576)))
    assert QWEN.shared_width == 0


@pytest.mark.parametrize("model", [V3, KIMI, QWEN])
def test_no_feed_forward_without_width(model: ModelProfile) -> None:
    assert model.feed_forward(0) == ()
    assert model.feed_forward(5) == ((model.hidden, 10), (5, model.hidden))


@given(st.integers(1, 4), st.integers(0, 1))
def test_models_rank_by_their_work(prompts: int, overlap: int) -> None:
    """Kimi-K2 halves attention and reads more experts, Qwen3-235B has 22 B active parameters instead of 37 B."""
    tokens = np.full(8, prompts * 4096)
    pairs = tokens * 2048
    seconds = {
        name: prefill(8, overlap=bool(overlap), model=model).pass_ns(pairs, tokens, tokens) / 1e9
        for name, model in (("v3", V3), ("kimi", KIMI), ("qwen", QWEN))
    }
    assert seconds["kimi"] < 1.2 * seconds["v3"]
    assert all(0.05 < s < 20.0 for s in seconds.values())


def test_grouped_attention_in_decode_reads_what_it_holds() -> None:
    """Per KV token and layer 2,048 B over the stream rate: its 32,768 FLOP are faster."""
    cost = decode(8, model=QWEN)
    expected = 94 * 2048 / cost.hardware.prefill_pass.stream_gbps
    assert int(cost.attention_ns([10**6])[0]) == pytest.approx(10**6 * expected, rel=1e-4)


@pytest.mark.parametrize("model", [V3, KIMI, QWEN])
def test_passes_run_at_a_sensible_rate(model: ModelProfile) -> None:
    """Eight units in one node, no overlap: a tenth to under a half of the 1,979 TFLOP/s that FP8 peaks at."""
    cost = prefill(8, model=model)
    tokens = np.full(8, 16384)
    pairs = tokens * 2048
    routed = (model.top_experts + model.shared_experts) * flops(model.feed_forward(model.expert_width))
    shape = model.attention
    per_token = flops((*shape.projections(model.hidden), *shape.context_projections)) + routed
    work = model.layers * (16384 * per_token + int(pairs[0]) * shape.pair_flops)
    assert 200 < work / cost.pass_ns(pairs, tokens, tokens) / 1e3 < 900, "TFLOP/s"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("dense_layers", 62, "more than layers, 61"),
        ("top_groups", 9, "more than expert_groups, 8"),
        ("top_experts", 129, "more than the experts of the groups that a token may reach, 128"),
    ],
)
def test_shapes_that_contradict_themselves_are_refused(field: str, value: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(V3, **{field: value})  # type: ignore[arg-type]
