"""Decode placement for a router whose engines run prefill and decode apart."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from sbs_opt.adapters.asyncio_driver import Clock, MonotonicClock
from sbs_opt.adapters.router import RejectedError
from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.scheduler.commands import Command, Dispatch, Reject
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.events import (
    Event,
    InstanceAdded,
    InstanceDraining,
    InstanceLost,
    RequestBatch,
    RequestsArrived,
    RequestsFinished,
)
from sbs_opt.scheduler.policies import build_scheduler

_POLICY = "least_kv"
_LOGGER = logging.getLogger(__name__)


class DecodeRouter:
    """Places requests on decode units at once, each on the one with the least booked KV.

    Both legs of a request are sent together, so its decode unit is booked from then until its answer is over.

    Parameters
    ----------
    deployment, cost_model, config
        As of a scheduler; the decode instances are placed on, whatever policy `config` names for prefill.
    clock
        The machine's monotonic clock unless given.

    Attributes
    ----------
    failed
        Whether the scheduler has failed: nothing is placed after that.
    """

    def __init__(
        self, deployment: Deployment, cost_model: CostModel, config: SchedulerConfig, *, clock: Clock | None = None
    ) -> None:
        self._clock = clock or MonotonicClock()
        plain = replace(config, policy=_POLICY, timing=None, admission=None, balance=None, solver=None, cache=None)
        self._scheduler = build_scheduler("decode", deployment, cost_model, plain)
        self._next_id = 0
        self._placed: dict[int, tuple[int, int]] = {}
        self.failed = False

    @property
    def booked(self) -> int:
        """Booked tokens and sequences, 0 when nothing is in flight."""
        return self._scheduler.booked

    def place(self, prompt_tokens: int, avoid: Collection[int] = ()) -> tuple[int, int, int]:
        """Return a number to be named in `finished`, the instance, and the unit within it.

        Parameters
        ----------
        prompt_tokens
            Length of the prompt, at least 1.
        avoid
            Instances that take requests and are not to be the one; another one takes requests as well.

        Raises
        ------
        RejectedError
            The scheduler has failed, no decode instance takes requests, or the prompt is too large for any.
        """
        number, self._next_id = self._next_id, self._next_id + 1
        batch = RequestBatch(id=np.array([number]), prompt_tokens=np.array([prompt_tokens]))
        for instance in avoid:
            self._handle(InstanceDraining(instance))
        commands = self._handle(RequestsArrived(batch))
        for instance in avoid:
            self._handle(InstanceAdded(instance))
        if self.failed:
            raise RejectedError("shutdown", None)
        for command in commands:
            if isinstance(command, Reject):
                retry = None if command.retry_after_ns is None else command.retry_after_ns / 1e9
                raise RejectedError(command.reason, retry)
            self._note(command)
        return number, *self._placed[number]

    def finished(self, number: int) -> None:
        """Tell that a request is over, however it ended; telling twice does no harm."""
        if self._placed.pop(number, None) is not None:
            self._handle(RequestsFinished(np.array([number])))

    def instance_lost(self, instance: int) -> None:
        """Tell that an instance is gone; what it had ends with its answers, and nothing new goes there."""
        on_it = [number for number, (where, _) in self._placed.items() if where == instance]
        if on_it:
            self._handle(RequestsFinished(np.array(on_it)))
        self._handle(InstanceLost(instance))

    def instance_returned(self, instance: int) -> None:
        """Tell that an instance takes requests again."""
        self._handle(InstanceAdded(instance))

    def _handle(self, event: Event) -> Sequence[Command]:
        if self.failed:
            return ()
        try:
            return self._scheduler.handle(event, now_ns=self._clock.now_ns())
        except Exception as error:  # who tells of an event cannot mend it
            self.failed = True
            _LOGGER.critical("nothing more is placed: an error of the decode scheduler", exc_info=error)
            return ()

    def _note(self, command: Command) -> None:
        if isinstance(command, Dispatch):
            for number, unit in zip(command.ids.tolist(), command.units.tolist(), strict=True):
                self._placed[number] = command.instance, unit
