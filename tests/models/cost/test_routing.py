"""How far tokens travel, against drawn routings and published figures."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.models.cost.model import ModelProfile
from sbs_opt.models.cost.routing import (
    Spread,
    counted_copies,
    imbalance_of,
    published_spread,
    token_spread,
    uniform_distinct,
)
from sbs_opt.models.errors import InputError
from tests.models.cost.cases import KIMI, QWEN, V3

Loads = st.lists(st.integers(0, 10**6), min_size=1, max_size=64).filter(any)


def test_uniform_routing_figures() -> None:
    assert uniform_distinct(2.0, 8) == pytest.approx(1.99, abs=0.005)
    assert uniform_distinct(4.0, 8) == pytest.approx(3.60, abs=0.005)


def test_deepseek_routing_reaches_2_93_of_4_nodes() -> None:
    assert token_spread(V3, 32, 8).nodes == pytest.approx(2.93, abs=0.005)


@pytest.mark.parametrize("ranks", [4, 8, 16, 32, 64, 72])
def test_spread_agrees_with_drawn_routings(ranks: int) -> None:
    generator = np.random.default_rng(7)
    per_group = V3.routed_experts // V3.expert_groups
    nodes, hit_ranks, draws = 0, 0, 4000
    for _ in range(draws):
        groups = generator.choice(V3.expert_groups, V3.top_groups, replace=False)
        eligible = (groups[:, None] * per_group + np.arange(per_group)).ravel()
        chosen = generator.choice(eligible, V3.top_experts, replace=False)
        nodes += len({int(e) * ranks // (8 * V3.routed_experts) for e in chosen})
        hit_ranks += len({int(e) * ranks // V3.routed_experts for e in chosen})
    spread = token_spread(V3, ranks, 8)
    assert nodes / draws == pytest.approx(spread.nodes, rel=0.02)
    assert hit_ranks / draws == pytest.approx(spread.ranks, rel=0.02)


@pytest.mark.parametrize("model", [V3, KIMI, QWEN])
@given(ranks=st.integers(1, 320))
def test_spread_is_within_its_limits(model: ModelProfile, ranks: int) -> None:
    spread = token_spread(model, ranks, 8)
    assert 0 <= spread.remote_nodes <= spread.nodes <= spread.ranks + 1e-9 <= V3.top_experts + 1e-6
    assert spread.nodes <= max(1, math.ceil(ranks / 8)) + 1e-9


@pytest.mark.parametrize("ranks", [8, 16, 32, 64, 128])
def test_published_spread_agrees_with_its_test_drawn(ranks: int) -> None:
    """DeepEP's test: four groups (nodes) at most, then eight of their experts, here with replacement."""
    generator = np.random.default_rng(5)
    num_nodes, draws = ranks // 8, 3000
    nodes = hit_ranks = remote = 0
    for _ in range(draws):
        reached = generator.choice(num_nodes, min(num_nodes, 4), replace=False)
        chosen = 8 * generator.choice(reached, 8) + generator.integers(8, size=8)
        hit = {int(rank) // 8 for rank in chosen}
        nodes += len(hit)
        remote += len(hit - {0})
        hit_ranks += len(set(chosen.tolist()))
    spread = published_spread(ranks, 8)
    assert spread.nodes == pytest.approx(nodes / draws, rel=0.02)
    assert spread.remote_nodes == pytest.approx(remote / draws, rel=0.03)
    assert spread.ranks == pytest.approx(hit_ranks / draws, rel=0.02)
    assert spread.remote_share == 1 - 1 / num_nodes


def test_published_spread_is_that_of_the_published_bandwidths() -> None:
    assert [published_spread(ranks, 8).nodes for ranks in (16, 32)] == pytest.approx([1.99, 3.60], abs=0.005)
    assert published_spread(64, 8).nodes == published_spread(32, 8).nodes, "four groups at most"


def test_copies_are_counted_by_node_or_in_one_node_by_rank() -> None:
    assert counted_copies(published_spread(32, 8)) == published_spread(32, 8).nodes
    assert counted_copies(published_spread(8, 8)) == published_spread(8, 8).ranks
    assert counted_copies(Spread(nodes=1.0, remote_nodes=0.0, ranks=5.0, remote_share=0.0)) == 5.0


@given(Loads, st.randoms(use_true_random=False))
def test_imbalance_of_loads_is_max_over_mean_in_any_order_and_unit(loads: list[int], order: Random) -> None:
    expected = max(loads) / (sum(loads) / len(loads))
    assert imbalance_of(loads) == pytest.approx(expected)
    shuffled = loads.copy()
    order.shuffle(shuffled)
    assert imbalance_of([3.5 * load for load in shuffled]) == pytest.approx(expected)
    assert 1.0 <= imbalance_of(loads) <= len(loads) + 1e-9


def test_imbalance_may_be_given_itself() -> None:
    assert imbalance_of(1.25) == 1.25
    assert imbalance_of(1) == 1.0


@pytest.mark.parametrize(
    "loads",
    [0.99, 0, -1.0, float("nan"), float("inf"), [], [0, 0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")],
     [[1.0, 2.0], [3.0, 4.0]]],
)  # fmt: skip
def test_loads_that_make_no_imbalance_are_refused(loads: object) -> None:
    with pytest.raises(InputError, match="expert_imbalance"):
        imbalance_of(loads)  # type: ignore[arg-type]
