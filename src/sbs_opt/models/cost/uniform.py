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
"""Passes that one prompt may take."""

_PATTERN = 64
"""Passes after which a pattern that does not repeat is cut, once a prompt is through."""

_MOST_PRODUCT = 1 << 56
"""Tokens × context of a unit; a tenth of a second of arithmetic per layer is 2³⁰ of them."""

Times = TypeVar("Times", LayerTimes, Budget)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A pass or a step, all units alike.

    Parameters
    ----------
    seconds
        Of one pass or step, in the mean over `passes`.
    passes
        Passes until the pattern repeats; 1 in decode.
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
    """Return a prefill pass in which every unit runs `tokens_per_unit` new tokens of a stream of equal prompts.

    A prompt that does not fit is continued in the next pass, over what it has computed already. Figures are means over
    the passes until the pattern repeats: one where prompts fill it.

    Parameters
    ----------
    prompt_tokens
        New tokens of every prompt.
    cached_tokens
        Tokens before them that are found in the cache.

    Raises
    ------
    InputError
        No new token in a prompt or a pass, or more than 1,000 passes for a prompt.
    """
    for name, value in (("prompt_tokens", prompt_tokens), ("tokens_per_unit", tokens_per_unit)):
        if value < 1:
            raise InputError(f"{name} = {value}: must be at least 1")
    if cached_tokens < 0:
        raise InputError(f"cached_tokens = {cached_tokens}: must not be negative")
    if prompt_tokens > _MOST_PASSES * tokens_per_unit:
        needed = -(-prompt_tokens // tokens_per_unit)
        raise InputError(f"tokens_per_unit = {tokens_per_unit}: a prompt takes {needed:,} passes; give more tokens")
    _bounded("prompt_tokens, cached_tokens or tokens_per_unit", tokens_per_unit, prompt_tokens + cached_tokens)
    cost.guard.check("prefill_attention", "context_tokens", prompt_tokens + cached_tokens)
    works = _stream(prompt_tokens, tokens_per_unit, cached_tokens)
    ran = [tuple(np.full(cost.units, part, np.int64) for part in work) for work in works]
    seconds = sum(cost.pass_ns(*arrays) for arrays in ran) / len(ran) / 1e9
    return Prediction(
        seconds,
        len(ran),
        tokens_per_unit / seconds,
        _mean(LayerTimes, [cost.layer_times(*arrays) for arrays in ran]),
        _mean(Budget, [cost.budget(*arrays) for arrays in ran]),
    )


def _bounded(names: str, a: int, b: int) -> None:
    """Refuse what sums of 64 bits could not hold."""
    if a * b >= _MOST_PRODUCT:
        raise InputError(f"{names}: {a:,} × {b:,} is more than the cost model counts; give fewer")


def _stream(prompt: int, tokens: int, cached: int) -> list[tuple[int, int, int]]:
    """Return pairs, new tokens and context tokens of the passes of a stream of prompts, until it repeats."""
    passes: list[tuple[int, int, int]] = []
    most = max(_PATTERN, -(-prompt // tokens))
    done = 0
    while not passes or (done and len(passes) < most):
        first = min(tokens, prompt - done)
        whole, last = divmod(tokens - first, prompt)
        chunks = ((1, first, cached + done), (whole, prompt, cached), (1, last, cached))
        done = (done + tokens) % prompt
        passes.append(
            (
                sum(count * (c * p + c * (c + 1) // 2) for count, c, p in chunks),
                tokens,
                sum(count * (c + p) for count, c, p in chunks if c),
            )
        )
    return passes


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
    _bounded("sequences or kv_tokens", sequences, kv_tokens)
    cost.guard.check("decode_attention", "kv_tokens", kv_tokens)
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


def _mean(kind: type[Times], parts: list[Times]) -> Times:
    return kind(*(float(np.mean([getattr(part, field.name) for part in parts])) for field in fields(kind)))
