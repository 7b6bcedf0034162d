"""Which policy is best, and against which one it is measured.

Policies are ranked only among those that answered equally many requests: turning requests away improves every time
of those that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sbs_opt.simulator.metrics import FloatArray
from sbs_opt.simulator.study import Cell, Study

REFERENCE = "phase_aware"
"""The strongest immediate policy that we know; others are given as ratios to it."""


def mean(values: FloatArray) -> float | None:
    """Return the mean, None of nothing."""
    return float(values.mean()) if len(values) else None


def quantile(values: FloatArray, percent: float) -> float | None:
    """Return a percentile of ascending values as `numpy.percentile` does, None of nothing."""
    return float(np.percentile(values, percent)) if len(values) else None


def mean_ttft(cell: Cell) -> float | None:
    """Return the mean time to the first token, seconds."""
    return mean(cell.metrics.ttft_s)


def reference_of(cells: Sequence[Cell]) -> Cell:
    """Return the cell that ratios refer to: `phase_aware` where it was run, else the first."""
    return next((cell for cell in cells if cell.policy == REFERENCE), cells[0])


def ratio_to(reference: Cell, cell: Cell) -> float | None:
    """Return the ratio of the mean TTFTs; None where the two answered different numbers of requests."""
    ours, theirs = mean_ttft(cell), mean_ttft(reference)
    if ours is None or not theirs or cell.metrics.answered != reference.metrics.answered:
        return None
    return ours / theirs


def comparable(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Return the cells that answered the most requests, or none where that is only one of several."""
    most = max(cell.metrics.answered for cell in cells)
    answered = tuple(cell for cell in cells if cell.metrics.answered == most)
    return answered if len(answered) > 1 else ()


def best_of(cells: Sequence[Cell], value: Callable[[Cell], float | None] = mean_ttft) -> Cell | None:
    """Return the comparable cell with the least value, the first on ties; None where there is nothing to compare."""
    known = [(v, k) for k, cell in enumerate(comparable(cells)) if (v := value(cell)) is not None]
    return comparable(cells)[min(known)[1]] if len(known) > 1 else None


def load_name(asked_load: float | None) -> str:
    """Return how one load of a study is called."""
    return "as captured" if asked_load is None else f"load {asked_load:g}"


def policies_of(study: Study) -> tuple[str, ...]:
    """Return the policies of a study in order: their colours follow it."""
    return tuple(dict.fromkeys(cell.policy for cell in study.cells))
