"""Fits of dense and grouped FP8 GEMMs, and of reading HBM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sbs_opt.calibration.law_fit import LawFit, evidence_of, points_of
from sbs_opt.calibration.records import GemmRows, GroupedRows, ReadRows
from sbs_opt.calibration.robust import fit
from sbs_opt.calibration.tables import FloatArray
from sbs_opt.models.cost.laws import Gemm, GroupedGemm
from sbs_opt.models.errors import InputError

START = Gemm(5000.0, 0.5, 1500.0, 3000.0, 0.2, 0.5)
"""Where a fit of dense GEMMs starts, and the scale of its parameters."""

_GROUPED_START = GroupedGemm(10000.0, 1300.0, 3000.0, 2500.0, 64.0)

_ENOUGH = 20
"""Rows from which on all constants of a law are fitted; with fewer only its rates are."""

_LARGE = 256


def is_of_a_model(rows: GemmRows) -> GemmRows:
    """Return the rows without InferSim's stand-ins for the absorbed projections.

    It times 128 small products per token as one of k = 16384, n = 512 or of k = 65536, n = 128: shapes that no engine
    runs, and whose few columns leave most multiprocessors idle.
    """
    keep = ~(((rows.k == 65536) & (rows.n == 128)) | ((rows.k == 16384) & (rows.n == 512)))
    return replace(
        rows, m=rows.m[keep], k=rows.k[keep], n=rows.n[keep], calls=rows.calls[keep], ns=rows.ns[keep]
    )  # fmt: skip


def fit_gemm(tables: Sequence[GemmRows], base: Gemm = START) -> tuple[LawFit[Gemm], float]:
    """Fit dense FP8 GEMMs; return the law and the time of a call from the host, 0 where no row was timed so.

    Parameters
    ----------
    tables
        Measurements; at least one row.
    base
        Gives what cannot be told apart: launch and depth under the time of a call from the host, and all but
        the rates where there are few rows.
    """
    m, k, n, calls, ns = (
        np.concatenate(parts)
        for parts in zip(*((t.m, t.k, t.n, t.calls, t.ns) for t in tables), strict=True)
    )  # fmt: skip
    unlaunched = _unlaunched(tables)
    hosted = bool(calls.any())
    names = ["tflops", "weight_gbps"]
    if len(ns) >= _ENOUGH:
        names += ["input_ns_per_kb", "output_ns_per_kb"]
    if np.count_nonzero(calls == 0) >= _ENOUGH:
        names += ["launch_ns", "depth_ns_per_k"]

    def gemm(x: FloatArray) -> Gemm:
        return replace(base, **dict(zip(names, map(float, x), strict=False)))

    def law(x: FloatArray) -> FloatArray:
        host = float(x[-1]) * calls if hosted else 0.0
        return np.asarray(gemm(x).ns(m, k, n) - unlaunched * gemm(x).launch_ns + host)

    start = [getattr(START, name) for name in names] + ([30000.0] if hosted else [])
    found = fit("gemm", law, ns, start)
    series = [f"{int(a)} × {int(b)}" for a, b in zip(k, n, strict=True)]
    table_of = np.repeat(np.arange(len(tables)), [len(t.ns) for t in tables])
    qualities, points = [], []
    for index, rows in enumerate(tables):
        of = table_of == index
        qualities.append(found.quality(rows.table, of))
        if (of & (m >= _LARGE)).any() and (of & (m < _LARGE)).any():
            qualities.append(found.quality(f"{rows.table}, m ≥ {_LARGE}", of & (m >= _LARGE)))
        points.append(points_of(found, "Dense FP8 GEMM", rows.table, "tokens (m)", series, m, of))
    evidence = evidence_of(found, {"m": m, "k": k, "n": n})
    fitted = LawFit(gemm(found.parameters), "gemm", tuple(qualities), evidence, tuple(points))
    return fitted, float(found.parameters[-1]) if hosted else 0.0


def fit_grouped_gemm(tables: Sequence[GroupedRows]) -> LawFit[GroupedGemm]:
    """Fit grouped FP8 GEMMs, both projections of an expert together."""
    rows, experts, hit, k, n, ns = (
        np.concatenate(parts)
        for parts in zip(*((t.rows, t.experts, t.hit, t.k, t.n, t.ns) for t in tables), strict=True)
    )
    if len(ns) < _ENOUGH:
        raise InputError(f"grouped GEMMs: {len(ns)} rows, a fit needs at least {_ENOUGH}; time more sizes")

    unlaunched = _unlaunched(tables)

    def law(x: FloatArray) -> FloatArray:
        gemm = GroupedGemm(*map(float, x))
        return np.asarray(gemm.ns(rows, hit, k, n) - unlaunched * gemm.launch_ns)

    start = _GROUPED_START
    found = fit(
        "grouped_gemm", law, ns,
        (start.launch_ns, start.tflops, start.weight_gbps, start.activation_gbps, start.padding_rows),
    )  # fmt: skip
    series = [f"{int(e)} experts, {int(a)} × {int(b)}" for e, a, b in zip(experts, k, n, strict=True)]
    table_of = np.repeat(np.arange(len(tables)), [len(t.ns) for t in tables])
    return LawFit(
        GroupedGemm(*map(float, found.parameters)),
        "grouped_gemm",
        tuple(found.quality(t.table, table_of == index) for index, t in enumerate(tables)),
        evidence_of(found, {"rows_per_expert": rows / experts, "experts": experts}),
        tuple(
            points_of(found, "Grouped FP8 GEMM", t.table, "rows per expert", series, rows / experts, table_of == index)
            for index, t in enumerate(tables)
        ),
    )


def _unlaunched(tables: Sequence[GemmRows] | Sequence[GroupedRows]) -> FloatArray:
    """Return 1.0 for each row whose timing leaves the launch out."""
    return np.repeat([0.0 if t.launched else 1.0 for t in tables], [len(t.ns) for t in tables])


def fit_reads(rows: ReadRows) -> LawFit[float]:
    """Fit the rate of reading HBM in GB/s, a launch beside it."""

    def law(x: FloatArray) -> FloatArray:
        return np.asarray(float(x[0]) + rows.read_bytes / float(x[1]))

    found = fit("hbm_read", law, rows.ns, (10000.0, 3000.0))
    everything = np.ones(len(rows.ns), np.bool_)
    return LawFit(
        float(found.parameters[1]),
        "prefill_pass.stream_gbps",
        (found.quality(f"{rows.table}, reads of HBM"),),
        evidence_of(found, {"bytes": rows.read_bytes}),
        (points_of(found, "Reading HBM", rows.table, "bytes", ["sum"] * len(rows.ns), rows.read_bytes, everything),),
    )
