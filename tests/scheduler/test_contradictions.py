"""Regressions: contradictory events that once hung, crashed or misled a scheduler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sbs_opt.models.deployment import Unit
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.batch import BatchScheduler
from sbs_opt.scheduler.commands import Dispatch
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.decode import LeastKvScheduler
from sbs_opt.scheduler.events import (
    DispatchFailed,
    FirstTokens,
    InstanceAdded,
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


def scheduler(instances: int = 1, units: int = 1, **settings: Any) -> BatchScheduler:
    given = {"policy": "sbs_auto", "balance": "tokens", "notification_ns": 10, "lead_ns": 100}
    given |= {"decision_base_ns": 0, "decision_step_ns": 0}
    fleet = small_deployment(instances, units, chunk_tokens=100, kv_tokens=1_000, decode_instances=2)
    return BatchScheduler(fleet, COST, SchedulerConfig(**{**given, **settings}))


def arrive(s: Any, now: int, request: int, prompt: int, **columns: Any) -> Any:
    more = {name: np.array([value]) for name, value in columns.items()}
    return s.handle(RequestsArrived(RequestBatch(np.array([request]), np.array([prompt]), **more)), now_ns=now)


def fire(s: BatchScheduler, now: int) -> list[Dispatch]:
    return [c for c in s.handle_timer(now_ns=now) if isinstance(c, Dispatch)]


def ended(number: int, queued: int, units: int = 1) -> PassEnded:
    figures = np.full(units, queued)
    return PassEnded(0, number, PASS, np.zeros(units, np.int64), figures)


def test_an_id_twice_in_one_event_counts_once() -> None:
    """The second release once searched a queue for ever."""
    s = scheduler()
    for request in range(3):
        arrive(s, 0, request, 30)
    fire(s, 0)
    s.handle(RequestsCancelled(np.array([1, 1, 1])), now_ns=1)
    assert (s.open_requests, s.oddities.unknown_ids) == (2, 2)


@pytest.mark.parametrize("length", [0, 1, 3, 4_000])
def test_a_report_of_the_wrong_length_is_counted_not_read(length: int) -> None:
    """It once wrote over the queues of the next instance."""
    s = scheduler(instances=2, units=2)
    arrive(s, 0, 1, 50)
    fire(s, 0)
    figures = np.full(length, 7)
    s.handle(PassEnded(0, 0, PASS, figures, figures), now_ns=PASS)
    s.handle(LoadReported(0, figures, PASS), now_ns=PASS)
    assert s.oddities.malformed_reports == 2
    assert s._book.units[:, 5].tolist() == [50, 0, 0, 0], "KV of the one request sent"


def test_work_reported_on_an_instance_taken_as_idle() -> None:
    """A lost pass end, then telemetry of a full queue: this once was an internal error at every later timer."""
    s = scheduler()
    arrive(s, 0, 1, 100)
    fire(s, 0)
    arrive(s, 5, 2, 100)
    fire(s, PASS)
    late = 20 * PASS
    fire(s, late)
    s.handle(LoadReported(0, np.array([200]), late), now_ns=late)
    arrive(s, late, 3, 100)
    for _ in range(20):
        due = s.next_timer_ns()
        if due is None:
            break
        fire(s, due)
    assert s.booked > 0


def test_an_old_report_does_not_rewind_the_book() -> None:
    s = scheduler()
    arrive(s, 0, 1, 250)
    fire(s, 0)
    s.handle(ended(0, queued=150), now_ns=PASS + 10)
    s.handle(LoadReported(0, np.array([250]), PASS // 2), now_ns=PASS + 20)
    s.handle(LoadReported(0, np.array([250]), 9 * PASS), now_ns=PASS + 20)
    assert s.oddities.late_reports == 2
    assert int(s._book.units[0, 2] + s._book.units[0, 3]) == 150


def test_reports_release_a_request_whose_first_token_went_missing() -> None:
    """It once stayed booked for ever, and every pass was followed by a phantom one."""
    s = scheduler()
    arrive(s, 0, 1, 50)
    fire(s, 0)
    s.handle(ended(0, queued=0), now_ns=PASS + 10)
    arrive(s, PASS + 20, 2, 50)
    fire(s, PASS + 20)
    s.handle(FirstTokens(np.array([2])), now_ns=2 * PASS + 40)
    s.handle(ended(1, queued=0), now_ns=2 * PASS + 40)
    assert (s.booked, s.open_requests, s.oddities.lost_first_tokens) == (0, 0, 1)


def test_only_the_dispatch_that_failed_is_repeated() -> None:
    """A second report of the same failure once sent the request to two places."""
    s = scheduler(instances=2)
    arrive(s, 0, 1, 50)
    (first,) = fire(s, 0)
    s.handle(DispatchFailed(first.window_id, first.ids, "reset"), now_ns=5)
    (second,) = fire(s, 5)
    s.handle(DispatchFailed(first.window_id, first.ids, "reset"), now_ns=6)
    assert fire(s, 6) == []
    assert s.oddities.late_failures == 1
    assert second.window_id != first.window_id


def test_a_withdrawn_batch_leaves_the_instance_free() -> None:
    """Its pass was once believed to run, and the next request waited for the end of nothing."""
    s = scheduler(decision_base_ns=50)
    arrive(s, 0, 1, 50)
    fire(s, 0)
    s.handle(RequestsCancelled(np.array([1])), now_ns=1)
    arrive(s, 60, 2, 50)
    assert s.next_timer_ns() == 60


def test_a_failed_early_batch_can_be_sent_again_before_the_pass_ends() -> None:
    s = scheduler()
    arrive(s, 0, 1, 50)
    fire(s, 0)
    arrive(s, 5, 2, 50)
    (early,) = fire(s, PASS - 100)
    s.handle(DispatchFailed(early.window_id, early.ids, "reset"), now_ns=PASS - 90)
    assert [d.ids.tolist() for d in fire(s, PASS - 90)] == [[2]]


def test_a_lost_instance_starts_afresh() -> None:
    """A late report of its old passes once made every new one late; its cache once survived it."""
    s = scheduler(block_tokens=10)
    blocks: dict[str, Any] = {"block_offset": np.array([0, 5]), "block_id": np.arange(5)}
    batch = RequestBatch(np.array([1]), np.array([50]), **blocks)
    s.handle(RequestsArrived(batch), now_ns=0)
    fire(s, 0)
    s.handle(InstanceLost(0), now_ns=10)
    s.handle(ended(5_000, queued=0), now_ns=20)
    assert s.oddities.late_passes == 1
    s.handle(InstanceAdded(0, units=1, budgets=Unit(1_000, chunk_tokens=100)), now_ns=30)
    fire(s, 30)
    assert int(s._book.units[0, 2]) == 50, "booked without a hit in the cache that is gone"
    s.handle(FirstTokens(np.array([1])), now_ns=PASS + 40)
    s.handle(ended(0, queued=0), now_ns=PASS + 40)
    assert s.oddities.late_passes == 1
    s.handle(InstanceAdded(0, units=9), now_ns=PASS + 50)
    assert s.oddities.unknown_instances == 1


def test_decode_steps_of_a_returned_instance_count_from_zero() -> None:
    s = LeastKvScheduler(small_deployment(1, 1, decode_instances=1, decode_units=1), COST, SchedulerConfig("least_kv"))
    for step in range(5):
        s.handle(ended(step, queued=0), now_ns=step)
    s.handle(InstanceLost(0), now_ns=10)
    s.handle(ended(5, queued=0), now_ns=11)
    s.handle(InstanceAdded(0), now_ns=12)
    arrive(s, 13, 1, 99)
    s.handle(ended(0, queued=0), now_ns=14)
    assert s.kv_tokens().tolist() == [101]
    assert s.oddities.late_passes == 1


def test_a_repeated_arrival_is_never_rejected() -> None:
    s = scheduler()
    arrive(s, 0, 1, 50)
    fire(s, 0)
    assert arrive(s, 5, 1, 2_000) == ()
    assert s.oddities.duplicate_arrivals == 1


@pytest.mark.parametrize("policy", ["sbs", "sbs_auto"])
def test_priority_comes_first_until_the_limit_of_windows(policy: str) -> None:
    """`sbs` once ordered by length alone; `sbs_auto` let a low priority starve."""
    s = scheduler(policy=policy, timing="when_free", hold_limit_windows=3)
    arrive(s, 0, 0, 100)
    fire(s, 0)
    arrive(s, 5, 1, 100, priority=5)
    sent = []
    for number in range(6):
        now = PASS * (number + 1)
        arrive(s, now - 200, 10 + number, 100, priority=1)
        sent += [i for d in fire(s, now - 100) for i in d.ids.tolist()]
        done = [0] if number == 0 else sent[number - 1 : number]
        s.handle(FirstTokens(np.array(done)), now_ns=now)
        s.handle(ended(number, queued=100), now_ns=now)
    assert sent[0] == 10, "the smaller priority number first"
    assert 1 in sent[:5], "but not for ever"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [1, 2], "prompt_tokens": [5]}, "prompt_tokens has shape"),
        ({"id": [1], "prompt_tokens": [-5]}, r"prompt_tokens\[0\] = -5"),
        ({"id": [1], "prompt_tokens": [0.5]}, r"prompt_tokens\[0\] = 0.5"),
        ({"id": [1], "prompt_tokens": [5], "priority": [1, 2]}, "priority has shape"),
        ({"id": [1], "prompt_tokens": [5], "block_offset": [0, 1]}, "give both or none"),
    ],
)
def test_malformed_columns_are_refused_when_the_event_is_made(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RequestBatch(**columns)


def test_lists_are_taken_as_columns() -> None:
    s = scheduler()
    s.handle(RequestsArrived(RequestBatch([1, 2], [30, 40])), now_ns=0)  # type: ignore[arg-type]
    s.handle(RequestsCancelled([1]), now_ns=1)  # type: ignore[arg-type]
    assert s.open_requests == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": "x"}, {"seed": -1}, {"watchdog": float("nan")}, {"bypass_utilisation": "a"}, {"mean_passes": "x"},
        {"lead_ns": 4.5}, {"block_tokens": 1.5}, {"notification_ns": True},
    ],
)  # fmt: skip
def test_settings_of_the_wrong_kind_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        SchedulerConfig(**settings)
    with pytest.raises(InputError, match="unknown"):
        scheduler(solver="nope")
