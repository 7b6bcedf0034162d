"""The end of passes, taken from the arrival of first tokens: what every engine shows, whatever it reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from sbs_opt.models.checks import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class PassInferred:
    """A pass that must have ended.

    Parameters
    ----------
    instance, duration_ns, ended_ns
        Which instance, for how long the pass ran, and when it ended.
    tokens_run, tokens_queued
        int64[units of the instance], as in `PassEnded`.
    """

    instance: int
    duration_ns: int
    ended_ns: int
    tokens_run: IntArray
    tokens_queued: IntArray


@dataclass(slots=True)
class _Sent:
    """A request at an engine: `done` tokens of its prompt must have run."""

    unit: int
    tokens: int
    at_ns: int
    done: int = 0


@dataclass(slots=True)
class _Burst:
    """The first tokens of a pass as they come in: `missing` are the requests whose token is still to come."""

    launched_ns: int
    ended_ns: int
    run: IntArray
    missing: set[int]


@dataclass(slots=True)
class _Instance:
    """What an instance has, in the order of sending, and its passes: the last one ended, the present one launched."""

    waiting: dict[int, _Sent] = field(default_factory=dict)
    launched_ns: int | None = None
    last_launch_ns: int = -1
    last_end_ns: int = -1
    reported_ns: int | None = None
    burst: _Burst | None = None


class PassTracker:
    """Infers passes of instances from the requests sent to them and the first tokens that come back.

    It mirrors the engine's laws: a pass runs what reached its units before the launch, in order, up to `chunk_tokens`
    of each, and its first tokens arrive in a burst as it ends. The first of them tells the end. The pass is told once
    all tokens have come that the mirror expects of it, or `GRACE_NS` later: what is still missing then was not in
    time for the pass, and is queued. While an instance reports its passes, nothing is inferred of them, and the
    mirror follows the reports. A token that comes later than half a pass after the last end, or of a request
    sent since that pass was launched, ends the next one. A prompt of several chunks tells at its end that passes
    before it ended unseen.

    Parameters
    ----------
    num_instances, num_units
        Instances, and units of each.
    chunk_tokens
        New tokens of a unit and pass.
    """

    GRACE_NS: ClassVar[int] = 50_000_000
    """Longest burst; shorter passes bound it to half of theirs."""

    REPORTS_HOLD_NS: ClassVar[int] = 10_000_000_000
    """An instance that has reported a pass within this time is expected to report the next one, too."""

    TRANSIT_NS: ClassVar[int] = 2_000_000
    """What is sent so long after the launch that we know of may still have been in time for it."""

    def __init__(self, num_instances: int, num_units: int, chunk_tokens: int) -> None:
        self._num_units = num_units
        self._chunk_tokens = chunk_tokens
        self._instance_of: dict[int, int] = {}
        self._instances = [_Instance() for _ in range(num_instances)]

    def sent(self, number: int, instance: int, unit: int, tokens: int, at_ns: int) -> None:
        """Note that a request went to a unit, the last one of those that it went to."""
        self.gone(number)
        of = self._instances[instance]
        of.waiting[number] = _Sent(unit, tokens, at_ns)
        self._instance_of[number] = instance
        if of.launched_ns is None:
            of.launched_ns = at_ns

    def first_token(self, number: int, at_ns: int) -> list[PassInferred]:
        """Note a first token; return the passes of which all is known now."""
        instance = self._instance_of.pop(number, None)
        if instance is None:
            return []
        of = self._instances[instance]
        sent = of.waiting[number]
        told = []
        if not self._reports(of, at_ns) and self._ends_a_pass(of, sent, at_ns):
            told += self._tell(instance)
            self._begin_burst(of, sent, at_ns)
        del of.waiting[number]
        return told + self._no_longer_missing(instance, number)

    def gone(self, number: int) -> list[PassInferred]:
        """Forget a request that was cancelled or sent elsewhere; return as `first_token`."""
        instance = self._instance_of.pop(number, None)
        if instance is None:
            return []
        self._instances[instance].waiting.pop(number)
        return self._no_longer_missing(instance, number)

    def lost(self, instance: int) -> None:
        """Forget what an instance had."""
        for number in self._instances[instance].waiting:
            del self._instance_of[number]
        self._instances[instance] = _Instance()

    def reported(self, instance: int, tokens_run: IntArray, ended_ns: int) -> IntArray:
        """Take in a pass that an engine reports.

        Parameters
        ----------
        instance, ended_ns
            Which instance, and when it ended.
        tokens_run
            int64[units of the instance].

        Returns
        -------
        int64[units of the instance], what must still be queued: of what was sent, in order, less what was run.
        """
        of = self._instances[instance]
        of.burst, of.reported_ns = None, ended_ns
        left = tokens_run.copy()
        queued = np.zeros(self._num_units, np.int64)
        for other in of.waiting.values():
            if other.at_ns <= ended_ns:
                take = min(other.tokens - other.done, int(left[other.unit]))
                other.done += take
                left[other.unit] -= take
                queued[other.unit] += other.tokens - other.done
        of.last_launch_ns, of.last_end_ns = of.last_end_ns, ended_ns
        of.launched_ns = ended_ns if queued.any() else None
        return queued

    def queued_tokens(self, instance: int) -> IntArray:
        """Return int64[units], the tokens of an instance's units that are believed to be in no pass that has ended."""
        queued = np.zeros(self._num_units, np.int64)
        for other in self._instances[instance].waiting.values():
            queued[other.unit] += other.tokens - other.done
        return queued

    def due_ns(self) -> int | None:
        """Return when `overdue` is to be asked next; None while no token is missing."""
        return min((self._due_ns(of.burst) for of in self._instances if of.burst is not None), default=None)

    def overdue(self, now_ns: int) -> list[PassInferred]:
        """Return the passes whose missing tokens are waited for no longer."""
        late = [k for k, of in enumerate(self._instances) if of.burst is not None and self._due_ns(of.burst) <= now_ns]
        return [told for instance in late for told in self._tell(instance)]

    def _due_ns(self, burst: _Burst) -> int:
        return burst.ended_ns + min(self.GRACE_NS, (burst.ended_ns - burst.launched_ns) // 2)

    def _no_longer_missing(self, instance: int, number: int) -> list[PassInferred]:
        burst = self._instances[instance].burst
        if burst is None:
            return []
        burst.missing.discard(number)
        return [] if burst.missing else self._tell(instance)

    def _reports(self, of: _Instance, now_ns: int) -> bool:
        return of.reported_ns is not None and now_ns - of.reported_ns < self.REPORTS_HOLD_NS

    def _ends_a_pass(self, of: _Instance, sent: _Sent, at_ns: int) -> bool:
        if sent.at_ns > of.last_launch_ns + self.TRANSIT_NS and sent.done < sent.tokens:
            return True  # it was not there when the last pass was launched
        return at_ns - of.last_end_ns > (of.last_end_ns - of.last_launch_ns) // 2

    def _begin_burst(self, of: _Instance, sent: _Sent, at_ns: int) -> None:
        """Let the passes run that end with the first token of a request."""
        launched_ns = max(sent.at_ns, of.last_end_ns) if of.launched_ns is None else of.launched_ns
        run = self._run_pass(of, launched_ns)
        unseen = self._passes_until(of, sent)
        duration_ns = max(1, (at_ns - launched_ns) // (1 + unseen))
        for k in range(1, unseen + 1):
            run = self._run_pass(of, max(sent.at_ns, launched_ns + k * duration_ns))
        missing = {number for number, other in of.waiting.items() if other.done >= other.tokens}
        of.burst = _Burst(at_ns - duration_ns, at_ns, run, missing)
        of.last_launch_ns, of.last_end_ns = at_ns - duration_ns, at_ns
        more = any(other.done < other.tokens for other in of.waiting.values())
        of.launched_ns = at_ns if more else None

    def _tell(self, instance: int) -> list[PassInferred]:
        """Return the pass whose burst is over."""
        of = self._instances[instance]
        burst, of.burst = of.burst, None
        if burst is None:
            return []
        queued = np.zeros(self._num_units, np.int64)
        for number, other in of.waiting.items():
            if number in burst.missing:  # it was not in time for the pass
                other.done = 0
                burst.run[other.unit] -= min(other.tokens, int(burst.run[other.unit]))
                of.launched_ns = burst.ended_ns
            if other.at_ns <= burst.ended_ns:
                queued[other.unit] += other.tokens - other.done
        return [PassInferred(instance, burst.ended_ns - burst.launched_ns, burst.ended_ns, burst.run, queued)]

    def _passes_until(self, of: _Instance, sent: _Sent) -> int:
        """Return how many more passes it takes until the prompt of a request is done."""
        ahead = 0
        for other in of.waiting.values():
            ahead += other.tokens - other.done if other.unit == sent.unit else 0
            if other is sent:
                break
        return -(-ahead // self._chunk_tokens)

    def _run_pass(self, of: _Instance, launched_ns: int) -> IntArray:
        """Let the units run up to a chunk of what was there at the launch; return the tokens run."""
        run = np.zeros(self._num_units, np.int64)
        for other in of.waiting.values():
            if other.at_ns <= launched_ns + self.TRANSIT_NS:
                take = min(other.tokens - other.done, self._chunk_tokens - int(run[other.unit]))
                other.done += take
                run[other.unit] += take
        return run
