"""Bookkeeping of prefill load in flight: booked at send, released at completion, corrected by the engine's reports.

Per unit it mirrors the engine's queue; per instance it believes when the running pass started and will end. The
mirror follows the engine's laws (FIFO, run up to the budget, relaunch at pass end while there is work), so that
between two reports the scheduler knows what is queued, what is in flight and how long that takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost.protocols import PrefillTiming
from sbs_opt.models.deployment import Instance
from sbs_opt.scheduler import book_kernels as kernels


class MovingMean:
    """Mean of the last values, O(1) to read."""

    __slots__ = ("_last", "_sum", "count")

    def __init__(self, size: int) -> None:
        self._last: deque[int] = deque(maxlen=size)
        self._sum = 0
        self.count = 0

    def add(self, value: int) -> None:
        """Take in a value; the oldest beyond the size leaves."""
        if self.count == self._last.maxlen:
            self._sum -= self._last[0]
        else:
            self.count += 1
        self._last.append(value)
        self._sum += value

    @property
    def value(self) -> int:
        """The mean, rounded down; 0 before the first value."""
        return self._sum // self.count if self.count else 0


class InstanceBelief:
    """What the scheduler believes of one instance.

    Attributes
    ----------
    lost
        Whether it is gone, so that what it still reports is late.
    as_of_ns
        When the last report taken in was true.
    running
        Whether a pass is under way; then `launch_ns` and `expected_end_ns` hold.
    pending_ns
        When an idle instance will launch what was sent to it, or None.
    committed
        Whether the batch for the pass after the running one has been sent.
    duration_ns, tokens
        Moving means over the passes heard of: their length and the tokens they ran.
    """

    __slots__ = (
        "as_of_ns",
        "committed",
        "duration_ns",
        "expected_end_ns",
        "idle_since_ns",
        "launch_ns",
        "lost",
        "next_pass",
        "pending_ns",
        "running",
        "tokens",
    )

    def __init__(self, mean_passes: int) -> None:
        self.lost = False
        self.as_of_ns = -1
        self.running = False
        self.launch_ns = 0
        self.expected_end_ns = 0
        self.idle_since_ns = 0
        self.pending_ns: int | None = None
        self.committed = False
        self.next_pass = 0
        self.duration_ns = MovingMean(mean_passes)
        self.tokens = MovingMean(mean_passes)


class LoadBook:
    """Booked load of the prefill units of a deployment.

    Parameters
    ----------
    instances
        The prefill instances, all alike.
    cost
        Predicts the length of a pass.
    mean_passes
        Passes in the moving means.
    """

    def __init__(self, instances: Sequence[Instance], cost: PrefillTiming, mean_passes: int) -> None:
        self._cost = cost
        self.units_per_instance = instances[0].num_units
        self.budget = instances[0].unit.chunk_tokens
        num_units = len(instances) * self.units_per_instance
        self.units = np.zeros((num_units, kernels.UNIT_COLUMNS), np.int64)
        self.units[:, kernels.HEAD] = self.units[:, kernels.TAIL] = -1
        self._slots = np.zeros((1024, kernels.SLOT_COLUMNS), np.int64)
        self.instances = [InstanceBelief(mean_passes) for _ in instances]
        nothing = np.zeros(self.units_per_instance, np.int64)
        cost.pass_ns(nothing, nothing, nothing)  # a cost model made for another deployment fails here, not in a pass
        self._any_pending = False

    # -- booking -----------------------------------------------------------------------------------------------

    def push(self, slots: IntArray, units: IntArray, prompt: IntArray, hit: IntArray, sent_ns: int) -> None:
        """Book requests as sent to units (numbered through all instances); they reach the engine at `sent_ns`."""
        self._reserve(int(slots.max()))
        kernels.push_many(self._slots, self.units, slots, units, prompt, hit, sent_ns)
        for instance in {int(u) // self.units_per_instance for u in (units if len(units) < 8 else np.unique(units))}:
            self._will_launch(instance, sent_ns)

    def push_one(self, slot: int, unit: int, prompt: int, hit: int, sent_ns: int) -> None:
        """Book one request: `push` without arrays."""
        self._reserve(slot)
        kernels.push(self._slots, self.units, slot, unit, prompt, hit, sent_ns)
        self._will_launch(unit // self.units_per_instance, sent_ns)

    def release(self, slots: Sequence[int]) -> None:
        """Release requests that are answered, withdrawn or lost."""
        if len(slots):
            kernels.remove_many(self._slots, self.units, np.array(slots, np.int64))

    def withdraw(self, slots: Sequence[int]) -> None:
        """Release requests that may not have reached their engine: the batch they were in may be void."""
        instances = {self.unit_of(slot) // self.units_per_instance for slot in slots}
        self.release(slots)
        for index in instances:
            belief = self.instances[index]
            if belief.committed and self._first_sent_ns(index, belief.launch_ns + 1) is None:
                belief.committed = False

    def unit_of(self, slot: int) -> int:
        """Return the unit of a booked request, numbered through all instances."""
        return int(self._slots[slot, kernels.UNIT])

    # -- time --------------------------------------------------------------------------------------------------

    def settle(self, now_ns: int) -> None:
        """Let idle instances launch what reached them before `now_ns`."""
        if self._any_pending:
            self._any_pending = False
            for index, belief in enumerate(self.instances):
                if belief.pending_ns is None:
                    continue
                # What was withdrawn on its way launches nothing.
                belief.pending_ns = self._first_sent_ns(index, belief.pending_ns)
                if belief.pending_ns is None:
                    belief.idle_since_ns = now_ns
                elif belief.pending_ns < now_ns:
                    self._launch(index, belief.pending_ns)
                else:
                    self._any_pending = True

    def pass_ended(
        self, index: int, number: int, duration_ns: int, run: IntArray, queued: IntArray, end_ns: int
    ) -> IntArray | None:
        """Take in the report of a pass that ended at `end_ns`; None when it is a duplicate or late.

        Returns the slots of requests that must be done though their first token was never heard of.
        """
        belief = self.instances[index]
        if number < belief.next_pass or belief.lost:
            return None
        belief.as_of_ns = end_ns
        belief.next_pass = number + 1
        belief.duration_ns.add(duration_ns)
        belief.tokens.add(int(run.sum()))
        first = index * self.units_per_instance
        stale = np.empty(self.units_per_instance, np.int64)
        present, found = kernels.reconcile(self._slots, self.units, first, queued, end_ns, True, stale)
        self._stop(index, end_ns)
        if present:
            self._launch(index, end_ns)
        else:
            self._relaunch_in_transit(index, end_ns)
        return stale[:found]

    def pass_lost(self, index: int) -> None:
        """Give up waiting for the report of the running pass: take it as ended when it was expected to."""
        end_ns = self.instances[index].expected_end_ns
        self._stop(index, end_ns)
        # Each belief of a pass must run something: a request that is believed done but not answered relaunches nothing,
        # else giving up would never end.
        if kernels.has_work(self._slots, self.units, index * self.units_per_instance, self.units_per_instance, end_ns):
            self._launch(index, end_ns)
        else:
            self._relaunch_in_transit(index, end_ns + 1)

    def instance_lost(self, index: int, now_ns: int) -> None:
        """Forget the running pass of an instance that is gone; should it return, its passes count from 0."""
        self._stop(index, now_ns)
        self.instances[index].lost = True
        self.instances[index].next_pass = 0

    def take_for_running(self, index: int, now_ns: int) -> bool:
        """Believe that an idle instance with something in its queues is at work on it; False when there is nothing.

        Reports that went missing can leave such a state; the watchdog ends it.
        """
        if self._first_sent_ns(index, 0) is None:
            return False
        self._launch(index, now_ns)
        return True

    def reported(self, index: int, queued: IntArray, as_of_ns: int, now_ns: int) -> bool:
        """Correct the queues by a report outside the pass boundary; False when a later one has been taken in."""
        belief = self.instances[index]
        if belief.lost or not belief.as_of_ns < as_of_ns <= now_ns:
            return False
        belief.as_of_ns = as_of_ns
        first, nothing = index * self.units_per_instance, np.empty(0, np.int64)
        present, _ = kernels.reconcile(self._slots, self.units, first, queued, as_of_ns, False, nothing)
        if present and not belief.running and belief.pending_ns is None:
            self._launch(index, as_of_ns)
        return True

    # -- views -------------------------------------------------------------------------------------------------

    def of_instance(self, index: int) -> IntArray:
        """Return the rows of `units` that belong to an instance (a view)."""
        first = index * self.units_per_instance
        return self.units[first : first + self.units_per_instance]

    def next_pass_ns(self, index: int) -> int:
        """Return the predicted length of the pass that would run what is queued now."""
        sums = np.empty((3, self.units_per_instance), np.int64)
        first = index * self.units_per_instance
        kernels.preview(self._slots, self.units, first, self.units_per_instance, self.budget, sums[0], sums[1], sums[2])
        return self._cost.pass_ns(sums[0], sums[1], sums[2])

    def queued_pieces(self, index: int) -> tuple[IntArray, IntArray]:
        """Return what the next pass would run of the queues, int64[k, 3] of (unit, new, cached), and the queued KV."""
        out = np.empty((4 * self.units_per_instance, 3), np.int64)
        kv = np.empty(self.units_per_instance, np.int64)
        first = index * self.units_per_instance
        while (
            rows := kernels.pieces(self._slots, self.units, first, self.units_per_instance, self.budget, out, kv)
        ) < 0:
            out = np.empty((2 * len(out), 3), np.int64)
        return out[:rows], kv

    def total(self) -> int:
        """Return the booked tokens and requests, summed up: 0 when nothing is in flight."""
        return int(self.units[:, [kernels.QUEUED, kernels.REQUESTS, kernels.KV]].sum())

    # -- private -----------------------------------------------------------------------------------------------

    def _reserve(self, slot: int) -> None:
        while slot >= len(self._slots):
            self._slots = np.concatenate((self._slots, np.zeros_like(self._slots)))

    def _will_launch(self, index: int, sent_ns: int) -> None:
        belief = self.instances[index]
        if not belief.running and (belief.pending_ns is None or sent_ns < belief.pending_ns):
            belief.pending_ns = sent_ns
            self._any_pending = True

    def _launch(self, index: int, at_ns: int) -> None:
        belief = self.instances[index]
        first, count = index * self.units_per_instance, self.units_per_instance
        kernels.launch(self._slots, self.units, first, count, self.budget, at_ns)
        rows = self.units[first : first + count]
        belief.running = True
        belief.committed = False
        belief.pending_ns = None
        belief.launch_ns = at_ns
        belief.expected_end_ns = at_ns + self._cost.pass_ns(
            rows[:, kernels.PAIRS], rows[:, kernels.INFLIGHT], rows[:, kernels.CONTEXT]
        )

    def _stop(self, index: int, end_ns: int) -> None:
        belief = self.instances[index]
        belief.running = False
        belief.committed = False
        belief.pending_ns = None
        belief.idle_since_ns = end_ns
        self.of_instance(index)[:, kernels.INFLIGHT] = 0

    def _relaunch_in_transit(self, index: int, from_ns: int) -> None:
        """After a pass that left nothing: what reaches the engine from `from_ns` on launches when it arrives."""
        sent_ns = self._first_sent_ns(index, from_ns)
        if sent_ns is not None:
            self._will_launch(index, sent_ns)

    def _first_sent_ns(self, index: int, from_ns: int) -> int | None:
        """Return when the first of the booked requests that reach the engine from `from_ns` on does so."""
        first = index * self.units_per_instance
        sent_ns = kernels.next_arrival(self._slots, self.units, first, self.units_per_instance, from_ns)
        return int(sent_ns) if sent_ns >= 0 else None
