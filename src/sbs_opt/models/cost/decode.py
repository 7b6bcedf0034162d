"""Time of a decode step of one instance, and its additive surrogate per KV token and sequence."""

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

_TABLED_SEQUENCES = 1_025


class DecodeCost:
    """What a decode step costs on `units` units behind one barrier.

    A step is the slowest unit's attention and dense GEMMs, plus expert GEMMs by total sequences, the low-latency
    all-to-all by the busiest rank, and a floor. With overlap two half batches run all kernels twice and the longer of
    compute and communication counts: it pays for large batches only.

    Parameters
    ----------
    hardware, model
        Profiles.
    units
        Data-parallel units = expert-parallel ranks.
    overlap
        Two micro-batches.
    expert_imbalance
        Tokens on the busiest expert rank over the mean, ≥ 1.
    draft_tokens
        Tokens that multi-token prediction (DeepSeek-V3, 2024) drafts per sequence and step; every step then verifies
        1 + draft tokens per sequence and runs one more mixture layer per draft.
    """

    def __init__(
        self,
        hardware: HardwareProfile,
        model: ModelProfile,
        *,
        units: int,
        overlap: bool,
        expert_imbalance: float,
        draft_tokens: int = 0,
    ) -> None:
        core, shape = hardware.decode_attention, model.attention
        self.hardware, self.model = hardware, model
        self.units = units
        self.draft_tokens = draft_tokens
        self._queries = 1 + draft_tokens
        layers, moe_layers = model.layers + draft_tokens, model.moe_layers + draft_tokens
        self.overlap = overlap
        self._imbalance = expert_imbalance
        self._parts = 2 if overlap else 1
        self.dispatch_cap = hardware.decode_step.dispatch_cap * self._parts // self._queries
        if not self.dispatch_cap:
            most = hardware.decode_step.dispatch_cap * self._parts - 1
            raise InputError(f"draft_tokens = {draft_tokens}: one sequence fills the all-to-all; draft at most {most}")

        gemms = [(s, layers) for s in (*shape.projections(model.hidden), *shape.absorbed_projections)]
        gemms += [(s, moe_layers) for s in model.feed_forward(model.shared_width)]
        gemms += [(s, model.dense_layers) for s in model.feed_forward(model.dense_width)]
        self._dense = GemmStack.of(hardware.gemm, gemms, self._parts, 1.0)

        # A draft is verified in the pass over the cache that its sequence makes anyway: arithmetic, no bytes.
        flops = self._queries * shape.decode_flops
        self._kv_ns = layers * core.kv_ns(flops, shape.kv_bytes, hardware.prefill_pass.stream_gbps)
        self._sequence_ns = layers * core.sequence_ns
        self._launch_ns = layers * self._parts * core.launch_ns

        self._experts = ExpertStack.of(
            hardware.grouped_gemm,
            model.feed_forward(model.expert_width),
            experts=-(-model.routed_experts // units),
            layers=moe_layers,
            parts=self._parts,
            stretch=1.0,
        )
        self._rows_per_token = model.top_experts * expert_imbalance
        dispatch, combine = ways(hardware, model, units, "low-latency")
        self._dispatch_ns, self._combine_ns = (moe_layers * way.token_ns for way in (dispatch, combine))
        self._dispatch_launch_ns, self._combine_launch_ns = (
            moe_layers * self._parts * way.launch_ns for way in (dispatch, combine)
        )
        self.guard = RangeGuard(hardware)
        self.guard.check("alltoall_low_latency", "ranks", units)
        self._most_sequences = self.guard.most("decode_attention", "sequences")
        self._floor_ns = layers * self._parts * hardware.decode_step.layer_ns
        self.batch_ns = self._marginal_sequence_ns()
        # A step is timed tens of thousands of times in a simulation, and units run few distinct numbers of sequences.
        self._of_sequences = self._without_kv(np.arange(_TABLED_SEQUENCES))

    def step_ns(self, kv_tokens: IntArray, sequences: IntArray) -> int:
        """Return the time of a step in nanoseconds; O(m).

        Parameters
        ----------
        kv_tokens
            int64[m], KV tokens that each unit reads.
        sequences
            int64[m], running sequences per unit. All zero costs the floor.
        """
        own = self._own(kv_tokens, sequences)
        most = int(sequences.max())
        if most > self._most_sequences:
            self.guard.check("decode_attention", "sequences", most)
        return round(self._whole(float(own.max()), int(sequences.sum()), most))

    def unit_ns(self, kv_tokens: IntArray, sequences: IntArray) -> IntArray:
        """Return int64[m], each unit's own attention and dense GEMM time; arguments as `step_ns`."""
        return np.rint(self._own(kv_tokens, sequences)).astype(np.int64)

    def attention_ns(self, kv_tokens: npt.ArrayLike) -> IntArray:
        """Return the additive surrogate of int64[k] KV tokens, int64[k] nanoseconds per step."""
        nanoseconds: IntArray = np.rint(self._kv_ns * np.asarray(kv_tokens, dtype=np.int64)).astype(np.int64)
        return nanoseconds

    def budget(self, kv_tokens: IntArray, sequences: IntArray) -> Budget:
        """Return what a step is made of, by the busiest unit; arguments as `step_ns`, their sum is `step_ns`."""
        own = self._own(kv_tokens, sequences)
        at = int(own.argmax())
        count, total, most = float(sequences[at]), int(sequences.sum()), int(sequences.max())
        mean, busiest = self._loads(total, most)
        parts = Budget(
            attention=self._kv_ns * float(kv_tokens[at]) + self._sequence_ns * count + self._launch_ns,
            gemm=float(self._dense.ns(np.array([self._queries * count]))[0]),
            moe=self._experts.ns(mean * self._rows_per_token),
            dispatch=self._dispatch_ns * busiest + self._dispatch_launch_ns,
            combine=self._combine_ns * busiest + self._combine_launch_ns,
            elementwise=0.0,
            waiting=0.0,
            floor=self._floor_ns,
            hidden=0.0,
        )
        whole = self._whole(float(own[at]), total, most)
        return replace(parts, hidden=whole - parts.total if self.overlap else 0.0)

    def layer_times(self, kv_tokens: IntArray, sequences: IntArray) -> LayerTimes:
        """Return one mixture layer of a step by part; arguments as `step_ns`."""
        one = DecodeCost(
            replace(self.hardware, evidence=()),  # what lies beyond it has been said
            replace(self.model, layers=1, dense_layers=0),
            units=self.units,
            overlap=self.overlap,
            expert_imbalance=self._imbalance,
            draft_tokens=self.draft_tokens,
        )
        return LayerTimes.of(one.budget(kv_tokens, sequences), layers=self._queries)

    def _own(self, kv_tokens: IntArray, sequences: IntArray) -> FloatArray:
        if len(sequences) != self.units:
            raise InputError(f"sequences has {len(sequences)} entries, the instance has {self.units} units")
        if int(sequences.max()) < len(self._of_sequences):
            own = self._of_sequences[sequences]
        else:
            own = self._without_kv(sequences)
        own += self._kv_ns * kv_tokens
        return own

    def _without_kv(self, sequences: IntArray) -> FloatArray:
        count = sequences.astype(np.float64)
        own = self._dense.ns(self._queries * count)
        own += self._sequence_ns * count
        own += self._launch_ns
        return own

    def _loads(self, total: int, most: int) -> tuple[float, float]:
        """Return tokens per rank on average, and on the rank that sends or receives most."""
        mean = self._queries * total / self.units
        return mean, max(float(self._queries * most), self._imbalance * mean)

    def _whole(self, own: float, total: int, most: int) -> float:
        mean, busiest = self._loads(total, most)
        compute = own + self._experts.ns(mean * self._rows_per_token)
        alltoall = (self._dispatch_ns + self._combine_ns) * busiest + self._dispatch_launch_ns + self._combine_launch_ns
        return (max(compute, alltoall) if self.overlap else compute + alltoall) + self._floor_ns

    def _marginal_sequence_ns(self) -> int:
        """Secant from an empty unit to one at the dispatch cap: GEMMs are weight-bound at first and bend upwards."""
        cap = float(self.dispatch_cap)
        dense = self._dense.ns(self._queries * np.array([0.0, cap]))
        compute = float(dense[1] - dense[0]) / cap + self._sequence_ns
        # As in prefill, overlap is taken to hide the all-to-all; near the dispatch cap it does not.
        return round(compute if self.overlap else compute + self._queries * (self._dispatch_ns + self._combine_ns))
