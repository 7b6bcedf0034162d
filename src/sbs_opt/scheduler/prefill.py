"""What every prefill scheduler shares: the load book, the prefix index, and what prefill events mean to them.

A subclass decides what happens to requests that wait (`_accept`, `_forget_waiting`, `handle_timer`, `next_timer_ns`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.scheduler.base import EventScheduler
from sbs_opt.scheduler.commands import Command, Withdraw
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.events import (
    FirstTokens,
    InstanceLost,
    LoadReported,
    PassEnded,
    RequestsCancelled,
    RequestsFinished,
)
from sbs_opt.scheduler.load_book import LoadBook
from sbs_opt.scheduler.prefix_index import PrefixIndex
from sbs_opt.scheduler.request_table import State


class PrefillScheduler(EventScheduler):
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
        super().__init__(deployment, "prefill", config)
        self._longest_prompt = min(self._longest_prompt, deployment.context_tokens)
        self._cost = cost_model.prefill
        self._book = LoadBook(self._instances, self._cost, config.mean_passes)
        self._index: PrefixIndex | None = None
        if config.block_tokens:
            self._index = PrefixIndex(self._num_units, self._unit.kv_tokens // config.block_tokens)

    @property
    def booked(self) -> int:
        """Booked tokens and requests, 0 when nothing is in flight."""
        return self._book.total()

    def _forget_waiting(self, slots: Sequence[int]) -> None:
        """Waiting requests are gone."""

    # -- events ------------------------------------------------------------------------------------------------

    def _tick(self, now_ns: int) -> None:
        super()._tick(now_ns)
        self._book.settle(self._now_ns)

    def _cancelled(self, event: RequestsCancelled) -> Sequence[Command]:
        waiting, dispatched = self._split(event.ids)
        withdrawn = self._table.id[dispatched]
        self._forget_waiting(waiting)
        self._book.withdraw(dispatched)
        self._table.drop(waiting + dispatched)
        return [Withdraw(withdrawn)] if len(withdrawn) else []

    def _first_tokens(self, event: FirstTokens) -> Sequence[Command]:
        return self._finished(event)

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
        if event.ended_ns is not None:
            end_ns = min(event.ended_ns, self._now_ns)
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

    def _returned(self, instance: int) -> None:
        self._book.instances[instance].lost = False

    def _instance_lost(self, event: InstanceLost) -> Sequence[Command]:
        if not self._known(event.instance):
            return ()
        self._active[event.instance] = False
        dispatched = np.flatnonzero(self._table.state == State.DISPATCHED).tolist()
        of_instance = [s for s in dispatched if self._book.unit_of(s) // self._units_per_instance == event.instance]
        self._book.instance_lost(event.instance, self._now_ns)
        if self._index is not None:
            for unit in range(self._units_per_instance):
                self._index.clear(event.instance * self._units_per_instance + unit)
        return self._place_again(of_instance)

    # -- shared steps ------------------------------------------------------------------------------------------

    def _place_again(self, slots: list[int]) -> Sequence[Command]:
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
