"""Late binding: requests wait centrally; timing, admission, placement say when, which, where (laws 35, 42–52)."""

from __future__ import annotations

from collections.abc import Sequence

from sbs_opt.models.cost.protocols import PrefillTiming
from sbs_opt.models.deployment import Deployment
from sbs_opt.testing.twin.book import Belief
from sbs_opt.testing.twin.placement import dispatch_order, place, window_of
from sbs_opt.testing.twin.prefill_policies import Sent, TwinPrefillScheduler
from sbs_opt.testing.twin.settings import LateBinding, Offered, Settings


class LateBindingTwin(TwinPrefillScheduler):
    """One scheduler for all late-binding policies; `decisions` tells them apart."""

    def __init__(
        self, deployment: Deployment, cost: PrefillTiming, settings: Settings, block_tokens: int, decisions: LateBinding
    ) -> None:
        super().__init__(deployment, cost, settings, block_tokens)
        self._decisions = decisions
        self._waiting: list[Offered] = []  # oldest first
        self._windows: dict[int, int] = {}
        self._last_dispatch_ns: int | None = None

    def accept(self, requests: Sequence[Offered]) -> list[Sent]:
        """Let them wait."""
        self._waiting += requests
        self._windows |= {request.id: 0 for request in requests}
        return []

    # -- timing ------------------------------------------------------------------------------------------------

    def timer(self, now_ns: int) -> list[Sent]:
        """Give up missed passes, then commit a batch to every instance whose turn it is."""
        self._tick(now_ns)
        for instance, belief in enumerate(self.book.instances):
            if belief.running and now_ns >= self._watchdog_ns(belief):
                self.book.pass_missed(instance)
                self.book.settle(now_ns + 1)
        sent = []
        while (chosen := self._next_instance()) is not None:
            batch = self._commit(chosen)
            if batch is not None:
                sent.append(batch)
        return sent

    def next_timer_ns(self) -> int | None:
        """Return when an instance may next get a batch, or a watchdog bites; None while nothing waits."""
        if not self._waiting:
            return None
        times = []
        for belief in self.book.instances:
            opens = self._opens_ns(belief)
            if opens is not None:
                times.append(max(opens, self._held_until_ns()))
            elif belief.running:
                times.append(self._watchdog_ns(belief))
            elif belief.pending_ns is not None:
                times.append(belief.pending_ns + 1)
        return max(min(times), self.now_ns) if times else None

    def _opens_ns(self, belief: Belief) -> int | None:
        """Idle: since it stopped. Busy: a lead before the expected end. Not while it has its next batch already."""
        if belief.committed or belief.pending_ns is not None:
            return None
        return belief.expected_end_ns - self.settings.lead_ns if belief.running else belief.idle_since_ns

    def _next_instance(self) -> int | None:
        """Return the instance that has been open for longest, the lowest index on ties."""
        if not self._waiting or self._held_until_ns() > self.now_ns:
            return None
        opened = []
        for instance, belief in enumerate(self.book.instances):
            opens = self._opens_ns(belief)
            if opens is not None and opens <= self.now_ns:
                opened.append((opens, instance))
        return min(opened)[1] if opened else None

    def _held_until_ns(self) -> int:
        if not self._decisions.interval or self._last_dispatch_ns is None or self._lightly_loaded():
            return 0
        interval_over = self._last_dispatch_ns + self._interval_ns()
        return min(interval_over, self._waiting[0].arrival_ns + self.settings.hold_limit_ns)

    def _interval_ns(self) -> int:
        means = [b.duration_ns.value for b in self.book.instances if b.duration_ns.value is not None]
        if not means:
            return 0
        return (sum(means) // len(means) + self.settings.notification_ns) // len(self.book.instances)

    def _lightly_loaded(self) -> bool:
        means = [b.tokens.value for b in self.book.instances if b.tokens.value is not None]
        capacity = self.limits.chunk_tokens * self.per_instance
        return not means or sum(means) / len(means) < self.settings.bypass_utilisation * capacity

    def _watchdog_ns(self, belief: Belief) -> int:
        patience = int(self.settings.watchdog * (belief.expected_end_ns - belief.launch_ns))
        return belief.launch_ns + patience + self.settings.notification_ns

    # -- admission and placement -------------------------------------------------------------------------------

    def _commit(self, instance: int) -> Sent | None:
        belief = self.book.instances[instance]
        queued = self.book.next_pieces(instance)
        kv = [sum(b.request.prompt for b in bookings if b.remaining > 0) for bookings in belief.units]
        room = sum(max(0, self.limits.chunk_tokens - sum(piece.new for piece in pieces)) for pieces in queued)
        first = instance * self.per_instance
        caches = self.believed_caches[first : first + self.per_instance]
        believed = {
            r.id: [cache.leading_run(r.usable_blocks) * r.block_tokens for cache in caches] for r in self._waiting
        }
        seen = believed if self._decisions.cache else {request.id: [0] * self.per_instance for request in self._waiting}
        admitted = self._admit({request.id: request.prompt - max(seen[request.id]) for request in self._waiting}, room)
        hits = {
            (item, unit): hit
            for item, request in enumerate(admitted)
            for unit, hit in enumerate(seen[request.id])
            if hit > 0
        }
        limit = self.settings.hold_limit_windows
        tier = [limit - min(self._windows[request.id], limit) for request in admitted]
        prompts = [request.prompt for request in admitted]
        window = window_of(prompts, tier, hits, queued, kv, self.limits, self.cost, by_time=self._decisions.by_time)
        unit, steps = place(window, longest_first=self._decisions.longest_first)
        for request in self._waiting:
            self._windows[request.id] += 1
        belief.committed = belief.running
        order = dispatch_order(window, unit)
        if not order:
            return None
        decision_ns = self.settings.decision_base_ns + self.settings.decision_step_ns * steps
        for item in order:
            request, chosen = admitted[item], unit[item]
            self.book.push(instance, chosen, request, believed[request.id][chosen], self.now_ns + decision_ns)
            caches[chosen].touch(request.full_blocks)
        sent = tuple((admitted[item], unit[item]) for item in order)
        gone = {request.id for request, _ in sent}
        self._waiting = [request for request in self._waiting if request.id not in gone]
        self._last_dispatch_ns = self.now_ns
        return Sent(instance, sent, decision_ns)

    def _admit(self, uncached: dict[int, int], room: int) -> list[Offered]:
        """Return the admitted requests in the order of the window."""
        tokens = {request: min(amount, self.limits.chunk_tokens) for request, amount in uncached.items()}
        if self._decisions.admission == "by_age":
            return self._until_used_up(tokens, max(room, 1))
        if self._decisions.admission == "in_order":
            return self._while_any_can_fit(self._waiting, tokens, room)
        carried = [request for request in self._waiting if self._windows[request.id] > 0]
        new = [request for request in self._waiting if self._windows[request.id] == 0]
        return self._while_any_can_fit(carried + sorted(new, key=lambda r: -uncached[r.id]), tokens, room)

    def _until_used_up(self, tokens: dict[int, int], room: int) -> list[Offered]:
        admitted, used = [], 0
        for request in self._waiting:
            if used >= room:
                break
            admitted.append(request)
            used += tokens[request.id]
        return admitted

    def _while_any_can_fit(self, order: list[Offered], tokens: dict[int, int], room: int) -> list[Offered]:
        """Stop once the tokens exceed the room by a longest request per unit: beyond that nothing fits."""
        admitted, used, longest = [], 0, 0
        for request in order:
            admitted.append(request)
            used += tokens[request.id]
            longest = max(longest, tokens[request.id])
            if used >= room + self.per_instance * longest:
                break
        return admitted
