"""Timing kernels on the user's own accelerator: the table that `sbs-opt calibrate --device` fits.

Rows have the columns of the published probe tables. All times are of one call on the device, without the host's launch
where the name ends in `_graph10` (see `measure_kernels.time_call`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from functools import partial
from itertools import product

import numpy as np

from sbs_opt.calibration import measure_kernels as kernels
from sbs_opt.calibration.measure_kernels import AttentionKernel, Call, Device
from sbs_opt.calibration.tables import PathLike, write_rows
from sbs_opt.models.cost.model import ModelProfile
from sbs_opt.models.errors import InputError

MAX_ATTENTION_WORK = 1 << 38
"""Bound on chunk · (chunk + 2·prefix) · batch · heads: about 0.15 s a call on an H100 with DeepSeek-V3's heads."""

_MEMORY_SHARE = 0.9
_FP8_MULTIPLE = 16  # PyTorch's rule for k and n
_CHOICE_CHUNK, _CHOICE_PREFIX = 2048, 4096  # the shape, or the nearest below in the plan, on which kernels compete


@dataclass(frozen=True, slots=True)
class Plan:
    """Shapes to time: every chunk × prefix × batch, every (k, n) × tokens, every read; bounded by memory and work.

    Parameters
    ----------
    heads, kv_heads, query_dim, value_dim
        Query heads, key-value heads, dim of a query or key head, dim of a value head (at most that).
    chunks, prefixes, batches
        New tokens and cached tokens per sequence, and sequences per call.
    gemms
        (k, n) of each weight.
    gemm_tokens
        Rows m of the activations.
    read_bytes
        Sizes of the memory reads, multiples of 4 bytes.
    runs
        Runs per row at most; long ones get fewer, three at least.
    """

    heads: int
    kv_heads: int
    query_dim: int
    value_dim: int
    chunks: tuple[int, ...]
    prefixes: tuple[int, ...]
    batches: tuple[int, ...]
    gemms: tuple[tuple[int, int], ...]
    gemm_tokens: tuple[int, ...]
    read_bytes: tuple[int, ...]
    runs: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = {"prefixes": 0, "read_bytes": 4}.get(field.name, 1)
            if np.min(value, initial=least) < least:
                raise InputError(f"{field.name} = {value}: must not be below {least}")
        if self.heads % self.kv_heads:
            raise InputError(f"kv_heads = {self.kv_heads}: must divide heads = {self.heads}")
        if self.value_dim > self.query_dim:
            raise InputError(f"value_dim = {self.value_dim}: must not exceed query_dim = {self.query_dim}")
        if any(size % 4 for size in self.read_bytes):
            raise InputError(f"read_bytes = {self.read_bytes}: must be multiples of 4")


def full_plan(*, heads: int, kv_heads: int, query_dim: int, value_dim: int, gemms: Iterable[tuple[int, int]]) -> Plan:
    """Return the plan of a calibration: a minute or two on a GPU of the H100's class."""
    return Plan(
        heads=heads,
        kv_heads=kv_heads,
        query_dim=query_dim,
        value_dim=value_dim,
        chunks=(64, 128, 256, 512, 1024, 2048, 4096, 8192),
        prefixes=(0, 1024, 4096, 16384, 65536),
        batches=(1, 4, 16),
        gemms=tuple(gemms),
        gemm_tokens=(64, 256, 1024, 4096, 16384),
        read_bytes=tuple(1 << power for power in range(28, 35)),
        runs=30,
    )


def plan_of(model: ModelProfile) -> Plan:
    """Return the plan for the shapes of a model: its attention, its projections, its dense layers and one expert."""
    shape = model.attention
    return full_plan(
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        query_dim=shape.query_dim,
        value_dim=shape.value_dim,
        gemms=(
            *shape.projections(model.hidden),
            *shape.context_projections,
            *model.feed_forward(model.dense_width),
            *model.feed_forward(model.expert_width),
        ),
    )


def small_plan() -> Plan:
    """Return a plan of tiny shapes, MLA's form, that a CPU works off in a second or two."""
    return Plan(
        heads=4, kv_heads=4, query_dim=24, value_dim=16, chunks=(8, 16), prefixes=(0, 32), batches=(1, 2),
        gemms=((32, 48), (48, 32)), gemm_tokens=(16, 64), read_bytes=(1 << 14, 1 << 16, 1 << 18), runs=3,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of the table, times in seconds per call.

    d0, d1, d2 are heads, chunk, prefix for attention, m, k, n for a GEMM, and bytes, 0, 0 for a read. The last column
    counts useful work only, not what padding adds.
    """

    kind: str
    name: str
    d0: int
    d1: int
    d2: int
    batch: int
    median_s: float
    min_s: float
    runs: int
    flops_or_bytes: int


@dataclass(frozen=True, slots=True)
class _Job:
    kind: str
    name: str
    shape: tuple[int, int, int]
    batch: int
    work: int
    memory_bytes: int
    build: Callable[[], Call]


def measure(plan: Plan, device: str, *, progress: Callable[[str], None] | None = None) -> list[Measurement]:
    """Time the shapes of a plan.

    A shape that does not fit in free memory or that the device refuses is left out, and `progress` is told why.

    Parameters
    ----------
    plan
        What to time.
    device
        "cuda", "cuda:N" or "cpu".
    progress
        Called with one line per shape.

    Raises
    ------
    InputError
        PyTorch or the device is missing, no attention kernel takes the plan's heads, or no shape could be timed.
    """
    opened = kernels.open_device(device)
    report = progress or (lambda _line: None)
    rows = []
    with opened.current():
        for jobs in (_attention_jobs, _gemm_jobs, _read_jobs):
            for job in jobs(plan, opened):
                row = _measured(job, opened, plan.runs, report)
                if row is not None:
                    rows.append(row)
    if not rows:
        raise InputError(f"device = {device!r}: no shape of the plan could be timed; plan smaller ones or free memory")
    return rows


def _measured(job: _Job, device: Device, runs: int, report: Callable[[str], None]) -> Measurement | None:
    label = f"{job.kind} {'×'.join(map(str, job.shape))}, batch {job.batch}"
    free = device.free_bytes()
    if job.memory_bytes > _MEMORY_SHARE * free:
        report(f"{label}: left out, needs {job.memory_bytes / 1e9:.1f} GB of {free / 1e9:.1f} GB free")
        return None
    try:
        seconds, suffix = kernels.time_call(device, job.build(), runs)
    except RuntimeError as error:  # out of memory is one, too
        report(f"{label}: left out, {kernels.first_line(error)}")
        return None
    row = Measurement(
        job.kind,
        job.name + suffix,
        *job.shape,
        job.batch,
        statistics.median(seconds),
        min(seconds),
        len(seconds),
        job.work,
    )
    report(f"{label}: {row.median_s * 1e6:.1f} µs ({row.name})")
    return row


def attention_flops(heads: int, query_dim: int, value_dim: int, *, chunk: int, prefix: int, batch: int) -> int:
    """Return 2·(query_dim + value_dim)·heads·batch·pairs, with chunk·prefix + chunk·(chunk + 1)/2 pairs."""
    return 2 * (query_dim + value_dim) * heads * batch * (chunk * prefix + chunk * (chunk + 1) // 2)


def _attention_jobs(plan: Plan, device: Device) -> Iterator[_Job]:
    """One kernel serves all shapes without a prefix, one all others: a law is fitted to a kernel, not to a mixture."""
    chosen: dict[bool, AttentionKernel] = {}
    for prefix, batch, chunk in product(plan.prefixes, plan.batches, plan.chunks):
        if chunk * (chunk + 2 * prefix) * batch * plan.heads > MAX_ATTENTION_WORK:
            continue
        if (prefix > 0) not in chosen:
            chosen[prefix > 0] = _choose(plan, device, prefix > 0)
        yield _attention_job(plan, device, chosen[prefix > 0], chunk, prefix, batch)


def _choose(plan: Plan, device: Device, over_prefix: bool) -> AttentionKernel:
    prefixes = [prefix for prefix in plan.prefixes if prefix > 0]
    chunk = _nearest_below(plan.chunks, _CHOICE_CHUNK)
    prefix = _nearest_below(prefixes, _CHOICE_PREFIX) if over_prefix else 0
    candidates = kernels.attention_kernels(device, prefix=prefix, may_pad=plan.value_dim < plan.query_dim)
    builds = {kernel: _attention_job(plan, device, kernel, chunk, prefix, 1).build for kernel in candidates}
    what = " = {}, ".join(("heads", "kv_heads", "query_dim", "value_dim")) + " = {}"
    return kernels.fastest(device, builds, what.format(plan.heads, plan.kv_heads, plan.query_dim, plan.value_dim))


def _nearest_below(sizes: Iterable[int], bound: int) -> int:
    sizes = sorted(sizes)
    return max((size for size in sizes if size <= bound), default=sizes[0])


def _attention_job(plan: Plan, device: Device, kernel: AttentionKernel, chunk: int, prefix: int, batch: int) -> _Job:
    sizes = (plan.heads, plan.kv_heads, plan.query_dim, plan.value_dim)
    # Queries and at most two outputs; keys, values, and the padded values beside them.
    values = 3 * plan.heads * chunk * plan.query_dim
    values += plan.kv_heads * (chunk + prefix) * (plan.value_dim + 2 * plan.query_dim)
    return _Job(
        kind="prefill_attention" if batch == 1 else "prefill_attention_batch",
        name=kernel.name,
        shape=(plan.heads, chunk, prefix),
        batch=batch,
        work=attention_flops(plan.heads, plan.query_dim, plan.value_dim, chunk=chunk, prefix=prefix, batch=batch),
        memory_bytes=2 * batch * values,
        build=lambda: kernels.attention_call(
            kernel, *kernels.attention_inputs(device, *sizes, chunk=chunk, prefix=prefix, batch=batch)
        ),
    )


def _gemm_jobs(plan: Plan, device: Device) -> Iterator[_Job]:
    for (k, n), m in product(plan.gemms, plan.gemm_tokens):
        if device.has_fp8 and k % _FP8_MULTIPLE == 0 and n % _FP8_MULTIPLE == 0:
            yield _gemm_job(device, True, m, k, n)
        yield _gemm_job(device, False, m, k, n)


def _gemm_job(device: Device, fp8: bool, m: int, k: int, n: int) -> _Job:
    size = 1 if fp8 else 2
    return _Job(
        kind="gemm_fp8" if fp8 else "gemm_bf16",
        name="scaled_mm" if fp8 else "mm",
        shape=(m, k, n),
        batch=1,
        work=2 * m * k * n,
        # Copies and activations, BF16 ones that FP8 is made from, output.
        memory_bytes=size * k * (m + kernels.gemm_copies(size * k * n) * n) + 2 * k * (m + n) + 2 * m * n,
        build=lambda: kernels.gemm_call(device, fp8=fp8, m=m, k=k, n=n),
    )


def _read_jobs(plan: Plan, device: Device) -> Iterator[_Job]:
    for size in plan.read_bytes:
        yield _Job("hbm_read", "sum", (size, 0, 0), 1, size, size, partial(kernels.read_call, device, size))


def write_measurements(rows: Iterable[Measurement], path: PathLike) -> None:
    """Write rows as CSV; a write that fails leaves the file that was there and raises `OSError`."""
    write_rows(path, (field.name for field in fields(Measurement)), (astuple(row) for row in rows))
