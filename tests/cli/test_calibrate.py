"""`sbs-opt calibrate`: a profile from tables, from a log of passes, from this machine."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from sbs_opt.calibration.measure import Measurement, attention_flops, write_measurements
from sbs_opt.models.cost import PrefillCost, load_cost_model, load_hardware, load_model
from sbs_opt.models.cost.laws import Gemm, PrefillAttention
from tests.cli.conftest import Run

GEMM = Gemm(launch_ns=4e3, depth_ns_per_k=0.3, tflops=900.0, weight_gbps=2e3, input_ns_per_kb=0.2, output_ns_per_kb=0.8)
ATTENTION = PrefillAttention(tflops=400.0, row_tiles=1.0, context_ns_per_kb=0.05, launch_ns=6e3)


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    """A table as `--device` writes it, made by laws that the fit has to find again; no host in the timings."""
    rows = []
    for k, n in ((7168, 2112), (1536, 24576), (512, 32768), (16384, 7168)):
        for m in (16, 64, 256, 1024, 4096, 16384):
            seconds = float(GEMM.ns(float(m), float(k), float(n))) / 1e9
            rows.append(Measurement("gemm_fp8", "scaled_mm_graph10", m, k, n, 1, seconds, seconds, 3, 2 * m * k * n))
    shape = load_model("deepseek-v3").attention
    for new in (64, 256, 1024, 4096):
        for cached in (0, 1024, 16384):
            seconds = float(ATTENTION.ns(shape, float(new), float(cached))) / 1e9
            flops = attention_flops(128, 192, 128, chunk=new, prefix=cached, batch=1)
            rows.append(
                Measurement("prefill_attention", "cudnn_graph10", 128, new, cached, 1, seconds, seconds, 3, flops)
            )
    for size in (1 << 28, 1 << 30, 1 << 32):
        seconds = 5e-6 + size / 2.5e12
        rows.append(Measurement("hbm_read", "sum", size, 0, 0, 1, seconds, seconds, 3, size))
    path = tmp_path / "probe.csv"
    write_measurements(rows, path)
    return path


def test_tables_give_a_profile_that_every_command_takes(run: Run, probe: Path) -> None:
    done = run("calibrate", probe, "-o", "mine.toml", "--report", "fit.html", "--name", "mine", "--json", "-")
    assert done.status == 0, done.err
    rows = json.loads(done.out)["rows"]
    assert all(row["mean_abs"] < 0.005 for row in rows)
    found = load_hardware("mine.toml")
    assert found.gemm.tflops == pytest.approx(GEMM.tflops, rel=0.01)
    assert found.prefill_attention.tflops == pytest.approx(ATTENTION.tflops, rel=0.01)
    assert found.prefill_pass.stream_gbps == pytest.approx(2500, rel=0.01)
    base = load_hardware("h800")
    assert found.alltoall_normal == base.alltoall_normal
    # Experts were not measured: they follow the dense GEMMs.
    ratio = found.gemm.tflops / base.gemm.tflops
    assert found.grouped_gemm.tflops == pytest.approx(base.grouped_gemm.tflops * ratio, rel=1e-4)
    profile = tomllib.loads(Path("mine.toml").read_text(encoding="utf-8"))
    assert profile["name"] == "mine"
    assert profile["gemm"]["tflops"]["source"].startswith("fit: probe.csv")
    assert profile["grouped_gemm"]["tflops"]["source"].startswith("extrapolated")
    assert profile["alltoall_normal"]["dispatch"]["rdma_gbps"]["source"] == "taken from profile h800"
    assert profile["evidence"]["gemm"]["range"]["m"] == [16, 16384]
    page = Path("fit.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 6
    assert "gemm.tflops" in page
    again = run("cost", "gemm", "--profile", "mine.toml", "--m", "512", "--k", "7168", "--n", "4096", "--json", "-")
    expected = float(GEMM.ns(512.0, 7168.0, 4096.0)) / 1e3
    assert json.loads(again.out)["rows"][0]["microseconds"] == pytest.approx(expected, rel=0.01)


def test_captured_tables_of_several_kinds_are_told_apart(run: Run, calibration_dir: Path) -> None:
    tables = sorted((calibration_dir / "infersim_h800").glob("*.csv"))
    done = run("calibrate", *tables, "-o", "own.toml", "--base", "h100", "--json", "-")
    assert done.status == 0, done.err
    named = {row["table"] for row in json.loads(done.out)["rows"]}
    assert {path.name for path in tables} <= named
    assert load_hardware("own.toml").grouped_gemm.tflops == pytest.approx(1359, rel=0.01)


def test_a_log_of_passes_scales_a_profile(run: Run) -> None:
    cost = load_cost_model("h800", "deepseek-v3", prefill_units=32, decode_units=1, chunk_tokens=16384).prefill
    assert isinstance(cost, PrefillCost)
    nothing = np.zeros(32, np.int64)
    floor = cost.budget(nothing, nothing, nothing).floor
    lines = ["pass_ns,new_tokens"]
    for new in range(1024, 16385, 512):
        tokens = np.full(32, new)
        work = cost.pass_ns(np.full(32, new // 1024 * (1024 * 1025 // 2)), tokens, tokens) - floor
        lines.append(f"{round(1.3 * work + 2 * floor)},{new}")
    Path("passes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = run(
        "calibrate", "--passes", "passes.csv", "--deployment", "h800-deepseek-v3-prefill-ep32", "-o", "served.toml",
        "--json", "-",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert json.loads(done.out)["base"] == "h800"
    (row,) = json.loads(done.out)["rows"]
    assert row["scale"] == pytest.approx(1.3, rel=0.03)
    assert row["floor_ms"] == pytest.approx(2 * floor / 1e6, rel=0.05)
    served, base = load_hardware("served.toml"), load_hardware("h800")
    assert served.gemm.tflops == pytest.approx(base.gemm.tflops / row["scale"], rel=1e-4)
    assert served.device == base.device


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give either tables of measurements, or --device, or --passes"),
        (("a.csv", "--device", "cuda"), "give either"),
        (("--passes", "p.csv"), "needs --deployment"),
        (("--passes", "p.csv", "--report", "r.html"), "--report: says nothing to a fit on a log of passes"),
        (("--passes", "p.csv", "--base", "h20"), "--base: says nothing"),
        (("a.csv", "--prompt", "5"), "--prompt: says nothing to a fit on tables of kernels"),
        (("a.csv", "--save", "s.csv"), "--save"),
        (("none.csv",), "none.csv"),
        (("a.csv", "--base", "tpu"), "known: h100"),
        (("a.csv",), "columns of no known table"),
        (("a.csv", "-o", "a.csv"), "same file"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(run: Run, arguments: tuple[str, ...], said: str) -> None:
    for name in ("a.csv", "p.csv"):
        Path(name).write_text("x,y\n1,2\n", encoding="utf-8")
    done = run("calibrate", *arguments, *(() if "-o" in arguments else ("-o", "out.toml")))
    assert done.status == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not Path("out.toml").exists()
    assert Path("a.csv").read_text(encoding="utf-8") == "x,y\n1,2\n"


def test_an_absent_device_is_told(run: Run) -> None:
    """Without PyTorch the extra is named, with it the GPU is missing; with both there is nothing to tell here."""
    torch = pytest.importorskip("torch") if _has_torch() else None
    if torch is not None and torch.cuda.is_available():
        pytest.skip("has a GPU")
    done = run("calibrate", "--device", "cuda", "-o", "out.toml")
    assert done.status == 2
    assert ("sbs-opt[gpu]" in done.err) == (torch is None)
    assert not Path("out.toml").exists()


def test_this_machine_is_timed_in_small(run: Run) -> None:
    pytest.importorskip("torch")
    done = run("calibrate", "--device", "cpu", "--save", "times.csv", "-o", "cpu.toml", "--json", "-")
    assert done.status == 0, done.err
    assert load_hardware("cpu.toml").gemm.tflops > 0
    kinds = {line.split(",")[0] for line in Path("times.csv").read_text(encoding="utf-8").splitlines()[1:]}
    assert {"prefill_attention", "hbm_read"} <= kinds


def _has_torch() -> bool:
    from importlib.util import find_spec

    return find_spec("torch") is not None
