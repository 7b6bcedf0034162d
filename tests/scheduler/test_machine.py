"""Every policy under the state machine of `sbs_opt.testing.machine`."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.policies import POLICIES, Scheduler, build_scheduler
from sbs_opt.testing.costs import LinearDecode, LinearPrefill, linear_cost_model
from sbs_opt.testing.fleets import small_deployment
from sbs_opt.testing.machine import SchedulerMachine

FLEET = small_deployment(
    2, 3, chunk_tokens=100, kv_tokens=450, decode_instances=2, decode_units=3, decode_kv_tokens=450, slots=4
)
COST = linear_cost_model(LinearPrefill(800, 2, chunk_tokens=100), LinearDecode(100))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_scheduler_survives_whatever_it_is_told(policy: str) -> None:
    phase = POLICIES[policy].phase

    class Machine(SchedulerMachine):
        def make(self) -> Scheduler:
            config = SchedulerConfig(policy=policy, notification_ns=30, lead_ns=60, hold_limit_ns=700, mean_passes=3)
            return build_scheduler(phase, FLEET, COST, config)

        def decodes(self) -> bool:
            return phase == "decode"

    run_state_machine_as_test(Machine, settings=settings(max_examples=60, stateful_step_count=40))
