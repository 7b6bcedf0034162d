"""Translate a prefill or a decode state into the canonical window, and a placement back into a dispatch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost.protocols import DecodeTiming, PrefillTiming
from sbs_opt.models.deployment import Unit
from sbs_opt.models.placement import Placement
from sbs_opt.models.window import UNLIMITED, Savings, Window

PREFILL_BY_TIME = ("compute_ns", "alltoall_ns", "chunk_tokens", "kv_tokens")
PREFILL_BY_TOKENS = ("chunk_tokens", "kv_tokens")
DECODE = ("attention_ns", "batch_ns", "kv_tokens", "slots")

_SPREAD_SCALE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class PrefillState:
    """Waiting requests and the units of one prefill instance, as they will be when its next pass starts.

    Parameters
    ----------
    prompt_tokens, tier
        int64[n], the waiting requests.
    queued_unit, queued_new, queued_cached
        int64[k], what the next pass will run of the queues already: new tokens over a computed prefix, per unit.
    kv_tokens
        int64[m], KV held by the queued requests of each unit.
    hit_item, hit_unit, hit_tokens
        int64[h], prefix hits of waiting requests.
    budgets
        Of each unit.
    """

    prompt_tokens: IntArray
    tier: IntArray
    queued_unit: IntArray
    queued_new: IntArray
    queued_cached: IntArray
    kv_tokens: IntArray
    hit_item: IntArray
    hit_unit: IntArray
    hit_tokens: IntArray
    budgets: Unit


@dataclass(frozen=True, slots=True, eq=False)
class DecodeState:
    """Waiting requests and the units of all decode instances at a step boundary.

    Parameters
    ----------
    waiting_kv_tokens, tier
        int64[n], KV that a waiting request brings, and its tier.
    kv_tokens, sequences, instance
        int64[m], booked on each unit; the instance it belongs to.
    reserve_tokens
        KV kept free per sequence for its growth.
    budgets
        Of each unit.
    """

    waiting_kv_tokens: IntArray
    tier: IntArray
    kv_tokens: IntArray
    sequences: IntArray
    instance: IntArray
    reserve_tokens: int
    budgets: Unit


def prefill_window(state: PrefillState, cost: PrefillTiming, balance: Literal["tokens", "time"]) -> Window:
    """Return the window of one prefill pass.

    Resources are `PREFILL_BY_TIME` (compute and all-to-all priced, chunk tokens open, KV hard) or `PREFILL_BY_TOKENS`
    (chunk tokens priced and open, KV hard). Two requests of one window that share a prefix count as independent.

    Complexity is O(n + m + k + h).
    """
    m = len(state.kv_tokens)
    queued_tokens = _by_unit(state.queued_unit, state.queued_new, m)
    tokens = np.stack((state.prompt_tokens, state.prompt_tokens), axis=1)
    load = np.stack((queued_tokens, state.kv_tokens), axis=1)
    saved = np.stack((state.hit_tokens, np.zeros_like(state.hit_tokens)), axis=1)
    price = [1, 0]
    if balance == "time":
        # One call for waiting requests, queued pieces and hits: for small windows the calls are what takes time.
        n, queued = len(state.prompt_tokens), len(state.queued_new)
        with_hit = state.prompt_tokens[state.hit_item] - state.hit_tokens
        new = np.concatenate((state.prompt_tokens, state.queued_new, with_hit))
        cached = np.concatenate((np.zeros(n, np.int64), state.queued_cached, state.hit_tokens))
        parts = [np.split(ns, (n, n + queued)) for ns in cost.request_ns(new, cached)]
        (compute, queued_compute, hit_compute), (alltoall, queued_alltoall, hit_alltoall) = parts
        tokens = np.column_stack((compute, alltoall, tokens))
        load = np.column_stack(
            (
                _by_unit(state.queued_unit, queued_compute, m),
                _by_unit(state.queued_unit, queued_alltoall, m),
                load,
            )
        )
        # Attending to a cached prefix never costs more than computing it; rounding may say so by a nanosecond.
        saved = np.column_stack(
            (
                np.maximum(compute[state.hit_item] - hit_compute, 0),
                np.maximum(alltoall[state.hit_item] - hit_alltoall, 0),
                saved,
            )
        )
        price = [1, cost.alltoall_price, 0, 0]
    names = PREFILL_BY_TIME if balance == "time" else PREFILL_BY_TOKENS
    chunk, kv = names.index("chunk_tokens"), names.index("kv_tokens")
    limit = np.full(load.shape, UNLIMITED)
    limit[:, chunk] = state.budgets.chunk_tokens
    limit[:, kv] = state.budgets.kv_tokens
    return Window(
        demand=tokens,
        load=load,
        price=price,
        spread_weight=_spread_weight(price, tokens, load),
        limit=limit,
        open_resource=chunk,
        tier=state.tier,
        savings=Savings(state.hit_item, state.hit_unit, saved) if len(state.hit_item) else None,
    )


def decode_window(state: DecodeState, cost: DecodeTiming) -> Window:
    """Return the window of one decode step boundary; resources are `DECODE`, groups are the instances."""
    n, m = len(state.waiting_kv_tokens), len(state.kv_tokens)
    reserve = state.reserve_tokens
    demand = np.column_stack(
        (
            cost.attention_ns(state.waiting_kv_tokens),
            np.full(n, cost.batch_ns),
            state.waiting_kv_tokens + reserve,
            np.ones(n, np.int64),
        )
    )
    load = np.column_stack(
        (
            cost.attention_ns(state.kv_tokens),
            state.sequences * cost.batch_ns,
            state.kv_tokens + reserve * state.sequences,
            state.sequences,
        )
    )
    price = [1, 1, 0, 0]
    limit = np.full((m, 4), UNLIMITED)
    limit[:, DECODE.index("kv_tokens")] = state.budgets.kv_tokens
    limit[:, DECODE.index("slots")] = state.budgets.slots
    return Window(
        demand=demand,
        load=load,
        price=price,
        spread_weight=_spread_weight(price, demand, load),
        limit=limit,
        group=state.instance,
        tier=state.tier,
    )


def dispatch_of(window: Window, placement: Placement) -> tuple[IntArray, IntArray]:
    """Return the placed items in dispatch order and the unit of each, int64[k] twice."""
    items = placement.dispatch_order(window)
    return items, placement.unit[items].astype(np.int64)


def _by_unit(unit: IntArray, value: IntArray, m: int) -> IntArray:
    out = np.zeros(m, np.int64)
    np.add.at(out, unit, value)
    return out


def _spread_weight(price: list[int], demand: IntArray, load: IntArray) -> IntArray:
    # Each priced resource counts in proportion to its own total, so that none drowns another (problem.md, spread).
    total = np.maximum(demand.sum(axis=0) + load.sum(axis=0), 1)
    largest = int(total.max())
    return np.array(
        [p * max(1, _SPREAD_SCALE * largest // int(t)) if p else 0 for p, t in zip(price, total, strict=True)]
    )
