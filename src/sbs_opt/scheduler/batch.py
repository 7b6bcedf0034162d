"""The late-binding scheduler: requests wait centrally until an instance can take a batch, then are placed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.models.errors import InternalError
from sbs_opt.models.placement import Placement
from sbs_opt.models.requests import NO_DEADLINE
from sbs_opt.models.translate import PrefillState, dispatch_of, prefill_window
from sbs_opt.models.window import Window
from sbs_opt.scheduler import timing
from sbs_opt.scheduler.admission import ADMISSION
from sbs_opt.scheduler.commands import Command, Dispatch, Reject
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.prefill import PrefillScheduler
from sbs_opt.scheduler.request_table import State
from sbs_opt.solvers.direct import place
from sbs_opt.solvers.registry import solver_info

Observer = Callable[[Window, Placement], None]


class BatchScheduler(PrefillScheduler):
    """Staggered batch scheduling of prefill: timing, admission and placement, each chosen by the configuration.

    Parameters
    ----------
    deployment, cost_model, config
        As `PrefillScheduler`.
    observe
        Called with every window and its placement, or None.

    Notes
    -----
    A hold is bounded twice: `hold_limit_ns` ends the wait for an interval, and `hold_limit_windows` puts a request that
    was left out that often before every younger one. Neither sends a request to an instance that has no room.

    References
    ----------
    "Staggered Batch Scheduling: Co-optimizing Time-to-First-Token and Throughput for High-Efficiency LLM Inference",
    arXiv 2512.16134, 2025; the control rules are a reconstruction.
    """

    def __init__(
        self, deployment: Deployment, cost_model: CostModel, config: SchedulerConfig, *, observe: Observer | None = None
    ) -> None:
        super().__init__(deployment, cost_model, config)
        self._decisions = config.decisions()
        solver_info(self._decisions.solver)  # an unknown name fails here rather than at the first window
        self._admit = ADMISSION[self._decisions.admission]
        self._observe = observe
        self._waiting: list[int] = []
        self._last_dispatch_ns: int | None = None
        self._first_deadline_ns = NO_DEADLINE
        self._due_ns: int | None = None
        self._due_known = False

    # -- the protocol ------------------------------------------------------------------------------------------

    def handle_timer(self, *, now_ns: int) -> tuple[Command, ...]:
        """Reject what is past its deadline, then commit a batch to every instance whose turn it is."""
        self._tick(now_ns)
        commands = self._reject_expired()
        self._give_up_lost_passes()
        while (instance := self._next_instance()) is not None:
            dispatch = self._commit_batch(instance)
            if dispatch is not None:
                commands.append(dispatch)
        return tuple(commands)

    def next_timer_ns(self) -> int | None:
        """Return the earliest turn of an instance, deadline or watchdog; None while nothing waits."""
        if not self._due_known:
            self._due_ns = self._earliest_ns() if self._waiting else None
            self._due_known = True
        return self._due_ns

    def _tick(self, now_ns: int) -> None:
        super()._tick(now_ns)
        self._due_known = False  # whatever is handled now may change what is due

    # -- timing ------------------------------------------------------------------------------------------------

    def _earliest_ns(self) -> int | None:
        times = [self._first_deadline_ns] if self._first_deadline_ns < NO_DEADLINE else []
        held_until = self._held_until_ns()
        for belief, active in zip(self._book.instances, self._active.tolist(), strict=True):
            if not active:
                continue
            opens = timing.opens_ns(belief, self.config.lead_ns)
            if opens is not None:
                times.append(max(opens, held_until))
            elif belief.running:
                times.append(self._watchdog_ns(belief.launch_ns, belief.expected_end_ns))
            elif belief.pending_ns is not None:
                # Once the batch on its way has launched, its pass has an end to commit the next batch before.
                times.append(belief.pending_ns + 1)
        return max(min(times), self._now_ns) if times else None

    def _held_until_ns(self) -> int:
        """Return until when the interval holds the waiting requests back, though an instance be open."""
        if self._decisions.timing == "when_free" or self._last_dispatch_ns is None:
            return 0
        if timing.lightly_loaded(self._book, self.config):
            return 0
        oldest_ns = int(self._table.arrival_ns[self._waiting[0]])
        interval_over = self._last_dispatch_ns + timing.interval_ns(self._book, self._active, self.config)
        return min(interval_over, oldest_ns + self.config.hold_limit_ns)

    def _next_instance(self) -> int | None:
        """Return the instance that has been open for longest, the first on ties; None while it is nobody's turn."""
        if not self._waiting or self._held_until_ns() > self._now_ns:
            return None
        best: tuple[int, int] | None = None
        for index, belief in enumerate(self._book.instances):
            opens = timing.opens_ns(belief, self.config.lead_ns)
            if opens is not None and opens <= self._now_ns and self._active[index]:
                best = min(best, (opens, index)) if best else (opens, index)
        return best[1] if best else None

    def _watchdog_ns(self, launch_ns: int, expected_end_ns: int) -> int:
        return launch_ns + int(self.config.watchdog * (expected_end_ns - launch_ns)) + self.config.notification_ns

    def _give_up_lost_passes(self) -> None:
        for index, belief in enumerate(self._book.instances):
            if belief.running and self._now_ns >= self._watchdog_ns(belief.launch_ns, belief.expected_end_ns):
                self._book.pass_lost(index)
                self._book.settle(self._now_ns + 1)
                self.oddities.lost_passes += 1

    # -- admission and placement -------------------------------------------------------------------------------

    def _commit_batch(self, instance: int) -> Dispatch | None:
        """Place waiting requests on an instance for its next pass; None when nothing fits."""
        waiting, urgency = self._by_urgency()
        believed = self._hits(waiting, instance)
        hits = believed if self._decisions.cache else np.zeros_like(believed)
        pieces, kv = self._book.queued_pieces(instance)
        uncached = self._table.prompt[waiting] - hits.max(axis=1)
        admitted = self._admit(
            urgency,
            self._table.windows[waiting],
            uncached,
            self._unit.chunk_tokens,
            self._room(pieces),
            self._units_per_instance,
        )
        slots = waiting[admitted]
        window = self._window(slots, urgency[admitted], hits[admitted], pieces, kv)
        unit, steps = place(window, self._decisions.solver)
        placement = Placement(unit)
        if self._observe is not None:
            self._observe(window, placement)
        items, units = dispatch_of(window, placement)
        # Booked is what the engine will run, also where placement does not look: else the pass would end unexpectedly.
        return self._send(instance, slots[items], units, believed[admitted[items], units], steps)

    def _room(self, pieces: IntArray) -> int:
        """Return the tokens that may still start on an instance whose queues hold `pieces` for the next pass."""
        used = np.bincount(pieces[:, 0], weights=pieces[:, 1], minlength=self._units_per_instance)
        return int(np.maximum(self._unit.chunk_tokens - used, 0).sum())

    def _by_urgency(self) -> tuple[IntArray, IntArray]:
        """Return the waiting slots, the most urgent first, and their class.

        Requests that have reached the limit of windows come first whatever their priority, then a smaller priority
        comes before a greater one; within a class the older comes first.
        """
        waiting = np.array(self._waiting, np.int64)
        priority = self._table.priority[waiting]
        if not priority.any():
            return waiting, np.zeros_like(waiting)
        within_limit = self._table.windows[waiting] < self.config.hold_limit_windows
        _, urgency = np.unique(np.where(within_limit, priority, priority.min() - 1), return_inverse=True)
        order = np.argsort(urgency, kind="stable")
        return waiting[order], urgency[order].astype(np.int64)

    def _window(self, slots: IntArray, urgency: IntArray, hits: IntArray, pieces: IntArray, kv: IntArray) -> Window:
        """Return the window of admitted requests on one instance; tiers go by urgency, then by windows waited."""
        limit = self.config.hold_limit_windows
        hit_item, hit_unit = np.nonzero(hits)
        state = PrefillState(
            prompt_tokens=self._table.prompt[slots],
            tier=urgency * (limit + 1) + limit - np.minimum(self._table.windows[slots], limit),
            queued_unit=pieces[:, 0],
            queued_new=pieces[:, 1],
            queued_cached=pieces[:, 2],
            kv_tokens=kv,
            hit_item=hit_item,
            hit_unit=hit_unit,
            hit_tokens=hits[hit_item, hit_unit],
            budgets=self._unit,
        )
        return prefill_window(state, self._cost, self._decisions.balance)

    def _hits(self, waiting: IntArray, instance: int) -> IntArray:
        """Return int64[n, units], the believed prefix hit in tokens of each waiting request on each unit."""
        if self._index is None:
            return np.zeros((len(waiting), self._units_per_instance), np.int64)
        chains = [self._usable_blocks(slot) for slot in waiting.tolist()]
        first = instance * self._units_per_instance
        return self._index.leading_runs(first, self._units_per_instance, chains) * self.config.block_tokens

    def _send(self, instance: int, slots: IntArray, units: IntArray, hit: IntArray, steps: int) -> Dispatch | None:
        self._table.windows[self._waiting] += 1
        belief = self._book.instances[instance]
        was_running = belief.running
        belief.committed = was_running
        if len(slots) == 0:
            if not was_running and not self._book.take_for_running(instance, self._now_ns):
                raise InternalError(f"nothing fits the empty instance {instance}, {len(self._waiting)} requests wait")
            return None
        decision_ns = self._decision_ns(steps)
        through = units + instance * self._units_per_instance
        self._book.push(slots, through, self._table.prompt[slots], hit, self._now_ns + decision_ns)
        self._table.state[slots] = State.DISPATCHED
        self._table.sent_in[slots] = self._window_id
        sent = set(slots.tolist())
        self._waiting = [s for s in self._waiting if s not in sent]
        if self._index is not None:
            for slot, unit in zip(slots.tolist(), through.tolist(), strict=True):
                self._remember_blocks(slot, unit)
        self._last_dispatch_ns = self._now_ns
        window_id, self._window_id = self._window_id, self._window_id + 1
        return Dispatch(
            window_id, instance, self._table.id[slots], units, None, self._book.next_pass_ns(instance), decision_ns
        )

    # -- waiting requests --------------------------------------------------------------------------------------

    def _accept(self, slots: Sequence[int]) -> Sequence[Command]:
        table = self._table
        in_order = not self._waiting or self._key(self._waiting[-1]) <= self._key(slots[0])
        self._waiting.extend(slots)
        if not in_order or len(slots) > 1:
            self._waiting.sort(key=self._key)
        self._first_deadline_ns = min(self._first_deadline_ns, *(int(table.deadline_ns[s]) for s in slots), NO_DEADLINE)
        return ()

    def _key(self, slot: int) -> tuple[int, int]:
        return int(self._table.arrival_ns[slot]), int(self._table.id[slot])

    def _forget_waiting(self, slots: Sequence[int]) -> None:
        if slots:
            gone = set(slots)
            self._waiting = [s for s in self._waiting if s not in gone]

    def _reject_expired(self) -> list[Command]:
        if self._now_ns < self._first_deadline_ns:
            return []
        expired = [s for s in self._waiting if self._table.deadline_ns[s] <= self._now_ns]
        ids = self._table.id[expired]
        self._forget_waiting(expired)
        self._table.drop(expired)
        deadlines = self._table.deadline_ns[self._waiting]
        self._first_deadline_ns = int(deadlines.min()) if len(deadlines) else NO_DEADLINE
        return [Reject(ids, "deadline", None)] if len(ids) else []
