"""The simulated decode instances: continuous batching in barrier-synchronised steps, with KV growth and limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost.protocols import DecodeTiming
from sbs_opt.models.deployment import Instance
from sbs_opt.models.requests import Requests
from sbs_opt.simulator import decode_kernels as kernels

RESERVE_TOKENS = 150
"""KV kept free per running sequence at admission: room for growth, so that preemption stays rare."""


class DecodeEngine:
    """All decode instances of a deployment under the laws of the simulated engine (docs/simulator.md)."""

    def __init__(self, instances: Sequence[Instance], cost: DecodeTiming, requests: Requests) -> None:
        self._cost = cost
        self._count = instances[0].num_units
        self._limits = instances[0].unit
        num_units = len(instances) * self._count
        self._work = np.zeros((len(requests), kernels.WORK_COLUMNS), np.int64)
        # The first token comes from prefill: its KV is there when decoding starts.
        self._work[:, kernels.CONTEXT] = requests.prompt_tokens + 1
        self._work[:, kernels.REMAINING] = np.maximum(requests.output_tokens - 1, 0)
        self._units = np.zeros((num_units, kernels.UNIT_COLUMNS), np.int64)
        self._units[:, [kernels.HEAD, kernels.TAIL]] = -1
        self._running = np.zeros((num_units, self._limits.slots), np.int64)
        self._finished = np.empty(num_units * self._limits.slots, np.int64)
        self.end_ns: list[int | None] = [None] * len(instances)
        self.start_ns = [0] * len(instances)
        self.steps = [0] * len(instances)
        self._has_work = [False] * len(instances)
        self.preemptions = 0
        self.unit_ns = 0
        self.barrier_ns = 0
        self.sequence_steps = 0

    def push(self, instance: int, requests: IntArray, units: IntArray) -> None:
        """Queue requests on units of an instance (numbered within it)."""
        kernels.push(self._work, self._units, requests, units + instance * self._count)
        self._has_work[instance] = True

    def launch(self, instance: int, now_ns: int) -> int | None:
        """Start a step if the instance is free and has work; return when it ends."""
        if self.end_ns[instance] is not None or not self._has_work[instance]:
            return None
        first = instance * self._count
        total, preempted = kernels.admit(
            self._work,
            self._units,
            self._running,
            first,
            self._count,
            self._limits.slots,
            self._limits.kv_tokens,
            RESERVE_TOKENS,
        )
        self.preemptions += preempted
        if total == 0:
            self._has_work[instance] = False
            return None
        rows = self._units[first : first + self._count]
        kv, sequences = rows[:, kernels.KV], rows[:, kernels.COUNT]
        duration = self._cost.step_ns(kv, sequences)
        unit_ns = self._cost.unit_ns(kv, sequences)
        self.unit_ns += int(unit_ns.sum())
        self.barrier_ns += int(unit_ns.max()) * self._count
        self.sequence_steps += total
        self.start_ns[instance] = now_ns
        self.end_ns[instance] = now_ns + duration
        return now_ns + duration

    def end(self, instance: int) -> tuple[int, int, IntArray, IntArray, IntArray]:
        """End the running step; return (step number, duration, finished, tokens run and KV queued per unit)."""
        end = self.end_ns[instance]
        assert end is not None
        self.end_ns[instance] = None
        number = self.steps[instance]
        self.steps[instance] += 1
        first = instance * self._count
        rows = self._units[first : first + self._count]
        run = rows[:, kernels.COUNT].copy()
        done = kernels.end_step(self._work, self._units, self._running, first, self._count, self._finished)
        finished = self._finished[:done].copy()
        return number, end - self.start_ns[instance], finished, run, rows[:, kernels.QUEUED].copy()

    @property
    def remaining_tokens(self) -> IntArray:
        """int64[n], output tokens that decode has still to produce for each request."""
        return self._work[:, kernels.REMAINING]

    @property
    def held(self) -> int:
        """Sequences and KV that the units still hold, 0 when all is done."""
        return int(self._units[:, [kernels.COUNT, kernels.KV, kernels.QUEUED]].sum())
