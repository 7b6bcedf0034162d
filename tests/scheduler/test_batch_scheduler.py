"""The late-binding scheduler, event by event: every time is chosen by the test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.batch import BatchScheduler
from sbs_opt.scheduler.commands import Command, Dispatch, Reject, Withdraw
from sbs_opt.scheduler.config import SchedulerConfig, config_from_dict
from sbs_opt.scheduler.events import (
    DispatchFailed,
    FirstTokens,
    InstanceAdded,
    InstanceDraining,
    InstanceLost,
    LoadReported,
    PassEnded,
    RequestBatch,
    RequestsArrived,
    RequestsCancelled,
)
from sbs_opt.testing.costs import LinearPrefill, linear_cost_model
from sbs_opt.testing.fleets import small_deployment

PASS = 1_000_000
COST = linear_cost_model(LinearPrefill(PASS, chunk_tokens=100))


def scheduler(instances: int = 1, units: int = 2, **settings: Any) -> BatchScheduler:
    given = {
        "policy": "sbs_auto",
        "balance": "tokens",
        "notification_ns": 10,
        "lead_ns": 100,
        "decision_base_ns": 0,
        "decision_step_ns": 0,
    }
    fleet = small_deployment(instances, units, chunk_tokens=100, kv_tokens=1_000, context_tokens=900)
    return BatchScheduler(fleet, COST, SchedulerConfig(**{**given, **settings}))


def arrive(s: BatchScheduler, now: int, *prompts: int, first_id: int = 0, **columns: list[int]) -> tuple[Command, ...]:
    more = {name: np.array(values) for name, values in columns.items()}
    ids = np.arange(first_id, first_id + len(prompts))
    return s.handle(RequestsArrived(RequestBatch(ids, np.array(prompts), **more)), now_ns=now)


def fire(s: BatchScheduler, now: int) -> list[Dispatch]:
    due = s.next_timer_ns()
    assert due is not None
    assert due <= now
    commands = s.handle_timer(now_ns=now)
    assert all(isinstance(c, Dispatch) for c in commands)
    return [c for c in commands if isinstance(c, Dispatch)]


def finish(s: BatchScheduler, now: int, number: int, ids: list[int], run: list[int], queued: list[int]) -> None:
    """An engine reports the end of a pass of instance 0."""
    if ids:
        s.handle(FirstTokens(np.array(ids)), now_ns=now)
    s.handle(PassEnded(0, number, PASS, np.array(run), np.array(queued)), now_ns=now)


def test_arrivals_of_one_instant_are_placed_together() -> None:
    s = scheduler()
    assert arrive(s, 5, 30) == ()
    assert arrive(s, 5, 40, 20, first_id=1) == ()
    (dispatch,) = fire(s, 5)
    assert sorted(dispatch.ids.tolist()) == [0, 1, 2]
    assert dispatch.expected_pass_ns == PASS
    assert s.next_timer_ns() is None
    loads = {
        u: sum([30, 40, 20][i] for i, v in zip(dispatch.ids, dispatch.units, strict=True) if v == u) for u in (0, 1)
    }
    assert set(loads.values()) == {50, 40}


def test_the_next_batch_is_committed_before_the_pass_ends() -> None:
    s = scheduler()
    arrive(s, 0, 50)
    fire(s, 0)
    arrive(s, 500, 60, first_id=1)
    assert s.next_timer_ns() == PASS - 100
    (dispatch,) = fire(s, PASS - 100)
    assert dispatch.ids.tolist() == [1]
    arrive(s, PASS - 50, 10, first_id=2)
    assert s.next_timer_ns() == 3 * PASS + 10, "the pass takes one batch; only its watchdog is left"


def test_an_end_that_is_told_late_counts_from_when_it_was() -> None:
    """The driver heard the last first token of the pass 80 later than the first: the next pass has run since then."""
    s = scheduler()
    arrive(s, 0, 250, 10)
    fire(s, 0)
    s.handle(FirstTokens(np.array([1])), now_ns=PASS + 80)
    s.handle(PassEnded(0, 0, PASS, np.array([100, 10]), np.array([150, 0]), ended_ns=PASS), now_ns=PASS + 80)
    arrive(s, PASS + 90, 30, first_id=2)
    assert s.next_timer_ns() == 2 * PASS - 100


def test_debt_counts_as_load_of_the_next_pass() -> None:
    """A prompt of 250 on a budget of 100 leaves 150: its unit takes nothing for the next pass."""
    s = scheduler()
    arrive(s, 0, 250, 10)
    fire(s, 0)
    arrive(s, 10, 70, first_id=2)
    (dispatch,) = fire(s, PASS - 100)
    long_unit = 0
    assert dispatch.units.tolist() == [1 - long_unit]


def test_a_report_corrects_the_belief() -> None:
    """The engine took less from its cache than nothing was booked for: the head still has 40 tokens to run."""
    s = scheduler(units=1)
    arrive(s, 0, 100)
    fire(s, 0)
    arrive(s, 10, 90, first_id=1)
    finish(s, PASS + 10, 0, [], [60], [40])
    assert s._book.units[0, 2] + s._book.units[0, 3] == 40
    (dispatch,) = fire(s, 2 * PASS)
    assert dispatch.ids.tolist() == [1]


def test_all_booked_load_is_released() -> None:
    s = scheduler()
    arrive(s, 0, 50, 60)
    fire(s, 0)
    assert s.booked > 0
    finish(s, PASS + 10, 0, [0, 1], [50, 60], [0, 0])
    assert s.booked == 0
    assert s.open_requests == 0


def test_too_large_requests_are_rejected_at_once() -> None:
    (reject,) = arrive(scheduler(), 0, 901)
    assert isinstance(reject, Reject)
    assert (reject.ids.tolist(), reject.reason) == ([0], "too_large")


def test_duplicates_unknown_ids_and_late_passes_are_counted() -> None:
    s = scheduler()
    arrive(s, 0, 50)
    arrive(s, 0, 50)
    fire(s, 0)
    s.handle(FirstTokens(np.array([77])), now_ns=5)
    finish(s, PASS + 10, 0, [0], [50, 0], [0, 0])
    finish(s, PASS + 20, 0, [], [50, 0], [0, 0])
    s.handle(PassEnded(9, 0, PASS, np.array([0, 0]), np.array([0, 0])), now_ns=PASS + 30)
    assert (s.oddities.duplicate_arrivals, s.oddities.unknown_ids) == (1, 1)
    assert (s.oddities.late_passes, s.oddities.unknown_instances) == (1, 1)
    assert s.open_requests == 0


def test_cancelled_requests_leave_queue_and_book() -> None:
    s = scheduler()
    arrive(s, 0, 50)
    fire(s, 0)
    arrive(s, 10, 60, first_id=1)
    (withdraw,) = s.handle(RequestsCancelled(np.array([0, 1])), now_ns=20)
    assert isinstance(withdraw, Withdraw)
    assert withdraw.ids.tolist() == [0]
    assert (s.booked, s.open_requests, s.next_timer_ns()) == (0, 0, None)


def test_a_failed_dispatch_is_placed_again_before_younger_requests() -> None:
    s = scheduler(instances=2)
    arrive(s, 0, 50)
    (first,) = fire(s, 0)
    arrive(s, 5, 60, first_id=1)
    s.handle(DispatchFailed(first.window_id, first.ids, "connection reset"), now_ns=5)
    (second,) = fire(s, 5)
    assert sorted(second.ids.tolist()) == [0, 1]


def test_a_lost_instance_gives_its_requests_back_and_returns() -> None:
    s = scheduler(instances=2)
    arrive(s, 0, 50)
    (first,) = fire(s, 0)
    s.handle(InstanceLost(first.instance), now_ns=20)
    (second,) = fire(s, 20)
    assert second.instance != first.instance
    assert second.ids.tolist() == [0]
    s.handle(InstanceDraining(second.instance), now_ns=30)
    arrive(s, 40, 10, first_id=1)
    assert s.next_timer_ns() is None, "no instance takes requests: nothing to wait for but an event"
    s.handle(InstanceAdded(first.instance), now_ns=50)
    (third,) = fire(s, 50)
    assert third.instance == first.instance


def test_the_watchdog_covers_a_lost_report() -> None:
    """Without it, the request that arrives during a pass whose end is never reported would wait for ever."""
    s = scheduler(watchdog=2.0)
    arrive(s, 0, 50)
    fire(s, 0)
    arrive(s, 10, 60, first_id=1)
    fire(s, PASS - 100)
    arrive(s, PASS, 70, first_id=2)
    assert s.next_timer_ns() == 2 * PASS + 10
    dispatches = fire(s, 2 * PASS + 10)
    while not dispatches:
        due = s.next_timer_ns()
        assert due is not None
        dispatches = fire(s, due)
    assert dispatches[0].ids.tolist() == [2]
    assert s.oddities.lost_passes >= 1


def test_a_deadline_rejects_what_still_waits() -> None:
    s = scheduler(units=1)
    arrive(s, 0, 100)
    fire(s, 0)
    arrive(s, 10, 10, first_id=1, deadline_ns=[1_000])
    assert s.next_timer_ns() == 1_000
    (reject,) = s.handle_timer(now_ns=1_000)
    assert isinstance(reject, Reject)
    assert (reject.ids.tolist(), reject.reason) == ([1], "deadline")
    assert s.next_timer_ns() is None


@pytest.mark.parametrize("limit", [PASS // 8, 10 * PASS])
def test_the_interval_holds_until_it_is_over_or_the_limit_is_reached(limit: int) -> None:
    s = scheduler(instances=2, policy="sbs", bypass_utilisation=0.0, hold_limit_ns=limit)
    arrive(s, 0, 50)
    fire(s, 0)
    finish(s, PASS + 10, 0, [0], [50, 0], [0, 0])  # the mean pass is known from here on
    arrive(s, PASS + 20, 50, first_id=1)
    fire(s, PASS + 20)
    arrive(s, PASS + 40, 50, first_id=2)
    interval = (PASS + 10) // 2
    assert s.next_timer_ns() == PASS + min(20 + interval, 40 + limit)


def test_an_older_request_is_never_left_out_for_a_younger_one() -> None:
    s = scheduler(units=1)
    arrive(s, 0, 100)
    fire(s, 0)
    arrive(s, 10, 90, first_id=1)
    arrive(s, 20, 80, first_id=2)
    arrive(s, 30, 70, first_id=3)
    (dispatch,) = fire(s, PASS - 100)
    assert 1 in dispatch.ids.tolist()


def test_priorities_come_before_age() -> None:
    s = scheduler(units=1)
    arrive(s, 0, 100)
    fire(s, 0)
    arrive(s, 10, 100, 100, first_id=1, priority=[1, 0])
    (dispatch,) = fire(s, PASS - 100)
    assert dispatch.ids.tolist() == [2]


def test_load_reports_and_backward_clocks_are_legal() -> None:
    s = scheduler()
    arrive(s, 1_000, 50)
    fire(s, 1_000)
    s.handle(LoadReported(0, np.array([0, 0]), 1_500), now_ns=1_500)
    arrive(s, 200, 60, first_id=1)
    due = s.next_timer_ns()
    assert due is not None
    assert due >= 1_500


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timing": "sometimes"}, "timing"),
        ({"lead_ns": -1}, "lead_ns"),
        ({"watchdog": 1.0}, "watchdog"),
        ({"mean_passes": 0}, "mean_passes"),
        ({"policy": "random", "solver": "lpt"}, "binds at once"),
        ({"polcy": "sbs"}, "known keys: policy"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config_from_dict(settings)
    with pytest.raises(InputError, match="does not bind late"):
        SchedulerConfig(policy="random").decisions()
