"""The committed profiles are what the fit gives, and the fit is as good as the documentation says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sbs_opt.calibration import tables
from sbs_opt.calibration.anchors import (
    DECODE_ANCHORS,
    PREFILL_ANCHORS,
    left_out_errors,
    predict_decode,
    predict_prefill,
)
from sbs_opt.calibration.fit import FIT, HARDWARE, Fitted, main, profile_toml
from sbs_opt.calibration.robust import fit
from sbs_opt.models.cost import load_hardware, load_model, load_source
from sbs_opt.models.cost.laws import FloatArray
from sbs_opt.models.errors import InputError, TraceError


def _constants(table: object) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in table.__dataclass_fields__:  # type: ignore[attr-defined]
        value = getattr(table, name)
        if hasattr(value, "__dataclass_fields__"):
            found |= {f"{name}.{key}": inner for key, inner in _constants(value).items()}
        else:
            found[name] = value
    return found


@pytest.fixture(scope="module")
def refitted(calibration_dir: Path) -> dict[str, Fitted]:
    return {name: FIT[name](calibration_dir, load_model("deepseek-v3")) for name in HARDWARE}


@pytest.mark.parametrize("hardware", HARDWARE)
def test_refit_reproduces_the_committed_profile(refitted: dict[str, Fitted], hardware: str) -> None:
    committed = _constants(load_hardware(hardware))
    fresh = _constants(refitted[hardware].profile)
    assert committed.keys() == fresh.keys()
    for name, value in fresh.items():
        assert committed[name] == pytest.approx(value, rel=2e-4, abs=1e-9), name


@pytest.mark.parametrize("hardware", HARDWARE)
def test_profile_quotes_the_tables_it_was_fitted_on(calibration_dir: Path, hardware: str) -> None:
    data = dict(load_source("hardware", hardware).data)
    assert data == {name: tables.checksum(calibration_dir, name) for name in tables.ALL}


def test_in_sample_errors_are_as_documented(refitted: dict[str, Fitted]) -> None:
    limit = {
        tables.GEMM: 0.075, f"{tables.DEEPGEMM} m = 4096": 0.08, tables.GROUPED_PREFILL: 0.045,
        tables.GROUPED_DECODE: 0.085, f"{tables.PROBE} attention": 0.075, tables.MLA_PREFILL: 0.06,
        tables.MLA_DECODE: 0.055, f"{tables.ALLTOALL_NORMAL} dispatch": 0.031,
        f"{tables.ALLTOALL_NORMAL} combine": 0.038, f"{tables.ALLTOALL_LOW_LATENCY} dispatch": 0.014,
        f"{tables.ALLTOALL_LOW_LATENCY} combine": 0.024, "end-to-end prefill": 0.01, "end-to-end decode": 0.01,
    }  # fmt: skip
    measured = {row.table: row.mean_abs for row in refitted["h800"].quality}
    assert measured.keys() == limit.keys()
    for name, error in measured.items():
        assert error < limit[name], name


def test_short_k_is_ruled_by_activations(calibration_dir: Path) -> None:
    """kv_b (k = 512) was 29 % too fast while the activations' rate was free to exceed what HBM can do."""
    gemm = load_hardware("h800").gemm
    rows = [r for r in tables.read_rows(calibration_dir, tables.DEEPGEMM) if r["k"] == "512" and r["m"] == "4096"]
    (tflops,) = tables.columns(rows, "tflops")
    best = 2 * 4096 * 512 * 32768 / (1e3 * tflops.max())
    assert float(gemm.ns(4096.0, 512.0, 32768.0)) == pytest.approx(best, rel=0.10)


def test_anchors_hold_in_the_committed_profile() -> None:
    hardware, model = load_hardware("h800"), load_model("deepseek-v3")
    for prefill in PREFILL_ANCHORS:
        assert predict_prefill(hardware, model, prefill) == pytest.approx(prefill.seconds * 1e9, rel=0.02), prefill.name
    for decode in DECODE_ANCHORS:
        assert predict_decode(hardware, model, decode) == pytest.approx(decode.seconds * 1e9, rel=0.01), decode.name


def test_every_prefill_anchor_is_predicted_by_the_others() -> None:
    errors = left_out_errors(load_hardware("h800"), load_model("deepseek-v3"))
    assert len(errors) == len(PREFILL_ANCHORS)
    assert max(abs(error) for _, error in errors) < 0.04


def test_linear_terms_are_needed_to_describe_chunks_over_prefixes(calibration_dir: Path) -> None:
    """Form only: grouped-query attention with the same head count, chunks of 32 to 2048 over up to 8192 tokens."""
    rows = tables.read_rows(calibration_dir, "frontier_h800/prefill_chunk_over_prefix.csv")
    chunk, prefix, milliseconds = tables.columns(rows, "prefill_chunk_size", "kv_cache_size", "attn_prefill_ms")
    pairs = chunk * prefix + chunk * (chunk + 1) / 2
    _, affine = fit(
        "affine", lambda x: x[0] * pairs + x[1] * chunk + x[2] * (chunk + prefix) + x[3], milliseconds * 1e6,
        (0.1, 10.0, 5.0, 8000.0),
    )  # fmt: skip
    _, without = fit("pairs only", lambda x: x[0] * pairs + x[1], milliseconds * 1e6, (0.1, 8000.0))
    assert affine.mean_abs < 0.10 < without.mean_abs


def test_fit_recovers_what_made_the_data_despite_an_odd_row() -> None:
    x = np.linspace(1.0, 50.0, 40)

    def law(parameters: FloatArray) -> FloatArray:
        return np.asarray(parameters[0] + parameters[1] * x + parameters[2] * x**2)

    measured = law(np.array([3.0, 2.0, 0.0]))
    measured[7] *= 3.0
    found, quality = fit("synthetic", law, measured, (1.0, 1.0, 1.0))
    assert found == pytest.approx([3.0, 2.0, 0.0], rel=0.02, abs=1e-3)
    assert quality.max_abs == pytest.approx(2 / 3, rel=0.05)


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lacks infersim_h800/gemm_fp8\.csv"):
        profile_toml(tmp_path, "h800", "2026-11-20")


def test_unknown_hardware_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="h100, h200, h800"):
        profile_toml(tmp_path, "b200", "2026-11-20")


def test_table_without_rows_or_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("m,n\n")
    with pytest.raises(TraceError, match="holds no rows"):
        tables.read_rows(tmp_path, "a.csv")
    with pytest.raises(TraceError, match="column missing"):
        tables.columns([{"m": "1"}], "n")


def flat(value: Any) -> list[float]:
    """Return the numbers of a nested dictionary, in order."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in flat(part)]
    return [float(value)] if isinstance(value, int | float) else []


def test_command_writes_a_profile_that_loads(
    calibration_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.toml"
    assert main([str(calibration_dir), "--date", "2026-11-20", "-o", str(out)]) == 0
    fitted, committed = (asdict(load_hardware(name)) for name in (str(out), "h800"))
    assert fitted.keys() == committed.keys()
    for part, constants in committed.items():
        # The optimiser stops a little elsewhere with another build of the linear algebra.
        assert flat(fitted[part]) == pytest.approx(flat(constants), rel=1e-3), part
    assert "end-to-end prefill" in capsys.readouterr().out


def test_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--date", "2026-11-20"]) == 2
    assert "lacks" in capsys.readouterr().err
