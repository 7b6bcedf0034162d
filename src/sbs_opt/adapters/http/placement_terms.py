"""What is asked and told of placements: requests by their router's own id, answers, errors and counts."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from sbs_opt.adapters.router import Placed, Router
from sbs_opt.adapters.serve_config import Upstream
from sbs_opt.models.errors import InputError

State = Literal["placed", "prefilled", "freed", "expired"]
"""Of a request that was placed; all but the first are over."""


class UnknownPlacementError(LookupError):
    """Something is told of an id that nobody asked with, or that is forgotten."""


class ConflictError(Exception):
    """What is told of an id contradicts what is known of it."""


class FreedError(Exception):
    """A request was freed while somebody waited for its placement."""


class CrowdedError(Exception):
    """Too many requests wait for a placement."""


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """What requests are placed on.

    Parameters
    ----------
    router
        Decides.
    upstreams
        Its instances, in their order.
    """

    router: Router
    upstreams: tuple[Upstream, ...]

    def __post_init__(self) -> None:
        found, wanted = len(self.upstreams), self.router.num_instances
        if found != wanted:
            raise InputError(f"upstreams: are {found}; give one for each of the router's {wanted} instances")


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """What a router asks with.

    Parameters
    ----------
    id
        The router's own name of the request.
    prompt_tokens, block_ids, priority, deadline_s
        As of `Router.place`.
    """

    id: str
    prompt_tokens: int
    block_ids: tuple[int, ...] | None = None
    priority: int = 0
    deadline_s: float | None = None

    @property
    def digest(self) -> bytes:
        """Digest of all fields: what is kept of a request that is over."""
        return blake2b(repr(self).encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Answer:
    """A placement as it is told.

    Parameters
    ----------
    id
        As asked with.
    upstream, placed
        The engine, and the place as the router gave it.
    attempt
        1 for the first placement, one more after each that failed.
    """

    id: str
    upstream: Upstream
    placed: Placed
    attempt: int


@dataclass(slots=True)
class Counts:
    """What a book has seen since it was made.

    Parameters
    ----------
    asked, joined
        Requests sought a placement for, and calls that were given the answer of an earlier one.
    placed, failed
        Placements made, and placements that were told to have failed.
    withdrawn, expired
        Requests that nobody waited for any more, and placements that outlived their lease.
    output_tokens
        As told.
    """

    asked: int = 0
    joined: int = 0
    placed: int = 0
    failed: int = 0
    withdrawn: int = 0
    expired: int = 0
    output_tokens: int = 0
