"""The measured table has the published columns, and what is timed is the arithmetic that the row claims.

No test needs a GPU: the CPU runs the same jobs, and a pretended CUDA shows how events and graphs are used.
"""

from __future__ import annotations

import csv
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.calibration import measure_kernels
from sbs_opt.calibration.measure import (
    MAX_ATTENTION_WORK,
    Measurement,
    Plan,
    attention_flops,
    full_plan,
    measure,
    small_plan,
    write_measurements,
)
from sbs_opt.calibration.measure_kernels import AttentionKernel, Device, open_device, time_call
from sbs_opt.models.errors import InputError

FloatArray = npt.NDArray[np.float64]


def read_back(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


ROW = Measurement("gemm_bf16", "mm", 64, 32, 48, 1, 2.5e-6, 2e-6, 3, 196608)


class PretendedCuda:
    """As much of `torch.cuda` as timing uses: a call takes `seconds` on its clock, a replay what it captured."""

    def __init__(self, seconds: float, *, capturable: bool = True) -> None:
        self.seconds, self.capturable = seconds, capturable
        self.clock_s = 0.0
        self.captured: int | None = None
        self.stream_stack = ["default"]

    def launch(self) -> None:
        if self.captured is None:
            self.clock_s += self.seconds
        elif not self.capturable:
            raise RuntimeError("operation not permitted when stream is capturing")
        else:
            self.captured += 1

    def current_stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda _other: None)

    @contextmanager
    def stream(self, name: Any) -> Iterator[None]:
        self.stream_stack.append(name)
        try:
            yield
        finally:
            self.stream_stack.pop()

    @contextmanager
    def graph(self, graph: Any, stream: Any) -> Iterator[None]:
        assert self.stream_stack[-1] is stream, "captured on another stream than the one warmed up"
        self.captured = 0
        try:
            yield
            graph.calls = self.captured
        finally:
            self.captured = None

    def CUDAGraph(self) -> Any:
        graph = SimpleNamespace(calls=0)
        graph.replay = lambda: setattr(self, "clock_s", self.clock_s + graph.calls * self.seconds)
        return graph

    def Event(self, *, enable_timing: bool) -> Any:
        assert enable_timing
        event = SimpleNamespace(at=None)
        event.record = lambda: setattr(event, "at", self.clock_s)
        event.elapsed_time = lambda end: (end.at - event.at) * 1e3
        return event

    def synchronize(self) -> None:
        assert self.captured is None, "waited within a capture"

    def device(self) -> Device:
        side = SimpleNamespace(wait_stream=lambda _other: None)
        return Device(SimpleNamespace(cuda=self), "cuda", side)


def test_a_short_call_is_timed_in_a_graph_of_ten() -> None:
    cuda = PretendedCuda(4e-6)
    seconds, suffix = time_call(cuda.device(), cuda.launch, runs=7)
    assert suffix == "_graph10"
    assert seconds == pytest.approx([4e-6] * 7)
    assert cuda.stream_stack == ["default"]


def test_a_call_that_cannot_be_captured_is_timed_alone() -> None:
    cuda = PretendedCuda(4e-6, capturable=False)
    seconds, suffix = time_call(cuda.device(), cuda.launch, runs=7)
    assert (suffix, cuda.stream_stack) == ("", ["default"])
    assert seconds == pytest.approx([4e-6] * 7)


def test_a_long_call_is_timed_alone_and_three_times_at_least() -> None:
    cuda = PretendedCuda(0.2)
    seconds, suffix = time_call(cuda.device(), cuda.launch, runs=30)
    assert suffix == ""
    assert seconds == pytest.approx([0.2] * 3)


def test_what_a_graph_reads_lives_as_long_as_it_is_replayed() -> None:
    cuda = PretendedCuda(4e-6)

    class Operand:
        pass

    def build() -> tuple[Any, Any]:
        operand = Operand()

        def call(held: Operand = operand) -> Operand:
            cuda.launch()
            return held

        return call, weakref.ref(operand)

    call, operand = build()
    alive: list[bool] = []
    make_graph = cuda.CUDAGraph

    def watched() -> Any:
        graph = make_graph()
        replay = graph.replay

        def watched_replay() -> None:
            alive.append(operand() is not None)
            replay()

        graph.replay = watched_replay
        return graph

    cuda.CUDAGraph = watched  # type: ignore[method-assign]
    holder = [call]
    del call
    time_call(cuda.device(), holder.pop(), runs=3)
    assert len(alive) > 3
    assert all(alive)


def pretend_torch(monkeypatch: pytest.MonkeyPatch, **cuda: Any) -> None:
    torch = SimpleNamespace(__version__="2.13.0", cuda=SimpleNamespace(**cuda))
    monkeypatch.setitem(sys.modules, "torch", torch)


def test_without_pytorch_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"calibrate --device needs PyTorch: pip install 'sbs-opt\[gpu\]'"):
        measure(small_plan(), "cpu")


def test_without_a_gpu_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_torch(monkeypatch, is_available=lambda: False)
    with pytest.raises(InputError, match=r"device = 'cuda': PyTorch 2\.13\.0 sees no GPU; install a CUDA build"):
        measure(small_plan(), "cuda")


def test_a_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_torch(monkeypatch, is_available=lambda: True, device_count=lambda: 2)
    with pytest.raises(InputError, match="device = 'cuda:2': there are 2 GPUs"):
        open_device("cuda:2")


@pytest.mark.parametrize("name", ["mps", "", "cuda:", "cuda:x", "cpu:0", "cuda:-1"])
def test_unknown_device(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend_torch(monkeypatch, is_available=lambda: True, device_count=lambda: 1)
    with pytest.raises(InputError, match="give cuda, cuda:N or cpu"):
        open_device(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": 0}, "runs = 0: must not be below 1"),
        ({"prefixes": (0, -1)}, r"prefixes = \(0, -1\): must not be below 0"),
        ({"gemms": ((32, 0),)}, r"gemms = \(\(32, 0\),\): must not be below 1"),
        ({"kv_heads": 3}, "kv_heads = 3: must divide heads = 4"),
        ({"value_dim": 32}, "value_dim = 32: must not exceed query_dim = 24"),
        ({"read_bytes": (6,)}, r"read_bytes = \(6,\): must be multiples of 4"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(small_plan(), **change)


def test_the_full_plan_keeps_the_heads_and_weights_given() -> None:
    plan = full_plan(heads=128, kv_heads=128, query_dim=192, value_dim=128, gemms=[(7168, 2112), (1536, 24576)])
    assert (plan.heads, plan.kv_heads, plan.query_dim, plan.value_dim) == (128, 128, 192, 128)
    assert plan.gemms == ((7168, 2112), (1536, 24576))
    assert plan.read_bytes[0] == 2**28
    assert plan.read_bytes[-1] == 2**34


@given(*[st.integers(1, 12)] * 5, st.integers(0, 12))
def test_flops_are_two_per_dim_and_unmasked_pair(
    heads: int, query_dim: int, value_dim: int, chunk: int, batch: int, prefix: int
) -> None:
    pairs = sum(column <= prefix + row for row in range(chunk) for column in range(prefix + chunk))
    expected = 2 * (query_dim + value_dim) * heads * batch * pairs
    assert attention_flops(heads, query_dim, value_dim, chunk=chunk, prefix=prefix, batch=batch) == expected


def test_columns_and_flops_are_those_of_the_published_probe(calibration_dir: Path) -> None:
    rows = read_back(calibration_dir / "hopper_probe" / "fit.csv")
    assert list(rows[0]) == [field.name for field in fields(Measurement)]
    checked = 0
    for row in rows:
        d0, d1, d2, batch = (int(row[name]) for name in ("d0", "d1", "d2", "batch"))
        if row["kind"].startswith("prefill_attention"):
            work = attention_flops(d0, 192, 128, chunk=d1, prefix=d2, batch=batch)
        elif row["kind"].startswith("gemm"):
            work = 2 * d0 * d1 * d2
        else:
            work = d0
        assert work == float(row["flops_or_bytes"])
        checked += 1
    assert checked > 50


def test_a_written_table_reads_back(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    write_measurements([ROW, replace(ROW, d0=128)], target)
    first, second = read_back(target)
    assert first == {name: str(value) for name, value in asdict(ROW).items()}
    assert float(first["median_s"]) == ROW.median_s
    assert second["d0"] == "128"


def test_a_failed_write_leaves_the_old_table(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    write_measurements([ROW], target)
    before = target.read_bytes()

    def rows() -> Iterator[Measurement]:
        yield ROW
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_measurements(rows(), target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_write_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "table.csv")
    write_measurements([ROW], link)
    assert link.is_symlink()
    assert len(read_back(tmp_path / "table.csv")) == 1


@pytest.fixture(name="torch")
def _torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture(name="cpu")
def _cpu(torch: Any) -> Device:
    del torch
    return open_device("cpu")


def test_the_small_plan_gives_every_kind_on_the_cpu(cpu: Device) -> None:
    del cpu
    plan, lines = small_plan(), list[str]()
    rows = measure(plan, "cpu", progress=lines.append)
    kinds = ("prefill_attention", "prefill_attention_batch", "gemm_fp8", "gemm_bf16", "hbm_read")
    assert {row.kind for row in rows} == set(kinds)
    assert len(lines) == len(rows) == 2 * 2 * 2 + 2 * 2 * 2 + 3
    for row in rows:
        assert 0 < row.min_s <= row.median_s
        assert row.runs == plan.runs
        assert (row.kind == "prefill_attention_batch") == (row.batch > 1)
        if row.kind.startswith("prefill_attention"):
            work = attention_flops(row.d0, 24, 16, chunk=row.d1, prefix=row.d2, batch=row.batch)
        elif row.kind.startswith("gemm"):
            work = 2 * row.d0 * row.d1 * row.d2
        else:
            work = row.d0
        assert row.flops_or_bytes == work


def test_no_gpu_means_no_cuda_with_pytorch_itself(torch: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="sees no GPU"):
        measure(small_plan(), "cuda")


def test_shapes_beyond_memory_are_left_out_and_said(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    del cpu
    monkeypatch.setattr(Device, "free_bytes", lambda _device: 30_000)
    lines = list[str]()
    rows = measure(small_plan(), "cpu", progress=lines.append)
    assert {row.d0 for row in rows if row.kind == "hbm_read"} == {1 << 14}
    assert any(line.startswith("hbm_read 65536×0×0") and "left out, needs 0.0 GB" in line for line in lines)
    monkeypatch.setattr(Device, "free_bytes", lambda _device: 0)
    with pytest.raises(InputError, match="no shape of the plan could be timed"):
        measure(small_plan(), "cpu")


def test_shapes_of_too_much_work_are_not_tried(cpu: Device) -> None:
    del cpu
    heads = 4
    too_long = MAX_ATTENTION_WORK // (2 * heads * 8) + 1
    plan = replace(small_plan(), chunks=(8,), prefixes=(0, too_long), batches=(1,))
    assert {row.d2 for row in measure(plan, "cpu") if row.kind == "prefill_attention"} == {0}


def test_a_shape_that_the_device_refuses_is_left_out_and_said(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    del cpu

    def refuse(*_arguments: Any, **_sizes: Any) -> Any:
        raise RuntimeError("not on this device\nand much advice")

    monkeypatch.setattr(measure_kernels, "gemm_call", refuse)
    lines = list[str]()
    rows = measure(small_plan(), "cpu", progress=lines.append)
    assert {row.kind for row in rows} == {"prefill_attention", "prefill_attention_batch", "hbm_read"}
    assert "gemm_fp8 16×32×48, batch 1: left out, not on this device" in lines


def test_heads_that_no_kernel_takes_are_named(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    del cpu
    # cuDNN's kernel is not for the CPU, which PyTorch says in warnings and an error.
    monkeypatch.setattr(measure_kernels, "attention_kernels", lambda *_, **__: [AttentionKernel("cudnn")])
    with pytest.raises(InputError, match=r"heads = 4, kv_heads = 4, query_dim = 24, value_dim = 16: .*\(cudnn: "):
        measure(small_plan(), "cpu")


def test_values_are_padded_where_the_kernel_wants_equal_dims(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    del cpu
    # The CPU's flash kernel refuses 24/16 as that of a GPU refuses 192/128.
    flash = [AttentionKernel("flash"), AttentionKernel("flash", padded=True)]
    monkeypatch.setattr(measure_kernels, "attention_kernels", lambda *_, **__: flash)
    names = {row.name for row in measure(small_plan(), "cpu") if row.kind.startswith("prefill_attention")}
    assert names == {"flash_padded"}


@pytest.mark.parametrize(("prefix", "expected"), [(0, ["cudnn", "flash"]), (1024, ["cudnn_2call", "flash"])])
def test_a_gpu_tries_the_fused_kernels(prefix: int, expected: list[str]) -> None:
    device = PretendedCuda(1e-6).device()
    assert [
        kernel.name for kernel in measure_kernels.attention_kernels(device, prefix=prefix, may_pad=False)
    ] == expected
    padded = measure_kernels.attention_kernels(device, prefix=prefix, may_pad=True)
    assert [kernel.name for kernel in padded if kernel.padded] == [f"{name}_padded" for name in expected]


def softmax_attention(
    query: FloatArray, key: FloatArray, value: FloatArray, first: int
) -> tuple[FloatArray, FloatArray]:
    """Return output and log-sum-exp of attention where query i sees the keys up to `first` + i; heads are grouped."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat(group, axis=1), value.repeat(group, axis=1)
    scores = query @ key.swapaxes(2, 3) / np.sqrt(query.shape[3])
    unseen = np.arange(key.shape[2])[None, :] > first + np.arange(query.shape[2])[:, None]
    scores[:, :, unseen] = -np.inf
    peak = scores.max(axis=3, keepdims=True)
    weights = np.exp(scores - peak)
    total = weights.sum(axis=3, keepdims=True)
    return weights / total @ value, peak + np.log(total)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("prefix", "two_calls"), [(0, False), (13, False), (13, True)])
@pytest.mark.parametrize("kv_heads", [4, 2], ids=["mla", "gqa"])
def test_attention_is_causal_with_the_chunk_at_the_end(
    cpu: Device, prefix: int, kv_heads: int, two_calls: bool, padded: bool
) -> None:
    chunk = 6
    inputs = measure_kernels.attention_inputs(cpu, 4, kv_heads, 24, 16, chunk=chunk, prefix=prefix, batch=2)
    outputs = measure_kernels.attention_call(AttentionKernel("math", two_calls, padded), *inputs)()
    query, key, value = (tensor.double().numpy() for tensor in inputs)
    parts = [output.double().numpy() for output in outputs]
    expected, _ = softmax_attention(query, key, value, prefix)
    if two_calls:
        whole = chunk + prefix
        _, before = softmax_attention(query, key[:, :, :prefix], value[:, :, :prefix], whole)
        _, within = softmax_attention(query, key[:, :, prefix:], value[:, :, prefix:], 0)
        share = 1 / (1 + np.exp(within - before))
        output = share * parts[0] + (1 - share) * parts[1]
    else:
        (output,) = parts
    assert output.shape == (2, 4, chunk, 16)
    np.testing.assert_allclose(output, expected, atol=0.03)  # BF16 keeps 8 bits
    shifted, _ = softmax_attention(query, key, value, prefix - 1 if prefix else 1)
    assert np.nanmax(np.abs(shifted - expected)) > 0.2, "the test would not see a mask that is off by one"


@pytest.mark.parametrize("fp8", [False, True])
def test_a_gemm_rotates_over_ten_small_weights(cpu: Device, fp8: bool) -> None:
    call = measure_kernels.gemm_call(cpu, fp8=fp8, m=16, k=32, n=48)
    outputs = [call().double().numpy() for _ in range(11)]
    assert outputs[0].shape == (16, 48)
    assert np.array_equal(outputs[0], outputs[10])
    assert all(not np.array_equal(outputs[0], output) for output in outputs[1:10])
    # Products of 32 independent normal pairs: variance 32.
    assert np.std(outputs) == pytest.approx(32**0.5, rel=0.2)


def test_large_weights_are_not_copied() -> None:
    assert measure_kernels.gemm_copies(1 << 30) == 1
    assert measure_kernels.gemm_copies(1 << 27) == 2
    assert measure_kernels.gemm_copies(1) == 10


def test_a_read_touches_every_value(cpu: Device) -> None:
    assert float(measure_kernels.read_call(cpu, 4096)()) == 1024


def test_plans_may_ask_for_parts_only(cpu: Device) -> None:
    del cpu
    plan: Plan = replace(small_plan(), chunks=(), gemms=())
    assert [row.kind for row in measure(plan, "cpu")] == ["hbm_read"] * 3
