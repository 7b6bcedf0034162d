"""The surrogate against the exact pass on windows of captured traces: ranks, and differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sbs_opt.instances import read_trace
from tests.models.cost.cases import prefill
from tests.models.cost.ranking import (
    AZURE,
    MOONCAKE,
    PASS_TOKENS,
    UNITS,
    loads_of,
    placements_of,
    rank_correlations,
    waiting_of,
    windows_of,
)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("kind", ["random", "longest first"])
@pytest.mark.parametrize("name", [AZURE, MOONCAKE])
def test_bottleneck_ranks_as_the_pass_does(traces_dir: Path, name: str, kind: str, overlap: bool) -> None:
    waiting = waiting_of(read_trace(traces_dir / name).requests, hits=False)
    assert min(rank_correlations(waiting, kind, overlap=overlap, saved=False)) >= 0.99


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("kind", ["random", "longest first"])
def test_prefixes_leave_the_ranking_in_place(traces_dir: Path, kind: str, overlap: bool) -> None:
    waiting = waiting_of(read_trace(traces_dir / MOONCAKE).requests, hits=True)
    assert (waiting.cached > 0).any(axis=1).mean() > 0.5
    assert np.mean(rank_correlations(waiting, kind, overlap=overlap, saved=True)) >= 0.98
    assert np.mean(rank_correlations(waiting, kind, overlap=overlap, saved=False)) >= 0.98


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("name", "hits", "within"), [(AZURE, False, 0.002), (MOONCAKE, True, 0.03)])
def test_differences_between_placements_are_those_of_the_pass(
    traces_dir: Path, name: str, hits: bool, within: float, overlap: bool
) -> None:
    """As a share of the pass; and the busiest unit's own time, which has fixed parts on top, within a twentieth."""
    cost = prefill(UNITS, overlap=overlap, chunk=PASS_TOKENS)
    generator = np.random.default_rng(1)
    for window in windows_of(waiting_of(read_trace(traces_dir / name).requests, hits), generator):
        rows = []
        for place in placements_of("longest first", window, cost, generator):
            (compute, alltoall), work = loads_of(window, place, cost)
            assert compute.max() == pytest.approx(cost.unit_ns(*work).max(), rel=0.06)
            rows.append((int(compute.max()) + cost.alltoall_price * int(alltoall.max()), cost.pass_ns(*work)))
        bottleneck, passes = np.array(rows, np.float64).T
        apart = (bottleneck - bottleneck[0]) - (passes - passes[0])
        assert np.abs(apart).max() < within * passes.min()
