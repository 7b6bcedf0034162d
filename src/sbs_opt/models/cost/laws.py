"""The laws of time: one frozen dataclass per kernel family, its fields are what calibration fits.

Units: bytes / (GB/s) and FLOP / (TFLOP/s · 1000) are both nanoseconds. Everything here is float64 and takes scalars or
arrays; rounding to integer nanoseconds happens once, where a pass or a step is put together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sbs_opt.models.cost.model import Attention

FloatArray = npt.NDArray[np.float64]
Number = float | FloatArray

TILE = 128
"""Queries and keys that an attention kernel works off together: FlashAttention-3's and cuDNN's tiles on Hopper."""


@dataclass(frozen=True, slots=True)
class PrefillAttention:
    """Non-absorbed attention core, additive over chunks: arithmetic by tiles, memory traffic, one launch.

    A chunk of c new tokens over p cached ones is ⌈c/128⌉ rows of tiles. A row works off the tiles left of it and the
    one on the diagonal; starting and ending it takes time as well.

    Parameters
    ----------
    tflops
        Rate at which tiles are worked off.
    row_tiles
        Tiles that could be worked off while a row of tiles starts and ends.
    context_ns_per_kb
        Time per 1000 bytes of keys and values.
    launch_ns
        Floor of one launch.
    """

    tflops: float
    row_tiles: float
    context_ns_per_kb: float
    launch_ns: float

    def pair_ns(self, shape: Attention) -> float:
        """Return the time per (query, key) pair."""
        return shape.pair_flops / (1e3 * self.tflops)

    def new_ns(self, shape: Attention) -> float:
        """Return the time per new token besides pairs c·p + c(c+1)/2, for chunks and prefixes that fill their tiles.

        The tile on the diagonal is half unused; starting and ending its row takes `row_tiles` more.
        """
        return ((0.5 + self.row_tiles) * TILE - 0.5) * self.pair_ns(shape)

    def context_ns(self, shape: Attention) -> float:
        """Return the time per token of context."""
        return self.context_ns_per_kb * shape.context_bytes / 1e3

    def ns(self, shape: Attention, new: Number, cached: Number, batch: Number = 1.0) -> Number:
        """Return the time of one launch over `batch` equal chunks of one layer; the last tiles are padded."""
        rows, left = np.ceil(np.asarray(new) / TILE), np.ceil(np.asarray(cached) / TILE)
        tiles = rows * (left + (rows + 1.0) / 2.0 + self.row_tiles)
        context = self.context_ns(shape) * (np.asarray(new) + cached)
        return batch * (self.pair_ns(shape) * TILE * TILE * tiles + context) + self.launch_ns


@dataclass(frozen=True, slots=True)
class DecodeAttention:
    """Decode attention: launch + sequences + KV tokens, the latter the slower of arithmetic and HBM."""

    tflops: float
    sequence_ns: float
    launch_ns: float

    def kv_ns(self, flops: float, kv_bytes: float, hbm_gbps: float) -> float:
        """Return the time per KV token (roofline); `flops` and `kv_bytes` are per KV token and layer."""
        return max(flops / (1e3 * self.tflops), kv_bytes / hbm_gbps)

    def ns(self, kv_tokens: Number, sequences: Number, kv_ns: float) -> Number:
        """Return the time of one layer over all sequences of a unit."""
        return kv_ns * kv_tokens + self.sequence_ns * sequences + self.launch_ns


@dataclass(frozen=True, slots=True)
class Gemm:
    """FP8 GEMM: launch + depth·k + √(weights² + arithmetic² + activations²).

    A roofline with rounded corners over the time to stream the weights, to do the arithmetic, and to read and write
    the activations (which rule where k is short, as in kv_b). `depth` is the serial walk of one tile along k, which
    is what a small GEMM waits for.
    """

    launch_ns: float
    depth_ns_per_k: float
    tflops: float
    weight_gbps: float
    input_ns_per_kb: float
    output_ns_per_kb: float

    def fixed_ns(self, k: Number) -> Number:
        """Return the part that depends on neither tokens nor n."""
        return self.launch_ns + self.depth_ns_per_k * k

    def weight_ns(self, k: Number, n: Number) -> Number:
        """Return the time to stream the weights, one byte each."""
        return k * n / self.weight_gbps

    def token_ns(self, k: Number, n: Number) -> Number:
        """Return the time per token: 2·k·n FLOP, k bytes in (FP8), 2·n bytes out (BF16)."""
        traffic = (self.input_ns_per_kb * k + self.output_ns_per_kb * 2.0 * n) / 1e3
        return rounded_max(2.0 * k * n / (1e3 * self.tflops), traffic)

    def ns(self, m: Number, k: Number, n: Number) -> Number:
        """Return the time of (m, k) × (k, n)."""
        return self.fixed_ns(k) + rounded_max(self.weight_ns(k, n), self.token_ns(k, n) * m)


@dataclass(frozen=True, slots=True)
class GroupedGemm:
    """FP8 GEMM of several experts in one launch: launch + ∛(weights³ + rows³), weights of the experts that are hit.

    Every expert that is hit costs `padding_rows` more: half an empty tile, and its start.
    """

    launch_ns: float
    tflops: float
    weight_gbps: float
    activation_gbps: float
    padding_rows: float

    def ns(self, rows: Number, hit: Number, k: Number, n: Number) -> Number:
        """Return the time of `rows` rows over `hit` experts with at least one of them, (k, n) weights each."""
        weights = np.asarray(hit) * k * n / self.weight_gbps
        work = (np.asarray(rows) + self.padding_rows * np.asarray(hit)) * self.row_ns(k, n)
        return self.launch_ns + np.cbrt(weights**3 + work**3)

    def row_ns(self, k: Number, n: Number) -> Number:
        """Return the time per row: arithmetic and activations."""
        return rounded_max(2.0 * k * n / (1e3 * self.tflops), (k + 2.0 * n) / self.activation_gbps)


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of an all-to-all: launch + bytes over the slower of the two networks.

    RDMA and NVLink work at the same time, so the slower one sets the pace.
    """

    launch_ns: float
    rdma_gbps: float
    nvlink_gbps: float

    def token_ns(self, rdma_bytes: Number, nvlink_bytes: Number) -> Number:
        """Return the time per token that carries so many bytes over each network."""
        return np.maximum(rdma_bytes / self.rdma_gbps, nvlink_bytes / self.nvlink_gbps)


@dataclass(frozen=True, slots=True)
class AllToAll:
    """Dispatch and combine of one mode (normal for prefill, low latency for decode)."""

    dispatch: Link
    combine: Link


def rounded_max(a: Number, b: Number) -> Number:
    """Return √(a² + b²): a maximum whose corner is rounded, monotone in both."""
    return np.sqrt(a * a + b * b)
