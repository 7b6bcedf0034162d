"""Generated windows, a fresh one for every call: repeated input flatters caches and branch prediction.

Sizes are log-normal with median 1,500 and sigma 1, clipped at 4,096 (a chunk of prefill) unless said. The letters are
those of the tables: A without the clip (at 65,536), D clipped, E clipped and with initial loads below 4,096.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from sbs_opt.models.window import UNLIMITED, Savings, Window

Draw = Callable[[Generator, int, int], Window]


def sizes(draw: Generator, n: int, clip: int = 4096) -> np.ndarray:
    """Return int64[n, 1]."""
    return np.minimum(clip, np.exp(draw.normal(np.log(1500), 1.0, (n, 1)))).astype(np.int64)


def long_tailed(draw: Generator, n: int, m: int) -> Window:
    """A: a few giants decide."""
    return Window(demand=sizes(draw, n, 65_536), load=np.zeros((m, 1), dtype=np.int64))


def clipped(draw: Generator, n: int, m: int) -> Window:
    """D: empty units."""
    return Window(demand=sizes(draw, n), load=np.zeros((m, 1), dtype=np.int64))


def loaded(draw: Generator, n: int, m: int) -> Window:
    """E: units with work on them."""
    return Window(demand=sizes(draw, n), load=draw.integers(0, 4096, (m, 1)))


def with_savings(draw: Generator, n: int, m: int) -> Window:
    """Half of the items hit two units each, which save 20 to 90 % of them; empty units."""
    demand = sizes(draw, n)
    item = np.repeat(draw.permutation(n)[: n // 2], 2)
    unit = draw.integers(0, m, len(item))
    unit[1::2] = (unit[::2] + 1 + draw.integers(0, m - 1, len(item) // 2)) % m  # two different units
    value = (demand[item] * draw.uniform(0.2, 0.9, (len(item), 1))).astype(np.int64)
    return Window(demand=demand, load=np.zeros((m, 1), dtype=np.int64), savings=Savings(item, unit, value))


def two_resources(draw: Generator, n: int, m: int) -> Window:
    """Two priced resources, the second not proportional to the first, with initial loads of both."""
    demand = np.concatenate([sizes(draw, n), sizes(draw, n) // 4], axis=1)
    return Window(demand=demand, load=draw.integers(0, 1024, (m, 2)))


def prefill_like(draw: Generator, n: int, m: int) -> Window:
    """Two priced resources, an open budget, a hard limit, and savings for half of the items."""
    demand = np.repeat(sizes(draw, n), 4, axis=1) * np.array([3, 1, 1, 1])
    pair = draw.permutation(n * m)[: n // 2]
    limit = np.full((m, 4), [UNLIMITED] * 2 + [demand[:, 2].sum() // m, 10**6])
    return Window(
        demand=demand,
        load=np.zeros((m, 4), dtype=np.int64),
        price=[1, 1, 0, 0],
        limit=limit,
        open_resource=2,
        savings=Savings(pair // m, pair % m, demand[pair // m] // 2),
    )
