"""What can happen: frozen, columnar events. Ids are int64; a batch is a struct of arrays; times are nanoseconds.

`instance` is the index of the instance among those of the scheduler's phase; units are numbered through all of them.
Duplicated, late or contradictory events are legal input: schedulers count them and never raise.
"""

from __future__ import annotations

from dataclasses import dataclass

from sbs_opt.models.checks import IntArray


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


@dataclass(frozen=True, slots=True, eq=False)
class RequestsArrived:
    """New requests; in decode, requests whose prompt has been prefilled."""

    batch: RequestBatch


@dataclass(frozen=True, slots=True, eq=False)
class RequestsCancelled:
    """The client went away."""

    ids: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class RequestsFinished:
    """The engine has released these requests (decode: the last token is out)."""

    ids: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class FirstTokens:
    """The prompts are done; `cached_tokens` (int64[n] or None) is what the engine took from its prefix cache."""

    ids: IntArray
    cached_tokens: IntArray | None = None


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
    """

    instance: int
    pass_number: int
    duration_ns: int
    tokens_run: IntArray
    tokens_queued: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class LoadReported:
    """Telemetry outside the pass boundary; `tokens_queued` as in `PassEnded`, true at `as_of_ns`."""

    instance: int
    tokens_queued: IntArray
    as_of_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class DispatchFailed:
    """A dispatch did not reach its engine; the requests are waiting again."""

    window_id: int
    ids: IntArray
    reason: str


@dataclass(frozen=True, slots=True)
class InstanceAdded:
    """An instance of the deployment takes part (again)."""

    instance: int


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
