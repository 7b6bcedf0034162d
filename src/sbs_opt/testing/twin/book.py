"""What a prefill scheduler believes of the engines: the load book as lists of bookings (laws 28–35)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from sbs_opt.models.cost.protocols import PrefillTiming
from sbs_opt.models.deployment import Instance
from sbs_opt.testing.twin.costs import Piece, pass_ns
from sbs_opt.testing.twin.settings import Offered


@dataclass(slots=True)
class Booking:
    """A request sent to a unit and not yet answered; it reaches the engine at `sent_ns`."""

    request: Offered
    hit: int
    sent_ns: int
    done: int

    @property
    def remaining(self) -> int:
        """Tokens believed to be neither computed, nor cached, nor in the running pass."""
        return self.request.prompt - self.done


class MovingMean:
    """Mean of the last values, rounded down."""

    def __init__(self, size: int) -> None:
        self._values: deque[int] = deque(maxlen=size)

    def add(self, value: int) -> None:
        """Take in a value."""
        self._values.append(value)

    @property
    def value(self) -> int | None:
        """The mean, None before the first value."""
        return sum(self._values) // len(self._values) if self._values else None


@dataclass(slots=True)
class Belief:
    """One instance as the scheduler believes it to be; `units[k]` are the bookings of unit k in booking order."""

    units: list[list[Booking]]
    duration_ns: MovingMean
    tokens: MovingMean
    running: bool = False
    launch_ns: int = 0
    expected_end_ns: int = 0
    idle_since_ns: int = 0
    pending_ns: int | None = None
    committed: bool = False

    def queued(self, unit: int) -> int:
        """Tokens believed to be queued at a unit."""
        return sum(booking.remaining for booking in self.units[unit])


@dataclass(slots=True)
class Book:
    """The beliefs of all prefill instances."""

    instances: list[Belief]
    cost: PrefillTiming
    chunk_tokens: int
    where: dict[int, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, instances: Sequence[Instance], cost: PrefillTiming, mean_passes: int) -> Book:
        """Return the book of a fleet in which nothing has happened."""
        beliefs = [
            Belief([[] for _ in range(instance.num_units)], MovingMean(mean_passes), MovingMean(mean_passes))
            for instance in instances
        ]
        return cls(beliefs, cost, instances[0].unit.chunk_tokens)

    def push(self, instance: int, unit: int, request: Offered, hit: int, sent_ns: int) -> None:
        """Book a request as sent."""
        self.instances[instance].units[unit].append(Booking(request, hit, sent_ns, done=hit))
        self.where[request.id] = (instance, unit)
        self._will_launch(self.instances[instance], sent_ns)

    def release(self, request: Offered) -> None:
        """Forget a request: its first token is out."""
        instance, unit = self.where.pop(request.id)
        bookings = self.instances[instance].units[unit]
        bookings[:] = [booking for booking in bookings if booking.request.id != request.id]

    def settle(self, now_ns: int) -> None:
        """Believe that an idle instance has launched what reached it before now."""
        for belief in self.instances:
            if belief.pending_ns is not None and belief.pending_ns < now_ns:
                self._launch(belief, belief.pending_ns)

    def pass_ended(
        self, instance: int, duration_ns: int, tokens: Sequence[int], queued: Sequence[int], end_ns: int
    ) -> None:
        """Take in the report of a pass: what still queues relaunched at its end."""
        belief = self.instances[instance]
        belief.duration_ns.add(duration_ns)
        belief.tokens.add(sum(tokens))
        present = [_reconcile(bookings, q, end_ns) for bookings, q in zip(belief.units, queued, strict=True)]
        self._stop(belief, end_ns)
        if any(present):
            self._launch(belief, end_ns)
        else:
            self._wait_for_transit(belief, end_ns)

    def pass_missed(self, instance: int) -> None:
        """Give up waiting for a report: the pass ended, and what was left relaunched, when it was expected to."""
        belief = self.instances[instance]
        end_ns = belief.expected_end_ns
        self._stop(belief, end_ns)
        if any(self._share(bookings, end_ns) for bookings in belief.units):
            self._launch(belief, end_ns)
        else:
            self._wait_for_transit(belief, end_ns + 1)

    def next_pieces(self, instance: int) -> list[list[Piece]]:
        """Return what the next pass would run of the bookings, per unit."""
        return [[piece for _, piece in self._share(bookings, None)] for bookings in self.instances[instance].units]

    def _share(self, bookings: Sequence[Booking], launch_ns: int | None) -> list[tuple[Booking, Piece]]:
        """Return a unit's share of a pass from the head up to the budget; only what had arrived at `launch_ns`."""
        share, room = [], self.chunk_tokens
        for booking in bookings:
            if room == 0 or (launch_ns is not None and booking.sent_ns > launch_ns):
                break
            take = min(booking.remaining, room)
            if take > 0:
                share.append((booking, Piece(take, booking.done)))
                room -= take
        return share

    def _launch(self, belief: Belief, at_ns: int) -> None:
        shares = [self._share(bookings, at_ns) for bookings in belief.units]
        for share in shares:
            for booking, piece in share:
                booking.done += piece.new
        belief.running, belief.committed, belief.pending_ns = True, False, None
        belief.launch_ns = at_ns
        belief.expected_end_ns = at_ns + pass_ns(self.cost, [[piece for _, piece in share] for share in shares])

    def _stop(self, belief: Belief, end_ns: int) -> None:
        belief.running, belief.committed, belief.pending_ns = False, False, None
        belief.idle_since_ns = end_ns

    def _will_launch(self, belief: Belief, sent_ns: int) -> None:
        if not belief.running and (belief.pending_ns is None or sent_ns < belief.pending_ns):
            belief.pending_ns = sent_ns

    def _wait_for_transit(self, belief: Belief, from_ns: int) -> None:
        """Nothing is left: the instance launches when the first request arrives that was still on its way."""
        arrivals = [b.sent_ns for bookings in belief.units for b in bookings if b.sent_ns >= from_ns]
        if arrivals:
            self._will_launch(belief, min(arrivals))


def _reconcile(bookings: list[Booking], queued: int, end_ns: int) -> bool:
    """Set a unit's bookings to the engine's report; return whether the engine still had any of them.

    Only the head can have started. The report counts the whole prompt of everything behind it, so the head's rest is
    the report less those prompts; a head reported whole has not started and may still find its prefix cached.
    """
    present: list[Booking] = []
    for booking in bookings:
        if booking.sent_ns >= end_ns:
            break
        present.append(booking)
    if not present:
        return False
    head, behind = present[0], present[1:]
    for booking in behind:
        booking.done = booking.hit
    rest = min(max(queued - sum(booking.request.prompt for booking in behind), 0), head.request.prompt)
    if rest == head.request.prompt:
        rest -= head.hit
    head.done = head.request.prompt - rest
    return True
