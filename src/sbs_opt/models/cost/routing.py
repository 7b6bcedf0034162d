"""How far a token travels: distinct nodes and ranks that its routed experts live on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import ceil, prod

from sbs_opt.models.cost.profile import ModelProfile


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
