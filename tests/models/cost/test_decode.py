"""Decode cost: an independent re-statement of the step, monotonicity, the surrogate, and drafted tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import DecodeCost, load_cost_model
from sbs_opt.models.cost.uniform import predict_step
from sbs_opt.models.errors import InputError
from tests.models.cost.cases import H800, QWEN, decode

COSTS = {(overlap, drafts): decode(overlap=overlap, drafts=drafts) for overlap in (False, True) for drafts in (0, 1)}
KINDS = st.sampled_from(sorted(COSTS))
State = tuple[IntArray, IntArray]
States = st.tuples(
    st.lists(st.integers(0, 10**6), min_size=4, max_size=4), st.lists(st.integers(0, 300), min_size=4, max_size=4)
).map(lambda s: (np.array(s[0], dtype=np.int64), np.array(s[1], dtype=np.int64)))


def _by_the_laws(kv: IntArray, sequences: IntArray, parts: int, drafts: int) -> float:
    """The step from the laws in plain Python, layer by layer and micro-batch by micro-batch; 64 experts on a rank."""
    core, link, queries = H800.decode_attention, H800.alltoall_low_latency, 1 + drafts
    kv_ns = max(queries * 278528 / (1e3 * core.tflops), 1152 / H800.prefill_pass.stream_gbps)
    own: list[float] = []
    for tokens, count in zip(kv.tolist(), sequences.tolist(), strict=True):
        total = 0.0
        for layer in range(61 + drafts):
            width = 18432 if layer < 3 else 2048
            shapes = ((7168, 2112), (1536, 24576), (16384, 7168), (512, 16384), (512, 16384), (7168, 2 * width),
                      (width, 7168))  # fmt: skip
            for _ in range(parts):
                total += float(core.ns(tokens / parts, count / parts, kv_ns))
                total += sum(float(H800.gemm.ns(queries * count / parts, k, n)) for k, n in shapes)
        own.append(total)
    mean, busiest = queries * float(sequences.sum()) / 4, queries * int(sequences.max())
    rows = 8 * mean / parts
    hit = 64 * (1 - np.exp(-rows / 64))
    experts = sum(float(H800.grouped_gemm.ns(rows, hit, k, n)) for k, n in ((7168, 4096), (2048, 7168)))
    alltoall = parts * (link.dispatch.launch_ns + link.combine.launch_ns)
    alltoall += busiest * 8 * (7408 / link.dispatch.nvlink_gbps + 14336 / link.combine.nvlink_gbps)
    compute, alltoall = max(own) + (58 + drafts) * parts * experts, (58 + drafts) * alltoall
    both = max(compute, alltoall) if parts > 1 else compute + alltoall
    return float(both + (61 + drafts) * parts * H800.decode_step.layer_ns)


@given(States, KINDS)
def test_step_is_the_sum_of_its_layers(state: State, kind: tuple[bool, int]) -> None:
    expected = _by_the_laws(*state, parts=2 if kind[0] else 1, drafts=kind[1])
    assert COSTS[kind].step_ns(*state) == pytest.approx(expected, rel=1e-9, abs=1)


@given(States, KINDS, st.integers(0, 3), st.integers(0, 1), st.integers(1, 10**5))
def test_monotone_in_every_argument(state: State, kind: tuple[bool, int], unit: int, which: int, more: int) -> None:
    larger = [part.copy() for part in state]
    larger[which][unit] += more
    assert COSTS[kind].step_ns(*larger) >= COSTS[kind].step_ns(*state)
    assert (COSTS[kind].unit_ns(*larger) >= COSTS[kind].unit_ns(*state)).all()


@given(States, st.booleans(), st.floats(1.0, 4.0), st.floats(0.0, 1.0))
def test_imbalance_costs_time(state: State, overlap: bool, imbalance: float, more: float) -> None:
    small, large = (decode(overlap=overlap, imbalance=x) for x in (imbalance, imbalance + more))
    assert large.step_ns(*state) >= small.step_ns(*state)


@given(States, st.permutations(range(4)))
def test_units_are_equal(state: State, order: list[int]) -> None:
    cost = COSTS[False, 0]
    assert cost.step_ns(state[0][order], state[1][order]) == cost.step_ns(*state)
    assert (cost.unit_ns(state[0][order], state[1][order]) == cost.unit_ns(*state)[order]).all()


def test_an_empty_step_costs_the_floor() -> None:
    empty, cost = np.zeros(4, np.int64), COSTS[False, 0]
    floor = cost.step_ns(empty, empty)
    assert floor == pytest.approx(_by_the_laws(empty, empty, 1, 0), abs=1)
    assert 61 * H800.decode_step.layer_ns <= floor <= cost.step_ns(empty, np.ones(4, np.int64))


def test_more_sequences_than_are_tabled_cost_what_the_law_says() -> None:
    for count in (1024, 1025, 1026, 5000):
        state = np.full(4, count * 100), np.full(4, count)
        assert COSTS[False, 0].step_ns(*state) == pytest.approx(_by_the_laws(*state, 1, 0), abs=1)


def test_a_step_leaves_its_tables_alone() -> None:
    state = np.full(4, 10**6), np.full(4, 64)
    first = COSTS[False, 0].step_ns(*state)
    assert {COSTS[False, 0].step_ns(*state) for _ in range(3)} == {first}


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**5)), min_size=4, max_size=4), KINDS)
def test_no_overflow(rows: list[tuple[int, int]], kind: tuple[bool, int]) -> None:
    kv, sequences = np.array(rows).T
    cost = COSTS[kind]
    assert 0 < cost.step_ns(kv, sequences) < 2**62
    attention = cost.attention_ns(kv)
    assert attention.dtype == np.int64
    assert ((attention >= 0) & (attention < 2**62)).all()


def test_overlap_pays_for_large_batches_only() -> None:
    plain, overlapped = decode(72), decode(72, overlap=True)
    small, large = np.full(72, 2), np.full(72, 256)
    assert overlapped.step_ns(small * 2000, small) > plain.step_ns(small * 2000, small)
    assert overlapped.step_ns(large * 2000, large) < plain.step_ns(large * 2000, large)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("drafts", [0, 1])
def test_surrogate_is_the_marginal_cost_of_the_busiest_unit(drafts: int, overlap: bool) -> None:
    """Around 50 sequences of 2,000 tokens on each of 72 units, one unit takes ten more."""
    cost = decode(72, drafts=drafts, overlap=overlap)
    sequences = np.full(72, 50)
    more = sequences.copy()
    more[5] += 10
    step = cost.step_ns(more * 2000, more) - cost.step_ns(sequences * 2000, sequences)
    predicted = 10 * cost.batch_ns + int(cost.attention_ns([10 * 2000])[0])
    assert predicted == pytest.approx(step, rel=0.10)


@pytest.mark.parametrize("overlap", [False, True])
def test_surrogate_ranks_placements_as_the_step_does(overlap: bool) -> None:
    """A regression: with overlap a sequence was priced by the all-to-all that compute hides, and τ was below .6."""
    cost, generator = decode(72, overlap=overlap), np.random.default_rng(0)
    sequences = generator.integers(45, 77, 72)
    cached = sequences * generator.integers(1500, 2500, 72)
    waiting = generator.integers(200, 8000, 150)
    bottleneck, steps = [], []
    for _ in range(200):
        place = generator.integers(72, size=150)
        count = sequences + np.bincount(place, minlength=72)
        kv = cached + np.bincount(place, weights=waiting, minlength=72).astype(np.int64)
        bottleneck.append(int(cost.attention_ns(kv).max() + (cost.batch_ns * count).max()))
        steps.append(cost.step_ns(kv, count))
    assert kendalltau(bottleneck, steps).statistic > 0.9


@given(st.lists(st.integers(0, 10**6), max_size=8), KINDS)
def test_attention_is_additive(kv: list[int], kind: tuple[bool, int]) -> None:
    cost = COSTS[kind]
    together = int(cost.attention_ns([sum(kv)])[0])
    assert abs(int(cost.attention_ns(kv).sum()) - together) <= (len(kv) + 1) / 2
    assert (cost.attention_ns(sorted(kv)) == np.sort(cost.attention_ns(kv))).all()


def test_dispatch_cap_counts_micro_batches_and_drafts() -> None:
    assert {kind: cost.dispatch_cap for kind, cost in COSTS.items()} == {
        (False, 0): 128, (True, 0): 256, (False, 1): 64, (True, 1): 128,
    }  # fmt: skip
    assert decode(drafts=2).dispatch_cap == 42


def test_a_draft_costs_more_a_step_and_less_a_kept_token() -> None:
    """64 sequences of 4,000 tokens on each of 144 units; 85 % of the drafts are kept."""
    plain, drafted = (
        predict_step(decode(144, drafts=drafts), sequences=64, kv_tokens=4000, acceptance=0.85) for drafts in (0, 1)
    )
    assert drafted.seconds > plain.seconds
    assert drafted.tokens_per_s_per_gpu > plain.tokens_per_s_per_gpu


def test_a_rejected_draft_is_a_loss() -> None:
    plain, drafted = (
        predict_step(decode(144, drafts=drafts), sequences=64, kv_tokens=4000, acceptance=0.0) for drafts in (0, 1)
    )
    assert drafted.tokens_per_s_per_gpu < plain.tokens_per_s_per_gpu


def test_drafts_double_arithmetic_but_not_reads() -> None:
    """Absorbed attention of 128 heads is bound by arithmetic, grouped-query attention by HBM; a draft adds a layer."""
    many = [10**9]
    latent, grouped = (
        [int(cost.attention_ns(many)[0]) for cost in costs]
        for costs in ((COSTS[False, 0], COSTS[False, 1]), (decode(model=QWEN), decode(model=QWEN, drafts=1)))
    )
    assert latent[1] / latent[0] == pytest.approx(2 * 62 / 61)
    assert grouped[1] / grouped[0] == pytest.approx(95 / 94)


def test_the_loaded_cost_model_is_the_one_tested_here() -> None:
    loaded = load_cost_model(
        "h800", "deepseek-v3", prefill_units=8, decode_units=4, chunk_tokens=16384, decode_overlap=True, draft_tokens=1
    ).decode
    assert isinstance(loaded, DecodeCost)
    batch = np.full(4, 64)
    assert loaded.step_ns(batch * 4000, batch) == COSTS[True, 1].step_ns(batch * 4000, batch)
    assert (loaded.draft_tokens, loaded.overlap, loaded.units) == (1, True, 4)


def test_wrong_number_of_units_is_named() -> None:
    with pytest.raises(InputError, match="3 entries, the instance has 4 units"):
        COSTS[False, 0].step_ns(np.zeros(3, np.int64), np.zeros(3, np.int64))


def test_drafts_that_fill_the_alltoall_are_refused() -> None:
    with pytest.raises(InputError, match="draft at most 127"):
        decode(drafts=128)
