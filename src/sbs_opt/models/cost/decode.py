"""Time of a decode step of one instance, and its additive surrogate per KV token and sequence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost.gemms import ExpertStack, GemmStack
from sbs_opt.models.cost.laws import FloatArray
from sbs_opt.models.cost.profile import HardwareProfile, ModelProfile
from sbs_opt.models.cost.routing import token_spread
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
    """

    def __init__(
        self, hardware: HardwareProfile, model: ModelProfile, *, units: int, overlap: bool, expert_imbalance: float
    ) -> None:
        core, link = hardware.decode_attention, hardware.alltoall_low_latency
        self.units = units
        self.overlap = overlap
        self._imbalance = expert_imbalance
        self._parts = 2 if overlap else 1
        self.dispatch_cap = hardware.decode_step.dispatch_cap * self._parts

        shapes = [(shape, float(model.layers)) for shape in model.projections]
        # Absorbed: kv_b is applied to the query and to the output, one head at a time; together the same weights.
        absorbed = (model.nope_dim, model.value_dim)
        shapes += [((model.kv_rank, model.heads * dim), float(model.layers)) for dim in absorbed]
        shapes += [(s, float(model.moe_layers)) for s in model.feed_forward(model.expert_width * model.shared_experts)]
        shapes += [(s, float(model.dense_layers)) for s in model.feed_forward(model.dense_width)]
        self._dense = GemmStack.of(hardware.gemm, shapes, self._parts, 1.0)

        kv_ns = core.kv_ns(model.absorbed_flops, model.kv_bytes, hardware.device.hbm_gbps)
        self._kv_ns = model.layers * kv_ns
        self._sequence_ns = model.layers * core.sequence_ns
        self._launch_ns = model.layers * self._parts * core.launch_ns

        self._experts = ExpertStack.of(
            hardware.grouped_gemm,
            model.feed_forward(model.expert_width),
            experts=-(-model.routed_experts // units),
            layers=model.moe_layers,
            parts=self._parts,
            stretch=1.0,
        )
        self._rows_per_token = model.top_experts * expert_imbalance
        remote = token_spread(model, units, hardware.device.gpus_per_node).remote_share
        sizes = (
            model.top_experts * model.dispatch_bytes_low_latency,
            model.top_experts * model.combine_bytes,
        )
        ways = (link.dispatch, link.combine)
        self._alltoall_ns = model.moe_layers * sum(
            float(way.token_ns(remote * size, (1.0 - remote) * size)) for way, size in zip(ways, sizes, strict=True)
        )
        self._alltoall_launch_ns = model.moe_layers * self._parts * sum(way.launch_ns for way in ways)
        self._floor_ns = model.layers * self._parts * hardware.decode_step.layer_ns
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
        return round(self._whole(float(own.max()), int(sequences.sum()), int(sequences.max())))

    def unit_ns(self, kv_tokens: IntArray, sequences: IntArray) -> IntArray:
        """Return int64[m], each unit's own attention and dense GEMM time; arguments as `step_ns`."""
        return np.rint(self._own(kv_tokens, sequences)).astype(np.int64)

    def attention_ns(self, kv_tokens: npt.ArrayLike) -> IntArray:
        """Return the additive surrogate of int64[k] KV tokens, int64[k] nanoseconds per step."""
        nanoseconds: IntArray = np.rint(self._kv_ns * np.asarray(kv_tokens, dtype=np.int64)).astype(np.int64)
        return nanoseconds

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
        own = self._dense.ns(count)
        own += self._sequence_ns * count
        own += self._launch_ns
        return own

    def _whole(self, own: float, total: int, most: int) -> float:
        mean = total / self.units
        busiest = max(float(most), self._imbalance * mean)
        compute = own + self._experts.ns(mean * self._rows_per_token)
        alltoall = self._alltoall_ns * busiest + self._alltoall_launch_ns
        return (max(compute, alltoall) if self.overlap else compute + alltoall) + self._floor_ns

    def _marginal_sequence_ns(self) -> int:
        """Secant from an empty unit to one at the dispatch cap: GEMMs are weight-bound at first and bend upwards."""
        cap = float(self.dispatch_cap)
        dense = self._dense.ns(np.array([0.0, cap]))
        # Overlap hides the all-to-all behind compute, or compute behind it: the dearer of the two is what counts.
        compute = float(dense[1] - dense[0]) / cap + self._sequence_ns
        return round(max(compute, self._alltoall_ns) if self.overlap else compute + self._alltoall_ns)
