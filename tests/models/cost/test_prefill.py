"""Prefill cost: an independent re-statement of the pass, floors, monotonicity, equal units."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import PrefillCost, load_cost_model
from sbs_opt.models.cost.routing import imbalance_of
from sbs_opt.models.errors import InputError
from tests.models.cost.cases import H800, KIMI, QWEN, Work, Works, prefill, work

COSTS = {(overlap, x): prefill(overlap=overlap, imbalance=x) for overlap in (False, True) for x in (1.0, 1.5)}
KINDS = st.sampled_from(sorted(COSTS))
OTHERS = {
    (model.layers, overlap): prefill(overlap=overlap, model=model)
    for model in (KIMI, QWEN)
    for overlap in (False, True)
}
EMPTY: Work = work([[], [], [], []])

RANKS_OF_FOUR = 2.9282097874345774
"""Distinct ranks of a token's experts on 4 ranks: test_routing checks it against drawn routings."""


def _own_by_the_laws(pairs: float, new: float, context: float, parts: int, stretch: float) -> float:
    """One unit's compute, layer by layer and micro-batch by micro-batch."""
    core, stream = H800.prefill_attention, H800.prefill_pass.stream_gbps
    pair_ns = 81920 / (1e3 * core.tflops)
    kilobytes = 81920 / 1e3  # of key and value: 128 heads of 192 + 128 BF16 values
    attention = pair_ns * (pairs + (63.5 + 128 * core.row_tiles) * new) / parts + core.launch_ns
    attention += kilobytes * core.context_ns_per_kb * context / parts
    total = 0.0
    for layer in range(61):
        width = 18432 if layer < 3 else 2048
        shapes = ((7168, 2112), (1536, 24576), (16384, 7168), (7168, 2 * width), (width, 7168))
        for _ in range(parts):
            kernels = attention + sum(float(H800.gemm.ns(new / parts, k, n)) for k, n in shapes)
            kernels += float(H800.gemm.ns(context / parts, 512, 32768))
            total += stretch * kernels
        # Query and output, hidden vectors, shared expert; assembled keys.
        total += ((4 * 24576 + 3 * 16384 + 22 * 7168 + 5 * 2048) * new + 2 * (16384 + 24576) * context) / stream
    return total


def _by_the_laws(work: Work, imbalance: float, overlap: bool) -> float:
    """The pass from the laws in plain Python; 4 units fit one node, 64 experts on each."""
    law, link = H800.prefill_pass, H800.alltoall_normal
    parts, stretch = (2, 1 + law.sm_bound_share * (132 / 108 - 1)) if overlap else (1, 1.0)
    units = zip(*(part.tolist() for part in work), strict=True)
    own = max(_own_by_the_laws(a, c, q, parts, stretch) for a, c, q in units)
    mean = float(work[1].sum()) / 4
    rows = 8 * imbalance * mean / parts
    hit = 64 * (1 - np.exp(-rows / 64))
    experts = sum(float(H800.grouped_gemm.ns(rows, hit, k, n)) for k, n in ((7168, 4096), (2048, 7168)))
    sorting = 8 * (2 * 7168 + 5 * 2048 + 4 * 7168) / law.stream_gbps + law.waiting_token_ns
    compute = own + 58 * (parts * stretch * experts + sorting * imbalance * mean)
    busiest = max(*work[1].tolist(), imbalance * mean)
    alltoall = 58 * busiest * RANKS_OF_FOUR * (7392 / link.dispatch.nvlink_gbps + 14336 / link.combine.nvlink_gbps)
    alltoall += 58 * parts * (link.dispatch.launch_ns + link.combine.launch_ns)
    both = max(compute, alltoall) if overlap else compute + alltoall
    return float(both + 61 * parts * law.layer_ns)


@given(Works, KINDS)
def test_pass_is_the_sum_of_its_layers(work: Work, kind: tuple[bool, float]) -> None:
    overlap, imbalance = kind
    assert COSTS[kind].pass_ns(*work) == pytest.approx(_by_the_laws(work, imbalance, overlap), rel=1e-9, abs=1)


@pytest.mark.parametrize("kind", sorted(COSTS))
def test_zero_tokens_cost_the_floor(kind: tuple[bool, float]) -> None:
    """Launches and bookkeeping of every layer, and the weights that a GEMM streams whatever it multiplies."""
    floor = COSTS[kind].pass_ns(*EMPTY)
    assert floor == pytest.approx(_by_the_laws(EMPTY, kind[1], kind[0]), abs=1)
    assert floor == COSTS[kind[0], 1.0].pass_ns(*EMPTY), "nobody is busier than others with nothing to do"
    assert floor > 61 * (2 if kind[0] else 1) * H800.prefill_pass.layer_ns


@given(Works, KINDS, st.integers(0, 3), st.integers(0, 2), st.integers(1, 10**6))
def test_monotone_in_every_argument(work: Work, kind: tuple[bool, float], unit: int, which: int, more: int) -> None:
    cost = COSTS[kind]
    larger = [part.copy() for part in work]
    larger[which][unit] += more
    assert cost.pass_ns(*larger) >= cost.pass_ns(*work)
    assert (cost.unit_ns(*larger) >= cost.unit_ns(*work)).all()


@given(st.integers(1, 16384), st.integers(0, 10**5), st.integers(0, 5000), st.integers(0, 5000), KINDS)
def test_monotone_in_tokens_and_prefix(new: int, cached: int, c: int, p: int, kind: tuple[bool, float]) -> None:
    before, after = (work([[chunk], [], [(7, 0)], []]) for chunk in ((new, cached), (new + c, cached + p)))
    assert COSTS[kind].pass_ns(*after) >= COSTS[kind].pass_ns(*before)


@given(Works, st.sampled_from(sorted(OTHERS)), st.integers(0, 3), st.integers(0, 2), st.integers(1, 10**6))
def test_other_models_are_monotone_too(work: Work, kind: tuple[int, bool], unit: int, which: int, more: int) -> None:
    cost = OTHERS[kind]
    larger = [part.copy() for part in work]
    larger[which][unit] += more
    assert cost.pass_ns(*larger) >= cost.pass_ns(*work) >= cost.pass_ns(*EMPTY)


@given(Works, KINDS, st.permutations(range(4)))
def test_units_are_equal(work: Work, kind: tuple[bool, float], order: list[int]) -> None:
    cost = COSTS[kind]
    shuffled = [part[order] for part in work]
    assert cost.pass_ns(*shuffled) == cost.pass_ns(*work)
    assert (cost.unit_ns(*shuffled) == cost.unit_ns(*work)[order]).all()


@given(Works, KINDS)
def test_a_pass_is_longer_than_any_units_own_part(work: Work, kind: tuple[bool, float]) -> None:
    assert COSTS[kind].pass_ns(*work) > COSTS[kind].unit_ns(*work).max()


@given(Works, st.booleans(), st.floats(1.0, 4.0), st.floats(0.0, 1.0))
def test_imbalance_costs_time(work: Work, overlap: bool, imbalance: float, more: float) -> None:
    small, large = (prefill(overlap=overlap, imbalance=x) for x in (imbalance, imbalance + more))
    assert large.pass_ns(*work) >= small.pass_ns(*work)


def test_imbalance_may_be_the_load_of_every_rank() -> None:
    loads = [30, 10, 20, 20]
    assert imbalance_of(loads) == 1.5
    by_loads, by_factor = (
        load_cost_model(
            "h800", "deepseek-v3", prefill_units=4, decode_units=8, chunk_tokens=16384, expert_imbalance=given
        )
        for given in (loads, 1.5)
    )
    tokens = np.full(4, 8192)
    full = tokens * 4096, tokens, tokens
    assert by_loads.prefill.pass_ns(*full) == by_factor.prefill.pass_ns(*full)
    batch = np.full(8, 32)
    assert by_loads.decode.step_ns(batch * 4000, batch) == by_factor.decode.step_ns(batch * 4000, batch)


def test_the_loaded_cost_model_is_the_one_tested_here() -> None:
    loaded = load_cost_model("h800", "deepseek-v3", prefill_units=4, decode_units=8, chunk_tokens=16384).prefill
    assert isinstance(loaded, PrefillCost)
    full = work([[(4096, 0)] * 4] * 4)
    assert loaded.pass_ns(*full) == COSTS[True, 1.0].pass_ns(*full)


@pytest.mark.parametrize("kind", sorted(COSTS))
def test_no_overflow_at_a_million_tokens_over_a_million(kind: tuple[bool, float]) -> None:
    million: list[tuple[int, int]] = [(10**6, 10**6)] * 20
    huge = work([million, million, [], million])
    cost = COSTS[kind]
    assert 0 < cost.pass_ns(*huge) < 2**62
    own: IntArray = cost.unit_ns(*huge)
    assert own.dtype == np.int64
    assert ((own > 0) & (own < 2**62)).all()


def test_overlap_pays_when_full_and_costs_when_empty() -> None:
    full = work([[(4096, 0)] * 4] * 4)
    assert COSTS[True, 1.0].pass_ns(*full) < COSTS[False, 1.0].pass_ns(*full)
    assert COSTS[True, 1.0].pass_ns(*EMPTY) > COSTS[False, 1.0].pass_ns(*EMPTY)


def test_wrong_number_of_units_is_named() -> None:
    with pytest.raises(InputError, match="3 entries, the instance has 4 units"):
        COSTS[True, 1.0].pass_ns(np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros(3, np.int64))
