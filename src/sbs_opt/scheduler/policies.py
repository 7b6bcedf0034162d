"""The policy table: every name that `--policies` and `--decode-policy` take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment, Phase
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.batch import BatchScheduler, Observer
from sbs_opt.scheduler.commands import Command
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.decode import LeastKvScheduler
from sbs_opt.scheduler.events import Event
from sbs_opt.scheduler.immediate import ImmediateScheduler, PhaseAware, Random, RoundRobin, Rule, SglangTotalTokens
from sbs_opt.scheduler.oddities import Oddities


class Scheduler(Protocol):
    """What a driver drives: events and the time in, commands and the next timer out."""

    oddities: Oddities

    def handle(self, event: Event, *, now_ns: int) -> tuple[Command, ...]:
        """Take in one event."""
        ...

    def handle_timer(self, *, now_ns: int) -> tuple[Command, ...]:
        """Do what is due; called after all events of the instant."""
        ...

    def next_timer_ns(self) -> int | None:
        """Return the absolute time of the next timer, or None."""
        ...

    @property
    def booked(self) -> int:
        """Booked load, 0 when nothing is in flight."""
        ...

    @property
    def open_requests(self) -> int:
        """Requests that are neither answered nor rejected."""
        ...


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """One line of the table.

    Parameters
    ----------
    phase
        "prefill" or "decode".
    rule
        Builds the rule of an immediate prefill policy from the seed; None otherwise.
    summary, sees, reference
        What it does, the state it sees, where it comes from.
    """

    phase: Phase
    rule: Callable[[int], Rule] | None
    summary: str
    sees: str
    reference: str

    @property
    def late_binding(self) -> bool:
        """Whether requests wait centrally."""
        return self.phase == "prefill" and self.rule is None


_SBS = "staggered batch scheduling, arXiv 2512.16134 (2025); control rules reconstructed"

POLICIES: dict[str, PolicyInfo] = {
    "round_robin": PolicyInfo("prefill", RoundRobin, "a counter over all units", "nothing", "folklore"),
    "random": PolicyInfo("prefill", Random, "a uniform draw over all units", "nothing", "folklore"),
    "sglang.total_tokens": PolicyInfo(
        "prefill",
        SglangTotalTokens,
        "least used KV + queued tokens, then requests",
        "snapshot refreshed every ≥ 20 ms, prompt booked at dispatch",
        "SGLang 0.5.23, data_parallel_controller",
    ),
    "phase_aware": PolicyInfo(
        "prefill",
        PhaseAware,
        "instance that can start it soonest, then its least queued unit",
        "live",
        "this project: the strongest immediate rule that we know",
    ),
    "central_greedy": PolicyInfo(
        "prefill",
        None,
        "late binding alone: whenever an instance is free, least loaded in arrival order",
        "live",
        "list scheduling, Graham 1966",
    ),
    "sbs": PolicyInfo(
        "prefill",
        None,
        "staggered interval, carried-over then longest first into the most room",
        "live",
        _SBS,
    ),
    "sbs_auto": PolicyInfo(
        "prefill",
        None,
        "admit by age until the room is used, then longest processing time first, balancing time",
        "live",
        "this project; LPT: Graham 1969",
    ),
    "least_kv": PolicyInfo(
        "decode",
        None,
        "unit with the least booked KV",
        "booked",
        "common practice",
    ),
}


def policy_info(name: str, phase: Phase) -> PolicyInfo:
    """Return a policy's line; an unknown name is an error that lists the known ones."""
    info = POLICIES.get(name)
    if info is None or info.phase != phase:
        known = ", ".join(n for n, i in POLICIES.items() if i.phase == phase)
        raise InputError(f"policy = {name!r}: not a {phase} policy; known: {known}")
    return info


def build_scheduler(
    phase: Phase,
    deployment: Deployment,
    cost_model: CostModel,
    config: SchedulerConfig,
    *,
    observe: Observer | None = None,
) -> Scheduler:
    """Build the scheduler that `config.policy` names."""
    info = policy_info(config.policy, phase)
    if phase == "decode":
        return LeastKvScheduler(deployment, cost_model, config)
    if info.rule is not None:
        return ImmediateScheduler(deployment, cost_model, config, info.rule(config.seed))
    return BatchScheduler(deployment, cost_model, config, observe=observe)
