"""What prefill schedulers share, and the immediate policies: a unit is chosen at arrival (laws 22, 36–41)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sbs_opt.models.cost.protocols import PrefillTiming
from sbs_opt.models.deployment import Deployment
from sbs_opt.testing.twin.book import Book
from sbs_opt.testing.twin.cache import PrefixCache
from sbs_opt.testing.twin.settings import Offered, Settings

SNAPSHOT_NS = 20_000_000
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Sent:
    """Requests sent to units of one instance, in order; they reach the engine `decision_ns` later."""

    instance: int
    requests: tuple[tuple[Offered, int], ...]
    decision_ns: int


class TwinPrefillScheduler:
    """Keeps the load book and the prefix belief; a subclass decides. Every call tells it the time first."""

    def __init__(self, deployment: Deployment, cost: PrefillTiming, settings: Settings, block_tokens: int) -> None:
        self.settings = settings
        self.cost = cost
        instances = deployment.of_phase("prefill")
        self.limits = instances[0].unit
        self.per_instance = instances[0].num_units
        self.num_units = len(instances) * self.per_instance
        self.book = Book.of(instances, cost, settings.mean_passes)
        capacity = self.limits.kv_tokens // block_tokens if block_tokens else 0
        self.believed_caches = [PrefixCache(capacity) for _ in range(self.num_units)]
        self.now_ns = 0
        self._largest_prompt = min(deployment.context_tokens, self.limits.kv_tokens)

    def arrived(self, requests: Sequence[Offered], now_ns: int) -> tuple[list[Sent], list[Offered]]:
        """Take in arrivals; return what is sent at once and what is too large for any empty unit."""
        self._tick(now_ns)
        fits = [request for request in requests if request.prompt <= self._largest_prompt]
        too_large = [request for request in requests if request.prompt > self._largest_prompt]
        return self.accept(fits), too_large

    def answered(self, requests: Sequence[Offered], now_ns: int) -> None:
        """Take in first tokens."""
        self._tick(now_ns)
        for request in requests:
            self.book.release(request)

    def pass_ended(
        self, instance: int, duration_ns: int, tokens: Sequence[int], queued: Sequence[int], now_ns: int
    ) -> None:
        """Take in the end of a pass, heard of late by the notification latency."""
        self._tick(now_ns)
        self.book.pass_ended(instance, duration_ns, tokens, queued, now_ns - self.settings.notification_ns)

    def timer(self, now_ns: int) -> list[Sent]:
        """Do what is due."""
        self._tick(now_ns)
        return []

    def next_timer_ns(self) -> int | None:
        """Return when `timer` wants to be called."""
        return None

    def accept(self, requests: Sequence[Offered]) -> list[Sent]:
        """Decide about requests that fit."""
        raise TypeError(f"{type(self).__name__} must say what becomes of an arriving request")

    def _tick(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self.book.settle(now_ns)


class ImmediateTwin(TwinPrefillScheduler):
    """Chooses a unit, numbered through all instances, for each arriving request."""

    def choose(self, request: Offered) -> int:
        """Return the unit."""
        raise TypeError(f"{type(self).__name__} must choose a unit")

    def accept(self, requests: Sequence[Offered]) -> list[Sent]:
        """Choose one by one, each choice booked before the next."""
        decision_ns = self.settings.decision_base_ns + self.settings.decision_step_ns * self.num_units
        sent: dict[int, list[tuple[Offered, int]]] = {}
        for request in requests:
            chosen = self.choose(request)
            instance, unit = divmod(chosen, self.per_instance)
            hit = self.believed_caches[chosen].leading_run(request.usable_blocks) * request.block_tokens
            self.believed_caches[chosen].touch(request.full_blocks)
            self.book.push(instance, unit, request, hit, self.now_ns + decision_ns)
            sent.setdefault(instance, []).append((request, unit))
        return [Sent(instance, tuple(batch), decision_ns) for instance, batch in sent.items()]


class RoundRobin(ImmediateTwin):
    """A counter over all units."""

    _next = 0

    def choose(self, request: Offered) -> int:
        """See `ImmediateTwin`."""
        chosen = self._next % self.num_units
        self._next += 1
        return chosen


def splitmix64(seed: int, draw: int) -> int:
    """Return draw number `draw` of a stream, 63 bits (SplitMix64; Steele, Lea, Flood, OOPSLA 2014)."""
    z = (seed + (draw + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) >> 1


class Random(ImmediateTwin):
    """A draw per request."""

    _draws = 0

    def choose(self, request: Offered) -> int:
        """See `ImmediateTwin`."""
        chosen = splitmix64(self.settings.seed, self._draws) % self.num_units
        self._draws += 1
        return chosen


class SglangTotalTokens(ImmediateTwin):
    """Least (booked prompt tokens, booked requests) of a snapshot that is renewed when 20 ms old."""

    _taken_ns: int | None = None
    _snapshot: list[tuple[int, int]]

    def choose(self, request: Offered) -> int:
        """See `ImmediateTwin`."""
        if self._taken_ns is None or self.now_ns - self._taken_ns >= SNAPSHOT_NS:
            self._taken_ns = self.now_ns
            units = [bookings for belief in self.book.instances for bookings in belief.units]
            self._snapshot = [(sum(b.request.prompt for b in bookings), len(bookings)) for bookings in units]
        chosen = self._snapshot.index(min(self._snapshot))
        tokens, count = self._snapshot[chosen]
        self._snapshot[chosen] = (tokens + request.prompt, count + 1)
        return chosen


class PhaseAware(ImmediateTwin):
    """The instance that can start the request soonest, then its unit with the least queued tokens."""

    def choose(self, request: Offered) -> int:
        """See `ImmediateTwin`."""
        waits = [self._wait_ns(instance) for instance in range(len(self.book.instances))]
        instance = waits.index(min(waits))
        belief = self.book.instances[instance]
        queued = [belief.queued(unit) for unit in range(self.per_instance)]
        return instance * self.per_instance + queued.index(min(queued))

    def _wait_ns(self, instance: int) -> int:
        """Rest of the running pass, and a mean pass for every whole pass that is queued; 0 where nothing runs."""
        belief = self.book.instances[instance]
        if not belief.running:
            return 0
        queued = sum(belief.queued(unit) for unit in range(self.per_instance))
        whole_passes = queued // (self.limits.chunk_tokens * self.per_instance)
        mean = belief.duration_ns.value or belief.expected_end_ns - belief.launch_ns
        return max(0, belief.expected_end_ns - self.now_ns) + whole_passes * mean


IMMEDIATE: dict[str, type[ImmediateTwin]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "sglang.total_tokens": SglangTotalTokens,
    "phase_aware": PhaseAware,
}
