"""Time of a prefill pass of one instance, and its additive surrogate per request."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost.alltoall import ways
from sbs_opt.models.cost.breakdown import Budget, LayerTimes
from sbs_opt.models.cost.gemms import ExpertStack, GemmStack
from sbs_opt.models.cost.laws import FloatArray
from sbs_opt.models.cost.model import ModelProfile
from sbs_opt.models.cost.profile import HardwareProfile
from sbs_opt.models.cost.ranges import RangeGuard
from sbs_opt.models.errors import InputError

_BLOCK = 16_384
"""Values worked on at a time where a whole table of requests × units is asked for."""


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
        self.hardware, self.model, self._imbalance = hardware, model, expert_imbalance
        self._parts = 2 if overlap else 1
        # Attention and GEMMs lose the multiprocessors that communication borrows; elementwise kernels do not mind.
        self._stretch = law.stretch(hardware.device.sms) if overlap else 1.0

        shape = model.attention
        new_gemms = [(s, model.layers) for s in shape.projections(model.hidden)]
        new_gemms += [(s, model.moe_layers) for s in model.feed_forward(model.shared_width)]
        new_gemms += [(s, model.dense_layers) for s in model.feed_forward(model.dense_width)]
        context_gemms = [(s, model.layers) for s in shape.context_projections]
        self._gemms = GemmStack.of(hardware.gemm, new_gemms + context_gemms, self._parts, self._stretch)
        self._context_gemms = len(context_gemms)  # the last ones: they run on context tokens
        self.guard = RangeGuard(hardware)
        self.guard.check("alltoall_normal", "ranks", units)
        self._most_new = self._parts * self.guard.most("gemm", "m")
        self._most_context = self.guard.most("prefill_attention", "context_tokens")

        core_times = model.layers * self._stretch
        new_bytes, context_bytes = model.elementwise_bytes
        self._pair_ns = core_times * core.pair_ns(shape)
        self._core_new_ns = core_times * core.new_ns(shape)
        self._core_context_ns = core_times * core.context_ns(shape)
        self._new_ns = self._core_new_ns + model.layers * new_bytes / law.stream_gbps
        self._context_ns = self._core_context_ns + model.layers * context_bytes / law.stream_gbps
        self._launch_ns = core_times * self._parts * core.launch_ns
        token_ns = self._gemms.token[:, 0]
        self._per_new_ns = self._new_ns + float(token_ns[: len(new_gemms)].sum())
        self._per_context_ns = self._context_ns + float(token_ns[len(new_gemms) :].sum())

        self._experts = ExpertStack.of(
            hardware.grouped_gemm,
            model.feed_forward(model.expert_width),
            experts=-(-model.routed_experts // units),
            layers=model.moe_layers,
            parts=self._parts,
            stretch=self._stretch,
        )
        self._rows_per_token = model.top_experts * expert_imbalance
        dispatch, combine = ways(hardware, model, units, "normal")
        self._dispatch_ns, self._combine_ns = (model.moe_layers * way.token_ns for way in (dispatch, combine))
        self._dispatch_launch_ns, self._combine_launch_ns = (
            model.moe_layers * self._parts * way.launch_ns for way in (dispatch, combine)
        )
        # Sorting rows by expert, activation and summing up again; then what no kernel accounts for.
        self._row_ns = model.moe_layers * model.top_experts * model.expert_row_bytes / law.stream_gbps
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
        most = int(new_tokens.max())
        if most > self._most_new:
            self.guard.check("gemm", "m", most / self._parts)
        return round(self._whole(float(own.max()), int(new_tokens.sum()), most))

    def unit_ns(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> IntArray:
        """Return int64[m], each unit's own attention, dense GEMM and elementwise time; arguments as `pass_ns`."""
        own = self._own(pairs, new_tokens, context_tokens)
        return np.rint(own).astype(np.int64)

    def request_ns(self, new_tokens: npt.ArrayLike, cached_tokens: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """Return the additive surrogate of requests, each cut into its own chunks of `chunk_tokens`.

        Parameters
        ----------
        new_tokens, cached_tokens
            int64, tokens to compute and tokens of prefix found in the cache; they are broadcast against each other, so
            that (k, 1) and (k, m) give every request on every unit.

        Returns
        -------
        compute_ns, alltoall_ns
            int64 of the broadcast shape; floors, weight streaming and experts are left out, as no placement changes
            them. O(k) or O(k·m).
        """
        new = np.asarray(new_tokens, dtype=np.int64)
        cached = np.asarray(cached_tokens, dtype=np.int64)
        # Whatever the cut, a chunk's pairs and context are affine in what was cached before the request.
        pairs, context = request_work(new, np.zeros_like(new), self.chunk_tokens)
        chunks = -(-new // self.chunk_tokens)
        start = self._pair_ns * pairs + self._per_new_ns * new + self._per_context_ns * context
        slope = self._pair_ns * new + self._per_context_ns * chunks
        compute = _affine(start, slope, cached)
        alltoall = np.rint((self._dispatch_ns + self._combine_ns) * new).astype(np.int64)
        if new.size and cached.size and int(new.max()) + int(cached.max()) > self._most_context:
            self.guard.check("prefill_attention", "context_tokens", float((new + cached).max()))
        return compute, np.broadcast_to(alltoall, compute.shape)

    def budget(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> Budget:
        """Return what the pass is made of, by the busiest unit; arguments as `pass_ns`, their sum is `pass_ns`."""
        own = self._own(pairs, new_tokens, context_tokens)
        at = int(own.argmax())
        new, context = float(new_tokens[at]), float(context_tokens[at])
        mean, busiest = self._loads(int(new_tokens.sum()), int(new_tokens.max()))
        core = self._core_new_ns * new + self._core_context_ns * context
        moe_mean = mean * self._imbalance
        parts = Budget(
            attention=self._pair_ns * float(pairs[at]) + core + self._launch_ns,
            gemm=float(self._gemms.ns(self._gemm_tokens(new_tokens, context_tokens))[at]),
            moe=self._experts.ns(mean * self._rows_per_token),
            dispatch=self._dispatch_ns * busiest + self._dispatch_launch_ns,
            combine=self._combine_ns * busiest + self._combine_launch_ns,
            elementwise=self._new_ns * new + self._context_ns * context - core + self._row_ns * moe_mean,
            waiting=self._waiting_ns * moe_mean,
            floor=self._floor_ns,
            hidden=0.0,
        )
        whole = self._whole(float(own[at]), int(new_tokens.sum()), int(new_tokens.max()))
        return replace(parts, hidden=whole - parts.total if self.overlap else 0.0)

    def layer_times(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> LayerTimes:
        """Return one mixture layer of a pass by part; arguments as `pass_ns`, the busiest unit's kernels are shown."""
        one = PrefillCost(
            replace(self.hardware, evidence=()),  # what lies beyond it has been said
            replace(self.model, layers=1, dense_layers=0),
            units=self.units,
            chunk_tokens=self.chunk_tokens,
            overlap=self.overlap,
            expert_imbalance=self._imbalance,
        )
        return LayerTimes.of(one.budget(pairs, new_tokens, context_tokens))

    def _own(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> FloatArray:
        if len(new_tokens) != self.units:
            raise InputError(f"new_tokens has {len(new_tokens)} entries, the instance has {self.units} units")
        own = self._gemms.ns(self._gemm_tokens(new_tokens, context_tokens))
        own += self._pair_ns * pairs
        own += self._new_ns * new_tokens
        own += self._context_ns * context_tokens
        own += self._launch_ns
        return own

    def _gemm_tokens(self, new_tokens: IntArray, context_tokens: IntArray) -> FloatArray:
        tokens = np.empty((len(self._gemms.token), self.units))
        tokens[:] = new_tokens
        if self._context_gemms:
            tokens[-self._context_gemms :] = context_tokens
        return tokens

    def _loads(self, total: int, most: int) -> tuple[float, float]:
        """Return tokens per rank on average, and on the rank that sends or receives most."""
        mean = total / self.units
        return mean, max(float(most), self._imbalance * mean)

    def _whole(self, own: float, total: int, most: int) -> float:
        mean, busiest = self._loads(total, most)
        compute = own + self._experts.ns(mean * self._rows_per_token)
        compute += (self._row_ns + self._waiting_ns) * mean * self._imbalance
        alltoall = (self._dispatch_ns + self._combine_ns) * busiest + self._dispatch_launch_ns + self._combine_launch_ns
        if self.overlap:
            return max(compute, alltoall) + self._floor_ns
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


def _affine(start: FloatArray, slope: FloatArray, cached: IntArray) -> IntArray:
    """Return start + slope · cached, not negative, rounded; in blocks that stay in the cache where it is a table."""
    shape = np.broadcast_shapes(start.shape, cached.shape)
    out = np.empty(shape, np.int64)
    if len(shape) < 2:
        out[...] = slope * cached + (start + 0.5)  # truncated: nothing is negative
        return out
    at_most = max(1, _BLOCK // max(1, shape[-1]))
    starts, slopes, tokens = (np.broadcast_to(part, shape) for part in (start, slope, cached))
    for first in range(0, shape[0], at_most):
        rows = slice(first, first + at_most)
        out[rows] = slopes[rows] * tokens[rows] + (starts[rows] + 0.5)
    return out
