"""Numba kernels of the decode policies."""

from __future__ import annotations

from numba import njit

from sbs_opt.models.checks import BoolArray, IntArray


@njit(cache=True, nogil=True)
def least_kv(
    kv_tokens: IntArray, active: BoolArray, units_per_instance: int, arriving: IntArray, out: IntArray
) -> None:
    """Give each arriving request, in order, to the unit with the least booked KV; adds to `kv_tokens` as it goes."""
    for k in range(len(arriving)):
        best = -1
        for i in range(len(active)):
            if not active[i]:
                continue
            for u in range(i * units_per_instance, (i + 1) * units_per_instance):
                if best < 0 or kv_tokens[u] < kv_tokens[best]:
                    best = u
        out[k] = best
        kv_tokens[best] += arriving[k]
