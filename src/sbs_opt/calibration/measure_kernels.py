"""Kernels to time, and how they are timed: everything of `measure` that touches PyTorch.

PyTorch is an optional extra: it is imported when a device is opened, and its objects are of type Any here.
"""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from itertools import cycle
from typing import Any

from sbs_opt.models.errors import InputError

Call = Callable[[], Any]

GRAPH_CALLS = 10
"""Calls captured in one CUDA graph."""

_GRAPH_BELOW_S = 1e-3  # a longer call hides the host's launch of the next one
_ROW_BUDGET_S = 0.25  # time spent on the runs of one row, three runs at least
_ROTATED_BYTES = 1 << 28  # more than any L2 holds
_FP8_CAPABILITY = (8, 9)


@dataclass(frozen=True, slots=True)
class Device:
    """An accelerator, or the CPU, with the PyTorch that drives it."""

    torch: Any
    name: str
    stream: Any = None
    """Side stream on which graphs are captured, on CUDA only: one for all, as libraries keep a workspace per stream."""

    @property
    def is_cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.name != "cpu"

    @property
    def has_fp8(self) -> bool:
        """Whether it multiplies e4m3; the CPU does so by software."""
        return not self.is_cuda or self.torch.cuda.get_device_capability() >= _FP8_CAPABILITY

    def current(self) -> AbstractContextManager[Any]:
        """Return a context in which the device is the current one, so that events and streams are its own."""
        context: AbstractContextManager[Any] = self.torch.cuda.device(self.name) if self.is_cuda else nullcontext()
        return context

    def free_bytes(self) -> int:
        """Return the memory that is free, that of former shapes given back."""
        if self.is_cuda:
            self.torch.cuda.empty_cache()
            return int(self.torch.cuda.mem_get_info()[0])
        if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", ()):  # neither macOS nor Windows tells
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return 1 << 32

    def random(self, *shape: int) -> Any:
        """Return BF16 normal values: constant ones would draw less power, and so run at a higher clock."""
        return self.torch.randn(shape, dtype=self.torch.bfloat16, device=self.name)


def open_device(name: str) -> Device:
    """Return the device.

    Raises
    ------
    InputError
        PyTorch is not installed, or does not see the device.
    """
    try:
        torch: Any = import_module("torch")
    except ModuleNotFoundError as error:
        raise InputError("calibrate --device needs PyTorch: pip install 'sbs-opt[gpu]'") from error
    if name == "cpu":
        return Device(torch, name)
    known = re.fullmatch(r"cuda(?::([0-9]+))?", name)
    if known is None:
        raise InputError(f"device = {name!r}: not known; give cuda, cuda:N or cpu")
    if not torch.cuda.is_available():
        raise InputError(
            f"device = {name!r}: PyTorch {torch.__version__} sees no GPU; "
            "install a CUDA build of it and the driver (see nvidia-smi), or give cpu"
        )
    if int(known[1] or 0) >= torch.cuda.device_count():
        raise InputError(f"device = {name!r}: there are {torch.cuda.device_count()} GPUs, numbered from 0")
    return Device(torch, name, torch.cuda.Stream(name))


def time_call(device: Device, call: Call, runs: int) -> tuple[list[float], str]:
    """Return the seconds of one call in each of several runs, and what to append to the row's name.

    On CUDA the clock is the device's own (events). A short call is captured ten times in a CUDA graph, so that the
    host's launch does not count ("_graph10"); a long one, or one that cannot be captured, is timed alone (""). Runs are
    queued without waiting in between, so that the host is ahead of a long call from its second run on. There are `runs`
    of them, fewer where that would take long, three at least.
    """
    call()  # loads the kernel and lets the library choose its algorithm
    once = _timed(device, call, 1)[0]
    timed, calls, suffix = call, 1, ""
    if device.is_cuda and once < _GRAPH_BELOW_S:
        replay = _captured(device, call)
        if replay is not None:
            # `call` stays a name of its own: it holds the tensors whose addresses the graph knows.
            timed, calls, suffix = replay, GRAPH_CALLS, f"_graph{GRAPH_CALLS}"
            once = _timed(device, timed, 1)[0]  # the first replay uploads the graph
    fitting = int(_ROW_BUDGET_S / max(once, 1e-9))
    return [seconds / calls for seconds in _timed(device, timed, min(runs, max(3, fitting)))], suffix


def _timed(device: Device, call: Call, runs: int) -> list[float]:
    if not device.is_cuda:
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return seconds
    cuda = device.torch.cuda
    events = [(cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)) for _ in range(runs)]
    for begin, end in events:
        begin.record()
        call()
        end.record()
    cuda.synchronize()
    return [begin.elapsed_time(end) * 1e-3 for begin, end in events]  # PyTorch gives milliseconds


def _captured(device: Device, call: Call) -> Call | None:
    """Return the replay of a graph of `GRAPH_CALLS` calls; None where the call cannot be captured."""
    cuda, stream = device.torch.cuda, device.stream
    graph = cuda.CUDAGraph()
    stream.wait_stream(cuda.current_stream())
    try:
        # This outer context gives the stream back even when the end of a broken capture raises.
        with cuda.stream(stream):
            call()  # library handles are made per stream, which a capture forbids
            with cuda.graph(graph, stream=stream):
                for _ in range(GRAPH_CALLS):
                    call()
    except RuntimeError:
        return None
    cuda.current_stream().wait_stream(stream)
    replay: Call = graph.replay
    return replay


@dataclass(frozen=True, slots=True)
class AttentionKernel:
    """A way to run prefill attention: back end, one call or two, values padded to the head dim of the keys or not.

    PyTorch masks a chunk at the end of a longer context in its flash kernel but not in cuDNN's, so the latter runs as
    two calls: the rectangle over the prefix and the causal triangle over the chunk. An engine that does so merges the
    two by their log-sum-exp; the merge is not timed.
    """

    backend: str
    two_calls: bool = False
    padded: bool = False

    @property
    def name(self) -> str:
        """Name in the table, e.g. `cudnn_2call`."""
        return self.backend + "_2call" * self.two_calls + "_padded" * self.padded


_BACKENDS = {"cudnn": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION", "math": "MATH"}
_CALLS_OVER_PREFIX = {"cudnn": (True,), "flash": (False,), "math": (False, True)}


def attention_kernels(device: Device, *, prefix: int, may_pad: bool) -> list[AttentionKernel]:
    """Return the ways to try: fused kernels on a GPU; on the CPU the plain one, where fusion would only hide it."""
    return [
        AttentionKernel(backend, two_calls, padded)
        for backend in (("cudnn", "flash") if device.is_cuda else ("math",))
        for two_calls in (_CALLS_OVER_PREFIX[backend] if prefix else (False,))
        for padded in ((False, True) if may_pad else (False,))
    ]


def attention_inputs(
    device: Device, heads: int, kv_heads: int, query_dim: int, value_dim: int, *, chunk: int, prefix: int, batch: int
) -> tuple[Any, Any, Any]:
    """Return query[batch, heads, chunk, query_dim], key and value[batch, kv_heads, prefix + chunk, …].

    They are views of tensors with the tokens before the heads, as engines keep them.
    """
    context = prefix + chunk
    return (
        device.random(batch, chunk, heads, query_dim).transpose(1, 2),
        device.random(batch, context, kv_heads, query_dim).transpose(1, 2),
        device.random(batch, context, kv_heads, value_dim).transpose(1, 2),
    )


def attention_call(kernel: AttentionKernel, query: Any, key: Any, value: Any) -> Call:
    """Return a call of causal attention whose last query sees the last key.

    It returns a list with the output [batch, heads, chunk, value_dim] or, for two calls, that over the prefix and that
    within the chunk, each with a softmax of its own.
    """
    attention: Any = import_module("torch.nn.attention")
    functional: Any = import_module("torch.nn.functional")
    lower_right: Any = import_module("torch.nn.attention.bias").causal_lower_right
    backend = getattr(attention.SDPBackend, _BACKENDS[kernel.backend])
    chunk, context, value_dim = query.shape[2], key.shape[2], value.shape[3]
    options = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
    if kernel.padded:
        value = functional.pad(value.transpose(1, 2), (0, key.shape[3] - value_dim)).transpose(1, 2)
    if kernel.two_calls:
        prefix = context - chunk
        parts: list[tuple[Any, Any, dict[str, Any]]] = [
            (key[:, :, :prefix], value[:, :, :prefix], {}),
            (key[:, :, prefix:], value[:, :, prefix:], {"is_causal": True}),
        ]
    else:
        parts = [(key, value, {"attn_mask": lower_right(chunk, context)})]

    def call() -> list[Any]:
        with attention.sdpa_kernel(backend):
            return [
                functional.scaled_dot_product_attention(query, keys, values, **mask, **options)[..., :value_dim]
                for keys, values, mask in parts
            ]

    return call


def fastest(device: Device, builds: dict[AttentionKernel, Callable[[], Call]], what: str) -> AttentionKernel:
    """Return the kernel with the fastest call.

    Raises
    ------
    InputError
        PyTorch refuses them all; the message begins with `what`.
    """
    seconds, refusals = {}, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a refused kernel says why, one warning per rule
        for kernel, build in builds.items():
            try:
                seconds[kernel] = min(time_call(device, build(), 5)[0])
            except RuntimeError as error:
                refusals.append(f"{kernel.name}: {first_line(error)}")
    if not seconds:
        raise InputError(
            f"{what}: PyTorch {device.torch.__version__} has no attention kernel for them on {device.name}; "
            f"update it or give other dims ({'; '.join(refusals)})"
        )
    return min(seconds, key=seconds.__getitem__)


def first_line(error: Exception) -> str:
    """Return the first line of a message; PyTorch's go on with advice."""
    return str(error).partition("\n")[0]


def gemm_copies(weight_bytes: int) -> int:
    """Return over how many copies of a weight a GEMM rotates."""
    return min(GRAPH_CALLS, -(-_ROTATED_BYTES // weight_bytes))


def gemm_call(device: Device, *, fp8: bool, m: int, k: int, n: int) -> Call:
    """Return a call of activations[m, k] × weights[k, n], the output in BF16.

    Weights are column-major, as a linear layer keeps them. In a pass every layer's weights come from HBM, so each call
    takes the next of up to ten copies, together 256 MiB where ten suffice: small weights do not come from L2. FP8 is
    e4m3 with one scale per tensor and fast accumulation.
    """
    torch = device.torch
    dtype = torch.float8_e4m3fn if fp8 else torch.bfloat16
    activations = device.random(m, k).to(dtype)
    copies = gemm_copies(k * n * dtype.itemsize)
    weights = cycle([device.random(n, k).to(dtype).t() for _ in range(copies)])
    if not fp8:
        return lambda: torch.mm(activations, next(weights))
    one = torch.ones((), dtype=torch.float32, device=device.name)
    return lambda: torch._scaled_mm(
        activations, next(weights), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def read_call(device: Device, num_bytes: int) -> Call:
    """Return a call that reads a float32 tensor of so many bytes once: its sum."""
    data = device.torch.ones(num_bytes // 4, dtype=device.torch.float32, device=device.name)
    read: Call = data.sum
    return read
