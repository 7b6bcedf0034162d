"""The fit of the cost model to a log of passes finds what made the log; logs are read, written and checked."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.calibration.online_fit import PassEstimator, fit_passes, slowed, work_ns
from sbs_opt.calibration.pass_log import COLUMNS, PassLog, read_pass_log, write_pass_log
from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import DecodeCost, PrefillCost, load_cost_model, load_hardware, load_model
from sbs_opt.models.cost.profile import HardwareProfile
from sbs_opt.models.errors import InputError, TraceError
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.simulator.replay import simulate
from sbs_opt.testing.fleets import poisson_requests, small_deployment

UNITS = 8
CHUNK = 16_384
Sums = tuple[IntArray, IntArray, IntArray]


@cache
def base_hardware() -> HardwareProfile:
    return replace(load_hardware("h800"), evidence=())  # no warnings about sizes that were not measured


def prefill_cost(hardware: HardwareProfile, *, units: int = UNITS, overlap: bool = True) -> PrefillCost:
    return PrefillCost(
        hardware, load_model("deepseek-v3"), units=units, chunk_tokens=CHUNK, overlap=overlap, expert_imbalance=1.2
    )


def other_hardware(scale: float, floor: float) -> HardwareProfile:
    """Return what is served on: laws slower by `scale`, the floor by `floor`."""
    slow = slowed(base_hardware(), scale)
    law = replace(slow.prefill_pass, layer_ns=floor * base_hardware().prefill_pass.layer_ns)
    return replace(slow, prefill_pass=law)


def floor_ns(cost: PrefillCost) -> float:
    nothing = np.zeros(cost.units, np.int64)
    return cost.budget(nothing, nothing, nothing).floor


def imbalanced_sums(passes: int, seed: int, *, prefixes: bool = False) -> Sums:
    """Return int64[passes, units] sums: one chunk per rank, of very different sizes.

    Prefixes are as much longer than chunks on every rank of a pass, or with `prefixes` on each as chance will have it:
    then the busiest rank need not be the one with most new tokens.
    """
    random = np.random.default_rng(seed)
    full = np.exp(random.uniform(np.log(64), np.log(CHUNK), (passes, 1)))
    new = np.maximum(1, full * random.uniform(0.2, 1.0, (passes, UNITS))).astype(np.int64)
    cached = new * random.integers(0, 4, (passes, UNITS if prefixes else 1))
    return new * cached + new * (new + 1) // 2, new, new + cached


def times(cost: PrefillCost, sums: Sums) -> IntArray:
    return np.array([cost.pass_ns(*row) for row in zip(*sums, strict=True)], dtype=np.int64)


def log_of(truth: PrefillCost, sums: Sums, cost: PrefillCost) -> PassLog:
    return PassLog.of_units(times(truth, sums), *sums, cost)


def make_log(passes: int = 12) -> PassLog:
    cost = prefill_cost(base_hardware())
    return log_of(cost, imbalanced_sums(passes, seed=3), cost)


def columns_of(log: PassLog) -> list[list[int]]:
    return [getattr(log, name).tolist() for name in COLUMNS]


# -- the slowed profile --------------------------------------------------------------------------------------------


@given(scale=st.floats(0.2, 5.0), seed=st.integers(0, 1000), overlap=st.booleans())
@settings(max_examples=30)
def test_slowed_multiplies_all_but_the_floor(scale: float, seed: int, overlap: bool) -> None:
    slow = slowed(base_hardware(), scale)
    before, after = (prefill_cost(h, overlap=overlap) for h in (base_hardware(), slow))
    floor = floor_ns(before)
    assert floor_ns(after) == floor
    sums = imbalanced_sums(4, seed)
    assert times(after, sums) - floor == pytest.approx(scale * (times(before, sums) - floor), rel=1e-9, abs=1 + scale)


def test_slowed_covers_the_laws_of_decode() -> None:
    def step(hardware: HardwareProfile, kv_tokens: int) -> int:
        hardware = replace(hardware, decode_step=replace(hardware.decode_step, layer_ns=0.0))
        cost = DecodeCost(hardware, load_model("deepseek-v3"), units=16, overlap=False, expert_imbalance=1.0)
        return cost.step_ns(np.full(16, kv_tokens), np.full(16, 4))

    slow = slowed(base_hardware(), 1.7)
    assert slow.device == base_hardware().device
    assert slow.decode_step == base_hardware().decode_step
    for kv_tokens in (0, 500_000):
        assert step(slow, kv_tokens) == pytest.approx(1.7 * step(base_hardware(), kv_tokens), abs=2)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_slowed_refuses_what_is_no_scale(scale: float) -> None:
    with pytest.raises(InputError, match=r"scale = .*must be positive"):
        slowed(base_hardware(), scale)


# -- the fit finds what made the log -------------------------------------------------------------------------------

truths = given(
    scale=st.floats(0.4, 3.0),
    floor=st.floats(1.0, 3.0),  # beside the slowed laws: a floor far below the smallest pass cannot be seen in noise
    overlap=st.booleans(),
    seed=st.integers(0, 10_000),
)


@truths
@settings(max_examples=25)
def test_scale_and_floor_are_recovered(scale: float, floor: float, overlap: bool, seed: int) -> None:
    truth = prefill_cost(other_hardware(scale, scale * floor), overlap=overlap)
    cost = prefill_cost(base_hardware(), overlap=overlap)
    sums = imbalanced_sums(60, seed)
    found = fit_passes(log_of(truth, sums, cost), cost)
    assert found.scale == pytest.approx(scale, rel=0.01)
    assert found.floor_ns == pytest.approx(floor_ns(truth), rel=0.01)
    assert found.quality.rows == 60
    assert found.quality.mean_abs < 0.01
    # The profile that comes back is the one that made the log: it predicts other passes too.
    fitted, unseen = prefill_cost(found.hardware, overlap=overlap), imbalanced_sums(10, seed + 1)
    assert floor_ns(fitted) == pytest.approx(found.floor_ns)
    assert found.hardware.prefill_pass.layer_ns == found.layer_ns
    assert times(fitted, unseen) == pytest.approx(times(truth, unseen), rel=0.01)


@truths
@settings(max_examples=25)
def test_noise_and_odd_passes_are_withstood(scale: float, floor: float, overlap: bool, seed: int) -> None:
    truth = prefill_cost(other_hardware(scale, scale * floor), overlap=overlap)
    cost = prefill_cost(base_hardware(), overlap=overlap)
    log = log_of(truth, imbalanced_sums(800, seed), cost)
    random = np.random.default_rng(seed)
    noise = random.normal(1.0, 0.03, len(log))
    noise[random.choice(len(log), len(log) // 20, replace=False)] *= 3.0
    found = fit_passes(replace(log, pass_ns=np.rint(log.pass_ns * noise).astype(np.int64)), cost)
    assert found.scale == pytest.approx(scale, rel=0.05)
    assert found.floor_ns == pytest.approx(floor_ns(truth), rel=0.05)


def test_a_rank_that_sends_more_than_the_busiest_one_blurs_the_fit_a_little() -> None:
    """Its tokens are not in the log; without overlap its all-to-all adds to the pass."""
    truth, cost = (prefill_cost(h, overlap=False) for h in (other_hardware(1.5, 2.0), base_hardware()))
    found = fit_passes(log_of(truth, imbalanced_sums(200, seed=1, prefixes=True), cost), cost)
    assert found.scale == pytest.approx(1.5, rel=0.02)
    assert found.floor_ns == pytest.approx(floor_ns(truth), rel=0.02)


def test_the_busiest_rank_explains_the_pass_and_the_mean_rank_does_not() -> None:
    """A pass waits for its slowest unit: a log of mean tokens makes the GPUs look slower than they are."""
    truth = prefill_cost(other_hardware(1.3, 1.0), overlap=False)
    cost = prefill_cost(base_hardware(), overlap=False)
    sums = imbalanced_sums(120, seed=7)
    busiest = log_of(truth, sums, cost)
    pairs, new, context = (column.mean(axis=1).astype(np.int64) for column in sums)
    mean = PassLog(busiest.pass_ns, pairs, new, context, busiest.mean_new_tokens)
    assert fit_passes(busiest, cost).scale == pytest.approx(1.3, rel=0.01)
    assert fit_passes(mean, cost).scale > 1.15 * 1.3
    assert fit_passes(mean, cost).quality.mean_abs > 5 * fit_passes(busiest, cost).quality.mean_abs


def test_the_busiest_rank_is_the_one_with_most_work_not_most_new_tokens() -> None:
    new, cached = np.array([[4096, 3000]]), np.array([[0, 60_000]])
    pairs = new * cached + new * (new + 1) // 2
    log = PassLog.of_units([10**9], pairs, new, new + cached, prefill_cost(base_hardware(), units=2))
    assert columns_of(log) == [[10**9], [pairs[0, 1]], [3000], [63_000], [3548]]


@pytest.mark.parametrize("units", [1, 2, 7])
def test_work_of_equal_ranks_is_the_pass_without_its_floor(units: int) -> None:
    cost = prefill_cost(base_hardware(), units=units)
    new = np.full((3, units), 1000) * np.array([[1], [2], [9]])
    sums = new * (new + 1) // 2, new, new
    assert work_ns(log_of(cost, sums, cost), cost) == pytest.approx(times(cost, sums) - floor_ns(cost), abs=1)


def test_ranks_that_are_not_in_the_log_share_the_rest() -> None:
    cost = prefill_cost(base_hardware(), units=4)
    log = PassLog(*(np.array(column) for column in ([1, 1], [900, 900], [100, 100], [150, 150], [54, 9])))
    with patch.object(cost, "budget", wraps=cost.budget) as budget:
        work_ns(log, cost)
    assert [[column.tolist() for column in call.args] for call in budget.call_args_list] == [
        [[900, 0, 0, 0], [100, 39, 39, 38], [150, 39, 39, 38]],  # 4 · 54 in all
        [[900, 0, 0, 0], [100, 0, 0, 0], [150, 0, 0, 0]],  # a mean that was rounded down leaves nothing
    ]


# -- a log of the simulator ----------------------------------------------------------------------------------------


def test_a_log_of_the_simulator_gives_back_its_own_profile() -> None:
    units, chunk = 4, 4096
    model = load_cost_model("h800", "deepseek-v3", prefill_units=units, decode_units=units, chunk_tokens=chunk)
    cost = model.prefill
    assert isinstance(cost, PrefillCost)
    prompts = np.random.default_rng(5).integers(50, 3000, 300)
    requests = poisson_requests(8e-9, 300, seed=5, prompt_tokens=prompts)
    config = SchedulerConfig(policy="round_robin")
    passes = simulate(requests, small_deployment(2, units, chunk_tokens=chunk), model, config).passes
    assert len(passes) > 50
    duration = np.array([one.duration_ns for one in passes])
    pairs, new, context = (
        np.stack([getattr(one, name) for one in passes]) for name in ("pairs", "tokens", "context_tokens")
    )
    found = fit_passes(PassLog.of_units(duration, pairs, new, context, cost), cost)
    assert found.scale == pytest.approx(1.0, abs=0.02)
    assert found.floor_ns == pytest.approx(floor_ns(cost), rel=0.02)


# -- what cannot be fitted -----------------------------------------------------------------------------------------


def test_too_few_passes_are_refused() -> None:
    with pytest.raises(InputError, match="log holds 7 passes: at least 8"):
        fit_passes(make_log(7), prefill_cost(base_hardware()))
    with pytest.raises(InputError, match="log holds 0 passes"):
        PassEstimator(prefill_cost(base_hardware())).fit()


def test_passes_of_one_size_are_refused() -> None:
    one = [[column[0]] * 20 for column in columns_of(make_log(1))]
    with pytest.raises(InputError, match=r"all of one size.*log passes of different sizes"):
        fit_passes(PassLog(*one), prefill_cost(base_hardware()))  # type: ignore[arg-type]


def test_times_that_do_not_grow_with_the_work_are_refused() -> None:
    log = make_log(20)
    order = np.argsort(log.pass_ns)
    backwards = np.empty_like(log.pass_ns)
    backwards[order] = log.pass_ns[order][::-1]
    with pytest.raises(InputError, match="pass_ns does not grow"):
        fit_passes(replace(log, pass_ns=backwards), prefill_cost(base_hardware()))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("pass_ns", [1, 0], r"pass_ns\[1\] = 0: must be at least 1"),
        ("pairs", [9, 4], r"pairs\[1\] = 4: must be at least new_tokens"),
        ("context_tokens", [4, 9], r"context_tokens\[0\] = 4: must be at least new_tokens"),
        ("mean_new_tokens", [-1, 5], r"mean_new_tokens\[0\] = -1: must be at least 0"),
        ("new_tokens", [5], r"new_tokens has shape \(1,\), expected \(2,\)"),
        ("new_tokens", [0.5, 5], r"new_tokens\[0\] = 0\.5: must be a whole number"),
        ("pass_ns", [[1, 2]], r"pass_ns has shape \(1, 2\), expected \(2,\)"),
    ],
)
def test_a_log_names_what_is_wrong(column: str, values: list[int], message: str) -> None:
    right = {
        "pass_ns": [1, 1],
        "pairs": [9, 9],
        "new_tokens": [5, 5],
        "context_tokens": [5, 5],
        "mean_new_tokens": [3, 3],
    }
    assert len(PassLog(**right)) == 2  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        PassLog(**(right | {column: values}))  # type: ignore[arg-type]


def test_unit_sums_of_other_shapes_are_named() -> None:
    cost = prefill_cost(base_hardware(), units=2)
    with pytest.raises(InputError, match=r"new_tokens has shape \(2,\)"):
        PassLog.of_units([1], [1, 1], [1, 1], [1, 1], cost)
    with pytest.raises(InputError, match=r"pass_ns has shape \(2,\), expected \(1,\)"):
        PassLog.of_units([1, 2], [[1, 1]], [[1, 1]], [[1, 1]], cost)
    with pytest.raises(InputError, match=r"context_tokens has shape \(1, 1\), expected \(1, 2\)"):
        PassLog.of_units([1], [[1, 1]], [[1, 1]], [[1]], cost)


# -- streaming -----------------------------------------------------------------------------------------------------


@given(batches=st.lists(st.integers(0, 23), max_size=8), window=st.integers(8, 20))
@settings(max_examples=40)
def test_the_estimator_keeps_the_last_passes(batches: list[int], window: int) -> None:
    estimator = PassEstimator(prefill_cost(base_hardware()), window)
    start = 1
    for size in batches:
        estimator.add(*[np.arange(start, start + size)] * 5)
        start += size
    assert columns_of(estimator.log) == [list(range(max(1, start - window), start))] * 5
    assert len(estimator) == min(start - 1, window)


def test_the_estimator_forgets_what_was_before_the_clock_changed() -> None:
    cost = prefill_cost(base_hardware())
    estimator = PassEstimator(cost, window=40)
    for scale in (1.0, 1.5):
        log = log_of(prefill_cost(other_hardware(scale, 1.0)), imbalanced_sums(50, seed=2), cost)
        for row in zip(*columns_of(log), strict=True):
            estimator.add(*row)
        last = PassLog(*(np.array(column[-40:]) for column in columns_of(log)))
        assert columns_of(estimator.log) == columns_of(last)
        assert estimator.fit() == fit_passes(last, cost)
        assert estimator.fit().scale == pytest.approx(scale, rel=0.01)


def test_the_estimator_refuses_a_bad_pass_and_stays_as_it_was() -> None:
    estimator = PassEstimator(prefill_cost(base_hardware()))
    estimator.add(10**9, 60, 10, 10, 10)
    with pytest.raises(InputError, match=r"context_tokens\[0\] = 9"):
        estimator.add(10**9, 60, 10, 9, 10)
    assert columns_of(estimator.log) == [[10**9], [60], [10], [10], [10]]
    with pytest.raises(InputError, match="window = 7"):
        PassEstimator(prefill_cost(base_hardware()), 7)


# -- files ---------------------------------------------------------------------------------------------------------


def test_a_log_comes_back_from_its_file(tmp_path: Path) -> None:
    path, log = tmp_path / "log.csv", make_log()
    path.write_text("what was there before")
    write_pass_log(log, path)
    assert columns_of(read_pass_log(path)) == columns_of(log)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_pass_log(make_log(), tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_missing_columns_mean_whole_prompts_without_prefix(tmp_path: Path) -> None:
    path = tmp_path / "hand.csv"
    path.write_text("\ufeffpass_s, new_tokens\n0.25, 2500\n\n1.5e-1, 0\n", encoding="utf-8")
    log = read_pass_log(path, prompt_tokens=1000)
    pairs = 2 * (1000 * 1001 // 2) + 500 * 501 // 2
    assert columns_of(log) == [[250_000_000, 150_000_000], [pairs, 0], [2500, 0], [2500, 0], [2500, 0]]


def test_prefixes_without_pairs_are_shared_evenly(tmp_path: Path) -> None:
    path = tmp_path / "hand.csv"
    path.write_text("context_tokens,new_tokens,pass_ns\n8000,2000,7\n")
    assert read_pass_log(path, prompt_tokens=1000).pairs.tolist() == [2 * (1000 * 3000 + 1000 * 1001 // 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "row 1: pass_ns: is missing, so is pass_s"),
        ("pass_ns,new_tokens\n", "holds no passes"),
        ("pass_ns\n1\n", "row 1: new_tokens: is missing"),
        ("new_tokens\n1\n", "row 1: pass_ns: is missing"),
        ("pass_ns,pass_s,new_tokens\n1,1,1\n", "row 1: pass_ns: is given and so is pass_s"),
        ("pass_ns,new_tokens,new_tokens\n1,1,1\n", "row 1: new_tokens: is given twice"),
        ("pass_ns,new_tokens,pair\n1,1,1\n", "row 1: pair: unknown column; known columns: pass_ns, pass_s, pairs"),
        ("pass_ns,new_tokens\n5,1\n5,1.5\n", r"row 3: new_tokens = '1\.5': is no whole number"),
        ("pass_ns,new_tokens\n5,1\n\n5,\n", "row 4: new_tokens = '': is no whole number"),
        ("pass_s,new_tokens\nsoon,1\n", "row 2: pass_s = 'soon': is no number of seconds"),
        ("pass_s,new_tokens\nnan,1\n", "row 2: pass_s = 'nan': is no number of seconds"),
        ("pass_s,new_tokens\ninf,1\n", "row 2: pass_s = 'inf': is no number of seconds"),
        ("pass_ns,new_tokens\n5,1\n0,1\n", "row 3: pass_ns = 0: must be at least 1"),
        ("pass_ns,new_tokens\n5,-1\n", "row 2: new_tokens = -1: must be at least 0"),
        ("pass_ns,new_tokens,pairs\n5,8,7\n", "row 2: pairs = 7: must be at least new_tokens"),
        ("pass_ns,new_tokens,context_tokens\n5,8,7\n", "row 2: context_tokens = 7: must be at least new_tokens"),
        ("pass_ns,new_tokens\n5\n", "row 2: new_tokens: 1 cells where the header has 2"),
        ("pass_ns,new_tokens\n5,6,7\n", "row 2: new_tokens: 3 cells where the header has 2"),
        ("pass_ns,new_tokens\n5,9999999999999999999\n", "row 2: .* does not fit"),
    ],
)
def test_a_bad_file_is_named_with_row_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(TraceError, match=rf"bad\.csv: {message}"):
        read_pass_log(path)


def test_what_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(b"pass_ns,new_tokens\n1,\xff\n")
    with pytest.raises(TraceError, match=r"bad\.csv: row \d+: is not CSV in UTF-8"):
        read_pass_log(path)
    with pytest.raises(FileNotFoundError):
        read_pass_log(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="prompt_tokens = 0"):
        read_pass_log(path, prompt_tokens=0)
