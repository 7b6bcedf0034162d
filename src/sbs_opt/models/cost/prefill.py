"""Time of a prefill pass of one instance, and its additive surrogate per request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost.gemms import ExpertStack, GemmStack
from sbs_opt.models.cost.laws import FloatArray
from sbs_opt.models.cost.profile import HardwareProfile, ModelProfile
from sbs_opt.models.cost.routing import token_spread
from sbs_opt.models.errors import InputError


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """One MoE layer in milliseconds: kernels of the busiest unit, the all-to-all without waiting, and the rest.

    With overlap the parts run beside each other and sum to more than `layer`; `other` is then what the layer takes
    beyond the longer of compute and communication.
    """

    attention: float
    gemm: float
    moe: float
    dispatch: float
    combine: float
    other: float
    layer: float


class PrefillCost:
    """What a prefill pass costs on `units` units behind one barrier.

    A pass is the slowest unit's own compute, plus expert GEMMs by total tokens, the all-to-all by the busiest rank,
    waiting and a floor; with overlap the longer of (stretched) compute and communication counts. Every result is
    monotone in every argument and rounded once.

    Parameters
    ----------
    hardware, model
        Profiles.
    units
        Data-parallel units = expert-parallel ranks.
    chunk_tokens
        New tokens that one pass runs of one request at most: the surrogate's chunk.
    overlap
        Two micro-batches, computation of one beside communication of the other.
    expert_imbalance
        Tokens on the busiest expert rank over the mean, ≥ 1.
    """

    def __init__(
        self,
        hardware: HardwareProfile,
        model: ModelProfile,
        *,
        units: int,
        chunk_tokens: int,
        overlap: bool,
        expert_imbalance: float,
    ) -> None:
        law, core = hardware.prefill_pass, hardware.prefill_attention
        self.units = units
        self.chunk_tokens = chunk_tokens
        self.overlap = overlap
        self.alltoall_price = 0 if overlap else 1
        self._hardware, self._model, self._imbalance = hardware, model, expert_imbalance
        self._parts = 2 if overlap else 1
        # Tensor-core kernels lose the multiprocessors that communication borrows; memory-bound ones do not.
        self._stretch = hardware.device.sms / (hardware.device.sms - law.communication_sms) if overlap else 1.0
        self._factor = law.overlap_factor if overlap else 1.0

        shapes = [(shape, float(model.layers)) for shape in model.projections]
        shapes += [(s, float(model.moe_layers)) for s in model.feed_forward(model.expert_width * model.shared_experts)]
        shapes += [(s, float(model.dense_layers)) for s in model.feed_forward(model.dense_width)]
        shapes.append((model.kv_projection, float(model.layers)))  # the last one, as it runs on context tokens
        self._gemms = GemmStack.of(hardware.gemm, shapes, self._parts, self._stretch)

        new_bytes, context_bytes = model.elementwise_bytes
        kilobytes = model.attention_bytes / 1e3
        core_times = model.layers * self._stretch
        self._pair_ns = core_times * model.pair_flops / (1e3 * core.tflops)
        self._attention_new_ns = core_times * kilobytes * core.new_ns_per_kb
        self._attention_context_ns = core_times * kilobytes * core.context_ns_per_kb
        self._new_ns = self._attention_new_ns + model.layers * new_bytes / law.stream_gbps
        self._context_ns = self._attention_context_ns + model.layers * context_bytes / law.stream_gbps
        self._launch_ns = core_times * self._parts * core.launch_ns

        self._experts = ExpertStack.of(
            hardware.grouped_gemm,
            model.feed_forward(model.expert_width),
            experts=-(-model.routed_experts // units),
            layers=model.moe_layers,
            parts=self._parts,
            stretch=self._stretch,
        )
        self._rows_per_token = model.top_experts * expert_imbalance
        spread, link = token_spread(model, units, hardware.device.gpus_per_node), hardware.alltoall_normal
        self._dispatch_ns, self._combine_ns = (
            model.moe_layers * float(way.token_ns(spread.remote_nodes * size, spread.ranks * size))
            for way, size in ((link.dispatch, model.dispatch_bytes), (link.combine, model.combine_bytes))
        )
        self._alltoall_launch_ns = model.moe_layers * self._parts * (link.dispatch.launch_ns + link.combine.launch_ns)
        self._waiting_ns = model.moe_layers * law.waiting_token_ns
        self._floor_ns = model.layers * self._parts * law.layer_ns

    def pass_ns(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> int:
        """Return the exact time of a pass.

        Parameters
        ----------
        pairs
            int64[m], per unit Σ over its chunks of c·p + c·(c + 1)/2, for c new tokens over p cached ones.
        new_tokens, context_tokens
            int64[m], Σ c and Σ (c + p).

        Returns
        -------
        int
            Nanoseconds. O(m).
        """
        own = self._own(pairs, new_tokens, context_tokens)
        return round(self._whole(float(own.max()), int(new_tokens.sum()), int(new_tokens.max())))

    def unit_ns(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> IntArray:
        """Return int64[m], each unit's own attention, dense GEMM and elementwise time; arguments as `pass_ns`."""
        own = self._own(pairs, new_tokens, context_tokens)
        return np.rint(self._factor * own).astype(np.int64)

    def request_ns(self, new_tokens: npt.ArrayLike, cached_tokens: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """Return the additive surrogate of requests, each cut into its own chunks of `chunk_tokens`.

        Parameters
        ----------
        new_tokens, cached_tokens
            int64[k], tokens to compute and tokens of prefix found in the cache.

        Returns
        -------
        compute_ns, alltoall_ns
            int64[k] each; floors, weight streaming and experts are left out, as no placement changes them.
        """
        new = np.asarray(new_tokens, dtype=np.int64)
        cached = np.asarray(cached_tokens, dtype=np.int64)
        pairs, context = request_work(new, cached, self.chunk_tokens)
        per_new = self._new_ns + float(self._gemms.token[:-1].sum())
        per_context = self._context_ns + float(self._gemms.token[-1, 0])
        compute = self._factor * (self._pair_ns * pairs + per_new * new + per_context * context)
        alltoall = (self._dispatch_ns + self._combine_ns) * new
        return np.rint(compute).astype(np.int64), np.rint(alltoall).astype(np.int64)

    def layer_times(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> LayerTimes:
        """Return one MoE layer of a pass by part; arguments as `pass_ns`, the busiest unit's kernels are shown."""
        own = self._own(pairs, new_tokens, context_tokens)
        at = int(own.argmax())
        mean, busiest = self._loads(int(new_tokens.sum()), int(new_tokens.max()))
        model = self._model
        shared = model.feed_forward(model.expert_width * model.shared_experts)
        shapes = [*model.projections, *shared, model.kv_projection]
        gemms = GemmStack.of(self._hardware.gemm, [(shape, 1.0) for shape in shapes], self._parts, self._stretch)
        new, context = float(new_tokens[at]), float(context_tokens[at])
        gemm = float(gemms.ns(np.array([[new]] * (len(shapes) - 1) + [[context]]))[0])
        core = self._attention_new_ns * new + self._attention_context_ns * context
        attention = (self._pair_ns * float(pairs[at]) + core + self._launch_ns) / model.layers
        moe = self._experts.ns(mean * self._rows_per_token) / model.moe_layers
        launch = self._alltoall_launch_ns / model.moe_layers / 2
        dispatch = self._dispatch_ns * busiest / model.moe_layers + launch
        combine = self._combine_ns * busiest / model.moe_layers + launch
        elementwise = self._new_ns * new + self._context_ns * context - core
        rest = elementwise / model.layers + self._waiting_ns * mean * self._imbalance / model.moe_layers
        floor = self._floor_ns / model.layers
        compute, communication = attention + gemm + moe + rest, dispatch + combine
        if self.overlap:
            layer = self._factor * max(compute, communication) + floor
            other = layer - max(attention + gemm + moe, communication)
        else:
            layer = compute + communication + floor
            other = rest + floor
        parts = (attention, gemm, moe, dispatch, combine, other, layer)
        return LayerTimes(*(float(part) / 1e6 for part in parts))

    def _own(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> FloatArray:
        if len(new_tokens) != self.units:
            raise InputError(f"new_tokens has {len(new_tokens)} entries, the instance has {self.units} units")
        tokens = np.empty((len(self._gemms.token), self.units))
        tokens[:-1] = new_tokens
        tokens[-1] = context_tokens
        own = self._gemms.ns(tokens)
        own += self._pair_ns * pairs
        own += self._new_ns * tokens[0]
        own += self._context_ns * tokens[-1]
        own += self._launch_ns
        return own

    def _loads(self, total: int, most: int) -> tuple[float, float]:
        """Return tokens per rank on average, and on the rank that sends or receives most."""
        mean = total / self.units
        return mean, max(float(most), self._imbalance * mean)

    def _whole(self, own: float, total: int, most: int) -> float:
        mean, busiest = self._loads(total, most)
        compute = own + self._experts.ns(mean * self._rows_per_token) + self._waiting_ns * mean * self._imbalance
        alltoall = (self._dispatch_ns + self._combine_ns) * busiest + self._alltoall_launch_ns
        if self.overlap:
            return self._factor * max(compute, alltoall) + self._floor_ns
        return compute + alltoall + self._floor_ns


def request_work(new_tokens: IntArray, cached_tokens: IntArray, chunk_tokens: int) -> tuple[IntArray, IntArray]:
    """Return (pairs, context_tokens) of requests run in chunks of their own, as int64[k] each, in closed form.

    Pairs do not depend on the cut; context tokens do, because every chunk projects its whole prefix again.
    """
    chunks, rest = np.divmod(new_tokens, chunk_tokens)
    pairs = new_tokens * cached_tokens + new_tokens * (new_tokens + 1) // 2
    context = chunks * cached_tokens + chunk_tokens * (chunks * (chunks + 1) // 2)
    context += np.where(rest > 0, cached_tokens + new_tokens, 0)
    return pairs, context
