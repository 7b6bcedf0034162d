"""Small deployments and traces for tests."""

from __future__ import annotations

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.deployment import Deployment, Instance, Unit
from sbs_opt.models.requests import Requests, requests_without_prefixes

HUGE = 1 << 40


def small_deployment(
    instances: int = 2,
    units: int = 2,
    *,
    chunk_tokens: int = HUGE,
    kv_tokens: int = HUGE,
    context_tokens: int = HUGE,
    decode_instances: int = 0,
    decode_units: int = 2,
    decode_kv_tokens: int = HUGE,
    slots: int = 64,
) -> Deployment:
    """Return a deployment of equal instances; budgets are unlimited unless given."""
    prefill = [
        Instance(f"p{k}", "prefill", units, Unit(kv_tokens, chunk_tokens=chunk_tokens)) for k in range(instances)
    ]
    decode = [
        Instance(f"d{k}", "decode", decode_units, Unit(decode_kv_tokens, slots=slots)) for k in range(decode_instances)
    ]
    return Deployment("small", (*prefill, *decode), "h800", "deepseek-v3", context_tokens)


def poisson_requests(
    rate_per_ns: float, count: int, *, seed: int, prompt_tokens: int | IntArray = 100, output_tokens: int | IntArray = 1
) -> Requests:
    """Return requests with exponential gaps (generated; Philox of `seed`)."""
    gaps = np.random.Generator(np.random.Philox(seed)).exponential(1 / rate_per_ns, count)
    arrival = np.cumsum(gaps).astype(np.int64)
    ones = np.ones(count, np.int64)
    return requests_without_prefixes(arrival, ones * prompt_tokens, ones * output_tokens)
