"""What every scheduler shares: the protocol, the request table, and the events that mean the same in both phases.

A subclass says what happens to requests that wait (`_accept`), what ends of passes and of requests mean, and, if it
has timers, when they are due.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sbs_opt.models.checks import BoolArray
from sbs_opt.models.deployment import Deployment, Phase
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.commands import RETRY_AFTER_NS, Command, Reject
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.events import (
    DispatchFailed,
    Event,
    FirstTokens,
    InstanceAdded,
    InstanceDraining,
    InstanceLost,
    LoadReported,
    PassEnded,
    RequestsArrived,
    RequestsCancelled,
    RequestsFinished,
)
from sbs_opt.scheduler.oddities import Oddities
from sbs_opt.scheduler.request_table import RequestTable


class EventScheduler:
    """Base of all schedulers.

    Parameters
    ----------
    deployment
        The fleet.
    phase
        Whose instances are scheduled.
    config
        Settings.

    Raises
    ------
    InputError
        When the deployment has no instance of the phase.
    """

    def __init__(self, deployment: Deployment, phase: Phase, config: SchedulerConfig) -> None:
        instances = deployment.of_phase(phase)
        if not instances:
            raise InputError(f"deployment {deployment.name}: has no {phase} instance to schedule")
        self.deployment = deployment
        self.config = config
        self.oddities = Oddities()
        self._instances = instances
        self._unit = instances[0].unit
        self._units_per_instance = instances[0].num_units
        self._num_units = len(instances) * self._units_per_instance
        self._longest_prompt = self._unit.kv_tokens  # a longer one is rejected as too large
        self._active: BoolArray = np.ones(len(instances), np.bool_)
        self._table = RequestTable()
        self._now_ns = 0
        self._window_id = 0
        self._handlers: dict[type[Any], Any] = {
            RequestsArrived: self._arrived,
            RequestsCancelled: self._cancelled,
            RequestsFinished: self._finished,
            FirstTokens: self._first_tokens,
            PassEnded: self._pass_ended,
            LoadReported: self._load_reported,
            DispatchFailed: self._dispatch_failed,
            InstanceAdded: self._instance_added,
            InstanceDraining: self._instance_draining,
            InstanceLost: self._instance_lost,
        }

    # -- the protocol ------------------------------------------------------------------------------------------

    def handle(self, event: Event, *, now_ns: int) -> tuple[Command, ...]:
        """Take in one event at `now_ns`; return what to do about it at once."""
        self._tick(now_ns)
        try:
            handler = self._handlers[type(event)]
        except KeyError:
            raise InputError(f"event = {type(event).__name__}: not an event of sbs_opt.scheduler.events") from None
        return tuple(handler(event))

    def handle_timer(self, *, now_ns: int) -> tuple[Command, ...]:
        """Do what is due at `now_ns`; call it after all events of that instant."""
        self._tick(now_ns)
        return ()

    def next_timer_ns(self) -> int | None:
        """Return when `handle_timer` wants to be called next, None when only an event can change anything."""
        return None

    @property
    def open_requests(self) -> int:
        """Requests that are neither answered nor rejected."""
        return len(self._table)

    # -- what a phase or policy decides --------------------------------------------------------------------------

    def _accept(self, slots: Sequence[int]) -> Sequence[Command]:
        """Take over requests that are waiting (again)."""
        raise TypeError(f"{type(self).__name__} must say what happens to waiting requests")

    def _cancelled(self, event: RequestsCancelled) -> Sequence[Command]:
        raise TypeError(f"{type(self).__name__} must say what cancelling means")

    def _finished(self, event: RequestsFinished) -> Sequence[Command]:
        raise TypeError(f"{type(self).__name__} must say what finishing means")

    def _pass_ended(self, event: PassEnded) -> Sequence[Command]:
        raise TypeError(f"{type(self).__name__} must say what the end of a pass means")

    def _instance_lost(self, event: InstanceLost) -> Sequence[Command]:
        raise TypeError(f"{type(self).__name__} must say what losing an instance means")

    def _place_again(self, slots: list[int]) -> Sequence[Command]:
        """Take back requests that did not get through, and place them anew."""
        raise TypeError(f"{type(self).__name__} must say how requests are placed again")

    def _first_tokens(self, event: FirstTokens) -> Sequence[Command]:
        return ()

    def _load_reported(self, event: LoadReported) -> Sequence[Command]:
        return ()

    def _returned(self, instance: int) -> None:
        """An instance takes part (again)."""

    # -- shared events -------------------------------------------------------------------------------------------

    def _tick(self, now_ns: int) -> None:
        # A driver's clock may step back; the scheduler's time does not.
        self._now_ns = max(self._now_ns, now_ns)

    def _arrived(self, event: RequestsArrived) -> Sequence[Command]:
        batch = event.batch
        accepted, too_large = [], []
        for k, (request, prompt) in enumerate(zip(batch.id.tolist(), batch.prompt_tokens.tolist(), strict=True)):
            if request in self._table:
                self.oddities.duplicate_arrivals += 1
            elif prompt > self._longest_prompt:
                too_large.append(k)
            else:
                accepted.append(self._table.add(batch, k, self._now_ns))
        commands = list(self._accept(accepted)) if accepted else []
        if too_large:
            commands.append(Reject(batch.id[too_large], "too_large", None))
        return commands

    def _dispatch_failed(self, event: DispatchFailed) -> Sequence[Command]:
        slots = self._table.slots(event.ids)
        self.oddities.unknown_ids += len(event.ids) - len(slots)
        failed = [s for s in slots if self._table.was_sent_in(s, event.window_id)]
        # A failure of an earlier attempt: the request has been sent again since.
        self.oddities.late_failures += len(slots) - len(failed)
        return self._place_again(failed)

    def _instance_added(self, event: InstanceAdded) -> Sequence[Command]:
        if not self._known(event.instance):
            return ()
        if event.units in (None, self._units_per_instance) and event.budgets in (None, self._unit):
            self._active[event.instance] = True
            self._returned(event.instance)
        else:
            self.oddities.unknown_instances += 1
        return ()

    def _instance_draining(self, event: InstanceDraining) -> Sequence[Command]:
        if self._known(event.instance):
            self._active[event.instance] = False
        return ()

    # -- shared steps --------------------------------------------------------------------------------------------

    def _known(self, instance: int) -> bool:
        if 0 <= instance < len(self._instances):
            return True
        self.oddities.unknown_instances += 1
        return False

    def _refuse(self, slots: Sequence[int]) -> list[Command]:
        """Refuse requests because no instance takes any."""
        ids = self._table.id[list(slots)]
        self._table.drop(slots)
        return [Reject(ids, "overload", RETRY_AFTER_NS)]
