"""Prefill cost: an independent re-statement of the pass, monotonicity, and the surrogate against the exact pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import PrefillCost, load_cost_model, load_hardware, load_model, request_work
from sbs_opt.models.errors import InputError

H800, V3 = load_hardware("h800"), load_model("deepseek-v3")


def _cost(units: int, *, overlap: bool, imbalance: float = 1.0, chunk: int = 16384) -> PrefillCost:
    cost = load_cost_model(
        "h800",
        "deepseek-v3",
        prefill_units=units,
        decode_units=8,
        chunk_tokens=chunk,
        overlap=overlap,
        expert_imbalance=imbalance,
    ).prefill
    assert isinstance(cost, PrefillCost)
    return cost


COSTS = {(overlap, x): _cost(4, overlap=overlap, imbalance=x) for overlap in (False, True) for x in (1.0, 1.5)}
KINDS = st.sampled_from(sorted(COSTS))
Work = tuple[IntArray, IntArray, IntArray]


@st.composite
def works(draw: st.DrawFn) -> Work:
    """Work of four units, each from a list of chunks (new tokens, prefix)."""
    pairs, new, context = [], [], []
    for _ in range(4):
        chunks = draw(st.lists(st.tuples(st.integers(1, 16384), st.integers(0, 100_000)), max_size=4))
        pairs.append(sum(c * p + c * (c + 1) // 2 for c, p in chunks))
        new.append(sum(c for c, _ in chunks))
        context.append(sum(c + p for c, p in chunks))
    return tuple(np.array(x, dtype=np.int64) for x in (pairs, new, context))  # type: ignore[return-value]


def _by_the_laws(pairs: IntArray, new: IntArray, context: IntArray, imbalance: float) -> float:
    """The pass without overlap, layer by layer from the laws in plain Python; 4 units fit one node."""
    own: list[float] = []
    for a, c, q in zip(pairs.tolist(), new.tolist(), context.tolist(), strict=True):
        total = 0.0
        for layer in range(61):
            total += float(H800.prefill_attention.ns(81920 * a, 81920 * c, 81920 * q))
            width = 18432 if layer < 3 else 2048
            for k, n in ((7168, 1536), (7168, 576), (1536, 24576), (16384, 7168), (7168, 2 * width), (width, 7168)):
                total += float(H800.gemm.ns(c, k, n))
            total += float(H800.gemm.ns(q, 512, 32768))
            new_bytes, context_bytes = V3.elementwise_bytes
            total += (new_bytes * c + context_bytes * q) / H800.prefill_pass.stream_gbps
        own.append(total)
    mean = float(new.sum()) / 4
    busiest = max(*new.tolist(), imbalance * mean)
    rows = 8 * imbalance * mean
    experts = sum(float(H800.grouped_gemm.ns(rows, 64.0, k, n)) for k, n in ((7168, 4096), (2048, 7168)))
    ranks = 2.9282097874345774  # of 4: test_laws checks it against drawn routings
    link = H800.alltoall_normal
    alltoall = busiest * ranks * (7392 / link.dispatch.nvlink_gbps + 14336 / link.combine.nvlink_gbps)
    waiting = imbalance * mean * H800.prefill_pass.waiting_token_ns
    return float(max(own) + 58 * (experts + alltoall + waiting) + 61 * H800.prefill_pass.layer_ns)


@given(works(), st.sampled_from([1.0, 1.5]))
def test_pass_is_the_sum_of_its_layers(work: Work, imbalance: float) -> None:
    assert COSTS[False, imbalance].pass_ns(*work) == pytest.approx(_by_the_laws(*work, imbalance), rel=1e-9, abs=1)


@given(works(), KINDS, st.integers(0, 3), st.integers(0, 2), st.integers(1, 10**6))
def test_monotone_in_every_argument(work: Work, kind: tuple[bool, float], unit: int, which: int, more: int) -> None:
    cost = COSTS[kind]
    larger = [part.copy() for part in work]
    larger[which][unit] += more
    assert cost.pass_ns(*larger) >= cost.pass_ns(*work)
    assert (cost.unit_ns(*larger) >= cost.unit_ns(*work)).all()


@given(works(), KINDS, st.permutations(range(4)))
def test_units_are_equal(work: Work, kind: tuple[bool, float], order: list[int]) -> None:
    cost = COSTS[kind]
    shuffled = [part[order] for part in work]
    assert cost.pass_ns(*shuffled) == cost.pass_ns(*work)
    assert (cost.unit_ns(*shuffled) == cost.unit_ns(*work)[order]).all()


@given(works(), KINDS)
def test_a_pass_is_longer_than_any_units_own_part(work: Work, kind: tuple[bool, float]) -> None:
    assert COSTS[kind].pass_ns(*work) > COSTS[kind].unit_ns(*work).max()


@given(works(), st.booleans())
def test_imbalance_costs_time(work: Work, overlap: bool) -> None:
    assert COSTS[overlap, 1.5].pass_ns(*work) >= COSTS[overlap, 1.0].pass_ns(*work)


@given(st.integers(0, 50_000), st.integers(0, 100_000), st.integers(1, 20_000))
def test_request_work_is_the_sum_over_chunks(new: int, cached: int, chunk: int) -> None:
    pairs = context = 0
    done = 0
    while done < new:
        c = min(chunk, new - done)
        p = cached + done
        pairs += c * p + c * (c + 1) // 2
        context += c + p
        done += c
    got = request_work(np.array([new]), np.array([cached]), chunk)
    assert (int(got[0][0]), int(got[1][0])) == (pairs, context)


@given(st.integers(0, 50_000), st.integers(0, 100_000), st.integers(0, 5000), st.integers(0, 5000), st.booleans())
def test_surrogate_is_monotone(new: int, cached: int, more_new: int, more_cached: int, overlap: bool) -> None:
    compute, alltoall = COSTS[overlap, 1.0].request_ns([new, new + more_new], [cached, cached + more_cached])
    assert 0 <= compute[0] <= compute[1]
    assert 0 <= alltoall[0] <= alltoall[1]


def test_surrogate_price_follows_overlap() -> None:
    assert COSTS[False, 1.0].alltoall_price == 1
    assert COSTS[True, 1.0].alltoall_price == 0


@pytest.mark.parametrize("overlap", [False, True])
def test_surrogate_orders_placements_as_the_exact_pass_does(overlap: bool) -> None:
    """Random moves on a longest-first placement of generated requests: 32 units, about 9,000 tokens each."""
    cost = _cost(32, overlap=overlap)
    generator = np.random.default_rng(11)
    agree = pairs_seen = 0
    largest = 0.0
    for _ in range(30):
        new = np.clip(generator.lognormal(7.0, 1.2, 160).astype(np.int64), 1, 16384)
        cached = np.where(generator.random(160) < 0.4, generator.integers(0, 8000, 160), 0)
        compute, alltoall = cost.request_ns(new, cached)
        pairs, context = request_work(new, cached, 16384)
        place = np.zeros(160, np.int64)
        load = np.zeros(32, np.int64)
        for i in np.argsort(-compute, kind="stable"):
            place[i] = load.argmin()
            load[place[i]] += compute[i]
        rows = []
        for _ in range(6):
            place[generator.integers(160, size=8)] = generator.integers(32, size=8)
            sums = [np.bincount(place, w, 32).astype(np.int64) for w in (compute, alltoall, pairs, new, context)]
            surrogate = int(sums[0].max()) + cost.alltoall_price * int(sums[1].max())
            rows.append((surrogate, cost.pass_ns(*sums[2:])))
            own = cost.unit_ns(*sums[2:])
            largest = max(largest, abs(float(sums[0].max() / own.max()) - 1))
        for i in range(6):
            for j in range(i):
                if rows[i][0] != rows[j][0]:
                    pairs_seen += 1
                    agree += (rows[i][0] < rows[j][0]) == (rows[i][1] <= rows[j][1])
    assert pairs_seen > 100
    assert agree / pairs_seen > 0.98
    assert largest < 0.02


def test_layer_times_add_up_without_overlap() -> None:
    cost = COSTS[False, 1.0]
    tokens = np.full(4, 16384)
    pairs = tokens * (tokens + 1) // 2
    t = cost.layer_times(pairs, tokens, tokens)
    assert t.attention + t.gemm + t.moe + t.dispatch + t.combine + t.other == pytest.approx(t.layer)
    # 58 such layers, and three dense ones with nine experts' worth of FLOP but neither experts nor all-to-all.
    assert 58 < cost.pass_ns(pairs, tokens, tokens) / (t.layer * 1e6) < 61


def test_overlap_pays_when_full_and_costs_when_empty() -> None:
    full, empty = np.full(4, 16384), np.zeros(4, np.int64)
    assert COSTS[True, 1.0].pass_ns(full * 2048, full, full) < COSTS[False, 1.0].pass_ns(full * 2048, full, full)
    assert COSTS[True, 1.0].pass_ns(empty, empty, empty) > COSTS[False, 1.0].pass_ns(empty, empty, empty)


def test_wrong_number_of_units_is_named() -> None:
    with pytest.raises(InputError, match="3 entries, the instance has 4 units"):
        COSTS[True, 1.0].pass_ns(np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros(3, np.int64))
