"""The scheduler inside a router's own event loop: ask for a placement, tell what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sbs_opt.adapters.asyncio_driver import AsyncioDriver, Clock, MonotonicClock
from sbs_opt.adapters.batch_placement import place_batch
from sbs_opt.adapters.pass_tracker import PassInferred, PassTracker
from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.models.errors import InputError
from sbs_opt.models.requests import NO_DEADLINE
from sbs_opt.scheduler.commands import Command, Dispatch, Reject
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.events import (
    DispatchFailed,
    FirstTokens,
    InstanceAdded,
    InstanceDraining,
    InstanceLost,
    PassEnded,
    RequestBatch,
    RequestsArrived,
    RequestsCancelled,
)
from sbs_opt.scheduler.policies import build_scheduler

__all__ = ["Placed", "RejectedError", "Router", "place_batch"]

_MOST_S = 10**9
_FIRST = np.zeros(1, np.int64)


class RejectedError(Exception):
    """The scheduler refuses a request.

    Parameters
    ----------
    reason
        As in `Reject`: too_large, deadline, overload or shutdown.
    retry_after_s
        When a retry may help; None where it is pointless.
    """

    def __init__(self, reason: str, retry_after_s: float | None) -> None:
        super().__init__(f"rejected: {reason}")
        self.reason = reason
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a request goes.

    Parameters
    ----------
    id
        To be named in everything that is told of the request.
    instance, unit
        Index of the prefill instance, and the data-parallel unit within it.
    window_id
        The decision that placed it.
    held_ns
        Time from asking to the decision.
    """

    id: int
    instance: int
    unit: int
    window_id: int
    held_ns: int


@dataclass(slots=True)
class _Request:
    """A request in flight: as it was asked for, and the answer that somebody waits for, or will ask for (`unread`)."""

    batch: RequestBatch
    answer: asyncio.Future[Placed]
    asked_ns: int
    unread: bool = False

    def renew(self) -> None:
        """Wait for another answer."""
        self.answer = asyncio.get_running_loop().create_future()
        self.unread = False

    @property
    def is_late(self) -> bool:
        """Whether its answer is that its deadline has passed."""
        error = self.answer.exception() if self.answer.done() else None
        return isinstance(error, RejectedError) and error.reason == "deadline"


class Router:
    """Places requests on the units of the prefill instances of a deployment.

    Ask with `place` (or `place_again`), and tell `first_token` or `cancelled`; load is booked from the one to the
    other. The end of passes is heard of by `pass_ended`, or taken from the arrival of first tokens.

    Parameters
    ----------
    deployment, cost_model, config
        As of a scheduler; the prefill instances are placed on.
    clock
        The machine's monotonic clock unless given.

    Notes
    -----
    Everything is called from one event loop. The scheduler runs while `run` does.
    """

    def __init__(
        self,
        deployment: Deployment,
        cost_model: CostModel,
        config: SchedulerConfig,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or MonotonicClock()
        self._scheduler = build_scheduler("prefill", deployment, cost_model, config)
        self._driver = AsyncioDriver(self._scheduler, self._carry_out, self._clock)
        self._requests: dict[int, _Request] = {}
        self._unanswered: set[int] = set()
        self._stopped = False
        self._next_id = 0
        prefill = deployment.of_phase("prefill")
        self.num_instances, self.num_units = len(prefill), prefill[0].num_units
        self._tracker = PassTracker(self.num_instances, self.num_units, prefill[0].unit.chunk_tokens)
        self._overdue: asyncio.TimerHandle | None = None
        self._pass_number = [0] * self.num_instances

    # -- running ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Drive the scheduler until `stop`; what is held then is rejected."""
        try:
            await self._driver.run()
        finally:  # an error of the scheduler, too, leaves nobody waiting
            self._stopped = True
            for number in tuple(self._unanswered):
                self._reject(number, RejectedError("shutdown", None))

    def stop(self) -> None:
        """Let `run` return once everything told so far is handled; nothing is placed any more."""
        self._stopped = True
        if self._overdue is not None:
            self._overdue.cancel()
        self._driver.stop()

    @property
    def waiting(self) -> int:
        """Requests that nobody has an answer for yet."""
        return len(self._unanswered)

    @property
    def in_flight(self) -> int:
        """Requests asked for and neither finished, cancelled nor rejected."""
        return len(self._requests)

    @property
    def booked(self) -> int:
        """Booked tokens and requests of the scheduler, 0 when nothing is in flight."""
        return self._scheduler.booked

    def has(self, number: int) -> bool:
        """Whether a request is in flight."""
        return number in self._requests

    # -- asking -------------------------------------------------------------------------------------------------

    async def place(
        self,
        prompt_tokens: int,
        *,
        block_ids: IntArray | None = None,
        priority: int = 0,
        deadline_s: float | None = None,
    ) -> Placed:
        """Return where a request goes, once its turn has come.

        Parameters
        ----------
        prompt_tokens
            Length of the prompt, at least 1.
        block_ids
            int64[k], chained ids of its prefix blocks; None without.
        priority
            A smaller one is served first.
        deadline_s
            Seconds from now after which it is rejected while it waits.

        Raises
        ------
        RejectedError
            Too large, past its deadline, or no instance takes requests.
        InputError
            A length below 1, or a deadline out of range.

        Notes
        -----
        Cancelling the call withdraws the request.
        """
        if prompt_tokens < 1:
            raise InputError(f"prompt_tokens = {prompt_tokens}: must be at least 1")
        deadline_ns = NO_DEADLINE if deadline_s is None else self._deadline_ns(deadline_s)
        if self._stopped:
            raise RejectedError("shutdown", None)
        number, self._next_id = self._next_id, self._next_id + 1
        now_ns = self._clock.now_ns()
        batch = RequestBatch(
            id=np.array([number]),
            prompt_tokens=np.array([prompt_tokens]),
            block_offset=None if block_ids is None else np.array([0, len(block_ids)]),
            block_id=block_ids,
            priority=np.array([priority]),
            deadline_ns=np.array([deadline_ns]),
        )
        request = _Request(batch, asyncio.get_running_loop().create_future(), now_ns)
        self._requests[number] = request
        self._unanswered.add(number)
        self._driver.feed(RequestsArrived(batch))
        return await self._answer(number, request)

    async def place_again(self, placed: Placed, reason: str, *, deadline_s: float | None = None) -> Placed:
        """Return another place for a request whose dispatch did not get through; errors as `place`.

        Parameters
        ----------
        placed, reason
            What failed, and why.
        deadline_s
            Seconds from now after which it is rejected while it waits, its age forgotten; None leaves both as they are.

        Raises
        ------
        KeyError
            It is not in flight: its first token or its end was told.
        """
        request = self._requests[placed.id]
        if self._stopped:
            self.cancelled(placed.id)
            raise RejectedError("shutdown", None)
        deadline_ns = None if deadline_s is None else self._deadline_ns(deadline_s)
        if request.unread and not (deadline_ns and request.is_late):
            request.unread = False  # its instance was lost meanwhile, and the scheduler has decided anew
        else:
            request.renew()
            self._unanswered.add(placed.id)
            self._tell_inferred(self._tracker.gone(placed.id))
            if deadline_ns is None:
                self._driver.feed(DispatchFailed(placed.window_id, request.batch.id, reason))
            else:
                request.batch = replace(request.batch, deadline_ns=np.array([deadline_ns]))
                self._driver.feed(RequestsCancelled(request.batch.id))
            # A scheduler that took it for answered has forgotten it; one that has not counts a duplicate.
            self._driver.feed(RequestsArrived(request.batch))
        return await self._answer(placed.id, request)

    def _deadline_ns(self, deadline_s: float) -> int:
        if not 0 <= deadline_s < _MOST_S:
            raise InputError(f"deadline_s = {deadline_s}: must be from 0 to {_MOST_S:,}; None sets none")
        return self._clock.now_ns() + int(deadline_s * 1e9)

    async def _answer(self, number: int, request: _Request) -> Placed:
        try:
            return await request.answer
        except asyncio.CancelledError:
            self.cancelled(number)
            raise
        except RejectedError:
            self._requests.pop(number, None)
            raise

    # -- telling ------------------------------------------------------------------------------------------------

    def first_token(self, number: int, cached_tokens: int | None = None) -> None:
        """Tell that a request's first token is out: its prompt is done, its load is released."""
        request = self._requests.pop(number, None)
        if request is None:
            return
        self._unanswered.discard(number)
        cached = None if cached_tokens is None else np.array([cached_tokens])
        self._driver.feed(FirstTokens(np.array([number]), cached))
        self._tell_inferred(self._tracker.first_token(number, self._clock.now_ns()))

    def cancelled(self, number: int) -> None:
        """Tell that a request is over without a first token: its load is released; telling twice does no harm."""
        if self._requests.pop(number, None) is not None:
            self._unanswered.discard(number)
            self._tell_inferred(self._tracker.gone(number))
            self._driver.feed(RequestsCancelled(np.array([number])))

    def pass_ended(
        self,
        instance: int,
        duration_ns: int,
        tokens_run: IntArray,
        tokens_queued: IntArray | None = None,
        *,
        ended_ns: int | None = None,
    ) -> None:
        """Tell what an engine reports of a pass, each once and in order; while it does, none is inferred.

        Parameters
        ----------
        instance, duration_ns
            Which instance, and for how long the pass ran.
        tokens_run, tokens_queued
            As in `PassEnded`; without `tokens_queued` it is what was sent less what was run, in order.
        ended_ns
            When it ended, on the router's clock; None = now.
        """
        end_ns = self._clock.now_ns() if ended_ns is None else ended_ns
        believed = self._tracker.reported(instance, tokens_run, end_ns)
        self._feed_pass(instance, duration_ns, tokens_run, believed if tokens_queued is None else tokens_queued, end_ns)

    def queued_tokens(self, instance: int) -> IntArray:
        """Return int64[units], what is believed to be queued at the units of an instance."""
        return self._tracker.queued_tokens(instance)

    def instance_lost(self, instance: int) -> None:
        """Tell that an instance is gone: what it has not answered is placed elsewhere."""
        self._tracker.lost(instance)
        self._pass_number[instance] = 0
        self._driver.feed(InstanceLost(instance))

    def instance_draining(self, instance: int) -> None:
        """Tell that an instance takes nothing new, until `instance_returned`."""
        self._driver.feed(InstanceDraining(instance))

    def instance_returned(self, instance: int) -> None:
        """Tell that an instance takes requests again."""
        self._driver.feed(InstanceAdded(instance))

    # -- commands -----------------------------------------------------------------------------------------------

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, Dispatch):
            self._dispatch(command)
        elif isinstance(command, Reject):
            retry = None if command.retry_after_ns is None else command.retry_after_ns / 1e9
            for number in command.ids.tolist():
                self._reject(number, RejectedError(command.reason, retry))

    def _dispatch(self, command: Dispatch) -> None:
        now_ns = self._clock.now_ns()
        # Sending takes time: one to each unit in turn, a batch that is cut off by a launch is still balanced.
        turns = _turns(command.units)
        for number, unit in zip(command.ids[turns].tolist(), command.units[turns].tolist(), strict=True):
            request = self._requests.get(number)
            if request is None:  # cancelled in the same round: the scheduler hears of it next
                continue
            placed = Placed(number, command.instance, unit, command.window_id, now_ns - request.asked_ns)
            if request.answer.done():
                request.renew()
                request.unread = True
            request.answer.set_result(placed)
            self._unanswered.discard(number)
            self._tracker.sent(number, command.instance, unit, int(request.batch.prompt_tokens[0]), now_ns)

    def _reject(self, number: int, error: RejectedError) -> None:
        self._unanswered.discard(number)
        request = self._requests.get(number)
        if request is None:
            return
        if request.answer.done():  # it was placed once; who asks for another place will be told
            request.renew()
            request.unread = True
        request.answer.set_exception(error)
        request.answer.exception()  # it may be that nobody asks

    # -- passes -------------------------------------------------------------------------------------------------

    def _tell_inferred(self, passes: Sequence[PassInferred]) -> None:
        for one in passes:
            self._feed_pass(one.instance, one.duration_ns, one.tokens_run, one.tokens_queued, one.ended_ns)
        if self._overdue is None and (due_ns := self._tracker.due_ns()) is not None:
            wait_s = max(0.0, (due_ns - self._clock.now_ns()) * 1e-9)
            self._overdue = asyncio.get_running_loop().call_later(wait_s, self._tell_overdue)

    def _tell_overdue(self) -> None:
        self._overdue = None
        self._tell_inferred(self._tracker.overdue(self._clock.now_ns()))

    def _feed_pass(
        self, instance: int, duration_ns: int, tokens_run: IntArray, tokens_queued: IntArray, ended_ns: int | None
    ) -> None:
        number = self._pass_number[instance]
        self._pass_number[instance] = number + 1
        self._driver.feed(PassEnded(instance, number, duration_ns, tokens_run, tokens_queued, ended_ns))


def _turns(units: IntArray) -> IntArray:
    """Return an order that goes through the units in turns; those of one unit stay in theirs."""
    if len(units) == 1:
        return _FIRST
    by_unit = np.argsort(units, kind="stable")
    sorted_units = units[by_unit]
    turn = np.arange(len(units)) - np.searchsorted(sorted_units, sorted_units)
    return by_unit[np.argsort(turn, kind="stable")]
