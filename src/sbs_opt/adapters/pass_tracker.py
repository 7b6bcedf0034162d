"""The end of passes, taken from the arrival of first tokens: what every engine shows, whatever it reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sbs_opt.scheduler.events import Event, FirstTokens, PassEnded


@dataclass(frozen=True, slots=True)
class _Sent:
    instance: int
    unit: int
    tokens: int
    at_ns: int


class PassTracker:
    """Infers passes of instances from the requests sent to them and the first tokens that come back.

    First tokens of a pass arrive within moments of each other, as the pass ends; those that arrive within
    `GROUPING_S` of the first one are taken as of one pass. It ran the prompts that they answer; what else was sent
    is still queued. A pass that runs only middle chunks of long prompts shows no token and goes unnoticed: the
    scheduler's own prediction and watchdog cover it.

    Parameters
    ----------
    num_instances, num_units
        Instances, and units of each.
    """

    GROUPING_S: ClassVar[float] = 0.002
    """Within so many seconds of each other first tokens are of one pass."""

    def __init__(self, num_instances: int, num_units: int) -> None:
        self._num_units = num_units
        self._sent: dict[int, _Sent] = {}
        self._answered: list[tuple[int, int | None, int]] = []
        self._number = [0] * num_instances
        self._ended_ns = [0] * num_instances

    def sent(self, number: int, instance: int, unit: int, tokens: int, at_ns: int) -> None:
        """Note that a request went to a unit."""
        self._sent[number] = _Sent(instance, unit, tokens, at_ns)

    def first_token(self, number: int, cached_tokens: int | None, at_ns: int) -> None:
        """Note a first token, to be reported with the others of its pass."""
        self._answered.append((number, cached_tokens, at_ns))

    def gone(self, number: int) -> None:
        """Forget a request that was cancelled or sent elsewhere."""
        self._sent.pop(number, None)

    def lost(self, instance: int) -> None:
        """Forget what an instance had; should it return, its passes count from 0."""
        self._sent = {number: sent for number, sent in self._sent.items() if sent.instance != instance}
        self._number[instance] = 0

    def ended(self, now_ns: int) -> Iterator[Event]:
        """Yield the first tokens noted since the last call, then the end of the pass of each of their instances."""
        answered, self._answered = self._answered, []
        if not answered:
            return
        known = all(cached is not None for _, cached, _ in answered)
        yield FirstTokens(
            np.array([number for number, _, _ in answered]),
            np.array([cached for _, cached, _ in answered], np.int64) if known else None,
        )
        run: dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
        began: dict[int, int] = {}
        for number, _, _ in answered:
            sent = self._sent.pop(number, None)
            if sent is None:
                continue
            tokens = run.setdefault(sent.instance, np.zeros(self._num_units, np.int64))
            tokens[sent.unit] += sent.tokens
            began[sent.instance] = min(began.get(sent.instance, sent.at_ns), sent.at_ns)
        for instance, tokens in run.items():
            end_ns = max(at_ns for _, _, at_ns in answered)
            # It ran since the pass before it ended, or since its first request came where there was none.
            duration_ns = max(1, end_ns - max(began[instance], self._ended_ns[instance]))
            queued = np.zeros(self._num_units, np.int64)
            for sent in self._sent.values():
                if sent.instance == instance:
                    queued[sent.unit] += sent.tokens
            yield PassEnded(instance, self._number[instance], duration_ns, tokens, queued)
            self._number[instance] += 1
            self._ended_ns[instance] = end_ns
