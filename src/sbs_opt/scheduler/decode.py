"""Immediate placement of decode requests by booked load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.scheduler import decode_kernels as kernels
from sbs_opt.scheduler.base import EventScheduler
from sbs_opt.scheduler.commands import Command, Dispatch, Withdraw
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.events import (
    InstanceLost,
    PassEnded,
    RequestsCancelled,
    RequestsFinished,
)
from sbs_opt.scheduler.request_table import State


class LeastKvScheduler(EventScheduler):
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
        super().__init__(deployment, "decode", config)
        self._longest_prompt -= 1  # the first token comes along
        self._unit_of = np.zeros(self._table.capacity, np.int64)
        self._sent_step = np.zeros(self._table.capacity, np.int64)
        self._prompts = np.zeros(self._num_units, np.int64)
        self._sequences = np.zeros(self._num_units, np.int64)
        self._sent_steps = np.zeros(self._num_units, np.int64)
        self._step = np.zeros(len(self._instances), np.int64)
        self._lost = np.zeros(len(self._instances), np.bool_)

    @property
    def booked(self) -> int:
        """Booked tokens and sequences, 0 when nothing is in flight."""
        return int(self._prompts.sum() + self._sequences.sum() + self._sent_steps.sum())

    def kv_tokens(self) -> IntArray:
        """Return int64[units], the booked KV of each decode unit."""
        step = np.repeat(self._step, self._units_per_instance)
        return self._prompts + self._sequences * step - self._sent_steps

    # -- events ------------------------------------------------------------------------------------------------

    def _accept(self, slots: Sequence[int]) -> Sequence[Command]:
        if not self._active.any():
            return self._refuse(slots)
        while len(self._unit_of) < self._table.capacity:
            self._unit_of = np.concatenate((self._unit_of, np.zeros_like(self._unit_of)))
            self._sent_step = np.concatenate((self._sent_step, np.zeros_like(self._sent_step)))
        index = np.array(slots, np.int64)
        arriving = self._table.prompt[index] + 1  # the first token is out: its KV comes with the prompt's
        unit = np.empty(len(slots), np.int64)
        kernels.least_kv(self.kv_tokens(), self._active, self._units_per_instance, arriving, unit)
        instance = unit // self._units_per_instance
        self._unit_of[index] = unit
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
        unit = self._unit_of[index]
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

    def _pass_ended(self, event: PassEnded) -> Sequence[Command]:
        if not self._known(event.instance):
            return ()
        if event.pass_number < self._step[event.instance] or self._lost[event.instance]:
            self.oddities.late_passes += 1
        else:
            self._step[event.instance] = event.pass_number + 1
        return ()

    def _place_again(self, slots: list[int]) -> Sequence[Command]:
        self._release(slots)
        return self._accept(slots) if slots else ()

    def _returned(self, instance: int) -> None:
        self._lost[instance] = False

    def _instance_lost(self, event: InstanceLost) -> Sequence[Command]:
        if not self._known(event.instance):
            return ()
        self._active[event.instance] = False
        self._lost[event.instance] = True
        slots = np.flatnonzero(self._table.state == State.DISPATCHED)
        slots = slots[self._unit_of[slots] // self._units_per_instance == event.instance]
        self._release(slots.tolist())
        self._step[event.instance] = 0  # should it return, its steps count from 0; nothing is booked there now
        return self._accept(slots.tolist()) if len(slots) else ()
