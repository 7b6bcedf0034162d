"""Measurements by kind of kernel, as arrays; a table is recognised by its columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbs_opt.calibration.tables import FloatArray, Rows, columns, read_file
from sbs_opt.models.cost.model import Attention, GroupedAttention, LatentAttention
from sbs_opt.models.errors import TraceError

PEAK_TFLOPS = {"fp8": 1979.0, "bf16": 989.0}
"""What InferSim's utilisation figures are relative to: the dense peaks of H800."""

_SHAPES_OF_GROUPED = (("up_proj_us", "up_mfu", 7168, 4096), ("down_proj_us", "down_mfu", 2048, 7168))
_LATENT_HEAD = (128, 64, 128)
"""Head widths of the probe's attention: 192 for query and key, of which 64 rotary, and 128 for the value."""


@dataclass(frozen=True, slots=True, eq=False)
class GemmRows:
    """Dense FP8 GEMMs; float64[n] each.

    Parameters
    ----------
    calls
        How many calls from the host a timing holds.
    launched
        Whether it holds the launch.
    """

    table: str
    m: FloatArray
    k: FloatArray
    n: FloatArray
    calls: FloatArray
    ns: FloatArray
    launched: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class GroupedRows:
    """Grouped FP8 GEMMs; float64[n] each: rows in all, experts, of which hit, weights (k, n); and as `GemmRows`."""

    table: str
    rows: FloatArray
    experts: FloatArray
    hit: FloatArray
    k: FloatArray
    n: FloatArray
    ns: FloatArray
    launched: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class AttentionRows:
    """Prefill attention: `batch` equal chunks over equal prefixes; float64[n] each."""

    table: str
    shape: Attention
    new: FloatArray
    cached: FloatArray
    batch: FloatArray
    calls: FloatArray
    ns: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class DecodeRows:
    """Decode attention: `batch` sequences with `kv` cached tokens each; float64[n] each."""

    table: str
    batch: FloatArray
    kv: FloatArray
    ns: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class BandwidthRows:
    """All-to-all in normal mode as published: GB/s over the copies that DeepEP counts; float64[n] each."""

    table: str
    ranks: FloatArray
    dispatch_gbps: FloatArray
    combine_gbps: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class LatencyRows:
    """All-to-all in low-latency mode at 128 tokens a rank; float64[n] each."""

    table: str
    ranks: FloatArray
    dispatch_ns: FloatArray
    combine_ns: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class ReadRows:
    """Reads of HBM; float64[n] each."""

    table: str
    read_bytes: FloatArray
    ns: FloatArray


Records = GemmRows | GroupedRows | AttentionRows | DecodeRows | BandwidthRows | LatencyRows | ReadRows


def read_records(path: Path, table: str | None = None, shape: Attention | None = None) -> tuple[Records, ...]:
    """Return the measurements of a file.

    Parameters
    ----------
    path
        A CSV file with the columns of one of the known tables.
    table
        Name shown in reports; default: the file's.
    shape
        Attention that a probe table was measured with, which its columns do not tell; default: latent attention
        with the heads that they name.

    Raises
    ------
    TraceError
        No rows, columns of no known table, a field that is not a number.
    """
    rows = read_file(path)
    name = table or path.name
    try:
        if rows[0].keys() >= _PROBE_COLUMNS:
            return _probe(name, rows, shape)
        for needed, reader in _READERS:
            if needed <= rows[0].keys():
                return reader(name, rows)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error
    known = "; ".join(", ".join(sorted(needed)) for needed in (_PROBE_COLUMNS, *(needed for needed, _ in _READERS)))
    raise TraceError(f"{path}: columns of no known table; known are those with: {known}")


def _gemm(table: str, rows: Rows) -> tuple[Records, ...]:
    m, k, n, micros = columns(rows, "m", "k", "n", "latency_us")
    return (GemmRows(table, m, k, n, np.zeros(len(m)), micros * 1e3),)


def _published_gemm(table: str, rows: Rows) -> tuple[Records, ...]:
    # Tables of several versions repeat themselves: the last one is what runs. They leave the launch out.
    last = rows[-1]["commit"]
    last_rows = [row for row in rows if row["commit"] == last]
    groups, m, k, n, tflops = columns(last_rows, "groups", "m", "k", "n", "tflops")
    ns = 2.0 * groups * m * k * n / (1e3 * tflops)
    grouped = np.array([row["kind"] != "dense" for row in last_rows])
    one, many = ~grouped, grouped
    none = np.zeros(int(one.sum()))
    dense = GemmRows(f"{table}, dense", m[one], k[one], n[one], none, ns[one], launched=False)
    experts = groups[many]
    rows_of = experts * m[many]
    return dense, GroupedRows(
        f"{table}, grouped", rows_of, experts, experts, k[many], n[many], ns[many], launched=False
    )  # fmt: skip


def _grouped(table: str, rows: Rows) -> tuple[Records, ...]:
    """Rows are drawn at random around the mean that the table names; its utilisation tells how many they were."""
    parts = []
    for time, used, k, n in _SHAPES_OF_GROUPED:
        experts, micros, utilisation = columns(rows, "num_local_experts", time, used)
        drawn = utilisation * PEAK_TFLOPS["fp8"] * 1e6 * micros / (2.0 * k * n)
        parts.append(
            (np.rint(drawn), experts, np.full(len(rows), float(k)), np.full(len(rows), float(n)), micros * 1e3)
        )
    drawn, experts, k_all, n_all, ns = (np.concatenate(column) for column in zip(*parts, strict=True))
    return (GroupedRows(table, drawn, experts, np.minimum(drawn, experts), k_all, n_all, ns),)


def _whole_prompts(table: str, rows: Rows) -> tuple[Records, ...]:
    length, micros = columns(rows, "seq_len", "latency_us")
    none = np.zeros(len(length))
    return (AttentionRows(table, _latent(128), length, none, none + 1, none, micros * 1e3),)


def _chunks(table: str, rows: Rows) -> tuple[Records, ...]:
    heads, kv_heads = columns(rows, "n_q_head_total", "n_kv_head_total")
    new, cached, batch, millis = columns(
        rows, "prefill_chunk_size", "kv_cache_size", "batch_size", "attn_prefill_ms", zero=("kv_cache_size",)
    )
    shape = GroupedAttention(int(heads[0]), int(kv_heads[0]), 128)
    return (AttentionRows(table, shape, new, cached, batch, np.zeros(len(new)), millis * 1e6),)


def _decode(table: str, rows: Rows) -> tuple[Records, ...]:
    batch, kv, micros = columns(rows, "batch_size", "kv_len", "latency_us")
    return (DecodeRows(table, batch, kv, micros * 1e3),)


def _bandwidths(table: str, rows: Rows) -> tuple[Records, ...]:
    # V1 #130 is the last version that was measured from 8 to 64 ranks under the same routing.
    versions = {row["version"] for row in rows}
    version = "V1 #130" if "V1 #130" in versions else rows[-1]["version"]
    chosen = [row for row in rows if row["version"] == version]
    return (BandwidthRows(table, *columns(chosen, "ep", "dispatch_GBps", "combine_GBps")),)


def _latencies(table: str, rows: Rows) -> tuple[Records, ...]:
    chosen = [row for row in rows if row["version"] == rows[-1]["version"]]
    ranks, dispatch, combine = columns(chosen, "ep", "dispatch_us", "combine_us")
    return (LatencyRows(table, ranks, dispatch * 1e3, combine * 1e3),)


def _probe(table: str, rows: Rows, shape: Attention | None) -> tuple[Records, ...]:
    found: list[Records] = []
    attention = [row for row in rows if str(row["kind"]).startswith("prefill_attention")]
    if attention:
        heads, new, cached, batch, seconds = columns(attention, "d0", "d1", "d2", "batch", "median_s", zero=("d2",))
        calls = np.array([_calls(row) for row in attention])
        found.append(
            AttentionRows(
                f"{table}, attention", shape or _latent(int(heads[0])), new, cached, batch, calls, seconds * 1e9
            )
        )
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("gemm_fp8", "gemm_bf16")}
    gemms = by_kind["gemm_fp8"] or by_kind["gemm_bf16"]  # a GPU without FP8 multiplies in BF16
    if gemms:
        m, k, n, seconds = columns(gemms, "d0", "d1", "d2", "median_s")
        calls = np.array([_calls(row) for row in gemms])
        name = f"{table}, {'FP8' if by_kind['gemm_fp8'] else 'BF16'} GEMM"
        found.append(GemmRows(name, m, k, n, calls, seconds * 1e9))
    reads = [row for row in rows if row["kind"] == "hbm_read"]
    if reads:
        read_bytes, seconds = columns(reads, "flops_or_bytes", "median_s")
        found.append(ReadRows(table, read_bytes, seconds * 1e9))
    if not found:
        raise TraceError("holds no kind that a law is fitted on (prefill_attention…, gemm_…, hbm_read)")
    return tuple(found)


def _calls(row: dict[str, str]) -> float:
    """Return how many calls from the host a timing holds: none in a CUDA graph."""
    name = str(row["name"])
    return 0.0 if "graph" in name else 2.0 if "2call" in name else 1.0


def _latent(heads: int) -> LatentAttention:
    return LatentAttention(heads, 1536, 512, *_LATENT_HEAD)


_PROBE_COLUMNS = {"kind", "name", "d0", "d1", "d2", "batch", "median_s", "flops_or_bytes"}

_READERS: tuple[tuple[set[str], Callable[[str, Rows], tuple[Records, ...]]], ...] = (
    ({"num_local_experts", "up_proj_us", "up_mfu", "down_proj_us", "down_mfu"}, _grouped),
    ({"commit", "groups", "m", "n", "k", "tflops"}, _published_gemm),
    ({"m", "k", "n", "latency_us"}, _gemm),
    ({"seq_len", "latency_us"}, _whole_prompts),
    ({"batch_size", "kv_len", "latency_us"}, _decode),
    ({"prefill_chunk_size", "kv_cache_size", "attn_prefill_ms", "n_q_head_total", "n_kv_head_total"}, _chunks),
    ({"version", "ep", "dispatch_us", "combine_us"}, _latencies),
    ({"version", "ep", "dispatch_GBps", "combine_GBps"}, _bandwidths),
)
