"""Decode cost: an independent re-statement of the step, monotonicity, and the surrogate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import DecodeCost, load_cost_model, load_hardware
from sbs_opt.models.errors import InputError

H800 = load_hardware("h800")


def _cost(units: int, *, overlap: bool = False, imbalance: float = 1.0) -> DecodeCost:
    cost = load_cost_model(
        "h800",
        "deepseek-v3",
        prefill_units=8,
        decode_units=units,
        chunk_tokens=16384,
        decode_overlap=overlap,
        expert_imbalance=imbalance,
    ).decode
    assert isinstance(cost, DecodeCost)
    return cost


COSTS = {overlap: _cost(4, overlap=overlap) for overlap in (False, True)}
States = st.tuples(
    st.lists(st.integers(0, 10**6), min_size=4, max_size=4), st.lists(st.integers(0, 300), min_size=4, max_size=4)
).map(lambda s: (np.array(s[0], dtype=np.int64), np.array(s[1], dtype=np.int64)))
State = tuple[IntArray, IntArray]


def _by_the_laws(kv: IntArray, sequences: IntArray) -> float:
    core, link = H800.decode_attention, H800.alltoall_low_latency
    kv_ns = max(278528 / (1e3 * core.tflops), 1152 / 3350)
    own: list[float] = []
    for tokens, count in zip(kv.tolist(), sequences.tolist(), strict=True):
        total = 0.0
        for layer in range(61):
            width = 18432 if layer < 3 else 2048
            total += float(core.ns(tokens, count, kv_ns))
            for k, n in ((7168, 1536), (7168, 576), (1536, 24576), (16384, 7168), (512, 16384), (512, 16384),
                         (7168, 2 * width), (width, 7168)):  # fmt: skip
                total += float(H800.gemm.ns(count, k, n))
        own.append(total)
    mean, most = float(sequences.sum()) / 4, int(sequences.max())
    experts = sum(float(H800.grouped_gemm.ns(8 * mean, 64.0, k, n)) for k, n in ((7168, 4096), (2048, 7168)))
    alltoall = link.dispatch.launch_ns + link.combine.launch_ns
    alltoall += most * 8 * (7408 / link.dispatch.nvlink_gbps + 14336 / link.combine.nvlink_gbps)
    return max(own) + 58 * (experts + alltoall) + 61 * H800.decode_step.layer_ns


@given(States)
def test_step_is_the_sum_of_its_layers(state: State) -> None:
    assert COSTS[False].step_ns(*state) == pytest.approx(_by_the_laws(*state), rel=1e-9, abs=1)


@given(States, st.booleans(), st.integers(0, 3), st.integers(0, 1), st.integers(1, 10**5))
def test_monotone_in_every_argument(state: State, overlap: bool, unit: int, which: int, more: int) -> None:
    larger = [part.copy() for part in state]
    larger[which][unit] += more
    assert COSTS[overlap].step_ns(*larger) >= COSTS[overlap].step_ns(*state)
    assert (COSTS[overlap].unit_ns(*larger) >= COSTS[overlap].unit_ns(*state)).all()


@given(States, st.permutations(range(4)))
def test_units_are_equal(state: State, order: list[int]) -> None:
    assert COSTS[False].step_ns(state[0][order], state[1][order]) == COSTS[False].step_ns(*state)


def test_an_empty_step_costs_the_floor() -> None:
    empty = np.zeros(4, np.int64)
    floor = COSTS[False].step_ns(empty, empty)
    assert floor >= 61 * H800.decode_step.layer_ns
    assert floor <= COSTS[False].step_ns(empty, np.ones(4, np.int64))


def test_overlap_pays_for_large_batches_only() -> None:
    plain, overlapped = _cost(72), _cost(72, overlap=True)
    small, large = np.full(72, 2), np.full(72, 256)
    assert overlapped.step_ns(small * 2000, small) > plain.step_ns(small * 2000, small)
    assert overlapped.step_ns(large * 2000, large) < plain.step_ns(large * 2000, large)


def test_surrogate_is_the_marginal_cost_of_the_busiest_unit() -> None:
    """Around 64 sequences of 2,000 tokens on each of 72 units, one unit takes ten more."""
    cost = _cost(72)
    sequences = np.full(72, 64)
    more = sequences.copy()
    more[5] += 10
    step = cost.step_ns(more * 2000, more) - cost.step_ns(sequences * 2000, sequences)
    predicted = 10 * cost.batch_ns + int(cost.attention_ns([10 * 2000])[0])
    assert predicted == pytest.approx(step, rel=0.10)


def test_dispatch_cap_counts_micro_batches() -> None:
    assert COSTS[False].dispatch_cap == 128
    assert COSTS[True].dispatch_cap == 256


def test_wrong_number_of_units_is_named() -> None:
    with pytest.raises(InputError, match="3 entries, the instance has 4 units"):
        COSTS[False].step_ns(np.zeros(3, np.int64), np.zeros(3, np.int64))
