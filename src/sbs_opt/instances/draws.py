"""Seeded draws that depend on (seed, purpose, position) only: Philox, a counter-based generator (Salmon et al., 2011).

Raw Philox words are used rather than NumPy's distributions, whose streams may change between releases.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sbs_opt.models.errors import InputError

FloatArray = npt.NDArray[np.float64]


def uniforms(seed: int, purpose: int, count: int) -> FloatArray:
    """Return float64[count], uniform in [0, 1); another `purpose` gives an independent stream of the same seed."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise InputError(f"seed = {seed!r}: must be an integer from 0 to 2^64 - 1")
    words = np.random.Philox(key=np.array([seed, purpose], np.uint64)).random_raw(count)
    scaled: FloatArray = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return scaled
