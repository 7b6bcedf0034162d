"""Passes and steps of equal requests on every unit: the form in which benchmarks are published."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

from sbs_opt.models.cost.breakdown import Budget, LayerTimes
from sbs_opt.models.cost.decode import DecodeCost
from sbs_opt.models.cost.prefill import PrefillCost
from sbs_opt.models.errors import ExtrapolationWarning, InputError

_MOST_PASSES = 1000

Times = TypeVar("Times", LayerTimes, Budget)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A pass or a step, all units alike.

    Parameters
    ----------
    seconds
        Of one pass or step; the mean over the passes of a prompt that needs several.
    passes
        Passes that one prompt needs; 1 in decode.
    tokens_per_s_per_gpu
        New tokens (prefill) or put-out tokens (decode) per second and unit.
    layer
        One mixture layer.
    budget
        The whole pass by part, of one unit.
    """

    seconds: float
    passes: int
    tokens_per_s_per_gpu: float
    layer: LayerTimes
    budget: Budget


def predict_pass(cost: PrefillCost, *, prompt_tokens: int, tokens_per_unit: int, cached_tokens: int = 0) -> Prediction:
    """Return a prefill pass in which every unit runs `tokens_per_unit` new tokens of equal prompts.

    Prompts that fit are run whole, the last one as far as the tokens go. A prompt longer than the pass is cut into
    chunks; figures are then means over its passes.

    Parameters
    ----------
    prompt_tokens
        Of which `cached_tokens` are found in the cache, so that the others are new.

    Raises
    ------
    InputError
        No new token in a prompt or a pass, or more than 1,000 passes for a prompt.
    """
    new = prompt_tokens - cached_tokens
    if not 0 <= cached_tokens < prompt_tokens:
        raise InputError(
            f"cached = {cached_tokens}: must be less than prompt = {prompt_tokens}, or nothing is computed"
        )
    if tokens_per_unit < 1:
        raise InputError(f"tokens_per_unit = {tokens_per_unit}: a pass runs at least one token")
    passes = -(-new // tokens_per_unit)
    if passes > _MOST_PASSES:
        raise InputError(f"tokens_per_unit = {tokens_per_unit}: a prompt of {new:,} takes {passes:,} passes; give more")
    if passes == 1:
        whole, rest = divmod(tokens_per_unit, new)
        works = [_work([(new, cached_tokens)] * whole + [(rest, cached_tokens)] * (rest > 0))]
    else:
        done = range(0, new, tokens_per_unit)
        works = [_work([(min(tokens_per_unit, new - at), cached_tokens + at)]) for at in done]
    ran = [tuple(np.full(cost.units, part, np.int64) for part in work) for work in works]
    seconds = sum(cost.pass_ns(*arrays) for arrays in ran) / 1e9
    tokens = sum(work[1] for work in works)
    return Prediction(
        seconds / passes,
        passes,
        tokens / seconds,
        _mean(LayerTimes, [cost.layer_times(*arrays) for arrays in ran]),
        _mean(Budget, [cost.budget(*arrays) for arrays in ran]),
    )


def predict_step(cost: DecodeCost, *, sequences: int, kv_tokens: int, acceptance: float = 1.0) -> Prediction:
    """Return a decode step in which every unit runs `sequences` sequences with `kv_tokens` cached tokens each.

    Parameters
    ----------
    acceptance
        Share of drafted tokens that are kept, each only after those before it; of no effect without drafts.
    """
    if sequences < 0 or kv_tokens < 0:
        raise InputError(f"sequences = {sequences}, kv_tokens = {kv_tokens}: must not be negative")
    if not 0.0 <= acceptance <= 1.0:
        raise InputError(f"acceptance = {acceptance}: is a share, from 0 to 1")
    if sequences > cost.dispatch_cap:
        warnings.warn(
            f"sequences = {sequences} is extrapolated: the low-latency all-to-all takes {cost.dispatch_cap} per unit",
            ExtrapolationWarning,
            stacklevel=2,
        )
    batch = np.full(cost.units, sequences, np.int64)
    cached = np.full(cost.units, sequences * kv_tokens, np.int64)
    seconds = cost.step_ns(cached, batch) / 1e9
    kept = sum(acceptance**k for k in range(cost.draft_tokens + 1))
    return Prediction(
        seconds, 1, sequences * kept / seconds, cost.layer_times(cached, batch), cost.budget(cached, batch)
    )


def _work(chunks: list[tuple[int, int]]) -> tuple[int, int, int]:
    """Return pairs, new tokens and context tokens of (new, cached) chunks."""
    pairs = sum(c * p + c * (c + 1) // 2 for c, p in chunks)
    return pairs, sum(c for c, _ in chunks), sum(c + p for c, p in chunks)


def _mean(kind: type[Times], parts: list[Times]) -> Times:
    return kind(*(float(np.mean([getattr(part, field.name) for part in parts])) for field in fields(kind)))
