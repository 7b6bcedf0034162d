"""More or less load from one trace: superposition, thinning, time compression, a cut in time.

No public trace exceeds a few requests per second; superposition of shifted copies raises the rate and keeps each
request, and is preferred to compressing time, which makes every burst and every session faster than it was.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sbs_opt.instances.columns import gather_blocks
from sbs_opt.instances.draws import uniforms
from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import InputError
from sbs_opt.models.requests import Requests

MOST_REQUESTS = 20_000_000
"""Requests that a trace may be made to hold: some GB of memory, and hours of simulating."""

_THINNING, _ROTATION = 2, 3  # purposes of the draws


def superpose(requests: Requests, copies: float, *, seed: int) -> Requests:
    """Lay copies of a trace over one another; the span stays, the rate is multiplied by `copies`.

    ⌊copies⌋ copies are whole; the fraction is a copy thinned to that share of its requests, drawn by `seed`. Every copy
    but the first is rotated in time by a drawn offset, so that bursts do not meet; a session that straddles the end
    of the span continues at its start. Copies share no prefixes and no sessions.

    Parameters
    ----------
    requests
        At least one.
    copies
        Above 0; the result has round(copies · n) requests, at least 2 where there are as many (the first and the last
        always survive thinning, so that the span, and with it the rate, is that of the source). More copies with the
        same seed only add requests.
    seed
        Of offsets and thinning.

    Returns
    -------
    Requests
        Sorted stably; ids of blocks and sessions are renumbered. One whole copy is `requests` itself. O(N log N).

    Raises
    ------
    InputError
        No requests, `copies` is not a finite number above 0, or the result exceeds `MOST_REQUESTS`.
    """
    if not math.isfinite(copies) or copies <= 0:
        raise InputError(f"copies = {copies!r}: must be a finite number above 0")
    if not len(requests):
        raise InputError("requests: there are none to superpose")
    n = len(requests)
    if copies > 1 and copies * n > MOST_REQUESTS:
        raise InputError(f"copies = {copies:g}: {too_many(copies * n)}")
    whole, extra = divmod(max(round(copies * n), min(2, n)), n)
    return superpose_chosen(requests, whole, thinning_order(requests, seed)[:extra], seed=seed)


def too_many(count: float) -> str:
    """Return what is wrong with a trace of `count` requests, and the mend."""
    return f"makes about {count:.3g} requests, more than the {MOST_REQUESTS:,} that fit; ask for less"


def superpose_chosen(requests: Requests, whole: int, chosen: IntArray, *, seed: int) -> Requests:
    """Return `whole` copies and one of only the requests at `chosen` (int64[k]), laid over as `superpose` does."""
    n = len(requests)
    if whole == 1 and not len(chosen):
        return requests
    index = [np.arange(n)] * whole + [np.sort(chosen)] * (len(chosen) > 0)
    source = np.concatenate(index)
    copy = np.repeat(np.arange(len(index)), [len(part) for part in index])
    start, period = int(requests.arrival_ns[0]), requests.span_ns + 1
    shift = np.floor(uniforms(seed, _ROTATION, len(index)) * period).astype(np.int64)
    shift[0] = 0
    arrival = start + (requests.arrival_ns[source] - start + shift[copy]) % period
    order = np.argsort(arrival, kind="stable")
    return _namespaced(requests, arrival[order], source[order], copy[order])


def thinning_order(requests: Requests, seed: int) -> IntArray:
    """Return int64[n], the order in which a thinned copy takes requests in: the two ends first, the rest as drawn."""
    drawn = uniforms(seed, _THINNING, len(requests))
    drawn[[0, -1]] = -1.0
    return np.argsort(drawn, kind="stable")


def _namespaced(requests: Requests, arrival_ns: IntArray, source: IntArray, copy: IntArray) -> Requests:
    offset, block = gather_blocks(requests.block_offset, _dense(requests.block_id), source)
    blocks = int(block.max()) + 1 if len(block) else 0
    known = requests.session >= 0
    session = requests.session.copy()
    session[known] = _dense(session[known])
    sessions = int(session.max()) + 1
    session = session[source]
    return Requests(
        arrival_ns,
        requests.prompt_tokens[source],
        requests.output_tokens[source],
        offset,
        block + np.repeat(copy, np.diff(offset)) * blocks,
        requests.block_tokens,
        np.where(session >= 0, session + copy * sessions, -1),
    )


def _dense(ids: IntArray) -> IntArray:
    number: IntArray = np.unique(ids, return_inverse=True)[1].astype(np.int64)
    return number


def compress(requests: Requests, factor: float) -> Requests:
    """Divide the time since the first arrival by `factor`: 2 doubles the rate, 0.5 halves it.

    Raises
    ------
    InputError
        `factor` is not a finite number above 0, or stretches the trace beyond 2⁶² ns.
    """
    if not math.isfinite(factor) or factor <= 0:
        raise InputError(f"factor = {factor!r}: must be a finite number above 0")
    if not len(requests):
        return requests
    start = int(requests.arrival_ns[0])
    if start + requests.span_ns / factor > 2**62:
        raise InputError(f"factor = {factor!r}: stretches the trace beyond 2^62 ns; choose a larger one")
    elapsed = np.floor((requests.arrival_ns - start) / factor).astype(np.int64)
    return replace(requests, arrival_ns=start + elapsed)


def cut(requests: Requests, span_ns: int) -> Requests:
    """Keep the requests that arrive within `span_ns` of the first, the last instant included.

    Raises
    ------
    InputError
        `span_ns` is negative.
    """
    if span_ns < 0:
        raise InputError(f"span_ns = {span_ns}: must be at least 0")
    if not len(requests):
        return requests
    kept = np.flatnonzero(requests.arrival_ns - requests.arrival_ns[0] <= span_ns)
    return requests.take(kept)
