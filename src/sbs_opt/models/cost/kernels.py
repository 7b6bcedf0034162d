"""One kernel at a time: what `sbs-opt cost` shows, and what a fit is checked on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sbs_opt.models.cost.alltoall import Mode, ways
from sbs_opt.models.cost.model import Attention, ModelProfile
from sbs_opt.models.cost.profile import HardwareProfile
from sbs_opt.models.cost.profile_file import load_model
from sbs_opt.models.cost.ranges import RangeGuard
from sbs_opt.models.cost.routing import counted_copies, published_spread
from sbs_opt.models.errors import InputError

_TIMED_ALONE = 512


@dataclass(frozen=True, slots=True)
class KernelTime:
    """Time of one kernel on one GPU.

    Parameters
    ----------
    kernel_ns
        In a running pass, where the host launches ahead.
    call_ns
        What calls from the host add where it is timed alone, as the profile's measurements are.
    flops
        Arithmetic that it does.
    """

    kernel_ns: float
    call_ns: float
    flops: float

    @property
    def ns(self) -> float:
        """Time as measured alone."""
        return self.kernel_ns + self.call_ns

    @property
    def tflops(self) -> float:
        """Arithmetic over the time as measured alone, TFLOP/s."""
        return self.flops / self.ns / 1e3


def attention_time(
    hardware: HardwareProfile, shape: Attention, *, new_tokens: int, cached_tokens: int = 0, batch: int = 1
) -> KernelTime:
    """Return the attention of `batch` chunks of new tokens over cached ones, one layer, without projections.

    Calls from the host are those of the measurements that a profile was fitted on: two over a prefix (its rectangle and
    the triangle), one for a prompt alone from 512 tokens on; shorter ones and batches were timed in CUDA graphs.
    """
    _positive(new_tokens=new_tokens, batch=batch)
    if cached_tokens < 0:
        raise InputError(f"cached_tokens = {cached_tokens}: must not be negative")
    guard = RangeGuard(hardware)
    guard.check("prefill_attention", "new_tokens", new_tokens)
    guard.check("prefill_attention", "context_tokens", new_tokens + cached_tokens)
    pairs = new_tokens * cached_tokens + new_tokens * (new_tokens + 1) // 2
    time = float(hardware.prefill_attention.ns(shape, float(new_tokens), float(cached_tokens), float(batch)))
    calls = 2.0 if cached_tokens else 1.0 if batch == 1 and new_tokens >= _TIMED_ALONE else 0.0
    return KernelTime(time, calls * hardware.host.call_ns, batch * pairs * shape.pair_flops)


def gemm_time(hardware: HardwareProfile, *, m: int, k: int, n: int, groups: int = 1) -> KernelTime:
    """Return an FP8 GEMM (m, k) × (k, n); with groups, one of `groups` experts with m rows each."""
    _positive(m=m, k=k, n=n, groups=groups)
    guard = RangeGuard(hardware)
    flops = 2.0 * groups * m * k * n
    if groups == 1:
        for quantity, value in (("m", m), ("k", k), ("n", n)):
            guard.check("gemm", quantity, value)
        return KernelTime(float(hardware.gemm.ns(float(m), float(k), float(n))), hardware.host.call_ns, flops)
    guard.check("grouped_gemm", "rows_per_expert", m)
    guard.check("grouped_gemm", "experts", groups)
    return KernelTime(float(hardware.grouped_gemm.ns(float(groups * m), float(groups), float(k), float(n))), 0.0, flops)


@dataclass(frozen=True, slots=True)
class AllToAllTime:
    """Dispatch and combine of one layer, and the bytes that published bandwidths count.

    Parameters
    ----------
    dispatch_ns, combine_ns
        Of the busiest rank.
    dispatch_bytes, combine_bytes
        Copies to distinct nodes, its own included (distinct ranks where there is one node; one copy per expert in
        low-latency mode), times the size of a message.
    """

    dispatch_ns: float
    combine_ns: float
    dispatch_bytes: float
    combine_bytes: float


def alltoall_time(
    hardware: HardwareProfile, *, ranks: int, tokens: int, mode: Mode, model: ModelProfile | None = None
) -> AllToAllTime:
    """Return the all-to-all of `tokens` tokens on the busiest rank.

    Parameters
    ----------
    model
        Gives message sizes and routing; default: the test of DeepEP's published tables, which has the sizes of
        DeepSeek-V3 and draws groups and experts uniformly, so that a token reaches 3.6 of 4 nodes instead of 2.9.
    """
    _positive(ranks=ranks)
    if tokens < 0:
        raise InputError(f"tokens = {tokens}: must not be negative")
    section = "alltoall_normal" if mode == "normal" else "alltoall_low_latency"
    RangeGuard(hardware).check(section, "ranks", ranks)
    shape = model or _published_shape()
    spread = None if model else published_spread(ranks, hardware.device.gpus_per_node)
    dispatch, combine = ways(hardware, shape, ranks, mode, spread)
    if mode == "normal":
        counted = counted_copies(spread or published_spread(ranks, hardware.device.gpus_per_node))
        sizes = shape.dispatch_bytes, shape.combine_bytes
    else:
        counted, sizes = float(shape.top_experts), (shape.dispatch_bytes_low_latency, shape.combine_bytes)
    return AllToAllTime(
        dispatch.ns(tokens), combine.ns(tokens), tokens * counted * sizes[0], tokens * counted * sizes[1]
    )


def _positive(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} = {value}: is too few; give at least 1")


@lru_cache(maxsize=1)
def _published_shape() -> ModelProfile:
    return load_model("deepseek-v3")
