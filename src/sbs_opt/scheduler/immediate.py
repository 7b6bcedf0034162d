"""Immediate dispatch: each request is bound to a unit the moment it arrives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sbs_opt.models.checks import BoolArray
from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.scheduler import immediate_kernels as kernels
from sbs_opt.scheduler.book_kernels import KV, REQUESTS
from sbs_opt.scheduler.commands import Command, Dispatch
from sbs_opt.scheduler.config import MS, SchedulerConfig
from sbs_opt.scheduler.load_book import LoadBook
from sbs_opt.scheduler.prefill import PrefillScheduler
from sbs_opt.scheduler.request_table import State

SNAPSHOT_NS = 20 * MS
"""Refresh period of the load snapshot in SGLang's data-parallel controller (0.5.23)."""


class Rule(Protocol):
    """Chooses a unit, numbered through all instances."""

    def choose(self, book: LoadBook, active: BoolArray, prompt_tokens: int, now_ns: int) -> int:
        """Return the unit for one request; at least one instance is active."""
        ...


class RoundRobin:
    """A counter over the units."""

    def __init__(self, seed: int) -> None:
        self._counter = -1

    def choose(self, book: LoadBook, active: BoolArray, prompt_tokens: int, now_ns: int) -> int:
        """See `Rule`."""
        self._counter += 1
        return int(kernels.round_robin(active, book.units_per_instance, self._counter))


class Random:
    """A uniform draw, SplitMix64 of the seed and the request's number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._counter = -1

    def choose(self, book: LoadBook, active: BoolArray, prompt_tokens: int, now_ns: int) -> int:
        """See `Rule`."""
        self._counter += 1
        draw = int(kernels.splitmix64(self._seed, self._counter))
        return int(kernels.round_robin(active, book.units_per_instance, draw))


class SglangTotalTokens:
    """Least (used KV + queued tokens, requests): a snapshot, anew once it is 20 ms old, plus what was booked since."""

    def __init__(self, seed: int, refresh_ns: int = SNAPSHOT_NS) -> None:
        self._refresh_ns = refresh_ns
        self._taken_ns: int | None = None
        self._tokens = np.zeros(0, np.int64)
        self._requests = np.zeros(0, np.int64)

    def choose(self, book: LoadBook, active: BoolArray, prompt_tokens: int, now_ns: int) -> int:
        """See `Rule`."""
        if self._taken_ns is None or now_ns - self._taken_ns >= self._refresh_ns:
            self._taken_ns = now_ns
            self._tokens = book.units[:, KV].copy()
            self._requests = book.units[:, REQUESTS].copy()
        unit = int(kernels.least_snapshot(active, book.units_per_instance, self._tokens, self._requests))
        self._tokens[unit] += prompt_tokens
        self._requests[unit] += 1
        return unit


class PhaseAware:
    """The instance with the least residual pass + whole queued passes × mean pass, then its least queued unit."""

    def __init__(self, seed: int) -> None:
        pass  # draws nothing

    def choose(self, book: LoadBook, active: BoolArray, prompt_tokens: int, now_ns: int) -> int:
        """See `Rule`."""
        count = len(book.instances)
        residual, mean = np.zeros(count, np.int64), np.zeros(count, np.int64)
        for index, belief in enumerate(book.instances):
            if belief.running:
                residual[index] = max(0, belief.expected_end_ns - now_ns)
                mean[index] = belief.duration_ns.value or belief.expected_end_ns - belief.launch_ns
        return int(kernels.phase_aware(active, book.units_per_instance, book.units, residual, mean, book.budget))


class ImmediateScheduler(PrefillScheduler):
    """An immediate-dispatch baseline behind the scheduler's protocol.

    Parameters
    ----------
    deployment, cost_model, config
        As `PrefillScheduler`.
    rule
        Chooses the unit.
    """

    def __init__(self, deployment: Deployment, cost_model: CostModel, config: SchedulerConfig, rule: Rule) -> None:
        super().__init__(deployment, cost_model, config)
        self._rule = rule

    def _accept(self, slots: Sequence[int]) -> Sequence[Command]:
        if not self._active.any():
            return self._refuse(slots)
        decision_ns = self._decision_ns(self._num_units)
        chosen: dict[int, tuple[list[int], list[int]]] = {}
        for slot in slots:
            prompt = int(self._table.prompt[slot])
            unit = self._rule.choose(self._book, self._active, prompt, self._now_ns)
            self._book.push_one(slot, unit, prompt, self._expected_hit(slot, unit), self._now_ns + decision_ns)
            self._table.state[slot] = State.DISPATCHED
            instance, local = divmod(unit, self._units_per_instance)
            sent = chosen.setdefault(instance, ([], []))
            sent[0].append(slot)
            sent[1].append(local)
        commands = []
        for instance, (sent_slots, units) in chosen.items():
            self._table.sent_in[sent_slots] = self._window_id
            ids, places = self._table.id[sent_slots], np.array(units, np.int64)
            commands.append(Dispatch(self._window_id, instance, ids, places, None, 0, decision_ns))
            self._window_id += 1
        return commands

    def _expected_hit(self, slot: int, unit: int) -> int:
        """Return the hit to book; the choice itself does not look at the cache."""
        if self._index is None:
            return 0
        hit = self._index.leading_run(unit, self._usable_blocks(slot)) * self.config.block_tokens
        self._remember_blocks(slot, unit)
        return hit
