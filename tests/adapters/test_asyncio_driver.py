"""The scheduler that is simulated is the scheduler that is shipped."""

from __future__ import annotations

import asyncio
from dataclasses import astuple, is_dataclass
from typing import Any

import numpy as np
import pytest

from sbs_opt.adapters.asyncio_driver import AsyncioDriver, MonotonicClock
from sbs_opt.models.requests import Requests
from sbs_opt.scheduler.commands import Command
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.events import Event, RequestBatch, RequestsArrived
from sbs_opt.scheduler.policies import POLICIES, build_scheduler
from sbs_opt.simulator.replay import simulate
from sbs_opt.simulator.simulation import DECODE, PREFILL
from sbs_opt.testing.costs import LinearDecode, LinearPrefill, linear_cost_model
from sbs_opt.testing.fleets import poisson_requests, small_deployment

COST = linear_cost_model(LinearPrefill(20_000_000, 1_000, chunk_tokens=4096), LinearDecode(2_000_000, 3, 1_000))
FLEET = small_deployment(3, 4, chunk_tokens=4096, decode_instances=2, decode_units=3)


class FakeClock:
    """A clock that the test sets; waiting ends when the test says so."""

    def __init__(self) -> None:
        self.time_ns = 0
        self.until_ns: int | None = None

    def now_ns(self) -> int:
        return self.time_ns

    async def wait(self, wake: asyncio.Event, until_ns: int | None) -> None:
        self.until_ns = until_ns
        await wake.wait()


def plain(command: Command) -> tuple[Any, ...]:
    assert is_dataclass(command)
    values = (v.tolist() if isinstance(v, np.ndarray) else v for v in astuple(command))
    return (type(command).__name__, *values)


def trace() -> Requests:
    generator = np.random.Generator(np.random.Philox(3))
    lengths = generator.lognormal(6.5, 1.2, 400).astype(np.int64) + 1
    return poisson_requests(
        1 / 1_500_000, 400, seed=3, prompt_tokens=lengths, output_tokens=generator.integers(0, 30, 400)
    )


async def drive(driver: AsyncioDriver, clock: FakeClock, events: list[tuple[int, Event]]) -> None:
    """Let the clock jump to whatever comes next, an event of the log or the driver's own timer."""
    running = asyncio.create_task(driver.run())
    await asyncio.sleep(0)
    position = 0
    while position < len(events) or clock.until_ns is not None:
        due = [events[position][0]] if position < len(events) else []
        clock.time_ns = max(clock.time_ns, min([*due, *([clock.until_ns] if clock.until_ns is not None else [])]))
        clock.until_ns = None
        while position < len(events) and events[position][0] == clock.time_ns:
            driver.feed(events[position][1])
            position += 1
        driver._wake.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    driver.stop()
    await running


@pytest.mark.parametrize(("phase", "policy"), [(i.phase, name) for name, i in POLICIES.items()])
def test_the_simulators_event_log_gives_the_same_commands(phase: str, policy: str) -> None:
    prefill = policy if phase == "prefill" else "phase_aware"
    config = SchedulerConfig(policy=prefill, seed=5)
    log = simulate(trace(), FLEET, COST, config, record=True).log
    number = PREFILL if phase == "prefill" else DECODE
    simulated = [(now, plain(c)) for p, now, _, commands in log if p == number for c in commands]
    events = [(now, event) for p, now, event, _ in log if p == number and event is not None]

    clock = FakeClock()
    driven: list[tuple[int, tuple[Any, ...]]] = []
    scheduler = build_scheduler(phase, FLEET, COST, SchedulerConfig(policy=policy, seed=5))  # type: ignore[arg-type]
    driver = AsyncioDriver(scheduler, lambda c: driven.append((clock.time_ns, plain(c))), clock)
    asyncio.run(drive(driver, clock, events))

    assert len(simulated) > 20
    assert driven == simulated


def test_timers_fire_on_the_real_clock() -> None:
    """A request that must wait for an interval is dispatched though nothing else happens."""
    config = SchedulerConfig(policy="sbs", hold_limit_ns=30_000_000, bypass_utilisation=0.0)
    scheduler = build_scheduler("prefill", small_deployment(1, 1), COST, config)
    sent: list[Command] = []
    driver = AsyncioDriver(scheduler, sent.append, MonotonicClock())

    async def main() -> None:
        running = asyncio.create_task(driver.run())
        driver.feed(RequestsArrived(RequestBatch(np.array([7]), np.array([10]))))
        while not sent:
            await asyncio.sleep(0.001)
        driver.stop()
        await running

    asyncio.run(asyncio.wait_for(main(), 20))
    assert plain(sent[0])[3] == [7]
