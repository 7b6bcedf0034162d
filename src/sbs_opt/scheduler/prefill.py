"""What every prefill scheduler shares: the request table, the load book, and the reaction to each event.

A subclass decides what happens to requests that wait (`_accept`, `_forget_waiting`, `handle_timer`, `next_timer_ns`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.commands import Command, Reject, Withdraw
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
from sbs_opt.scheduler.load_book import LoadBook
from sbs_opt.scheduler.oddities import Oddities
from sbs_opt.scheduler.prefix_index import PrefixIndex
from sbs_opt.scheduler.request_table import RequestTable, State


class PrefillScheduler:
    """Base of the prefill schedulers.

    Parameters
    ----------
    deployment
        The fleet; its prefill instances are scheduled.
    cost_model
        Predicts passes.
    config
        Settings.
    """

    def __init__(self, deployment: Deployment, cost_model: CostModel, config: SchedulerConfig) -> None:
        self.deployment = deployment
        self.config = config
        self._instances = deployment.of_phase("prefill")
        self._cost = cost_model.prefill
        self._unit = self._instances[0].unit
        self._units_per_instance = self._instances[0].num_units
        self._num_units = len(self._instances) * self._units_per_instance
        self._table = RequestTable()
        self._book = LoadBook(self._instances, self._cost, config.mean_passes)
        self._index: PrefixIndex | None = None
        if config.block_tokens:
            self._index = PrefixIndex(self._num_units, self._unit.kv_tokens // config.block_tokens)
        self._active = np.ones(len(self._instances), np.bool_)
        self._largest_prompt = min(deployment.context_tokens, self._unit.kv_tokens)
        self._now_ns = 0
        self._window_id = 0
        self.oddities = Oddities()
        self._handlers: dict[type[Any], Any] = {
            RequestsArrived: self._arrived,
            RequestsCancelled: self._cancelled,
            RequestsFinished: self._finished,
            FirstTokens: self._finished,
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
    def booked(self) -> int:
        """Booked tokens and requests, 0 when nothing is in flight."""
        return self._book.total()

    @property
    def open_requests(self) -> int:
        """Requests that are neither answered nor rejected."""
        return len(self._table)

    # -- hooks -------------------------------------------------------------------------------------------------

    def _accept(self, slots: Sequence[int]) -> Sequence[Command]:
        """Take over requests that are waiting (again)."""
        raise TypeError(f"{type(self).__name__} must say what happens to waiting requests")

    def _forget_waiting(self, slots: Sequence[int]) -> None:
        """Waiting requests are gone."""

    # -- events ------------------------------------------------------------------------------------------------

    def _tick(self, now_ns: int) -> None:
        # A driver's clock may step back; the scheduler's time does not.
        self._now_ns = max(self._now_ns, now_ns)
        self._book.settle(self._now_ns)

    def _arrived(self, event: RequestsArrived) -> Sequence[Command]:
        batch = event.batch
        accepted, too_large = [], []
        for k, (request, prompt) in enumerate(zip(batch.id.tolist(), batch.prompt_tokens.tolist(), strict=True)):
            if request in self._table:
                self.oddities.duplicate_arrivals += 1
            elif prompt > self._largest_prompt:
                too_large.append(k)
            else:
                accepted.append(self._table.add(batch, k, self._now_ns))
        commands = list(self._accept(accepted)) if accepted else []
        if too_large:
            commands.append(Reject(batch.id[too_large], "too_large", None))
        return commands

    def _cancelled(self, event: RequestsCancelled) -> Sequence[Command]:
        waiting, dispatched = self._split(event.ids)
        withdrawn = self._table.id[dispatched]
        self._forget_waiting(waiting)
        self._book.withdraw(dispatched)
        self._table.drop(waiting + dispatched)
        return [Withdraw(withdrawn)] if len(withdrawn) else []

    def _finished(self, event: RequestsFinished | FirstTokens) -> Sequence[Command]:
        waiting, dispatched = self._split(event.ids)
        # The first token of a request that was never sent: another router's, or a failed dispatch that did arrive.
        self.oddities.unknown_ids += len(waiting)
        self._forget_waiting(waiting)
        self._book.release(dispatched)
        self._table.drop(waiting + dispatched)
        return ()

    def _pass_ended(self, event: PassEnded) -> Sequence[Command]:
        if not self._known(event.instance) or not self._well_formed(event.tokens_run, event.tokens_queued):
            return ()
        end_ns = self._now_ns - self.config.notification_ns
        stale = self._book.pass_ended(
            event.instance, event.pass_number, event.duration_ns, event.tokens_run, event.tokens_queued, end_ns
        )
        if stale is None:
            self.oddities.late_passes += 1
        elif len(stale):
            self.oddities.lost_first_tokens += len(stale)
            self._book.release(stale.tolist())
            self._table.drop(stale.tolist())
        return ()

    def _load_reported(self, event: LoadReported) -> Sequence[Command]:
        if self._known(event.instance) and self._well_formed(event.tokens_queued):
            taken = self._book.reported(event.instance, event.tokens_queued, event.as_of_ns, self._now_ns)
            self.oddities.late_reports += not taken
        return ()

    def _dispatch_failed(self, event: DispatchFailed) -> Sequence[Command]:
        _, dispatched = self._split(event.ids)
        failed = [s for s in dispatched if self._table.sent_in[s] == event.window_id]
        # A failure of an earlier attempt: the request has been sent again since.
        self.oddities.late_failures += len(dispatched) - len(failed)
        return self._wait_again(failed)

    def _instance_added(self, event: InstanceAdded) -> Sequence[Command]:
        if self._known(event.instance) and self._alike(event):
            self._set_active(event.instance, True)
            self._book.instances[event.instance].lost = False
        return ()

    def _instance_draining(self, event: InstanceDraining) -> Sequence[Command]:
        if self._known(event.instance):
            self._set_active(event.instance, False)
        return ()

    def _instance_lost(self, event: InstanceLost) -> Sequence[Command]:
        if not self._known(event.instance):
            return ()
        self._set_active(event.instance, False)
        dispatched = np.flatnonzero(self._table.state == State.DISPATCHED).tolist()
        of_instance = [s for s in dispatched if self._book.unit_of(s) // self._units_per_instance == event.instance]
        self._book.instance_lost(event.instance, self._now_ns)
        if self._index is not None:
            for unit in range(self._units_per_instance):
                self._index.clear(event.instance * self._units_per_instance + unit)
        return self._wait_again(of_instance)

    def _set_active(self, instance: int, active: bool) -> None:
        self._book.instances[instance].active = active
        self._active[instance] = active

    # -- shared steps ------------------------------------------------------------------------------------------

    def _wait_again(self, slots: list[int]) -> Sequence[Command]:
        self._book.withdraw(slots)
        self._table.state[slots] = State.WAITING
        slots.sort(key=lambda s: (int(self._table.arrival_ns[s]), int(self._table.id[s])))
        return self._accept(slots) if slots else ()

    def _split(self, ids: IntArray) -> tuple[list[int], list[int]]:
        slots = self._table.slots(ids)
        self.oddities.unknown_ids += len(ids) - len(slots)
        is_waiting = self._table.state[slots] == State.WAITING
        if not is_waiting.any():
            return [], slots
        return [s for s, w in zip(slots, is_waiting, strict=True) if w], [
            s for s, w in zip(slots, is_waiting, strict=True) if not w
        ]

    def _alike(self, event: InstanceAdded) -> bool:
        alike = event.units in (None, self._units_per_instance) and event.budgets in (None, self._unit)
        self.oddities.unknown_instances += not alike
        return alike

    def _known(self, instance: int) -> bool:
        if 0 <= instance < len(self._instances):
            return True
        self.oddities.unknown_instances += 1
        return False

    def _well_formed(self, *per_unit: IntArray) -> bool:
        """Tell whether a report has one figure per unit; kernels index by it."""
        if all(figures.shape == (self._units_per_instance,) for figures in per_unit):
            return True
        self.oddities.malformed_reports += 1
        return False

    def _usable_blocks(self, slot: int) -> IntArray:
        """Return the full prefix blocks that a request can reuse: at least its last token is always computed."""
        blocks = self._table.blocks[slot]
        return blocks[: max(0, int(self._table.prompt[slot]) - 1) // self.config.block_tokens]

    def _remember_blocks(self, slot: int, unit: int) -> None:
        """Believe that the unit will hold the blocks of a request sent to it."""
        assert self._index is not None
        blocks = self._table.blocks[slot]
        self._index.touch(unit, blocks[: int(self._table.prompt[slot]) // self.config.block_tokens])

    def _decision_ns(self, steps: int) -> int:
        return self.config.decision_base_ns + self.config.decision_step_ns * steps
