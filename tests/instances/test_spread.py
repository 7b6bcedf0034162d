"""Coarse stamps: when a grid is claimed, and what spreading may not do."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.instances.spread import quantum, spread


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=50), st.integers(1, 2**40), st.integers(0, 9))
def test_no_request_overtakes_another_or_leaves_its_step(stamps: list[int], step: int, seed: int) -> None:
    arrival = np.sort(np.array(stamps))
    out = spread(arrival, step, seed=seed)
    assert (np.diff(out) >= 0).all(), "file order survives"
    assert (out >= arrival).all()
    assert (out - arrival < step).all()
    for stamp in np.unique(arrival)[1:]:
        assert out[arrival < stamp].max() < stamp, "none reaches the next stamp, also where a gap is short"


def test_a_jittering_clock_is_a_grid_and_irregular_repeated_stamps_are_not() -> None:
    jitter = np.cumsum([3000, 2999, 3000, 3001] * 10)
    assert quantum(np.repeat(jitter, 3)) == 3000
    irregular = np.cumsum(np.random.default_rng(0).integers(1, 5000, 400))
    assert quantum(np.repeat(irregular, 3)) == 0
    mostly_irregular = np.cumsum([*np.random.default_rng(0).integers(1, 5000, 60), *[3000] * 40])
    assert quantum(np.repeat(mostly_irregular, 3)) == 0, "40 of 100 equal gaps are no clock"


def test_too_few_gaps_or_repetitions_claim_nothing() -> None:
    regular = np.arange(0, 100_000, 1000)
    assert quantum(np.repeat(regular, 2)) == 1000
    assert quantum(regular) == 0
    assert quantum(np.repeat(regular[:16], 2)) == 0, "15 gaps"
    assert quantum(np.repeat(regular[:17], 2)) == 1000
    assert quantum(np.zeros(100, np.int64)) == 0


def test_adjacent_milliseconds_are_no_grid() -> None:
    assert quantum(np.repeat(np.arange(100), 5)) == 0
