"""A unit's dense GEMMs, layers and micro-batches folded into three arrays so that a pass needs few NumPy calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cbrt, expm1

import numpy as np

from sbs_opt.models.cost.laws import FloatArray, Gemm, GroupedGemm, rounded_max
from sbs_opt.models.cost.model import Shape


@dataclass(frozen=True, slots=True, eq=False)
class GemmStack:
    """Sum over GEMMs of fixed + √(weights² + (token · tokens)²).

    Running a batch as two halves doubles what does not depend on tokens and leaves the rest: `parts` only scales
    `fixed_ns` and `weights`.

    Parameters
    ----------
    fixed_ns
        All launches and depths of the stack.
    weights, token
        float64[G, 1], per GEMM.
    """

    fixed_ns: float
    weights: FloatArray
    token: FloatArray

    @classmethod
    def of(cls, law: Gemm, shapes: Sequence[tuple[Shape, int]], parts: int, stretch: float) -> GemmStack:
        """Return the stack of (k, n) `shapes`, each with the layers it runs in, in `parts` micro-batches."""
        k = np.array([shape[0] for shape, _ in shapes], dtype=np.float64)
        n = np.array([shape[1] for shape, _ in shapes], dtype=np.float64)
        times = stretch * np.array([layers for _, layers in shapes], dtype=np.float64)
        return cls(
            fixed_ns=float((times * parts * law.fixed_ns(k)).sum()),
            weights=(times * parts * law.weight_ns(k, n))[:, None],
            token=(times * law.token_ns(k, n))[:, None],
        )

    def ns(self, tokens: FloatArray) -> FloatArray:
        """Return float64[m] for float64[m] tokens, or float64[G, m] where the GEMMs differ in tokens."""
        total: FloatArray = np.add.reduce(rounded_max(self.weights, self.token * tokens))
        return total + self.fixed_ns


@dataclass(frozen=True, slots=True)
class ExpertStack:
    """Routed experts of one rank over all MoE layers: `GroupedGemm.ns` for scalars, on the hot path.

    Parameters
    ----------
    experts
        Experts that a rank holds.
    parts
        Micro-batches.
    padding_rows
        Rows by which every expert that is hit is padded.
    fixed_ns
        All launches.
    shapes
        Per GEMM the time of one expert's weights and of one row.
    """

    experts: float
    parts: int
    padding_rows: float
    fixed_ns: float
    shapes: tuple[tuple[float, float], ...]

    @classmethod
    def of(
        cls, law: GroupedGemm, shapes: Sequence[Shape], *, experts: int, layers: int, parts: int, stretch: float
    ) -> ExpertStack:
        """Return the stack of the (k, n) `shapes` of one expert."""
        times = stretch * layers * parts
        rows = [(times * k * n / law.weight_gbps, times * float(law.row_ns(k, n))) for k, n in shapes]
        return cls(float(experts), parts, law.padding_rows, times * len(rows) * law.launch_ns, tuple(rows))

    def ns(self, rows: float) -> float:
        """Return the time for so many rows on the rank, all micro-batches together."""
        rows /= self.parts
        hit = experts_hit(rows, self.experts)
        padded = rows + self.padding_rows * hit
        total = self.fixed_ns
        for weight, row in self.shapes:
            total += cbrt((hit * weight) ** 3 + (padded * row) ** 3)
        return total


def experts_hit(rows: float, experts: float) -> float:
    """Return how many of `experts` equally likely ones get at least one of `rows` rows, in the mean."""
    return -experts * expm1(-rows / experts)
