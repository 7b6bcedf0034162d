"""What can happen: frozen, columnar events. Ids are int64; a batch is a struct of arrays; times are nanoseconds.

`instance` is the index of the instance among those of the scheduler's phase; units are numbered through all of them.
Duplicated, late or contradictory events are legal input: schedulers count them and never raise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbs_opt.models.checks import IntArray, expect_shape, int_array
from sbs_opt.models.deployment import Unit
from sbs_opt.models.errors import InputError


def _columns(event: object, *names: str, minimum: int | None = None) -> None:
    """Turn columns that are no int64 arrays into such; a None stays."""
    for name in names:
        value = getattr(event, name)
        if value is not None and not (isinstance(value, np.ndarray) and value.dtype == np.int64):
            object.__setattr__(event, name, int_array(name, value, minimum=minimum))


@dataclass(frozen=True, slots=True, eq=False)
class RequestBatch:
    """Requests as a scheduler sees them; the true output length is not among the columns.

    Parameters
    ----------
    id, prompt_tokens
        int64[n]; ids are unique among the requests in flight.
    block_offset, block_id
        int64[n + 1] and int64[k], prefix blocks as in `Requests`; None without prefix information.
    priority, deadline_ns, session, output_class
        int64[n] or None. A smaller priority is served first; a deadline is absolute.
    """

    id: IntArray
    prompt_tokens: IntArray
    block_offset: IntArray | None = None
    block_id: IntArray | None = None
    priority: IntArray | None = None
    deadline_ns: IntArray | None = None
    session: IntArray | None = None
    output_class: IntArray | None = None

    def __post_init__(self) -> None:
        per_request = ("id", "prompt_tokens", "priority", "deadline_ns", "session", "output_class")
        _columns(self, *per_request, "block_offset", "block_id")
        shape = self.id.shape
        for name in per_request[1:]:
            if (column := getattr(self, name)) is not None and column.shape != shape:
                expect_shape(name, column, shape, "one per request")
        if self.prompt_tokens.size and self.prompt_tokens.min() < 0:
            int_array("prompt_tokens", self.prompt_tokens)
        if (self.block_offset is None) != (self.block_id is None):
            raise InputError("block_offset and block_id: give both or none")
        if self.block_offset is not None:
            expect_shape("block_offset", self.block_offset, (len(self.id) + 1,), "one more than requests")


@dataclass(frozen=True, slots=True, eq=False)
class RequestsArrived:
    """New requests; in decode, requests whose prompt has been prefilled."""

    batch: RequestBatch


@dataclass(frozen=True, slots=True, eq=False)
class RequestsCancelled:
    """The client went away."""

    ids: IntArray

    def __post_init__(self) -> None:
        _columns(self, "ids")


@dataclass(frozen=True, slots=True, eq=False)
class RequestsFinished:
    """The engine has released these requests (decode: the last token is out)."""

    ids: IntArray

    def __post_init__(self) -> None:
        _columns(self, "ids")


@dataclass(frozen=True, slots=True, eq=False)
class FirstTokens:
    """The prompts are done; `cached_tokens` (int64[n] or None) is what the engine took from its prefix cache."""

    ids: IntArray
    cached_tokens: IntArray | None = None

    def __post_init__(self) -> None:
        _columns(self, "ids", "cached_tokens")


@dataclass(frozen=True, slots=True, eq=False)
class PassEnded:
    """A forward pass (decode: a step) has ended.

    Parameters
    ----------
    instance, pass_number
        Passes of an instance are numbered from 0.
    duration_ns
        From launch to end.
    tokens_run, tokens_queued
        int64[units of the instance]; queued counts the rest of a started prompt and the whole of an unstarted one.
    ended_ns
        When it ended, where that is known; None: the configured `notification_ns` before it is heard of.
    """

    instance: int
    pass_number: int
    duration_ns: int
    tokens_run: IntArray
    tokens_queued: IntArray
    ended_ns: int | None = None

    def __post_init__(self) -> None:
        _columns(self, "tokens_run", "tokens_queued")


@dataclass(frozen=True, slots=True, eq=False)
class LoadReported:
    """Telemetry outside the pass boundary; `tokens_queued` as in `PassEnded`, true at `as_of_ns`."""

    instance: int
    tokens_queued: IntArray
    as_of_ns: int

    def __post_init__(self) -> None:
        _columns(self, "tokens_queued")


@dataclass(frozen=True, slots=True, eq=False)
class DispatchFailed:
    """A dispatch did not reach its engine; the requests are waiting again."""

    window_id: int
    ids: IntArray
    reason: str

    def __post_init__(self) -> None:
        _columns(self, "ids")


@dataclass(frozen=True, slots=True)
class InstanceAdded:
    """An instance of the deployment takes part (again).

    `units` and `budgets`, where given, must be those of the deployment: its instances are alike, and one that is not
    counts as unknown.
    """

    instance: int
    units: int | None = None
    budgets: Unit | None = None


@dataclass(frozen=True, slots=True)
class InstanceDraining:
    """An instance finishes what it has and takes nothing new."""

    instance: int


@dataclass(frozen=True, slots=True)
class InstanceLost:
    """An instance is gone; what was dispatched to it and not answered is waiting again."""

    instance: int


Event = (
    RequestsArrived
    | RequestsCancelled
    | RequestsFinished
    | FirstTokens
    | PassEnded
    | LoadReported
    | DispatchFailed
    | InstanceAdded
    | InstanceDraining
    | InstanceLost
)
