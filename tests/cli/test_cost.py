"""`sbs-opt cost`: the figures are those of the library, and mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sbs_opt.models.cost import load_cost_model, load_hardware, load_model
from tests.cli.conftest import Run

PREFILL = ("cost", "prefill", "--deployment", "h800-deepseek-v3-prefill-ep32")
DECODE = ("cost", "decode", "--deployment", "h100-deepseek-v3-decode-ep72")


def row(run: Run, *arguments: str | Path) -> dict[str, Any]:
    done = run(*arguments, "--json", "-")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["schema"] == "sbs-opt/cost/1"
    (only,) = found["rows"]
    return dict(only)


def test_prefill_is_the_exact_pass_of_the_library(run: Run) -> None:
    got = row(run, *PREFILL, "--prompt", "4096", "--tokens-per-unit", "16384", "--expert-imbalance", "1.25")
    cost = load_cost_model(
        "h800", "deepseek-v3", prefill_units=32, decode_units=1, chunk_tokens=16384, expert_imbalance=1.25
    ).prefill
    tokens = np.full(32, 16384)
    expected = cost.pass_ns(np.full(32, 4 * 4096 * 4097 // 2), tokens, tokens) / 1e9
    assert got["pass_s"] == pytest.approx(expected)
    assert got["tokens_per_s_per_node"] == pytest.approx(8 * 16384 / expected)
    assert set(got["per_layer_ms"]) == {"attention", "gemm", "moe", "dispatch", "combine", "other"}
    assert sum(got["budget_ms"].values()) == pytest.approx(1e3 * expected, rel=1e-6)
    assert got["gpu_s"] == pytest.approx(32 * expected)


def test_without_overlap_the_parts_add_up_to_the_layer(run: Run) -> None:
    got = row(run, *PREFILL, "--prompt", "1024", "--tokens-per-unit", "4096", "--overlap", "none")
    assert sum(got["per_layer_ms"].values()) == pytest.approx(got["layer_ms"])
    assert got["budget_ms"]["hidden"] == 0


def test_cached_tokens_stand_before_the_prompt(run: Run) -> None:
    """Twelve prompts of 1,024 new tokens over 3,072 cached ones fill a pass of 12,288."""
    got = row(run, *PREFILL, "--prompt", "1024", "--cached", "3072", "--tokens-per-unit", "12288")
    cost = load_cost_model("h800", "deepseek-v3", prefill_units=32, decode_units=1, chunk_tokens=12288).prefill
    pairs = np.full(32, 12 * (1024 * 3072 + 1024 * 1025 // 2))
    expected = cost.pass_ns(pairs, np.full(32, 12288), np.full(32, 12 * 4096)) / 1e9
    assert got["pass_s"] == pytest.approx(expected)


def test_a_long_prompt_runs_in_passes_whose_mean_is_told(run: Run) -> None:
    got = row(run, *PREFILL, "--prompt", "6144", "--tokens-per-unit", "2048")
    assert got["passes"] == 3
    cost = load_cost_model("h800", "deepseek-v3", prefill_units=32, decode_units=1, chunk_tokens=2048).prefill
    total = sum(
        cost.pass_ns(np.full(32, 2048 * p + 2048 * 2049 // 2), np.full(32, 2048), np.full(32, 2048 + p))
        for p in (0, 2048, 4096)
    )
    assert got["pass_s"] == pytest.approx(total / 3e9)
    assert got["tokens_per_s_per_node"] == pytest.approx(8 * 6144 / (total / 1e9))


@pytest.mark.filterwarnings("ignore::sbs_opt.models.errors.ExtrapolationWarning")
def test_decode_takes_the_measured_imbalance_unless_told_otherwise(run: Run) -> None:
    measured = row(run, *DECODE, "--batch", "256", "--kv", "2000")
    assert measured["expert_imbalance"] == pytest.approx(1 / 0.81)
    balanced = row(run, *DECODE, "--batch", "256", "--kv", "2000", "--expert-imbalance", "1")
    assert balanced["step_ms"] < measured["step_ms"]
    decode = load_cost_model("h100", "deepseek-v3", prefill_units=1, decode_units=72, chunk_tokens=1).decode
    assert balanced["step_ms"] == pytest.approx(decode.step_ns(np.full(72, 512_000), np.full(72, 256)) / 1e6)
    assert balanced["tokens_per_s_per_node"] == pytest.approx(8 * 256e3 / balanced["step_ms"])
    assert sum(measured["per_layer_ms"].values()) == pytest.approx(measured["layer_ms"])


def test_drafts_are_told_apart_from_what_is_kept(run: Run) -> None:
    common = (*DECODE, "--batch", "64", "--kv", "4000", "--draft-tokens", "1")
    all_kept, none_kept = (row(run, *common, "--acceptance", share) for share in ("1", "0"))
    assert all_kept["step_ms"] == none_kept["step_ms"]
    assert all_kept["tokens_per_s_per_node"] == pytest.approx(2 * none_kept["tokens_per_s_per_node"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_fleet_gives_its_instance(run: Run, fleet: Path) -> None:
    got = row(run, "cost", "prefill", "--deployment", fleet, "--prompt", "512", "--tokens-per-unit", "4096")
    assert (got["units"], got["hardware"]) == (4, "h800")
    assert got["kv_tokens"] is None  # four units do not hold the weights


def test_attention_and_gemm_name_their_rates(run: Run) -> None:
    alone = row(run, "cost", "attention", "--profile", "h200", "--new", "512", "--cached", "4096")
    hardware, shape = load_hardware("h200"), load_model("deepseek-v3").attention
    kernel = float(hardware.prefill_attention.ns(shape, 512.0, 4096.0)) / 1e3
    assert alone["kernel_microseconds"] == pytest.approx(kernel)
    assert alone["microseconds"] == pytest.approx(kernel + 2 * hardware.host.call_ns / 1e3)
    flops = 81920 * (512 * 4096 + 512 * 513 // 2)
    assert alone["tflops"] == pytest.approx(flops / alone["microseconds"] / 1e6)
    gemm = row(run, "cost", "gemm", "--profile", "h800", "--m", "8192", "--k", "7168", "--n", "4096", "--groups", "4")
    assert gemm["tflops"] == pytest.approx(2 * 4 * 8192 * 7168 * 4096 / gemm["microseconds"] / 1e6)
    assert 1200 < gemm["tflops"] < 1400


def test_alltoall_counts_bytes_as_deepep_publishes_them(run: Run) -> None:
    got = row(run, "cost", "alltoall", "--profile", "h800", "--ep", "32", "--tokens", "4096", "--mode", "normal")
    nodes = 4 * (1 - (3 / 4) ** 8)
    assert got["dispatch_gbps"] == pytest.approx(4096 * nodes * 7392 / got["dispatch_microseconds"] / 1e3)
    assert got["dispatch_gbps"] == pytest.approx(58, rel=0.05)
    assert got["combine_gbps"] == pytest.approx(57, rel=0.05)
    assert got["microseconds"] == pytest.approx(got["dispatch_microseconds"] + got["combine_microseconds"])
    fast = row(run, "cost", "alltoall", "--profile", "h800", "--ep", "64", "--tokens", "128", "--mode", "low-latency")
    assert fast["dispatch_microseconds"] == pytest.approx(173, rel=0.05)
    assert fast["combine_microseconds"] == pytest.approx(314, rel=0.05)


def test_the_page_on_the_command_line_knows_every_field(run: Run) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    rows = [
        row(run, *PREFILL, "--prompt", "512", "--tokens-per-unit", "1024"),
        row(run, *DECODE, "--batch", "8", "--kv", "1024"),
        row(run, "cost", "gemm", "--profile", "h20", "--m", "64", "--k", "512", "--n", "32768"),
        row(run, "cost", "alltoall", "--profile", "h100", "--ep", "8", "--tokens", "64", "--mode", "normal"),
    ]
    for one in rows:
        for name in (*one, *one.get("per_layer_ms", {}), *one.get("budget_ms", {})):
            assert f"`{name}`" in page


def test_what_people_read_names_every_part(run: Run) -> None:
    done = run(*PREFILL, "--prompt", "4096", "--tokens-per-unit", "16384")
    assert done.status == 0
    for word in ("attention", "gemm", "moe", "dispatch", "combine", "waiting", "hidden", "GPU-seconds"):
        assert word in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*PREFILL, "--prompt", "0", "--tokens-per-unit", "1"), "0 is too few"),
        ((*PREFILL, "--prompt", "1000000", "--tokens-per-unit", "10"), "takes 100,000 passes"),
        ((*PREFILL, "--prompt", "8", "--tokens-per-unit", "8", "--expert-imbalance", "0.5"), "at least 1"),
        ((*PREFILL, "--prompt", "8", "--tokens-per-unit", "8", "--expert-imbalance", "nan"), "at least 1"),
        (("cost", "prefill", "--deployment", "b200-x-prefill-ep8", "--prompt", "8", "--tokens-per-unit", "8"), "h800"),
        (("cost", "prefill", "--deployment", "h800", "--prompt", "8", "--tokens-per-unit", "8"), "<gpu>-<model>"),
        (("cost", "decode", "--deployment", PREFILL[3], "--batch", "1", "--kv", "1"), "is a prefill deployment"),
        ((*DECODE, "--batch", "1", "--kv", "1", "--acceptance", "2"), "from 0 to 1"),
        ((*PREFILL, "--prompt", "10000000000", "--tokens-per-unit", "10000000000"), "give fewer"),
        ((*DECODE, "--batch", "10000000000", "--kv", "10000000000"), "give fewer"),
        (("cost", "gemm", "--profile", "tpu", "--m", "1", "--k", "1", "--n", "1"), "known: h100"),
        (("cost", "alltoall", "--profile", "h800", "--ep", "8", "--tokens", "1", "--mode", "fast"), "choose from"),
    ],
)
def test_mistakes_are_one_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_an_own_profile_takes_the_place_of_the_gpu(run: Run) -> None:
    common = ("--prompt", "1024", "--tokens-per-unit", "4096")
    other = row(run, *PREFILL, *common, "--profile", "h20")
    assert (other["hardware"], other["model"]) == ("h20", "deepseek-v3")
    assert other["pass_s"] > 2 * row(run, *PREFILL, *common)["pass_s"]


def test_what_was_not_measured_is_marked(run: Run) -> None:
    common = ("--prompt", "1024", "--tokens-per-unit", "4096")
    assert row(run, *PREFILL, *common)["extrapolated"] == []
    got = row(run, "cost", "prefill", "--deployment", "h20-kimi-k2-prefill-ep32", *common)
    assert [text.split(":")[0] for text in got["extrapolated"]] == ["h20", "kimi-k2"]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*PREFILL, "--prompt", "512", "--cached", "90000", "--tokens-per-unit", "512"), "context_tokens = 90,512 is"),
        ((*PREFILL, "--prompt", "90000", "--tokens-per-unit", "80000"), "gemm: m = 40,000 is extrapolated"),
        ((*DECODE, "--batch", "1", "--kv", "200000"), "kv_tokens = 200,000 is extrapolated"),
        ((*DECODE[:3], "h100-deepseek-v3-decode-ep320", "--batch", "1", "--kv", "2000"), "ranks = 320 is extrapolated"),
        ((*DECODE, "--batch", "600", "--kv", "8", "--overlap", "two-batch"), "takes 256 per unit"),
        ((*DECODE, "--batch", "100", "--kv", "9000"), "900,000 KV tokens are asked for, a unit holds about"),
        ((*DECODE[:3], "h100-deepseek-v3-decode-ep4", "--batch", "1", "--kv", "8"), "do not fit on a unit"),
    ],
)
def test_what_lies_beyond_is_told_once(run: Run, arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert done.status == 0
    assert sum(said in line for line in done.err.splitlines()) == 1
    assert all(line.startswith("sbs-opt: ") for line in done.err.splitlines())


@pytest.mark.filterwarnings("default")
def test_extrapolation_is_told_in_one_line(run: Run) -> None:
    done = run("cost", "alltoall", "--profile", "h800", "--ep", "512", "--tokens", "4096", "--mode", "normal")
    assert done.status == 0
    assert done.err == "sbs-opt: alltoall_normal: ranks = 512 is extrapolated, measured were 8 to 64\n"
