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
    instance, duration_ns
        Which instance, and for how long the pass ran.
    tokens_run, tokens_queued
        int64[units of the instance], as in `PassEnded`.
    """

    instance: int
    duration_ns: int
    tokens_run: IntArray
    tokens_queued: IntArray


@dataclass(slots=True)
class _Sent:
    """A request at an engine: `done` tokens of its prompt must have run."""

    instance: int
    unit: int
    tokens: int
    at_ns: int
    done: int = 0


@dataclass(slots=True)
class _Instance:
    """What an instance has, in the order of sending, and its passes: the last one ended, the present one launched."""

    waiting: dict[int, _Sent] = field(default_factory=dict)
    launched_ns: int | None = None
    last_launch_ns: int = -1
    last_end_ns: int = -1


class PassTracker:
    """Infers passes of instances from the requests sent to them and the first tokens that come back.

    It mirrors the engine's laws: a pass runs what reached its units before the launch, in order, up to `chunk_tokens`
    of each, and its first tokens arrive in a burst as it ends. The first of them tells the end; what else must have
    run in it counts as run though its token is still on its way. A token that comes later than half a pass after the
    last end, or of a request sent since that pass was launched, ends the next one. A prompt of several chunks tells
    at its end that passes before it ended unseen.

    Parameters
    ----------
    num_instances, num_units
        Instances, and units of each.
    chunk_tokens
        New tokens of a unit and pass.
    """

    TRANSIT_NS: ClassVar[int] = 2_000_000
    """What is sent so long after the launch that we know of may still have been in time for it."""

    def __init__(self, num_instances: int, num_units: int, chunk_tokens: int) -> None:
        self._num_units = num_units
        self._chunk_tokens = chunk_tokens
        self._instance_of: dict[int, int] = {}
        self._instances = [_Instance() for _ in range(num_instances)]

    def sent(self, number: int, instance: int, unit: int, tokens: int, at_ns: int) -> None:
        """Note that a request went to a unit."""
        of = self._instances[instance]
        of.waiting[number] = _Sent(instance, unit, tokens, at_ns)
        self._instance_of[number] = instance
        if of.launched_ns is None:
            of.launched_ns = at_ns

    def first_token(self, number: int, at_ns: int) -> PassInferred | None:
        """Note a first token; return the pass that it shows to have ended, None where that is known already."""
        instance = self._instance_of.pop(number, None)
        if instance is None:
            return None
        of = self._instances[instance]
        sent = of.waiting[number]
        ended = self._pass_ended(instance, of, sent, at_ns) if self._ends_a_pass(of, sent, at_ns) else None
        del of.waiting[number]
        return ended

    def gone(self, number: int) -> None:
        """Forget a request that was cancelled or sent elsewhere."""
        instance = self._instance_of.pop(number, None)
        if instance is not None:
            self._instances[instance].waiting.pop(number)

    def lost(self, instance: int) -> None:
        """Forget what an instance had."""
        for number in self._instances[instance].waiting:
            del self._instance_of[number]
        self._instances[instance] = _Instance()

    def _ends_a_pass(self, of: _Instance, sent: _Sent, at_ns: int) -> bool:
        if sent.at_ns > of.last_launch_ns + self.TRANSIT_NS and sent.done < sent.tokens:
            return True  # it was not there when the last pass was launched
        return at_ns - of.last_end_ns > (of.last_end_ns - of.last_launch_ns) // 2

    def _pass_ended(self, instance: int, of: _Instance, sent: _Sent, at_ns: int) -> PassInferred:
        launched_ns = max(sent.at_ns, of.last_end_ns) if of.launched_ns is None else of.launched_ns
        for other in of.waiting.values():
            if other.done >= other.tokens:
                other.done = 0  # it was not in time for the pass that it was counted to
        run = self._run_pass(of, launched_ns)
        unseen = self._passes_until(of, sent)
        duration_ns = max(1, (at_ns - launched_ns) // (1 + unseen))
        for k in range(1, unseen + 1):
            run = self._run_pass(of, max(sent.at_ns, launched_ns + k * duration_ns))
        queued = np.zeros(self._num_units, np.int64)
        for other in of.waiting.values():
            queued[other.unit] += other.tokens - other.done
        of.last_launch_ns, of.last_end_ns = at_ns - duration_ns, at_ns
        of.launched_ns = at_ns if queued.any() else None
        return PassInferred(instance, duration_ns, run, queued)

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
