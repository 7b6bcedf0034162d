"""The simulated prefill instances: chunked prefill with debt, per-unit prefix caches, barrier-synchronised passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost.protocols import PrefillTiming
from sbs_opt.models.deployment import Instance
from sbs_opt.models.requests import Requests
from sbs_opt.scheduler.prefix_index import PrefixIndex
from sbs_opt.simulator import prefill_kernels as kernels


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One prefill pass.

    Parameters
    ----------
    instance, number, start_ns, duration_ns
        Which pass, when and for how long.
    tokens, unit_ns
        int64[units of the instance]: tokens run, and the unit's own compute between the barriers.
    finished
        int64[k], the requests whose prompt it completed.
    pairs, context_tokens
        int64[units of the instance]: the other sums that the cost model was asked with; with `tokens` a log of passes
        (`calibration.pass_log`).
    """

    instance: int
    number: int
    start_ns: int
    duration_ns: int
    tokens: IntArray
    unit_ns: IntArray
    finished: IntArray
    pairs: IntArray
    context_tokens: IntArray


class PrefillEngine:
    """All prefill instances of a deployment under the laws of the simulated engine (docs/simulator.md)."""

    def __init__(self, instances: Sequence[Instance], cost: PrefillTiming, requests: Requests) -> None:
        self._cost = cost
        self._count = instances[0].num_units
        self._budget = instances[0].unit.chunk_tokens
        self._kv_tokens = instances[0].unit.kv_tokens
        num_units = len(instances) * self._count
        self._requests = requests
        self._finishing = np.empty(len(requests), np.int64)
        self._work = np.zeros((len(requests), kernels.WORK_COLUMNS), np.int64)
        self._work[:, kernels.PROMPT] = requests.prompt_tokens
        self._units = np.zeros((num_units, kernels.UNIT_COLUMNS), np.int64)
        self._units[:, [kernels.HEAD, kernels.TAIL]] = -1
        block_tokens = requests.block_tokens
        self._cache = PrefixIndex(num_units, self._kv_tokens // block_tokens) if block_tokens else PrefixIndex(1, 1)
        self.running: list[Pass | None] = [None] * len(instances)
        self._next_number = [0] * len(instances)
        self._waiting_work = [False] * len(instances)

    def push(self, instance: int, requests: IntArray, units: IntArray) -> None:
        """Queue requests on units of an instance (numbered within it)."""
        kernels.push(self._work, self._units, requests, units + instance * self._count)
        self._waiting_work[instance] = True

    def launch(self, instance: int, now_ns: int) -> Pass | None:
        """Start a pass if the instance is free and has work; return it."""
        if self.running[instance] is not None or not self._waiting_work[instance]:
            return None
        first = instance * self._count
        heads = self._units[first : first + self._count, kernels.HEAD]
        if heads.max() < 0:
            self._waiting_work[instance] = False
            return None
        sums = np.empty((3, self._count), np.int64)
        requests = self._requests
        finished = kernels.launch(
            self._work,
            self._units,
            first,
            self._count,
            self._budget,
            self._kv_tokens,
            requests.block_tokens,
            requests.block_offset,
            requests.block_id,
            *self._cache.state,
            sums,
            self._finishing,
        )
        duration = self._cost.pass_ns(sums[0], sums[1], sums[2])
        number = self._next_number[instance]
        self._next_number[instance] += 1
        started = Pass(
            instance,
            number,
            now_ns,
            duration,
            sums[1],
            self._cost.unit_ns(sums[0], sums[1], sums[2]),
            self._finishing[:finished].copy(),
            sums[0],
            sums[2],
        )
        self.running[instance] = started
        return started

    def end(self, instance: int) -> tuple[Pass, IntArray]:
        """End the running pass; return it and the tokens still queued on each unit."""
        ended = self.running[instance]
        assert ended is not None
        self.running[instance] = None
        requests = self._requests
        if requests.block_tokens:
            kernels.remember(
                self._work,
                ended.finished,
                requests.block_tokens,
                requests.block_offset,
                requests.block_id,
                *self._cache.state,
            )
        first = instance * self._count
        return ended, self._units[first : first + self._count, kernels.QUEUED].copy()

    def hits(self, requests: IntArray) -> IntArray:
        """Return the prefix hit that each request was given when it started."""
        hits: IntArray = self._work[requests, kernels.HIT]
        return hits

    @property
    def hit_tokens(self) -> IntArray:
        """int64[n], prefix hit of every request."""
        return self._work[:, kernels.HIT]

    @property
    def done_tokens(self) -> IntArray:
        """int64[n], prompt tokens computed or taken from the cache so far."""
        return self._work[:, kernels.DONE]

    @property
    def unit_of(self) -> IntArray:
        """int64[n], unit of every request that was dispatched, numbered through all instances."""
        return self._work[:, kernels.UNIT]
