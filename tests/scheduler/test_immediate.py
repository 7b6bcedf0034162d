"""The immediate policies and the decode policy, by hand-made states."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.commands import Command, Dispatch, Reject, Withdraw
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.events import (
    DispatchFailed,
    FirstTokens,
    InstanceDraining,
    InstanceLost,
    PassEnded,
    RequestBatch,
    RequestsArrived,
    RequestsCancelled,
    RequestsFinished,
)
from sbs_opt.scheduler.policies import POLICIES, Scheduler, build_scheduler, policy_info
from sbs_opt.testing.costs import LinearPrefill, linear_cost_model
from sbs_opt.testing.fleets import small_deployment

PASS = 1_000
COST = linear_cost_model(LinearPrefill(PASS, chunk_tokens=100))
FLEET = small_deployment(2, 2, chunk_tokens=100, decode_instances=2, decode_units=2, decode_kv_tokens=10_000)
IMMEDIATE = [name for name, info in POLICIES.items() if info.phase == "prefill" and info.rule]


def scheduler(policy: str, seed: int = 0) -> Scheduler:
    config = SchedulerConfig(policy=policy, seed=seed, notification_ns=0, decision_base_ns=0, decision_step_ns=0)
    return build_scheduler(policy_info(policy, POLICIES[policy].phase).phase, FLEET, COST, config)


def send(s: Scheduler, now: int, request: int, prompt: int) -> tuple[int, int]:
    """Offer one request; return the (instance, unit) it was bound to."""
    (command,) = s.handle(RequestsArrived(RequestBatch(np.array([request]), np.array([prompt]))), now_ns=now)
    assert isinstance(command, Dispatch)
    assert command.ids.tolist() == [request]
    return command.instance, int(command.units[0])


def test_round_robin_counts_through_all_units() -> None:
    s = scheduler("round_robin")
    assert [send(s, k, k, 10) for k in range(5)] == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0)]


def test_random_is_uniform_and_repeatable() -> None:
    draws = [send(s, k, k, 10) for s in [scheduler("random", 3)] for k in range(4_000)]
    again = [send(s, k, k, 10) for s in [scheduler("random", 3)] for k in range(100)]
    assert draws[:100] == again
    # A chi-square of 16.3 with three degrees of freedom has probability 0.001.
    assert sum((count - 1_000) ** 2 / 1_000 for count in Counter(draws).values()) < 16.3


def test_total_tokens_sees_its_own_bookings_but_old_completions() -> None:
    s = scheduler("sglang.total_tokens")
    assert [send(s, 0, k, p) for k, p in enumerate([50, 40, 30, 20])] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    s.handle(FirstTokens(np.array([0])), now_ns=10)
    assert send(s, 11, 4, 5) == (1, 1), "the snapshot still shows the 50 tokens that are done"
    assert send(s, 20_000_000, 5, 5) == (0, 0), "after 20 ms it does not"


def test_phase_aware_joins_the_pass_that_starts_first() -> None:
    s = scheduler("phase_aware")
    assert send(s, 0, 0, 50) == (0, 0)
    assert send(s, 100, 1, 50) == (1, 0), "instance 0 is busy, instance 1 idle"
    assert send(s, 200, 2, 80) == (0, 0), "instance 0 ends first; in flight is not queued"
    assert send(s, 300, 3, 10) == (0, 1)
    assert send(s, 400, 4, 10) == (0, 1), "10 queued against 80"
    for k in range(5, 8):
        send(s, 500, k, 200)
    # More than a whole pass is queued on instance 0: a mean pass is added to its residual.
    assert send(s, 600, 9, 10)[0] == 1


@pytest.mark.parametrize("policy", IMMEDIATE)
def test_everything_booked_is_released(policy: str) -> None:
    s = scheduler(policy)
    where = [send(s, k, k, 10 + k) for k in range(6)]
    assert s.booked > 0
    s.handle(RequestsCancelled(np.array([5])), now_ns=50)
    s.handle(FirstTokens(np.arange(5)), now_ns=PASS)
    for instance in {i for i, _ in where}:
        s.handle(PassEnded(instance, 0, PASS, np.array([20, 20]), np.array([0, 0])), now_ns=PASS)
    assert (s.booked, s.open_requests) == (0, 0)


@pytest.mark.parametrize("policy", IMMEDIATE)
def test_only_active_instances_are_chosen(policy: str) -> None:
    s = scheduler(policy)
    s.handle(InstanceDraining(0), now_ns=0)
    assert {send(s, k, k, 10)[0] for k in range(8)} == {1}
    commands = s.handle(InstanceLost(1), now_ns=9)
    assert [c.reason for c in commands if isinstance(c, Reject)] == ["overload"]
    assert s.booked == 0


def test_an_unknown_policy_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="phase_aware"):
        policy_info("phase", "prefill")
    with pytest.raises(InputError, match="known: least_kv"):
        policy_info("sbs", "decode")


# -- decode ------------------------------------------------------------------------------------------------------


def placed(commands: tuple[Command, ...]) -> dict[int, tuple[int, int]]:
    return {
        int(r): (c.instance, int(u))
        for c in commands
        if isinstance(c, Dispatch)
        for r, u in zip(c.ids, c.units, strict=True)
    }


def decode_arrivals(s: Scheduler, now: int, first: int, *prompts: int) -> dict[int, tuple[int, int]]:
    batch = RequestBatch(np.arange(first, first + len(prompts)), np.array(prompts))
    return placed(s.handle(RequestsArrived(batch), now_ns=now))


def test_least_kv_counts_growth_and_a_batch_sees_itself() -> None:
    s = scheduler("least_kv")
    assert decode_arrivals(s, 0, 0, 100, 50, 60, 70) == {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (1, 1)}
    for step in range(30):  # instance 0 grows by one token per sequence and step: 51 becomes 81
        s.handle(PassEnded(0, step, PASS, np.array([1, 1]), np.array([0, 0])), now_ns=step)
    assert decode_arrivals(s, 40, 4, 10) == {4: (1, 0)}
    s.handle(RequestsFinished(np.arange(5)), now_ns=50)
    assert (s.booked, s.open_requests) == (0, 0)


def test_decode_replaces_what_failed_and_withdraws_what_was_cancelled() -> None:
    s = scheduler("least_kv")
    decode_arrivals(s, 0, 0, 100, 50, 60, 70)
    assert placed(s.handle(DispatchFailed(0, np.array([1]), "reset"), now_ns=5)) == {1: (0, 1)}
    (withdraw,) = s.handle(RequestsCancelled(np.array([1])), now_ns=6)
    assert isinstance(withdraw, Withdraw)
    moved = placed(s.handle(InstanceLost(0), now_ns=7))
    assert set(moved) == {0}
    assert moved[0][0] == 1
    (reject,) = s.handle(RequestsArrived(RequestBatch(np.array([9]), np.array([10_000]))), now_ns=8)
    assert isinstance(reject, Reject)
    assert reject.reason == "too_large"
    s.handle(RequestsFinished(np.array([0, 2, 3])), now_ns=9)
    assert s.booked == 0
