"""Dispatch and combine of expert parallelism: nanoseconds per token of the busiest rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sbs_opt.models.cost.laws import Link
from sbs_opt.models.cost.model import ModelProfile
from sbs_opt.models.cost.profile import HardwareProfile
from sbs_opt.models.cost.routing import Spread, token_spread

Mode = Literal["normal", "low-latency"]


@dataclass(frozen=True, slots=True)
class Way:
    """One direction of an all-to-all between so many ranks.

    Parameters
    ----------
    launch_ns
        Per launch.
    token_ns
        Per token of the rank that sends or receives most.
    """

    launch_ns: float
    token_ns: float

    def ns(self, tokens: float) -> float:
        """Return the time for so many tokens on the busiest rank; without tokens there is the launch."""
        return self.launch_ns + self.token_ns * tokens


def ways(
    hardware: HardwareProfile, model: ModelProfile, ranks: int, mode: Mode, spread: Spread | None = None
) -> tuple[Way, Way]:
    """Return dispatch and combine of a model's tokens between `ranks` ranks.

    Normal mode sends one copy per node over RDMA, and from there one per rank over NVLink; low-latency mode sends a
    copy per expert straight to its rank. The networks work at the same time.

    Parameters
    ----------
    spread
        Expected destinations of a token; default: the model's own routing with equally likely experts.
    """
    to = spread or token_spread(model, ranks, hardware.device.gpus_per_node)
    if mode == "normal":
        law = hardware.alltoall_normal
        sizes = model.dispatch_bytes, model.combine_bytes
        remote, local = to.remote_nodes, to.ranks
    else:
        law = hardware.alltoall_low_latency
        sizes = model.dispatch_bytes_low_latency, model.combine_bytes
        remote, local = model.top_experts * to.remote_share, model.top_experts * (1.0 - to.remote_share)

    def way(link: Link, size: int) -> Way:
        return Way(link.launch_ns, float(link.token_ns(remote * size, local * size)))

    return way(law.dispatch, sizes[0]), way(law.combine, sizes[1])
