"""Numba kernels of the immediate prefill policies: each returns the unit for one request, lowest index on ties.

`units` is the load book's table; `active[i]` tells which instances take requests.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.scheduler.book_kernels import QUEUED

_INFINITE = np.iinfo(np.int64).max


@njit(cache=True, nogil=True)
def splitmix64(seed: int, counter: int) -> int:
    """Return draw `counter` of the stream `seed`, below 2⁶³ (SplitMix64; Steele, Lea, Flood, OOPSLA 2014)."""
    x = np.uint64(seed) + np.uint64(counter + 1) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return int(x >> np.uint64(1))


@njit(cache=True, nogil=True)
def round_robin(active: BoolArray, units_per_instance: int, counter: int) -> int:
    """Count through the units of the active instances."""
    num_active = 0
    for i in range(len(active)):
        num_active += active[i]
    k = counter % (num_active * units_per_instance)
    for i in range(len(active)):
        if active[i]:
            if k < units_per_instance:
                return i * units_per_instance + k
            k -= units_per_instance
    return -1


@njit(cache=True, nogil=True)
def least_snapshot(active: BoolArray, units_per_instance: int, tokens: IntArray, requests: IntArray) -> int:
    """Return the unit with the least (tokens, requests)."""
    best = -1
    for i in range(len(active)):
        if not active[i]:
            continue
        for u in range(i * units_per_instance, (i + 1) * units_per_instance):
            if best < 0 or tokens[u] < tokens[best] or (tokens[u] == tokens[best] and requests[u] < requests[best]):
                best = u
    return best


@njit(cache=True, nogil=True)
def phase_aware(
    active: BoolArray, units_per_instance: int, units: IntArray, residual_ns: IntArray, mean_ns: IntArray, budget: int
) -> int:
    """Return the unit with the least queued tokens on the instance that can start the request soonest."""
    best_instance, best_wait = -1, _INFINITE
    for i in range(len(active)):
        if not active[i]:
            continue
        queued = 0
        for u in range(i * units_per_instance, (i + 1) * units_per_instance):
            queued += units[u, QUEUED]
        wait = residual_ns[i] + (queued // (budget * units_per_instance)) * mean_ns[i]
        if wait < best_wait:
            best_instance, best_wait = i, wait
    best = best_instance * units_per_instance
    for u in range(best + 1, best + units_per_instance):
        if units[u, QUEUED] < units[best, QUEUED]:
            best = u
    return best
