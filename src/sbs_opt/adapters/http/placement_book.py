"""Placements asked for by request id: each is sought once, told to all who ask, and booked no longer than its lease."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sbs_opt.adapters.http.placement_terms import (
    Answer,
    ConflictError,
    Counts,
    CrowdedError,
    Fleet,
    FreedError,
    PlacementRequest,
    State,
    UnknownPlacementError,
)
from sbs_opt.adapters.router import Placed, RejectedError
from sbs_opt.models.errors import InputError

_RETRY_S = 1.0


@dataclass(slots=True, eq=False)
class _Attempt:
    """One search for a place, and those who wait for its end."""

    number: int
    answer: asyncio.Future[Answer]
    search: asyncio.Task[None] | None = None
    callers: int = 0
    told: bool = False


@dataclass(slots=True, eq=False)
class _Open:
    """A request that waits or is booked, with the fleet that it is placed on."""

    request: PlacementRequest
    fleet: Fleet
    attempt: _Attempt
    placed: Placed | None = None
    lease: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class _Over:
    """A request that was placed and is booked no more."""

    digest: bytes
    answer: Answer
    state: State


@dataclass(slots=True)
class PlacementBook:
    """Who asked for which placement, and what became of it.

    A request waits, is placed, and is over when its prompt is done, it is freed, or its lease has run out. One that
    ends before it is placed (rejected, freed, or nobody waits for it any more) is forgotten, and its id is free again.

    Parameters
    ----------
    fleet
        Requests are placed on it. Another one may take its place at any time: what is asked or asked again from then
        on is placed on that; what is told of a placement goes to the fleet that it is on.
    most_waiting
        Requests that may wait in the fleet's router; beyond it new ones are refused.
    lease_s
        A placement of which nothing is told for so long is cancelled.
    remembered
        Requests that are over and still known; the one that was heard of longest ago is forgotten first.
    draining
        While it says True, nothing new is taken.
    """

    fleet: Fleet
    most_waiting: int = 10_000
    lease_s: float = 120.0
    remembered: int = 100_000
    draining: Callable[[], bool] = lambda: False
    counts: Counts = field(default_factory=Counts, init=False)
    _open: dict[str, _Open] = field(default_factory=dict, init=False)
    _over: OrderedDict[str, _Over] = field(default_factory=OrderedDict, init=False)
    _closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        for name in ("most_waiting", "lease_s", "remembered"):
            if not (value := getattr(self, name)) > 0:
                raise InputError(f"{name} = {value!r}: must be above 0")

    @property
    def open(self) -> int:
        """Requests that wait or are booked."""
        return len(self._open)

    # -- asking -------------------------------------------------------------------------------------------------

    async def place(self, request: PlacementRequest) -> Answer:
        """Return where a request goes: the same to all who ask under its id.

        Raises
        ------
        RejectedError
            As of `Router.place`, or the book is closed or draining.
        CrowdedError
            Too many requests wait.
        ConflictError
            Another request is known under the id.
        FreedError
            It was freed while it waited.

        Notes
        -----
        Cancelling the call withdraws the request, unless somebody else waits for it or was told already.
        """
        if (over := self._over.get(request.id)) is not None:
            if over.digest != request.digest:
                raise ConflictError(
                    f"id = {request.id!r}: was asked for with another body; give each request its own id"
                )
            self._over.move_to_end(request.id)
            self.counts.joined += 1
            return over.answer
        if (known := self._open.get(request.id)) is None:
            known = self._begin(request)
        elif known.request != request:
            raise ConflictError(f"id = {request.id!r}: was asked for with another body; give each request its own id")
        else:
            self.counts.joined += 1
            self._renew(known)
        return await self._wait(known, known.attempt)

    async def failed(self, id_: str, reason: str, attempt: int | None = None) -> Answer:
        """Return another place for a request whose placement did not work.

        Parameters
        ----------
        id_
            As asked with.
        reason
            Why, for the record.
        attempt
            Of the answer that failed; telling the same failure twice then gives the same place twice. None takes it
            to be the latest.

        Raises
        ------
        UnknownPlacementError
            Nothing is known of the id.
        ConflictError
            It has no place yet, is over, or was never told of such an attempt.

        Notes
        -----
        Errors and cancelling otherwise as of `place`.
        """
        known = self._open.get(id_)
        if known is None:
            state = self._over_state(id_)
            raise ConflictError(f"id = {id_!r}: is {state}, no longer to be placed; ask under another id")
        current = known.attempt
        waits = not current.answer.done()
        latest = current.number - waits
        if latest == 0 or (attempt is not None and attempt > latest):
            raise ConflictError(f"id = {id_!r}: attempt {attempt or 1} has no place yet that could have failed")
        if waits or (attempt is not None and attempt < latest):
            self.counts.joined += 1
            self._renew(known)
        else:
            self.counts.failed += 1
            self._search(known, current.number + 1, reason)
        return await self._wait(known, known.attempt)

    def _begin(self, request: PlacementRequest) -> _Open:
        if self._closed or self.draining():
            raise RejectedError("shutdown", _RETRY_S)
        if self.fleet.router.waiting >= self.most_waiting:
            raise CrowdedError("too many requests wait for a placement")
        self.counts.asked += 1
        known = _Open(request, self.fleet, _Attempt(0, asyncio.get_running_loop().create_future()))
        self._open[request.id] = known
        self._search(known, 1, "")
        return known

    def _search(self, known: _Open, number: int, reason: str) -> None:
        """Begin an attempt; there is no lease while somebody waits."""
        if known.lease is not None:
            known.lease.cancel()
            known.lease = None
        if known.fleet is not self.fleet:
            self._release(known)
            known.fleet, known.placed = self.fleet, None
        attempt = known.attempt = _Attempt(number, asyncio.get_running_loop().create_future())
        attempt.search = asyncio.create_task(self._find(known, attempt, reason))

    async def _find(self, known: _Open, attempt: _Attempt, reason: str) -> None:
        try:
            known.placed = placed = await self._ask(known, reason)
        except Exception as error:  # whatever it is, it is the answer of all who wait
            self._refuse(known, error)
            return
        self.counts.placed += 1
        upstream = known.fleet.upstreams[placed.instance]
        attempt.answer.set_result(Answer(known.request.id, upstream, placed, attempt.number))
        self._renew(known)

    async def _ask(self, known: _Open, reason: str) -> Placed:
        router, request = known.fleet.router, known.request
        if known.placed is not None:
            return await router.place_again(known.placed, reason)
        return await router.place(
            request.prompt_tokens,
            block_ids=None if request.block_ids is None else np.array(request.block_ids, np.int64),
            priority=request.priority,
            deadline_s=request.deadline_s,
        )

    async def _wait(self, known: _Open, attempt: _Attempt) -> Answer:
        attempt.callers += 1
        try:
            answer = await asyncio.shield(attempt.answer)
        except asyncio.CancelledError:  # of this caller: the answer itself is never cancelled
            if attempt.callers == 1 and not attempt.told and known.attempt is attempt:
                self._withdraw(known)
            raise
        finally:
            attempt.callers -= 1
        attempt.told = True
        return answer

    # -- telling ------------------------------------------------------------------------------------------------

    def prefill_complete(self, id_: str, cached_tokens: int | None = None) -> State:
        """Tell that the prompt of a request is done, its load released; return its state. Telling twice does no harm.

        Raises
        ------
        UnknownPlacementError, ConflictError
            As of `failed`.
        InputError
            More cached tokens than its prompt has.
        """
        known = self._open.get(id_)
        if known is None:
            return self._over_state(id_)
        placed = self._place_of(known)
        prompt = known.request.prompt_tokens
        if cached_tokens is not None and cached_tokens > prompt:
            raise InputError(f"cached_tokens = {cached_tokens}: must be at most prompt_tokens = {prompt}")
        known.fleet.router.first_token(placed.id, cached_tokens)
        return self._end(known, "prefilled")

    def output(self, id_: str, tokens: int) -> State:
        """Tell of tokens that a request has put out; return its state. Errors as of `prefill_complete`.

        Notes
        -----
        They are counted, and show that the request lives; placement does not go by them.
        """
        known = self._open.get(id_)
        if known is None:
            state = self._over_state(id_)
        else:
            self._place_of(known)
            self._renew(known)
            state = "placed"
        self.counts.output_tokens += tokens
        return state

    def free(self, id_: str) -> None:
        """Tell that a request is over, in whatever state; an id that is not known is let pass."""
        if (known := self._open.get(id_)) is not None:
            if known.attempt.answer.done():
                self._release(known)
                self._end(known, "freed")
            else:
                self._refuse(known, FreedError(f"id = {id_!r}: was freed while it waited"))
        elif (over := self._over.get(id_)) is not None:
            over.state = "freed"

    def close(self) -> None:
        """Refuse all who wait, release all that is booked, and take nothing new."""
        self._closed = True
        for known in list(self._open.values()):
            if known.attempt.answer.done():
                self._release(known)
                self._end(known, "freed")
            else:
                self._refuse(known, RejectedError("shutdown", _RETRY_S))

    # -- the end ------------------------------------------------------------------------------------------------

    def _place_of(self, known: _Open) -> Placed:
        if known.placed is None or not known.attempt.answer.done():
            raise ConflictError(f"id = {known.request.id!r}: has no place yet; wait for the answer")
        return known.placed

    def _over_state(self, id_: str) -> State:
        if (over := self._over.get(id_)) is None:
            raise UnknownPlacementError(f"id = {id_!r}: is not known; ask for its placement first")
        self._over.move_to_end(id_)
        return over.state

    def _renew(self, known: _Open) -> None:
        """Let the lease of a placement begin anew."""
        if known.lease is not None:
            known.lease.cancel()
        if known.attempt.answer.done():
            known.lease = asyncio.get_running_loop().call_later(self.lease_s, self._expire, known)

    def _expire(self, known: _Open) -> None:
        self.counts.expired += 1
        self._release(known)
        self._end(known, "expired")

    def _withdraw(self, known: _Open) -> None:
        """Forget a request that nobody waits for; it may have been placed or refused in this very moment."""
        if self._open.get(known.request.id) is known:
            self.counts.withdrawn += 1
            self._release(known)
            self._forget(known)

    def _refuse(self, known: _Open, error: Exception) -> None:
        """Answer all who wait with an error, and forget the request."""
        self._release(known)
        self._forget(known)
        known.attempt.answer.set_exception(error)

    def _release(self, known: _Open) -> None:
        """End the search and the booking, whichever there is; of no effect on what the router has rejected."""
        if (search := known.attempt.search) is not None:
            search.cancel()  # of no effect on one that is over, or that is just ending by itself
        if known.placed is not None:  # a search that is cancelled before its first step would leave this one booked
            known.fleet.router.cancelled(known.placed.id)

    def _end(self, known: _Open, state: State) -> State:
        """Remember a request that was placed as one that is over."""
        self._forget(known)
        self._over[known.request.id] = _Over(known.request.digest, known.attempt.answer.result(), state)
        if len(self._over) > self.remembered:
            self._over.popitem(last=False)
        return state

    def _forget(self, known: _Open) -> None:
        if known.lease is not None:
            known.lease.cancel()
        del self._open[known.request.id]
