"""What passes and steps are made of: the parts sum to the whole, and each is where it belongs."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import Budget, LayerTimes
from tests.models.cost.cases import H800, QWEN, Work, Works, decode, prefill, work

KINDS = [(overlap, x) for overlap in (False, True) for x in (1.0, 1.5)]
PREFILL = {kind: prefill(overlap=kind[0], imbalance=kind[1]) for kind in KINDS}
DECODE = {
    (*kind, drafts): decode(overlap=kind[0], imbalance=kind[1], drafts=drafts) for kind in KINDS for drafts in (0, 2)
}
State = tuple[IntArray, IntArray]
States = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 300)), min_size=4, max_size=4).map(
    lambda rows: (np.array([kv for kv, _ in rows]), np.array([count for _, count in rows]))
)


def parts_of(times: LayerTimes) -> float:
    """Return the sum of a layer's parts."""
    return times.attention + times.gemm + times.moe + times.dispatch + times.combine + times.other


def check_budget(budget: Budget, whole: int, overlap: bool) -> None:
    """Check that the parts are what they say."""
    assert budget.total == pytest.approx(whole, abs=1)
    assert all(getattr(budget, field.name) >= 0 for field in fields(budget) if field.name != "hidden")
    assert budget.hidden <= 0 if overlap else budget.hidden == 0


@given(Works, st.sampled_from(KINDS))
def test_a_pass_is_the_sum_of_its_parts(work: Work, kind: tuple[bool, float]) -> None:
    check_budget(PREFILL[kind].budget(*work), PREFILL[kind].pass_ns(*work), kind[0])


@given(States, st.sampled_from(sorted(DECODE)))
def test_a_step_is_the_sum_of_its_parts(state: State, kind: tuple[bool, float, int]) -> None:
    check_budget(DECODE[kind].budget(*state), DECODE[kind].step_ns(*state), kind[0])


@given(Works, st.sampled_from(KINDS))
def test_a_layer_of_a_pass_is_the_sum_of_its_parts_without_overlap(work: Work, kind: tuple[bool, float]) -> None:
    times = PREFILL[kind].layer_times(*work)
    assert times.other >= 0
    if not kind[0]:
        assert parts_of(times) == pytest.approx(times.layer)


@given(st.integers(1, 1 << 17), st.integers(1, 1 << 17), st.integers(0, 1 << 20), st.sampled_from([4, 32, 144, 320]))
def test_overlap_hides_no_more_than_the_shorter_side(tokens: int, prompt: int, cached: int, units: int) -> None:
    """A regression: a factor below 1 on the longer side made a pass shorter than its own all-to-all."""
    cost = prefill(units, overlap=True)
    full = [np.full(units, part) for part in (tokens * (cached + prompt) // 2, tokens, tokens + cached)]
    whole = cost.budget(*full)
    compute = whole.attention + whole.gemm + whole.moe + whole.elementwise + whole.waiting
    assert whole.total >= max(compute, whole.dispatch + whole.combine) + whole.floor - 1
    assert whole.hidden == pytest.approx(-min(compute, whole.dispatch + whole.combine))
    assert cost.layer_times(*full).other >= 0


@given(Works, st.booleans())
def test_a_pass_without_dense_layers_is_its_equal_layers(work: Work, overlap: bool) -> None:
    cost = prefill(overlap=overlap, imbalance=1.25, model=QWEN)
    assert QWEN.dense_layers == 0
    assert 94 * cost.layer_times(*work).layer * 1e6 == pytest.approx(cost.pass_ns(*work), rel=1e-9, abs=1)


def test_dense_layers_have_neither_experts_nor_alltoall() -> None:
    cost, full = PREFILL[False, 1.0], work([[(4096, 0)] * 4] * 4)
    whole, layer = cost.budget(*full), cost.layer_times(*full)
    for part, layers in (("attention", 61), ("moe", 58), ("dispatch", 58), ("combine", 58)):
        assert getattr(whole, part) == pytest.approx(layers * getattr(layer, part) * 1e6), part
    assert whole.floor == 61 * H800.prefill_pass.layer_ns
    # Nine experts' worth of FLOP in a dense layer, where a mixture has its shared expert.
    assert 58 < cost.pass_ns(*full) / (layer.layer * 1e6) < 61


def test_parts_belong_to_the_busiest_unit() -> None:
    """One unit has the attention, all share the experts, and a rank of more than the mean sends more."""
    one_long = work([[(16384, 50_000)], [(100, 0)], [(100, 0)], [(100, 0)]])
    alone = work([[(16384, 50_000)]] * 4)
    some, all_ = (PREFILL[False, 1.0].budget(*given) for given in (one_long, alone))
    assert (some.attention, some.gemm) == (all_.attention, all_.gemm)
    assert (some.dispatch, some.combine) == (all_.dispatch, all_.combine)
    assert some.moe < all_.moe


def test_imbalance_multiplies_experts_and_the_busiest_rank() -> None:
    full = work([[(4096, 0)] * 4] * 4)
    even, uneven = PREFILL[False, 1.0].budget(*full), PREFILL[False, 1.5].budget(*full)
    assert uneven.dispatch == pytest.approx(1.5 * even.dispatch)
    assert uneven.combine == pytest.approx(1.5 * even.combine)
    assert uneven.waiting == pytest.approx(1.5 * even.waiting)
    assert uneven.moe == pytest.approx(1.5 * even.moe, rel=0.03)  # launches and padding stay
    assert (uneven.attention, uneven.gemm, uneven.floor) == (even.attention, even.gemm, even.floor)


def test_a_layer_of_a_step() -> None:
    batch = np.full(4, 64)
    for kind, cost in DECODE.items():
        times, budget = cost.layer_times(batch * 4000, batch), cost.budget(batch * 4000, batch)
        moe_layers = 58 + kind[2]
        assert moe_layers * times.moe * 1e6 == pytest.approx(budget.moe), kind
        assert (61 + kind[2]) * times.attention * 1e6 == pytest.approx(budget.attention), kind
        if not kind[0]:
            assert parts_of(times) == pytest.approx(times.layer), kind
