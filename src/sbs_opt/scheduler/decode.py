"""Immediate placement of decode requests by booked load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler import decode_kernels as kernels
from sbs_opt.scheduler.commands import RETRY_AFTER_NS, Command, Dispatch, Reject, Withdraw
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
from sbs_opt.scheduler.request_table import RequestTable, State


class LeastKvScheduler:
    """Each request goes to the unit with the least booked KV as soon as its prompt is prefilled.

    Parameters
    ----------
    deployment, cost_model, config
        As `PrefillScheduler`; the decode instances are scheduled.

    Notes
    -----
    A booked sequence grows by one token per step of its instance. With the booked prompts P, the sequences B and the
    sum S of the step numbers at which they were sent, a unit holds P + B·step − S: nothing is touched per step, and
    the book returns to exactly zero. A sequence that queues at its unit is booked as if it grew.
    """

    def __init__(self, deployment: Deployment, cost_model: CostModel, config: SchedulerConfig) -> None:
        self.deployment = deployment
        self.config = config
        instances = deployment.of_phase("decode")
        if not instances:
            raise InputError(f"deployment {deployment.name}: has no decode instance to schedule")
        self._units_per_instance = instances[0].num_units
        self._budgets = instances[0].unit
        self._kv_limit = self._budgets.kv_tokens
        num_units = len(instances) * self._units_per_instance
        self._table = RequestTable()
        self._unit = np.zeros(self._table.capacity, np.int64)
        self._sent_step = np.zeros(self._table.capacity, np.int64)
        self._prompts = np.zeros(num_units, np.int64)
        self._sequences = np.zeros(num_units, np.int64)
        self._sent_steps = np.zeros(num_units, np.int64)
        self._step = np.zeros(len(instances), np.int64)
        self._active = np.ones(len(instances), np.bool_)
        self._lost = np.zeros(len(instances), np.bool_)
        self._now_ns = 0
        self._window_id = 0
        self.oddities = Oddities()
        self._handlers: dict[type[Any], Any] = {
            RequestsArrived: self._arrived,
            RequestsCancelled: self._cancelled,
            RequestsFinished: self._finished,
            FirstTokens: self._nothing,
            PassEnded: self._step_ended,
            LoadReported: self._nothing,
            DispatchFailed: self._dispatch_failed,
            InstanceAdded: self._instance_added,
            InstanceDraining: self._instance_draining,
            InstanceLost: self._instance_lost,
        }

    def handle(self, event: Event, *, now_ns: int) -> tuple[Command, ...]:
        """Take in one event at `now_ns`; return what to do about it at once."""
        self._now_ns = max(self._now_ns, now_ns)
        try:
            handler = self._handlers[type(event)]
        except KeyError:
            raise InputError(f"event = {type(event).__name__}: not an event of sbs_opt.scheduler.events") from None
        return tuple(handler(event))

    def handle_timer(self, *, now_ns: int) -> tuple[Command, ...]:
        """Nothing is ever due: requests are bound at arrival."""
        self._now_ns = max(self._now_ns, now_ns)
        return ()

    def next_timer_ns(self) -> int | None:
        """Return None: no timers."""
        return None

    @property
    def booked(self) -> int:
        """Booked tokens and sequences, 0 when nothing is in flight."""
        return int(self._prompts.sum() + self._sequences.sum() + self._sent_steps.sum())

    @property
    def open_requests(self) -> int:
        """Requests that are neither answered nor rejected."""
        return len(self._table)

    def kv_tokens(self) -> IntArray:
        """Return int64[units], the booked KV of each decode unit."""
        step = np.repeat(self._step, self._units_per_instance)
        return self._prompts + self._sequences * step - self._sent_steps

    # -- events ------------------------------------------------------------------------------------------------

    def _arrived(self, event: RequestsArrived) -> Sequence[Command]:
        batch = event.batch
        slots, too_large = [], []
        for k, (request, prompt) in enumerate(zip(batch.id.tolist(), batch.prompt_tokens.tolist(), strict=True)):
            if request in self._table:
                self.oddities.duplicate_arrivals += 1
            elif prompt >= self._kv_limit:
                too_large.append(k)
            else:
                slots.append(self._table.add(batch, k, self._now_ns))
        commands = self._place(slots)
        if too_large:
            commands.append(Reject(batch.id[too_large], "too_large", None))
        return commands

    def _place(self, slots: list[int]) -> list[Command]:
        if not slots:
            return []
        if not self._active.any():
            ids = self._table.id[slots]
            self._table.drop(slots)
            return [Reject(ids, "overload", RETRY_AFTER_NS)]
        while len(self._unit) < self._table.capacity:
            self._unit = np.concatenate((self._unit, np.zeros_like(self._unit)))
            self._sent_step = np.concatenate((self._sent_step, np.zeros_like(self._sent_step)))
        index = np.array(slots, np.int64)
        arriving = self._table.prompt[index] + 1  # the first token is out: its KV comes with the prompt's
        unit = np.empty(len(slots), np.int64)
        kernels.least_kv(self.kv_tokens(), self._active, self._units_per_instance, arriving, unit)
        instance = unit // self._units_per_instance
        self._unit[index] = unit
        self._sent_step[index] = self._step[instance]
        np.add.at(self._prompts, unit, arriving)
        np.add.at(self._sequences, unit, 1)
        np.add.at(self._sent_steps, unit, self._sent_step[index])
        self._table.state[index] = State.DISPATCHED
        decision_ns = self.config.decision_base_ns + self.config.decision_step_ns * len(slots) * len(self._prompts)
        commands: list[Command] = []
        for k in range(len(self._active)):
            chosen = instance == k
            if chosen.any():
                self._table.sent_in[index[chosen]] = self._window_id
                local = unit[chosen] - k * self._units_per_instance
                commands.append(
                    Dispatch(self._window_id, k, self._table.id[index[chosen]], local, None, 0, decision_ns)
                )
                self._window_id += 1
        return commands

    def _release(self, slots: list[int]) -> None:
        index = np.array(slots, np.int64)
        unit = self._unit[index]
        np.subtract.at(self._prompts, unit, self._table.prompt[index] + 1)
        np.subtract.at(self._sequences, unit, 1)
        np.subtract.at(self._sent_steps, unit, self._sent_step[index])

    def _finished(self, event: RequestsFinished | RequestsCancelled) -> Sequence[Command]:
        slots = self._table.slots(event.ids)
        self.oddities.unknown_ids += len(event.ids) - len(slots)
        if slots:
            self._release(slots)
            self._table.drop(slots)
        return ()

    def _cancelled(self, event: RequestsCancelled) -> Sequence[Command]:
        ids = self._table.id[self._table.slots(event.ids)]
        self._finished(event)
        return [Withdraw(ids)] if len(ids) else []

    def _step_ended(self, event: PassEnded) -> Sequence[Command]:
        if not self._known(event.instance):
            return ()
        if event.pass_number < self._step[event.instance] or self._lost[event.instance]:
            self.oddities.late_passes += 1
        else:
            self._step[event.instance] = event.pass_number + 1
        return ()

    def _dispatch_failed(self, event: DispatchFailed) -> Sequence[Command]:
        slots = self._table.slots(event.ids)
        self.oddities.unknown_ids += len(event.ids) - len(slots)
        failed = [s for s in slots if self._table.sent_in[s] == event.window_id]
        # A failure of an earlier attempt: the request has been sent again since.
        self.oddities.late_failures += len(slots) - len(failed)
        self._release(failed)
        return self._place(failed)

    def _instance_added(self, event: InstanceAdded) -> Sequence[Command]:
        if self._known(event.instance) and self._alike(event):
            self._active[event.instance] = True
            self._lost[event.instance] = False
        return ()

    def _instance_draining(self, event: InstanceDraining) -> Sequence[Command]:
        if self._known(event.instance):
            self._active[event.instance] = False
        return ()

    def _instance_lost(self, event: InstanceLost) -> Sequence[Command]:
        if not self._known(event.instance):
            return ()
        self._active[event.instance] = False
        self._lost[event.instance] = True
        slots = np.flatnonzero(self._table.state == State.DISPATCHED)
        slots = slots[self._unit[slots] // self._units_per_instance == event.instance]
        self._release(slots.tolist())
        self._step[event.instance] = 0  # should it return, its steps count from 0; nothing is booked there now
        return self._place(slots.tolist())

    def _nothing(self, event: Event) -> Sequence[Command]:
        return ()

    def _alike(self, event: InstanceAdded) -> bool:
        alike = event.units in (None, self._units_per_instance) and event.budgets in (None, self._budgets)
        self.oddities.unknown_instances += not alike
        return alike

    def _known(self, instance: int) -> bool:
        if 0 <= instance < len(self._active):
            return True
        self.oddities.unknown_instances += 1
        return False
