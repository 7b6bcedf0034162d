"""The twin's clock: the order of events at one instant and what is told when (laws 1–9, 21)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.models.errors import InputError
from sbs_opt.models.requests import Requests
from sbs_opt.testing.twin.decode_engine import TwinDecode
from sbs_opt.testing.twin.decode_policy import LeastKvTwin
from sbs_opt.testing.twin.late_binding import LateBindingTwin
from sbs_opt.testing.twin.prefill_engine import TwinPass, TwinPrefill
from sbs_opt.testing.twin.prefill_policies import IMMEDIATE, Sent, TwinPrefillScheduler
from sbs_opt.testing.twin.settings import LATE_BINDING, Offered, Settings, offered


@dataclass(slots=True)
class TwinRun:
    """What happened, by request; a request to which something did not happen is absent."""

    dispatched_ns: dict[int, int] = field(default_factory=dict)
    decision_ns: dict[int, int] = field(default_factory=dict)
    unit: dict[int, int] = field(default_factory=dict)
    hit_tokens: dict[int, int] = field(default_factory=dict)
    first_token_ns: dict[int, int] = field(default_factory=dict)
    finished_ns: dict[int, int] = field(default_factory=dict)
    rejected: dict[int, str] = field(default_factory=dict)
    passes: list[TwinPass] = field(default_factory=list)
    preemptions: int = 0
    end_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Later:
    """Something that takes effect at `at_ns`; of equal times the one that was scheduled first comes first."""

    at_ns: int
    act: Callable[[int], None]


class Twin:
    """One run of a trace, until every request is answered or rejected.

    Parameters
    ----------
    requests, deployment, cost_model
        As `sbs_opt.simulator.replay.simulate`.
    settings, decode_settings
        A `SchedulerConfig` will do; late-binding policies are taken with their own decisions, without overrides.
    reserve_tokens
        KV kept free per running decode sequence at admission.

    Raises
    ------
    InputError
        On a policy that the twin does not know.
    """

    def __init__(
        self,
        requests: Requests,
        deployment: Deployment,
        cost_model: CostModel,
        settings: Settings,
        decode_settings: Settings,
        *,
        reserve_tokens: int,
    ) -> None:
        self._notification_ns = settings.notification_ns
        self._arriving = offered(requests)
        cost, blocks = cost_model.prefill, requests.block_tokens
        prefill, decode = deployment.of_phase("prefill"), deployment.of_phase("decode")
        self._prefill = [TwinPrefill(k, instance, cost, blocks) for k, instance in enumerate(prefill)]
        self._decode = [TwinDecode(instance, cost_model.decode, reserve_tokens) for instance in decode]
        self._prefill_units = prefill[0].num_units
        self._decode_kv_tokens = decode[0].unit.kv_tokens if decode else 0
        self._scheduler: TwinPrefillScheduler
        if settings.policy in IMMEDIATE:
            self._scheduler = IMMEDIATE[settings.policy](deployment, cost, settings, blocks)
        elif settings.policy in LATE_BINDING:
            self._scheduler = LateBindingTwin(deployment, cost, settings, blocks, LATE_BINDING[settings.policy])
        else:
            raise InputError(f"policy = {settings.policy!r}: the twin knows {', '.join([*IMMEDIATE, *LATE_BINDING])}")
        self._decode_scheduler = LeastKvTwin(deployment, decode_settings) if decode else None
        self._notifications: list[_Later] = []
        self._dispatches: list[_Later] = []
        self.run = TwinRun()

    def execute(self) -> TwinRun:
        """Go from instant to instant until nothing is left to happen."""
        while (now := self._next_instant()) is not None:
            self.run.end_ns = now
            self._end_passes(now)
            self._take_effect(self._notifications, now)
            self._arrive(now)
            self._fire_timer(now)
            self._take_effect(self._dispatches, now)
            self._launch(now)
        self.run.preemptions = sum(instance.preemptions for instance in self._decode)
        self.run.hit_tokens = {request: hit for engine in self._prefill for request, hit in engine.hits.items()}
        return self.run

    def _next_instant(self) -> int | None:
        times: list[int | None] = [engine.running.end_ns for engine in self._prefill if engine.running is not None]
        times += [engine.end_ns for engine in self._decode]
        times += [later.at_ns for later in (*self._notifications, *self._dispatches)]
        times += [request.arrival_ns for request in self._arriving[:1]]
        times.append(self._scheduler.next_timer_ns())
        return min((time for time in times if time is not None), default=None)

    # -- steps of an instant, in order -------------------------------------------------------------------------

    def _end_passes(self, now: int) -> None:
        for instance, engine in enumerate(self._prefill):
            if engine.running is not None and engine.running.end_ns == now:
                self._end_prefill(instance, engine, now)
        for instance, step in enumerate(self._decode):
            if step.end_ns == now:
                self._end_decode(instance, step, now)

    def _take_effect(self, queue: list[_Later], now: int) -> None:
        due = sorted((later for later in queue if later.at_ns <= now), key=lambda later: later.at_ns)
        queue[:] = [later for later in queue if later.at_ns > now]
        for later in due:
            later.act(now)

    def _arrive(self, now: int) -> None:
        arrived = [request for request in self._arriving if request.arrival_ns == now]
        if arrived:
            self._arriving = self._arriving[len(arrived) :]
            sent, too_large = self._scheduler.arrived(arrived, now)
            self.run.rejected |= {request.id: "too_large" for request in too_large}
            self._dispatch(sent, now)

    def _fire_timer(self, now: int) -> None:
        while (due := self._scheduler.next_timer_ns()) is not None and due <= now:
            self._dispatch(self._scheduler.timer(now), now)

    def _launch(self, now: int) -> None:
        for engine in self._prefill:
            started = engine.launch(now)
            if started is not None:
                self.run.passes.append(started)
        for step in self._decode:
            step.launch(now)

    # -- what they are made of ---------------------------------------------------------------------------------

    def _end_prefill(self, instance: int, engine: TwinPrefill, now: int) -> None:
        ended, queued = engine.end()
        finished = list(ended.finishing)
        if finished:
            self.run.first_token_ns |= {request.id: now for request in finished}
            self._notify(lambda at: self._scheduler.answered(finished, at), now)
            self._hand_over(finished, now)
        self._notify(lambda at: self._scheduler.pass_ended(instance, ended.duration_ns, ended.tokens, queued, at), now)

    def _hand_over(self, prefilled: list[Offered], now: int) -> None:
        """Send on to decode what has more than its first token to come and can ever fit there."""
        onward = []
        for request in prefilled:
            if not self._decode or request.output <= 1:
                self.run.finished_ns[request.id] = now
            elif request.prompt + request.output > self._decode_kv_tokens:
                self.run.rejected[request.id] = "too_large"
            else:
                onward.append(request)
        if onward:
            self._notify(lambda at: self._place_decode(onward, at), now)

    def _place_decode(self, requests: list[Offered], now: int) -> None:
        assert self._decode_scheduler is not None
        for sent in self._decode_scheduler.arrived(requests):
            self._dispatches.append(_Later(now + sent.decision_ns, partial(self._push_decode, sent)))

    def _end_decode(self, instance: int, step: TwinDecode, now: int) -> None:
        scheduler = self._decode_scheduler
        assert scheduler is not None
        finished = step.end()
        if finished:
            self.run.finished_ns |= {request.id: now for request in finished}
            self._notify(lambda at: scheduler.finished(finished), now)
        self._notify(lambda at: scheduler.step_ended(instance), now)

    def _notify(self, act: Callable[[int], None], now: int) -> None:
        self._notifications.append(_Later(now + self._notification_ns, act))

    def _dispatch(self, batches: list[Sent], now: int) -> None:
        for sent in batches:
            for request, unit in sent.requests:
                self.run.dispatched_ns[request.id] = now
                self.run.decision_ns[request.id] = sent.decision_ns
                self.run.unit[request.id] = sent.instance * self._prefill_units + unit
            self._dispatches.append(_Later(now + sent.decision_ns, partial(self._push_prefill, sent)))

    def _push_prefill(self, sent: Sent, now: int) -> None:
        for request, unit in sent.requests:
            self._prefill[sent.instance].push(unit, request)

    def _push_decode(self, sent: Sent, now: int) -> None:
        for request, unit in sent.requests:
            self._decode[sent.instance].push(unit, request)
