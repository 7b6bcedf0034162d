"""A seeded generator of requests: heavy-tailed lengths, bursty arrivals, sessions whose prompts grow.

What comes out is generated data and must be called that wherever it is shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from sbs_opt.instances.draws import FloatArray, uniforms
from sbs_opt.models.checks import IntArray
from sbs_opt.models.errors import InputError
from sbs_opt.models.requests import Requests

# Purposes of the draws, each its own stream: changing one part of the generator leaves the others as they were.
_ARRIVAL, _STATE, _TURNS, _SYSTEM, _THINK, _USER_A, _USER_B, _OUTPUT_A, _OUTPUT_B = range(16, 25)

_SECOND_NS = 1e9


@dataclass(frozen=True)
class GeneratorConfig:
    """What to generate; every length is a whole number of tokens in the end.

    Parameters
    ----------
    requests
        How many.
    rate_per_s
        Mean arrivals per second, all turns of all sessions counted, once the first sessions have grown.
    burst_ratio, burst_share, burst_s
        Sessions start by a two-state Markov-modulated Poisson process: in a burst the rate is `burst_ratio` times that
        of calm, bursts take `burst_share` of the time and last `burst_s` seconds on average. Ratio 1 is plain Poisson.
    user_tokens_median, user_tokens_sigma
        New tokens of each turn, log-normal: median, and standard deviation of the logarithm.
    output_tokens_median, output_tokens_sigma
        Tokens of each answer, log-normal.
    longest_tokens
        No single draw of new tokens or of an answer exceeds it.
    turns_mean, think_s
        Turns of a session, geometric with this mean; seconds between turns, exponential with this mean.
    system_prompts, system_tokens
        How many system prompts there are and how long each is; a session begins with one, drawn evenly. 0 for none.
    block_tokens
        Tokens per prefix block; 0 for a trace without prefixes.
    """

    requests: int = 4_000
    rate_per_s: float = 1.6
    burst_ratio: float = 4.0
    burst_share: float = 0.2
    burst_s: float = 10.0
    user_tokens_median: float = 1_200.0
    user_tokens_sigma: float = 0.9
    output_tokens_median: float = 180.0
    output_tokens_sigma: float = 0.9
    longest_tokens: int = 16_000
    turns_mean: float = 2.0
    think_s: float = 30.0
    system_prompts: int = 4
    system_tokens: int = 1_024
    block_tokens: int = 512

    def __post_init__(self) -> None:
        for name in ("requests", "longest_tokens"):
            self._check(name, whole=True, least=1)
        for name in ("system_prompts", "system_tokens", "block_tokens"):
            self._check(name, whole=True, least=0)
        for name in ("burst_ratio", "turns_mean", "user_tokens_median", "output_tokens_median"):
            self._check(name, whole=False, least=1)
        for name in ("user_tokens_sigma", "output_tokens_sigma", "think_s", "burst_share", "rate_per_s", "burst_s"):
            self._check(name, whole=False, least=0)
        for name in ("rate_per_s", "burst_s"):
            if getattr(self, name) <= 0:
                raise InputError(f"generator: {name} = {getattr(self, name)!r}, must be above 0")
        if self.burst_share >= 1:
            raise InputError(f"generator: burst_share = {self.burst_share!r}, must be below 1")

    def _check(self, name: str, *, whole: bool, least: int) -> None:
        value = getattr(self, name)
        kind = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value) or value < least:
            raise InputError(f"generator: {name} = {value!r}, must be a {'whole ' * whole}number of at least {least}")


def generator_config_from_dict(data: dict[str, Any]) -> GeneratorConfig:
    """Build a configuration from parsed TOML; an unknown key is an error that lists the known ones."""
    known = [field.name for field in fields(GeneratorConfig)]
    for name in data:
        if name not in known:
            raise InputError(f"generator: unknown key {name!r}; known keys: {', '.join(known)}")
    return GeneratorConfig(**data)


def generate(config: GeneratorConfig, *, seed: int) -> Requests:
    """Generate requests: the same configuration and seed give the same ones. O(n · turns).

    Turn k of a session repeats the system prompt, all earlier turns and all earlier answers, and adds new tokens; it
    comes a thinking time after turn k − 1. Full blocks of what is repeated keep their ids; the last, partial block of a
    prompt has its own, so prefix hits are a leading run. No state of a cluster enters: answers take no time.

    Parameters
    ----------
    config
        What to generate.
    seed
        0 to 2⁶⁴ − 1.

    Returns
    -------
    Requests
        Exactly `config.requests`, the first of them by arrival; the early sessions' first turns open the trace. The
        first arrival is not at 0. Block ids and sessions are numbered densely by first appearance.
    """
    sessions = config.requests  # each has a first turn, so the first n arrivals lie within the first n sessions
    turns = _geometric(uniforms(seed, _TURNS, sessions), config.turns_mean)
    total = int(turns.sum())
    session = np.repeat(np.arange(sessions), turns)
    first = np.cumsum(turns) - turns
    user = _log_normal(seed, (_USER_A, _USER_B), total, config.user_tokens_median, config.user_tokens_sigma, config)
    output = _log_normal(
        seed, (_OUTPUT_A, _OUTPUT_B), total, config.output_tokens_median, config.output_tokens_sigma, config
    )
    think = _exponential(uniforms(seed, _THINK, total)) * config.think_s
    think[first] = 0.0
    start_s = _session_starts(config, sessions, seed)[session]
    system = config.system_tokens if config.system_prompts else 0
    prompt = system + _sum_within(user, first, session) + _sum_within(output, first, session) - output
    arrival = np.floor((start_s + _sum_within(think, first, session)) * _SECOND_NS).astype(np.int64)
    chosen = np.argsort(arrival, kind="stable")[: config.requests]
    count, block = _blocks(config, seed, session[chosen], prompt[chosen], chosen, sessions)
    return Requests(
        arrival[chosen],
        prompt[chosen],
        output[chosen],
        np.concatenate(([0], np.cumsum(count))),
        _by_first_appearance(block),
        config.block_tokens,
        _by_first_appearance(session[chosen]),
    )


def _session_starts(config: GeneratorConfig, count: int, seed: int) -> FloatArray:
    # A unit-rate Poisson process, run through the integral of the modulated rate (time change).
    unit = np.cumsum(_exponential(uniforms(seed, _ARRIVAL, count)))
    rate, share, ratio = config.rate_per_s / config.turns_mean, config.burst_share, config.burst_ratio
    calm_rate = rate / (1 - share + share * ratio)
    if share == 0 or ratio == 1:
        return unit / calm_rate
    states = 64
    while True:
        length = _exponential(uniforms(seed, _STATE, states))
        length[::2] *= config.burst_s * (1 - share) / share  # calm
        length[1::2] *= config.burst_s
        intensity = length * calm_rate
        intensity[1::2] *= ratio
        reached = np.concatenate(([0.0], np.cumsum(intensity)))
        if reached[-1] >= unit[-1]:
            starts: FloatArray = np.interp(unit, reached, np.concatenate(([0.0], np.cumsum(length))))
            return starts
        states *= 2  # Philox gives the same beginning again


def _geometric(drawn: FloatArray, mean: float) -> IntArray:
    if mean == 1:
        return np.ones(len(drawn), np.int64)
    return 1 + np.floor(np.log1p(-drawn) / math.log1p(-1 / mean)).astype(np.int64)


def _exponential(drawn: FloatArray) -> FloatArray:
    return -np.log1p(-drawn)


def _log_normal(
    seed: int, purposes: tuple[int, int], count: int, median: float, sigma: float, config: GeneratorConfig
) -> IntArray:
    # Box & Muller (1958)
    radius = np.sqrt(2 * _exponential(uniforms(seed, purposes[0], count)))
    normal = radius * np.cos(2 * math.pi * uniforms(seed, purposes[1], count))
    with np.errstate(over="ignore"):  # infinity is then capped like any other long draw
        length = median * np.exp(sigma * normal)
    return np.clip(np.rint(np.minimum(length, config.longest_tokens)), 1, None).astype(np.int64)


def _sum_within(values: Any, first: IntArray, session: IntArray) -> Any:
    # running sum over the turns of each session
    running = np.cumsum(values)
    before = (running - values)[first]
    return running - before[session]


def _blocks(
    config: GeneratorConfig, seed: int, session: IntArray, prompt: IntArray, turn: IntArray, sessions: int
) -> tuple[IntArray, IntArray]:
    """Return (blocks per request, ids): system blocks, blocks of the session's own text, then one partial block."""
    size = config.block_tokens
    if not size:
        return np.zeros(len(prompt), np.int64), np.zeros(0, np.int64)
    system_full = config.system_tokens // size if config.system_prompts else 0
    systems = max(config.system_prompts, 1)
    system = np.floor(uniforms(seed, _SYSTEM, sessions) * systems).astype(np.int64)[session]
    count = -(-prompt // size)
    owner = np.repeat(np.arange(len(prompt)), count)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    # Three disjoint ranges of numbers: (system, place), (session, place), (turn).
    widest = int(count.max())
    ids = np.where(place < system_full, system[owner] * widest + place, (systems + session[owner]) * widest + place)
    partial = (place + 1) * size > prompt[owner]
    return count, np.where(partial, (systems + sessions) * widest + turn[owner], ids)


def _by_first_appearance(ids: IntArray) -> IntArray:
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first, kind="stable")] = np.arange(len(first))
    return number[inverse]
