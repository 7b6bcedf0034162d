"""Arrivals whose stamps were rounded to a coarse grid, spread over the grid's step.

Left as they are, dozens of requests would arrive in one instant every few seconds: a burst that the traffic never had.
"""

from __future__ import annotations

import numpy as np

from sbs_opt.instances.draws import uniforms
from sbs_opt.models.checks import IntArray

_PURPOSE = 1
_FEWEST_GAPS = 16
_FEWEST_PER_STAMP = 1.5
_LEAST_SHARE = 0.5


def quantum(stamps: IntArray) -> int:
    """Return the step of the grid that `stamps` (ascending, in the file's own unit) lie on, 0 where there is none.

    A grid is claimed only when stamps repeat (1.5 requests per stamp or more, at least 16 gaps) and either all gaps
    share a divisor above one unit, or at least half of them equal the most common gap give or take one unit (a clock
    that ticks every 3,000 ± 1 ms has no common divisor). Poisson arrivals in milliseconds pass neither test.
    """
    distinct = np.unique(stamps)
    gaps = np.diff(distinct)
    if len(gaps) < _FEWEST_GAPS or len(stamps) < _FEWEST_PER_STAMP * len(distinct):
        return 0
    divisor = int(np.gcd.reduce(gaps))
    if divisor > 1:
        return divisor
    values, counts = np.unique(gaps, return_counts=True)
    common = int(values[np.argmax(counts)])
    near = np.abs(gaps - common) <= 1
    return common if common > 1 and near.mean() >= _LEAST_SHARE else 0


def spread(arrival_ns: IntArray, step_ns: int, *, seed: int) -> IntArray:
    """Return arrivals (int64[n], ascending) drawn uniformly from their stamp up to a step later; O(n log n).

    No request overtakes another: the offsets drawn for one stamp are handed out in ascending order, and none reaches
    the next stamp.
    """
    distinct, stamp = np.unique(arrival_ns, return_inverse=True)
    width = np.minimum(np.diff(distinct, append=distinct[-1] + step_ns), step_ns)[stamp]
    offset = np.floor(uniforms(seed, _PURPOSE, len(arrival_ns)) * width).astype(np.int64)
    in_order = np.lexsort((offset, stamp))
    return arrival_ns + offset[in_order]
