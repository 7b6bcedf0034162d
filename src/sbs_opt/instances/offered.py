"""Offered load ρ: the share of the fleet's ideal capacity that a trace asks for, whatever the policy.

Ideal means perfectly balanced full passes without a cache, so that ρ says something of the trace and the fleet only;
at ρ = 1 even a perfect scheduler could not keep up for long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sbs_opt.instances.draws import FloatArray
from sbs_opt.instances.scaling import MOST_REQUESTS, superpose_chosen, thinning_order, too_many
from sbs_opt.models.checks import IntArray
from sbs_opt.models.deployment import Deployment, Instance
from sbs_opt.models.errors import InputError
from sbs_opt.models.requests import Requests

_CLOSE_ENOUGH = 0.001
_TOKENS, _PAIRS, _CONTEXT = range(3)


class PrefillPass(Protocol):
    """The part of a prefill cost model that ρ needs."""

    def pass_ns(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> int:
        """Return the time of a pass; int64[m] per unit: Σ c·p + c(c+1)/2, Σ c and Σ (c + p) over its chunks."""


class DecodeStep(Protocol):
    """The part of a decode cost model that ρ needs."""

    def step_ns(self, kv_tokens: IntArray, sequences: IntArray) -> int:
        """Return the time of a step; int64[m] per unit: KV tokens read, sequences run."""


class Costs(Protocol):
    """A cost model with both phases."""

    @property
    def prefill(self) -> PrefillPass:
        """Passes of one prefill instance."""

    @property
    def decode(self) -> DecodeStep:
        """Steps of one decode instance."""


def _prefill_work(prompt_tokens: IntArray, chunk_tokens: int) -> FloatArray:
    # float64[n, 3]: tokens, pairs and context of each whole prompt. A prompt of q full chunks and a rest reads the
    # context chunk, 2 chunk, …, q chunk, and, for the rest, the prompt itself.
    prompt = prompt_tokens.astype(np.float64)
    full = np.floor(prompt / chunk_tokens)
    context = chunk_tokens * full * (full + 1) / 2 + np.where(prompt > full * chunk_tokens, prompt, 0.0)
    return np.stack([prompt, prompt * (prompt + 1) / 2, context], axis=1)


def _unit_ns_per_token(work: FloatArray, cost: PrefillPass, chunk_tokens: int, num_units: int) -> float:
    # work: float64[3], totals over requests
    if work[_TOKENS] <= 0:
        raise InputError("requests: hold no prompt tokens; there is no prefill load to measure")

    def per_unit(total: float) -> npt.NDArray[np.int64]:
        return np.full(num_units, round(chunk_tokens * total / work[_TOKENS]), np.int64)

    duration = cost.pass_ns(per_unit(work[_PAIRS]), per_unit(work[_TOKENS]), per_unit(work[_CONTEXT]))
    return duration / chunk_tokens


def ideal_unit_ns_per_token(requests: Requests, prefill_cost: PrefillPass, chunk_tokens: int, num_units: int) -> float:
    """Return what one prompt token costs one unit, in ns, when passes are full and perfectly balanced.

    Parameters
    ----------
    requests
        Give the mean attention pairs and the mean context per token, each prompt run in chunks of full size.
    prefill_cost
        Gives the time of the pass in which all units hold `chunk_tokens` such tokens.
    chunk_tokens, num_units
        Of one prefill instance.

    Raises
    ------
    InputError
        The requests hold no prompt tokens.
    """
    work = _prefill_work(requests.prompt_tokens, chunk_tokens).sum(axis=0)
    return _unit_ns_per_token(work, prefill_cost, chunk_tokens, num_units)


def _prefill_load(work: FloatArray, span_ns: int, cost: PrefillPass, deployment: Deployment) -> float:
    instances = deployment.of_phase("prefill")
    first = instances[0]
    cost_ns = _unit_ns_per_token(work, cost, first.unit.chunk_tokens, first.num_units)
    return float(work[_TOKENS]) / span_ns * cost_ns / _units(instances)


def _units(instances: tuple[Instance, ...]) -> int:
    return sum(instance.num_units for instance in instances)


def _span(requests: Requests) -> int:
    if requests.span_ns == 0:
        raise InputError("requests: all arrive at one instant, or there are none; a rate needs two arrivals apart")
    return requests.span_ns


def offered_load(requests: Requests, cost_model: Costs, deployment: Deployment) -> float:
    """Return the prefill load ρ = rate × ideal unit time per request / units; rate = requests / span.

    Raises
    ------
    InputError
        No two arrivals apart, or no prompt tokens.
    """
    span_ns = _span(requests)
    chunk_tokens = deployment.of_phase("prefill")[0].unit.chunk_tokens
    work = _prefill_work(requests.prompt_tokens, chunk_tokens).sum(axis=0)
    return _prefill_load(work, span_ns, cost_model.prefill, deployment)


def offered_decode_load(requests: Requests, cost_model: Costs, deployment: Deployment) -> float:
    """Return the decode load: output tokens per second × ideal unit time per token / units.

    A request asks for output − 1 steps (prefill emits the first token). Ideal: every unit runs as many sequences as its
    slots and KV cache hold, each of the trace's mean KV length (prompt + output/2, weighted by output).

    Raises
    ------
    InputError
        No decode instance, no two arrivals apart, or a mean sequence that no unit's KV cache can hold.
    """
    instances = deployment.of_phase("decode")
    if not instances:
        raise InputError(f"deployment {deployment.name}: has no decode instance")
    span_ns = _span(requests)
    output = requests.output_tokens.astype(np.float64)
    steps = float(np.maximum(output - 1, 0).sum())
    if steps == 0:
        return 0.0
    mean_kv = float((output * (requests.prompt_tokens + output / 2)).sum() / output.sum())
    unit, num_units = instances[0].unit, instances[0].num_units
    sequences = min(unit.slots, int(unit.kv_tokens // mean_kv))
    if sequences < 1:
        raise InputError(
            f"deployment {deployment.name}: kv_tokens = {unit.kv_tokens} of a decode unit hold no sequence of the "
            f"trace's mean length, {mean_kv:.0f} tokens; give it more KV cache or choose another trace"
        )
    duration = cost_model.decode.step_ns(
        np.full(num_units, round(sequences * mean_kv), np.int64), np.full(num_units, sequences, np.int64)
    )
    return steps / span_ns * duration / sequences / _units(instances)


def scale_to_load(
    requests: Requests, target: float, cost_model: Costs, deployment: Deployment, *, seed: int
) -> Requests:
    """Superpose or thin a trace until its prefill load is `target`.

    Requests are taken in the seeded order of `superpose` up to the target; the rest of the order then fills what is
    missing, passing over requests too heavy for it, until the load is within 0.1 %. The result is below 0.5 % off
    wherever the trace holds requests that light; say `offered_load` of it. O(n log n + N log N) for N resulting
    requests, and one evaluation of the cost model per request tried in filling.

    Parameters
    ----------
    requests
        The trace; its span is kept.
    target
        ρ, above 0. The two requests at the ends always stay, and set the least load that can be reached.
    cost_model, deployment
        As for `offered_load`.
    seed
        As for `superpose`.

    Raises
    ------
    InputError
        `target` is not a finite number above 0 or takes more than 20 million requests, or the trace has no load.
    """
    if not np.isfinite(target) or target <= 0:
        raise InputError(f"load = {target!r}: must be a finite number above 0")
    span_ns, n = _span(requests), len(requests)
    chunk_tokens = deployment.of_phase("prefill")[0].unit.chunk_tokens
    order = thinning_order(requests, seed)
    work = _prefill_work(requests.prompt_tokens, chunk_tokens)[order]
    taken = np.concatenate([np.zeros((1, 3)), np.cumsum(work, axis=0)])

    def load(of: FloatArray) -> float:
        return _prefill_load(of, span_ns, cost_model.prefill, deployment) if of[_TOKENS] else 0.0

    unscaled = load(taken[n])
    if not unscaled:
        raise InputError("requests: hold no prompt tokens; there is no prefill load to scale")
    copies = target / unscaled
    if copies > 1 and copies * n > MOST_REQUESTS:
        raise InputError(f"load = {target:g}: {too_many(copies * n)}")
    whole, kept = _largest_below(target, lambda total: load(total // n * taken[n] + taken[total % n]), n)
    reached = whole * taken[n] + taken[kept]
    chosen = list(range(kept))
    for k in range(kept, n):
        if load(reached) >= target * (1 - _CLOSE_ENOUGH):
            break
        if load(reached + work[k]) <= target * (1 + _CLOSE_ENOUGH):
            reached = reached + work[k]
            chosen.append(k)
    return superpose_chosen(requests, whole, order[chosen], seed=seed)


def _largest_below(target: float, load: Callable[[int], float], n: int) -> tuple[int, int]:
    # (whole copies, requests of one more) of the last total of requests whose load does not exceed the target
    low, high = min(2, n), n
    while load(high) <= target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if load(middle) <= target else (low, middle)
    return divmod(low, n)
