"""Decode placement: the unit with the least booked KV, at once (law 53)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sbs_opt.models.deployment import Deployment
from sbs_opt.testing.twin.prefill_policies import Sent
from sbs_opt.testing.twin.settings import Offered, Settings


@dataclass(frozen=True, slots=True)
class _Booking:
    context: int
    step: int


class LeastKvTwin:
    """A booked sequence is its context when sent, and one token more for every step its instance has reported since."""

    def __init__(self, deployment: Deployment, settings: Settings) -> None:
        instances = deployment.of_phase("decode")
        self._settings = settings
        self._per_instance = instances[0].num_units
        self._units: list[dict[int, _Booking]] = [{} for _ in range(len(instances) * self._per_instance)]
        self._steps = [0] * len(instances)

    def arrived(self, requests: Sequence[Offered]) -> list[Sent]:
        """Send each request to the least loaded unit, the lowest index on ties."""
        sent: dict[int, list[tuple[Offered, int]]] = {}
        for request in requests:
            kv = [self._kv(unit) for unit in range(len(self._units))]
            chosen = kv.index(min(kv))
            instance, unit = divmod(chosen, self._per_instance)
            self._units[chosen][request.id] = _Booking(request.prompt + 1, self._steps[instance])
            sent.setdefault(instance, []).append((request, unit))
        steps = len(requests) * len(self._units)
        decision_ns = self._settings.decision_base_ns + self._settings.decision_step_ns * steps
        return [Sent(instance, tuple(batch), decision_ns) for instance, batch in sorted(sent.items())]

    def finished(self, requests: Sequence[Offered]) -> None:
        """Release what is answered."""
        for request in requests:
            for bookings in self._units:
                bookings.pop(request.id, None)

    def step_ended(self, instance: int) -> None:
        """Every booked sequence of the instance has grown by a token."""
        self._steps[instance] += 1

    def _kv(self, unit: int) -> int:
        now = self._steps[unit // self._per_instance]
        return sum(booking.context + now - booking.step for booking in self._units[unit].values())
