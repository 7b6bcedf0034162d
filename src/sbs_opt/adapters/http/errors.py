"""What the errors of a connection say about who is at the other end."""

from __future__ import annotations

import errno
from typing import Literal

import aiohttp

UPSTREAM_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)
"""What an upstream can fail with."""

Look = Literal["well", "ill", "slow", "not asked"]
"""What came of asking an upstream whether it is well: yes, no, no answer in time, or we had no means to ask."""

_OUR_OWN = frozenset((errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM))


def look_of(error: BaseException) -> Look:
    """Return what an error of `UPSTREAM_ERRORS` says of the upstream."""
    if isinstance(error, OSError) and error.errno in _OUR_OWN:
        return "not asked"
    # A name that cannot be resolved: a short absence of its server, or again a shortage of our own.
    return "slow" if isinstance(error, TimeoutError | aiohttp.ClientConnectorDNSError) else "ill"


def is_unreachable(error: BaseException) -> bool:
    """Tell whether an upstream takes no connections."""
    return isinstance(error, aiohttp.ClientConnectorError) and look_of(error) == "ill"
