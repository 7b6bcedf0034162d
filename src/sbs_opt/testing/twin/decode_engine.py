"""A decode instance: continuous batching, with slots, KV growth and preemption, behind a barrier (laws 23–27)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from sbs_opt.models.cost.protocols import DecodeTiming
from sbs_opt.models.deployment import Instance
from sbs_opt.testing.twin.costs import step_ns
from sbs_opt.testing.twin.settings import Offered


@dataclass(slots=True)
class _Sequence:
    request: Offered
    context: int
    remaining: int


@dataclass(slots=True)
class _Unit:
    queue: deque[_Sequence] = field(default_factory=deque)
    running: list[_Sequence] = field(default_factory=list)  # oldest first

    @property
    def kv(self) -> int:
        return sum(sequence.context for sequence in self.running)


class TwinDecode:
    """One decode instance; `end_ns` is when its running step ends, None while it is idle."""

    def __init__(self, instance: Instance, cost: DecodeTiming, reserve_tokens: int) -> None:
        self._cost = cost
        self._limits = instance.unit
        self._reserve = reserve_tokens
        self._units = [_Unit() for _ in range(instance.num_units)]
        self.end_ns: int | None = None
        self.preemptions = 0

    def push(self, unit: int, request: Offered) -> None:
        """Queue a request at a unit: its prompt and its first token are its context."""
        self._units[unit].queue.append(_Sequence(request, request.prompt + 1, request.output - 1))

    def launch(self, now_ns: int) -> None:
        """Admit, preempt, and start a step when any sequence runs."""
        if self.end_ns is not None:
            return
        for unit in self._units:
            self._admit(unit)
            self._preempt(unit)
        if any(unit.running for unit in self._units):
            kv, sequences = [unit.kv for unit in self._units], [len(unit.running) for unit in self._units]
            self.end_ns = now_ns + step_ns(self._cost, kv, sequences)

    def _admit(self, unit: _Unit) -> None:
        while unit.queue and len(unit.running) < self._limits.slots:
            reserve = self._reserve * (len(unit.running) + 1)
            if unit.running and unit.kv + unit.queue[0].context + reserve > self._limits.kv_tokens:
                return
            unit.running.append(unit.queue.popleft())

    def _preempt(self, unit: _Unit) -> None:
        while len(unit.running) > 1 and unit.kv + len(unit.running) > self._limits.kv_tokens:
            unit.queue.appendleft(unit.running.pop())
            self.preemptions += 1

    def end(self) -> list[Offered]:
        """End the step: every running sequence gains a token; return those that are done."""
        self.end_ns = None
        finished = []
        for unit in self._units:
            for sequence in unit.running:
                sequence.context += 1
                sequence.remaining -= 1
            finished += [sequence.request for sequence in unit.running if sequence.remaining == 0]
            unit.running = [sequence for sequence in unit.running if sequence.remaining > 0]
        return finished
