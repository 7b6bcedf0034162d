"""Fits of the compute kernels: attention, dense GEMM, grouped GEMM."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sbs_opt.calibration import tables
from sbs_opt.calibration.robust import Quality, fit, quality
from sbs_opt.calibration.tables import FloatArray, columns, read_rows
from sbs_opt.models.cost.laws import DecodeAttention, Gemm, GroupedGemm, PrefillAttention
from sbs_opt.models.cost.profile import ModelProfile

_NOT_A_GEMM_OF_THE_MODEL = "65536"
"""InferSim's stand-in for the absorbed value projection (k = 65536, n = 128): a shape that no engine runs."""


_DEEPGEMM_VERSION = "a9967bc"


def fit_gemm(folder: Path) -> tuple[Gemm, tuple[Quality, ...]]:
    """Fit dense FP8 GEMMs on H800.

    DeepGEMM's large shapes join in, since only they hold kv_b (k = 512); its small ones do not, as they exclude the
    launch that the other table includes.
    """
    rows = [r for r in read_rows(folder, tables.GEMM) if r["k"] != _NOT_A_GEMM_OF_THE_MODEL]
    published = [
        r
        for r in read_rows(folder, tables.DEEPGEMM)
        if r["commit"] == _DEEPGEMM_VERSION and r["kind"] == "dense" and float(r["m"]) >= 4096
    ]
    extra = columns(published, "m", "k", "n", "tflops")
    m, k, n = (np.concatenate(pair) for pair in zip(columns(rows, "m", "k", "n"), extra, strict=False))
    (micros,) = columns(rows, "latency_us")
    measured = np.concatenate((micros * 1e3, 2 * extra[0] * extra[1] * extra[2] / (1e3 * extra[3])))

    def law(x: FloatArray) -> FloatArray:
        return np.asarray(Gemm(*map(float, x)).ns(m, k, n))

    found, _ = fit("gemm", law, measured, (5000.0, 0.5, 1500.0, 3000.0, 2500.0))
    predicted, split = law(found), len(rows)
    qualities = (
        quality(tables.GEMM, predicted[:split], measured[:split]),
        quality(f"{tables.DEEPGEMM} m = 4096", predicted[split:], measured[split:]),
    )
    return Gemm(*map(float, found)), qualities


def fit_gemm_probe(folder: Path, launch: Gemm) -> tuple[Gemm, Quality]:
    """Fit dense FP8 GEMMs of the probe; its host sets a floor on each call, so launches are taken from `launch`."""
    rows = [r for r in read_rows(folder, tables.PROBE) if r["kind"] == "gemm_fp8"]
    m, k, n, seconds = columns(rows, "d0", "d1", "d2", "median_s")

    def gemm(x: FloatArray) -> Gemm:
        return Gemm(launch.launch_ns, launch.depth_ns_per_k, float(x[0]), float(x[1]), float(x[2]))

    def law(x: FloatArray) -> FloatArray:
        return float(x[3]) + np.asarray(gemm(x).ns(m, k, n))

    found, error = fit(f"{tables.PROBE} gemm_fp8", law, seconds * 1e9, (1500.0, 4000.0, 2500.0, 30000.0))
    return gemm(found), error


def fit_grouped_gemm(folder: Path) -> tuple[GroupedGemm, tuple[Quality, ...]]:
    """Fit grouped FP8 GEMMs on H800, prefill and decode shapes and both projections together."""
    parts = [(name, read_rows(folder, name)) for name in (tables.GROUPED_PREFILL, tables.GROUPED_DECODE)]
    shapes = (("up_proj_us", 7168.0, 4096.0), ("down_proj_us", 2048.0, 7168.0))
    experts, per_expert, k, n, micros = (
        np.concatenate(column)
        for column in zip(
            *[
                (*columns(rows, "num_local_experts", "tokens_per_expert"), np.full(len(rows), k), np.full(len(rows), n),
                 *columns(rows, time))
                for _, rows in parts
                for time, k, n in shapes
            ],
            strict=True,
        )
    )  # fmt: skip

    def law(x: FloatArray) -> FloatArray:
        return np.asarray(GroupedGemm(*map(float, x)).ns(experts * per_expert, experts, k, n))

    measured = micros * 1e3
    found, _ = fit("grouped_gemm", law, measured, (10000.0, 1300.0, 3000.0, 2500.0))
    predicted, split = law(found), len(shapes) * len(parts[0][1])
    qualities = (
        quality(tables.GROUPED_PREFILL, predicted[:split], measured[:split]),
        quality(tables.GROUPED_DECODE, predicted[split:], measured[split:]),
    )
    return GroupedGemm(*map(float, found)), qualities


def fit_attention_probe(folder: Path, model: ModelProfile) -> tuple[PrefillAttention, Quality]:
    """Fit the form of prefill attention on the probe: pairs, linear terms, launch (a graph hides the host's floor)."""
    rows = [r for r in read_rows(folder, tables.PROBE) if r["kind"].startswith("prefill_attention")]
    chunk, prefix, batch, seconds = columns(rows, "d1", "d2", "batch", "median_s")
    # A plain call pays the host's launch, twice where rectangle and triangle are two calls; a graph pays neither.
    calls = np.array([{"cudnn": 1.0, "cudnn_2call": 2.0, "cudnn_graph10": 0.0}[r["name"]] for r in rows])
    flops = model.pair_flops * batch * (chunk * prefix + chunk * (chunk + 1) / 2)
    new, context = model.attention_bytes * batch * chunk, model.attention_bytes * batch * (chunk + prefix)

    def law(x: FloatArray) -> FloatArray:
        return np.asarray(PrefillAttention(*map(float, x[:4])).ns(flops, new, context)) + float(x[4]) * calls

    found, error = fit(f"{tables.PROBE} attention", law, seconds * 1e9, (600.0, 300.0, 20.0, 5000.0, 25000.0))
    return PrefillAttention(*map(float, found[:4])), error


def fit_attention(folder: Path, model: ModelProfile, form: PrefillAttention) -> tuple[PrefillAttention, Quality]:
    """Fit the rate of pairs on H800; five single prompts cannot tell the small terms, which come from `form`."""
    length, micros = columns(read_rows(folder, tables.MLA_PREFILL), "seq_len", "latency_us")
    flops, traffic = model.pair_flops * length * (length + 1) / 2, model.attention_bytes * length

    def attention(x: FloatArray) -> PrefillAttention:
        return PrefillAttention(float(x[0]), form.new_ns_per_kb, form.context_ns_per_kb, form.launch_ns)

    def law(x: FloatArray) -> FloatArray:
        return np.asarray(attention(x).ns(flops, traffic, traffic))

    found, error = fit(tables.MLA_PREFILL, law, micros * 1e3, (620.0,))
    return attention(found), error


def fit_decode_attention(folder: Path, model: ModelProfile) -> tuple[DecodeAttention, Quality]:
    """Fit absorbed decode attention on H800, where arithmetic and not HBM is the limit."""
    batch, length, micros = columns(read_rows(folder, tables.MLA_DECODE), "batch_size", "kv_len", "latency_us")

    def law(x: FloatArray) -> FloatArray:
        core = DecodeAttention(*map(float, x))
        return np.asarray(core.ns(batch * length, batch, model.absorbed_flops / (1e3 * core.tflops)))

    found, error = fit(tables.MLA_DECODE, law, micros * 1e3, (550.0, 100.0, 20000.0))
    return DecodeAttention(*map(float, found)), error
