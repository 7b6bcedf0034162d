"""A prefill instance: chunked prefill with debt, a prefix cache per unit, passes behind a barrier (laws 10–20)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from sbs_opt.models.cost.protocols import PrefillTiming
from sbs_opt.models.deployment import Instance
from sbs_opt.testing.twin.cache import PrefixCache
from sbs_opt.testing.twin.costs import Piece, pass_ns
from sbs_opt.testing.twin.settings import Offered


@dataclass(frozen=True, slots=True)
class TwinPass:
    """One pass: its instance and number, when it started, how long it takes, and the tokens of each unit."""

    instance: int
    number: int
    start_ns: int
    duration_ns: int
    tokens: tuple[int, ...]
    finishing: tuple[Offered, ...]

    @property
    def end_ns(self) -> int:
        """When it ends."""
        return self.start_ns + self.duration_ns


@dataclass(slots=True)
class _Job:
    request: Offered
    started: bool = False
    hit: int = 0
    done: int = 0


@dataclass(slots=True)
class _Unit:
    cache: PrefixCache
    queue: deque[_Job] = field(default_factory=deque)


class TwinPrefill:
    """One prefill instance; `running` is its pass under way, `hits` what each started request found cached."""

    def __init__(self, index: int, instance: Instance, cost: PrefillTiming, block_tokens: int) -> None:
        self._index = index
        self._cost = cost
        self._limits = instance.unit
        capacity = instance.unit.kv_tokens // block_tokens if block_tokens else 0
        self._units = [_Unit(PrefixCache(capacity)) for _ in range(instance.num_units)]
        self._passes = 0
        self.running: TwinPass | None = None
        self.hits: dict[int, int] = {}
        self._finishing_unit: dict[int, _Unit] = {}

    def push(self, unit: int, request: Offered) -> None:
        """Queue a request at a unit."""
        self._units[unit].queue.append(_Job(request))

    def launch(self, now_ns: int) -> TwinPass | None:
        """Start a pass when none is running and any unit has work."""
        if self.running is not None or not any(unit.queue for unit in self._units):
            return None
        finishing: list[Offered] = []
        pieces = [self._run(unit, finishing) for unit in self._units]
        tokens = tuple(sum(piece.new for piece in run) for run in pieces)
        self.running = TwinPass(
            self._index, self._passes, now_ns, pass_ns(self._cost, pieces), tokens, tuple(finishing)
        )
        self._passes += 1
        return self.running

    def _run(self, unit: _Unit, finishing: list[Offered]) -> list[Piece]:
        """Take the unit's share of a pass out of its queue."""
        room, kv = self._limits.chunk_tokens, 0
        pieces: list[Piece] = []
        while unit.queue and room > 0:
            job = unit.queue[0]
            if kv > 0 and kv + job.request.prompt > self._limits.kv_tokens:
                break
            kv += job.request.prompt
            if not job.started:
                self._start(unit, job)
            take = min(job.request.prompt - job.done, room)
            if take > 0:
                pieces.append(Piece(take, job.done))
            job.done += take
            room -= take
            if job.done < job.request.prompt:
                break  # the rest stays at the head: debt of the next pass
            unit.queue.popleft()
            finishing.append(job.request)
            self._finishing_unit[job.request.id] = unit
        return pieces

    def _start(self, unit: _Unit, job: _Job) -> None:
        run = unit.cache.leading_run(job.request.usable_blocks)
        unit.cache.touch(job.request.blocks[:run])
        job.started = True
        job.hit = job.done = run * job.request.block_tokens
        self.hits[job.request.id] = job.hit

    def end(self) -> tuple[TwinPass, list[int]]:
        """End the pass: cache what it completed; return it and the tokens queued at each unit."""
        ended = self.running
        assert ended is not None
        self.running = None
        for request in ended.finishing:
            self._finishing_unit.pop(request.id).cache.touch(request.full_blocks)
        return ended, [sum(job.request.prompt - job.done for job in unit.queue) for unit in self._units]
