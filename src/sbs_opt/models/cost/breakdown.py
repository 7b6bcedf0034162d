"""What the time of a pass or a step is made of."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Budget:
    """A whole pass or step in nanoseconds of one unit, the busiest: where its time goes.

    Parameters
    ----------
    attention, gemm, moe, dispatch, combine
        The attention kernel; the dense GEMMs: projections, the prefix's among them, shared experts, dense layers; the
        routed experts; the all-to-all of the busiest rank, without waiting for others.
    elementwise
        Norms, rotations, quantisation, sorting rows by expert: counted bytes over HBM.
    waiting
        Fitted on whole passes: what no kernel accounts for.
    floor
        Launches and bookkeeping of every layer.
    hidden
        What overlap saves, negative; 0 without overlap.
    """

    attention: float
    gemm: float
    moe: float
    dispatch: float
    combine: float
    elementwise: float
    waiting: float
    floor: float
    hidden: float

    @property
    def total(self) -> float:
        """The pass or step: the sum of all parts."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """One mixture layer in milliseconds: kernels of the busiest unit, the all-to-all without waiting, and the rest.

    Parameters
    ----------
    attention
        The attention kernel alone.
    gemm
        Attention's projections, the prefix's among them, and the shared expert.
    moe
        Routed experts.
    dispatch, combine
        The all-to-all of the busiest rank, without waiting for others.
    other
        Elementwise kernels, waiting, launches. With overlap the parts run beside each other and sum to more than
        `layer`; `other` is then what the layer takes beyond the longer of kernels and all-to-all.
    layer
        The whole layer.
    """

    attention: float
    gemm: float
    moe: float
    dispatch: float
    combine: float
    other: float
    layer: float

    @classmethod
    def of(cls, parts: Budget, layers: int = 1) -> LayerTimes:
        """Return one of `layers` equal mixture layers."""
        kernels = parts.attention + parts.gemm + parts.moe
        alltoall = parts.dispatch + parts.combine
        beside = max(kernels, alltoall) if parts.hidden < 0 else kernels + alltoall
        nanoseconds = (
            parts.attention, parts.gemm, parts.moe, parts.dispatch, parts.combine, parts.total - beside, parts.total
        )  # fmt: skip
        return cls(*(part / layers / 1e6 for part in nanoseconds))
