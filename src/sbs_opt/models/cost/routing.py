"""How far a token travels: distinct nodes and ranks that its routed experts live on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import ceil, prod

import numpy as np
import numpy.typing as npt

from sbs_opt.models.cost.model import ModelProfile
from sbs_opt.models.errors import InputError


@dataclass(frozen=True, slots=True)
class Spread:
    """Expected destinations of one token.

    Parameters
    ----------
    nodes
        Distinct nodes, the token's own included.
    remote_nodes
        Distinct nodes other than its own: what crosses RDMA in normal mode.
    ranks
        Distinct ranks: what NVLink delivers in normal mode, after one copy per node has arrived.
    remote_share
        Share of ranks on other nodes: low-latency mode sends every copy straight to its rank.
    """

    nodes: float
    remote_nodes: float
    ranks: float
    remote_share: float


def token_spread(model: ModelProfile, ranks: int, gpus_per_node: int) -> Spread:
    """Return the expected destinations for experts laid out evenly and in order over `ranks` ranks.

    Exact for the model's routing with equally likely experts: top groups drawn first, then the experts among them
    without replacement (2.93 nodes for DeepSeek-V3 on 4 nodes).
    """
    num_nodes = max(1.0, ranks / gpus_per_node)
    nodes = _distinct(model, num_nodes)
    return Spread(
        nodes=nodes,
        remote_nodes=nodes * (1.0 - 1.0 / num_nodes),
        ranks=_distinct(model, float(ranks)),
        remote_share=1.0 - 1.0 / num_nodes,
    )


def published_spread(ranks: int, gpus_per_node: int, *, top_experts: int = 8, top_groups: int = 4) -> Spread:
    """Return the expected destinations in the test that DeepEP's published bandwidths are measured with.

    It draws at most four groups, one group a node, then experts among them, all uniform.
    """
    num_nodes = max(1.0, ranks / gpus_per_node)
    reached = min(num_nodes, float(top_groups))
    nodes = uniform_distinct(reached, top_experts)
    return Spread(
        nodes=nodes,
        remote_nodes=nodes * (1.0 - 1.0 / num_nodes),
        ranks=uniform_distinct(min(float(ranks), reached * gpus_per_node), top_experts),
        remote_share=1.0 - 1.0 / num_nodes,
    )


def counted_copies(spread: Spread) -> float:
    """Return the copies of a token that DeepEP's bandwidths count: nodes, or ranks where there is one node only."""
    return spread.nodes if spread.remote_share > 0 else spread.ranks


def imbalance_of(loads: npt.ArrayLike) -> float:
    """Return max/mean of the expert tokens per rank, ≥ 1; the placement of tokens does not change it.

    Parameters
    ----------
    loads
        Non-negative numbers, one per rank, in any unit; a plain number is taken as max/mean itself.

    Raises
    ------
    InputError
        Empty, negative, not finite, all zero, or a number below 1.
    """
    given = np.asarray(loads, dtype=np.float64)
    if given.ndim == 0:
        if not 1.0 <= float(given) < float("inf"):
            raise InputError(f"expert_imbalance = {loads!r}: is max over mean, so at least 1")
        return float(given)
    if given.ndim != 1 or not given.size or not np.isfinite(given).all() or given.min() < 0 or given.max() <= 0:
        raise InputError("expert_imbalance: loads per rank must be finite, not negative, and some positive")
    return float(given.max() / given.mean())


def uniform_distinct(places: float, draws: int) -> float:
    """Return the expected distinct places of `draws` independent uniform draws: N·(1 − (1 − 1/N)^k)."""
    return places * (1.0 - (1.0 - 1.0 / places) ** draws)


def _distinct(model: ModelProfile, places: float) -> float:
    return _distinct_places(model.routed_experts, model.expert_groups, model.top_groups, model.top_experts, places)


@lru_cache(maxsize=64)
def _distinct_places(experts: int, groups: int, top_groups: int, top: int, places: float) -> float:
    """Sum over places the chance that one of a token's experts lives there; a place holds experts/places of them."""
    per_group, per_place = experts / groups, experts / places
    chosen_experts = top_groups * per_group
    choices = list(combinations(range(groups), top_groups))
    # Places that hold the same shares of groups are alike, whichever groups these are: most are.
    alike: Counter[tuple[float, ...]] = Counter()
    for place in range(ceil(places)):
        first, last = place * per_place, min((place + 1) * per_place, float(experts))
        share = [max(0.0, min(last, (g + 1) * per_group) - max(first, g * per_group)) for g in range(groups)]
        alike[tuple(sorted(round(part, 9) for part in share))] += 1
    total = 0.0
    for shares, count in sorted(alike.items()):
        for chosen in choices:
            here = sum(shares[g] for g in chosen)
            missed = prod(max(0.0, chosen_experts - here - i) / (chosen_experts - i) for i in range(top))
            total += count * (1.0 - missed) / len(choices)
    return min(total, float(top))  # shares of an expert, where ranks do not divide experts, round up by some 1e-4
