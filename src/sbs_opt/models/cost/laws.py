"""The laws of time: one frozen dataclass per kernel family, its fields are what calibration fits.

Units: bytes / (GB/s) and FLOP / (TFLOP/s · 1000) are both nanoseconds. Everything here is float64 and takes scalars or
arrays; rounding to integer nanoseconds happens once, where a pass or a step is put together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Number = float | FloatArray

HALF_TILE_ROWS = 64.0
"""Rows by which the last tile of an expert is too long on average: DeepGEMM's grouped kernels use 128-row tiles."""


@dataclass(frozen=True, slots=True)
class PrefillAttention:
    """Non-absorbed attention core, additive over requests: a·pairs + b·new + d·context, and a floor per launch.

    Parameters
    ----------
    tflops
        Rate at which (query, key) pairs are worked off.
    new_ns_per_kb, context_ns_per_kb
        Time per 1000 bytes of queries and outputs, and of keys and values.
    launch_ns
        Floor of one launch.
    """

    tflops: float
    new_ns_per_kb: float
    context_ns_per_kb: float
    launch_ns: float

    def ns(self, flops: Number, new_bytes: Number, context_bytes: Number) -> Number:
        """Return the time of one launch over all requests of a unit, one layer."""
        traffic = (self.new_ns_per_kb * new_bytes + self.context_ns_per_kb * context_bytes) / 1e3
        return flops / (1e3 * self.tflops) + traffic + self.launch_ns


@dataclass(frozen=True, slots=True)
class DecodeAttention:
    """Absorbed latent attention: launch + sequences + KV tokens, the latter the slower of arithmetic and HBM."""

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
    activation_gbps: float

    def fixed_ns(self, k: Number) -> Number:
        """Return the part that depends on neither tokens nor n."""
        return self.launch_ns + self.depth_ns_per_k * k

    def weight_ns(self, k: Number, n: Number) -> Number:
        """Return the time to stream the weights, one byte each."""
        return k * n / self.weight_gbps

    def token_ns(self, k: Number, n: Number) -> Number:
        """Return the time per token: 2·k·n FLOP, k bytes in (FP8), 2·n bytes out (BF16)."""
        return rounded_max(2.0 * k * n / (1e3 * self.tflops), (k + 2.0 * n) / self.activation_gbps)

    def ns(self, m: Number, k: Number, n: Number) -> Number:
        """Return the time of (m, k) × (k, n)."""
        return self.fixed_ns(k) + rounded_max(self.weight_ns(k, n), self.token_ns(k, n) * m)


@dataclass(frozen=True, slots=True)
class GroupedGemm:
    """FP8 GEMM of several experts in one launch: as `Gemm`, with the weights of the experts that are hit.

    An expert is hit with probability 1 − exp(−rows per expert); each costs half a tile of padding.
    """

    launch_ns: float
    tflops: float
    weight_gbps: float
    activation_gbps: float

    def ns(self, rows: Number, experts: Number, k: Number, n: Number) -> Number:
        """Return the time of `rows` rows spread over `experts` experts with (k, n) weights each."""
        hit = experts * (1.0 - np.exp(-rows / experts))
        weights = hit * k * n / self.weight_gbps
        return self.launch_ns + rounded_max(weights, (rows + HALF_TILE_ROWS * hit) * self.row_ns(k, n))

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
