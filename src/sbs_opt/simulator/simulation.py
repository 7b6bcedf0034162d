"""The event loop: one virtual clock, two schedulers, two engines.

Order at one instant: pass ends, notifications, arrivals (immediate policies bind here), the schedulers' timers,
dispatches that take effect, launches.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.models.errors import InputError
from sbs_opt.models.requests import Requests
from sbs_opt.scheduler.commands import Command, Dispatch, Reject
from sbs_opt.scheduler.events import Event, FirstTokens, PassEnded, RequestBatch, RequestsArrived, RequestsFinished
from sbs_opt.scheduler.policies import Scheduler
from sbs_opt.simulator.decode_engine import DecodeEngine
from sbs_opt.simulator.prefill_engine import Pass, PrefillEngine

NEVER: int = int(np.iinfo(np.int64).max)
PREFILL, DECODE = 0, 1


@dataclass(slots=True, eq=False)
class Run:
    """What happened in one simulated run; times are −1 where something did not happen.

    Parameters
    ----------
    requests
        The trace that was offered.
    dispatched_ns, first_token_ns, finished_ns, decision_ns
        int64[n]: when the prefill dispatch was decided, when the first and the last token were out, and how long the
        decision took.
    rejected
        Reason of each rejected request.
    unit, hit_tokens
        int64[n], prefill unit (through all instances) and prefix hit.
    passes
        Every prefill pass.
    decode
        The decode engine at the end, with its sums; None without decode instances.
    end_ns, stopped
        Virtual time at the end; whether a horizon ended the run.
    log
        When recording: (phase, time, event, or None for a timer, commands).
    """

    requests: Requests
    dispatched_ns: IntArray
    first_token_ns: IntArray
    finished_ns: IntArray
    decision_ns: IntArray
    rejected: dict[int, str]
    unit: IntArray
    hit_tokens: IntArray
    done_tokens: IntArray
    passes: list[Pass]
    decode: DecodeEngine | None
    end_ns: int = 0
    stopped: bool = False
    log: list[tuple[int, int, Event | None, tuple[Command, ...]]] = field(default_factory=list)


class Simulation:
    """One run of a trace through schedulers and engines.

    Parameters
    ----------
    requests
        The trace; ids are row numbers.
    deployment, cost_model
        The fleet and its timing.
    prefill, decode
        The schedulers under test; `decode` is None when the deployment has no decode instance.
    notification_ns
        How long after it happens a scheduler hears of something in an engine.
    record
        Keep the log of events and commands.
    """

    def __init__(
        self,
        requests: Requests,
        deployment: Deployment,
        cost_model: CostModel,
        prefill: Scheduler,
        decode: Scheduler | None,
        *,
        notification_ns: int,
        record: bool = False,
    ) -> None:
        if len(requests) == 0:
            raise InputError("requests: there is nothing to simulate; give at least one request")
        n = len(requests)
        decoding = deployment.of_phase("decode")
        self._requests = requests
        self._schedulers = (prefill, decode)
        self._prefill = PrefillEngine(deployment.of_phase("prefill"), cost_model.prefill, requests)
        self._decode = DecodeEngine(decoding, cost_model.decode, requests) if decoding and decode is not None else None
        self._notification_ns = notification_ns
        self._record = record
        self._ids = np.arange(n)
        self._sequence = 0
        self._messages: list[tuple[int, int, int, Event]] = []
        self._effects: list[tuple[int, int, int, Dispatch]] = []
        self._prefill_ends = [NEVER] * len(deployment.of_phase("prefill"))
        self._decode_ends = [NEVER] * len(decoding)
        self._changed: set[tuple[int, int]] = set()
        # A sequence that outgrows a unit's KV can never be decoded: it ends with its first token, as too large.
        limit = decoding[0].unit.kv_tokens if decoding else NEVER
        self._undecodable = requests.prompt_tokens + requests.output_tokens > limit
        self.run = Run(
            requests=requests,
            dispatched_ns=np.full(n, -1, np.int64),
            first_token_ns=np.full(n, -1, np.int64),
            finished_ns=np.full(n, -1, np.int64),
            decision_ns=np.zeros(n, np.int64),
            rejected={},
            unit=self._prefill.unit_of,
            hit_tokens=self._prefill.hit_tokens,
            done_tokens=self._prefill.done_tokens,
            passes=[],
            decode=self._decode,
        )

    def execute(self, *, horizon_ns: int | None = None, progress: Callable[[int], None] | None = None) -> Run:
        """Run until every request is answered or rejected, or until `horizon_ns` of virtual time.

        Parameters
        ----------
        progress
            Called now and then with the number of requests that have arrived.
        """
        arrival = [*self._requests.arrival_ns.tolist(), NEVER]
        arrived, total = 0, len(self._requests)
        next_progress = 0
        while True:
            now = min(arrival[arrived], self._next_timer(), *self._prefill_ends, *self._decode_ends)
            if self._messages:
                now = min(now, self._messages[0][0])
            if self._effects:
                now = min(now, self._effects[0][0])
            if now == NEVER:
                break
            if horizon_ns is not None and now > horizon_ns:
                self.run.stopped = True
                break
            self.run.end_ns = now
            self._end_passes(now)
            while self._messages and self._messages[0][0] <= now:
                _, _, phase, event = heapq.heappop(self._messages)
                self._tell(phase, event, now)
            if arrival[arrived] == now:
                start = arrived
                while arrival[arrived] == now:
                    arrived += 1
                self._tell(PREFILL, RequestsArrived(self._batch(start, arrived)), now)
                if progress is not None and arrived >= next_progress:
                    progress(arrived)
                    next_progress = arrived + max(1, total // 100)
            self._fire_timers(now)
            while self._effects and self._effects[0][0] <= now:
                _, _, phase, dispatch = heapq.heappop(self._effects)
                self._engine(phase).push(dispatch.instance, dispatch.ids, dispatch.units)
                self._changed.add((phase, dispatch.instance))
            if self._changed:
                self._launch(now)
        return self.run

    # -- the instant -------------------------------------------------------------------------------------------

    def _end_passes(self, now: int) -> None:
        if now in self._prefill_ends:
            for instance, end in enumerate(self._prefill_ends):
                if end == now:
                    self._end_prefill(instance, now)
        if now in self._decode_ends:
            for instance, end in enumerate(self._decode_ends):
                if end == now:
                    self._end_decode(instance, now)

    def _end_prefill(self, instance: int, now: int) -> None:
        self._prefill_ends[instance] = NEVER
        self._changed.add((PREFILL, instance))
        ended, queued = self._prefill.end(instance)
        finished = ended.finished
        if len(finished):
            self.run.first_token_ns[finished] = now
            self._post(PREFILL, FirstTokens(finished, self._prefill.hits(finished)), now)
            self._hand_over(finished, now)
        self._post(PREFILL, PassEnded(instance, ended.number, ended.duration_ns, ended.tokens, queued), now)

    def _hand_over(self, finished: IntArray, now: int) -> None:
        """Send prefilled requests on to decode; those with one output token are done."""
        output = self._requests.output_tokens[finished]
        onward = finished[output > 1] if self._decode is not None else finished[:0]
        too_large = onward[self._undecodable[onward]]
        for request in too_large.tolist():
            self.run.rejected[request] = "too_large"
        onward = onward[~self._undecodable[onward]]
        alone = output <= 1 if self._decode is not None else np.ones(len(finished), np.bool_)
        self.run.finished_ns[finished[alone]] = now
        if len(onward):
            self._post(DECODE, RequestsArrived(RequestBatch(onward, self._requests.prompt_tokens[onward])), now)

    def _end_decode(self, instance: int, now: int) -> None:
        assert self._decode is not None
        self._decode_ends[instance] = NEVER
        self._changed.add((DECODE, instance))
        number, duration, finished, run, queued = self._decode.end(instance)
        if len(finished):
            self.run.finished_ns[finished] = now
            self._post(DECODE, RequestsFinished(finished), now)
        self._post(DECODE, PassEnded(instance, number, duration, run, queued), now)

    def _launch(self, now: int) -> None:
        """Launch on the instances that something has happened to, those of prefill first."""
        for phase, instance in sorted(self._changed):
            if phase == PREFILL:
                started = self._prefill.launch(instance, now)
                if started is not None:
                    self.run.passes.append(started)
                    self._prefill_ends[instance] = now + started.duration_ns
            else:
                assert self._decode is not None
                end = self._decode.launch(instance, now)
                if end is not None:
                    self._decode_ends[instance] = end
        self._changed.clear()

    # -- schedulers --------------------------------------------------------------------------------------------

    def _tell(self, phase: int, event: Event, now: int) -> None:
        scheduler = self._schedulers[phase]
        assert scheduler is not None
        commands = scheduler.handle(event, now_ns=now)
        if self._record:
            self.run.log.append((phase, now, event, commands))
        if commands:
            self._carry_out(phase, commands, now)

    def _fire_timers(self, now: int) -> None:
        for phase, scheduler in enumerate(self._schedulers):
            if scheduler is None:
                continue
            due = scheduler.next_timer_ns()
            while due is not None and due <= now:
                commands = scheduler.handle_timer(now_ns=now)
                if self._record:
                    self.run.log.append((phase, now, None, commands))
                self._carry_out(phase, commands, now)
                due = scheduler.next_timer_ns()

    def _next_timer(self) -> int:
        due = NEVER
        for scheduler in self._schedulers:
            if scheduler is not None:
                timer = scheduler.next_timer_ns()
                if timer is not None and timer < due:
                    due = timer
        return due

    def _carry_out(self, phase: int, commands: tuple[Command, ...], now: int) -> None:
        for command in commands:
            if isinstance(command, Dispatch):
                if phase == PREFILL:
                    self.run.dispatched_ns[command.ids] = now
                    self.run.decision_ns[command.ids] = command.decision_ns
                self._sequence += 1
                heapq.heappush(self._effects, (now + command.decision_ns, self._sequence, phase, command))
            elif isinstance(command, Reject):
                for request in command.ids.tolist():
                    self.run.rejected[request] = command.reason

    def _post(self, phase: int, event: Event, now: int) -> None:
        self._sequence += 1
        heapq.heappush(self._messages, (now + self._notification_ns, self._sequence, phase, event))

    def _engine(self, phase: int) -> PrefillEngine | DecodeEngine:
        if phase == PREFILL:
            return self._prefill
        assert self._decode is not None
        return self._decode

    def _batch(self, start: int, stop: int) -> RequestBatch:
        requests = self._requests
        if requests.block_tokens == 0:
            return RequestBatch(self._ids[start:stop], requests.prompt_tokens[start:stop])
        offset = requests.block_offset[start : stop + 1]
        return RequestBatch(
            self._ids[start:stop],
            requests.prompt_tokens[start:stop],
            offset - offset[0],
            requests.block_id[offset[0] : offset[-1]],
            session=requests.session[start:stop],
        )
