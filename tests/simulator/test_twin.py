"""The simulator and its twin, written independently from docs/simulator.md, agree on every figure of a run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.instances import read_trace
from sbs_opt.instances.offered import scale_to_load
from sbs_opt.models.catalogue import DEFAULT_DEPLOYMENT, cost_model_of, load_deployment
from sbs_opt.models.deployment import Deployment, Instance, Unit
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.simulator import decode_engine
from sbs_opt.simulator.replay import simulate
from sbs_opt.testing import twin
from sbs_opt.testing.costs import LinearPrefill, linear_cost_model
from sbs_opt.testing.twin import Twin, TwinRun
from tests.simulator.twin_cases import POLICIES, Case, crowded_cases, linear_cases, make_requests, one_unit, real_cases


def run_both(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    with patch.object(decode_engine, "RESERVE_TOKENS", case.reserve_tokens):
        run = simulate(case.requests, case.deployment, case.cost_model, case.config, case.decode_config)
    happened = {name: _present(getattr(run, name)) for name in ("dispatched_ns", "first_token_ns", "finished_ns")}
    fast = happened | {
        "decision_ns": _at(run.decision_ns, happened["dispatched_ns"]),
        "unit": _at(run.unit, happened["dispatched_ns"]),
        "hit_tokens": _at(run.hit_tokens, happened["dispatched_ns"]),
        "rejected": run.rejected,
        "passes": [(p.instance, p.number, p.start_ns, p.duration_ns, tuple(p.tokens.tolist())) for p in run.passes],
        "preemptions": run.decode.preemptions if run.decode else 0,
        "end_ns": run.end_ns,
    }
    return fast, twin_figures(run_twin(case))


def run_twin(case: Case) -> TwinRun:
    slow = Twin(
        case.requests,
        case.deployment,
        case.cost_model,
        case.config,
        case.decode_config,
        reserve_tokens=case.reserve_tokens,
    )
    return slow.execute()


def twin_figures(run: TwinRun) -> dict[str, Any]:
    return {
        "dispatched_ns": run.dispatched_ns,
        "first_token_ns": run.first_token_ns,
        "finished_ns": run.finished_ns,
        "decision_ns": run.decision_ns,
        "unit": run.unit,
        "hit_tokens": run.hit_tokens,
        "rejected": run.rejected,
        "passes": [(p.instance, p.number, p.start_ns, p.duration_ns, p.tokens) for p in run.passes],
        "preemptions": run.preemptions,
        "end_ns": run.end_ns,
    }


def _present(times: Any) -> dict[int, int]:
    return {k: t for k, t in enumerate(times.tolist()) if t >= 0}


def _at(values: Any, which: dict[int, int]) -> dict[int, int]:
    return {k: int(values[k]) for k in which}


# -- the law -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@given(data=st.data())
@settings(max_examples=100)
def test_twin_agrees_under_linear_costs(policy: str, data: st.DataObject) -> None:
    fast, slow = run_both(data.draw(linear_cases(policy)))
    assert fast == slow


@pytest.mark.parametrize("policy", ["round_robin", "central_greedy", "sbs", "sbs_auto"])
@given(data=st.data())
@settings(max_examples=60)
def test_twin_agrees_where_room_is_scarce(policy: str, data: st.DataObject) -> None:
    fast, slow = run_both(data.draw(crowded_cases(policy)))
    assert fast == slow


@pytest.mark.parametrize("policy", POLICIES)
@given(data=st.data())
@settings(max_examples=30)
def test_twin_agrees_under_the_real_cost_model(policy: str, data: st.DataObject) -> None:
    fast, slow = run_both(data.draw(real_cases(policy)))
    assert fast == slow


@pytest.mark.parametrize("policy", ["phase_aware", "sbs", "sbs_auto"])
def test_twin_agrees_on_a_captured_trace(policy: str, traces_dir: Path) -> None:
    deployment = load_deployment(DEFAULT_DEPLOYMENT)
    cost_model = cost_model_of(deployment)
    captured = read_trace(traces_dir / "mooncake_conversation_1800s-end.jsonl").requests
    requests = scale_to_load(captured, 0.9, cost_model, deployment, seed=0).take(np.arange(600))
    case = Case(requests, deployment, cost_model, SchedulerConfig(policy), SchedulerConfig("least_kv"), 150)
    fast, slow = run_both(case)
    assert fast == slow
    assert len(fast["passes"]) > 20


# -- regressions ---------------------------------------------------------------------------------------------------


def test_batch_of_the_second_pass_is_committed_early_without_further_events() -> None:
    """No timer was set while the first batch was on its way: the second waited for a notification."""
    burst = make_requests([0, 0], [100, 100], [1, 1], [[], []], 0)
    case = one_unit(
        burst,
        linear_cost_model(LinearPrefill(fixed_ns=1_000)),
        policy="sbs_auto",
        notification_ns=200,
        lead_ns=400,
        decision_base_ns=10,
        decision_step_ns=0,
    )
    fast, slow = run_both(case)
    assert fast == slow
    assert [start for _, _, start, _, _ in fast["passes"]] == [10, 1_010]


def test_a_pass_far_longer_than_believed_is_given_up_once() -> None:
    """Giving up relaunched requests believed done, at the time they were sent, again and again: a run never ended."""
    shared = [1, 2, 3, 4]
    # The second request finds its prefix uncached, as the first is not done: the pass takes twice as long as believed.
    late = make_requests([0, 1, 11_000, 11_000], [150, 49, 100, 100], [1] * 4, [shared, shared, [], []], 12)
    cost = linear_cost_model(LinearPrefill(fixed_ns=1, token_ns=100))
    case = one_unit(
        late,
        cost,
        policy="sbs_auto",
        watchdog=1.1,
        notification_ns=0,
        lead_ns=4_000_000,
        decision_base_ns=0,
        decision_step_ns=0,
    )
    fast, slow = run_both(case)
    assert fast == slow
    assert [tokens for *_, tokens in fast["passes"]] == [(100,), (99,), (100,), (100,)]


def test_an_empty_prompt_has_no_prefix_to_reuse() -> None:
    """An empty prompt that came with blocks was booked with all but the last of them as its hit, below zero tokens."""
    empty = make_requests([0, 0, 50, 50], [48, 0, 0, 48], [1] * 4, [[1, 2, 3], [], [1, 2, 3], [1, 2, 3]], 16)
    cost = linear_cost_model(LinearPrefill(fixed_ns=10, token_ns=1))
    for policy in ("phase_aware", "sbs", "sbs_auto"):
        fast, slow = run_both(one_unit(empty, cost, policy=policy, notification_ns=0, decision_base_ns=0))
        assert fast == slow
        assert fast["hit_tokens"] == {0: 0, 1: 0, 2: 0, 3: 32}


def test_a_hit_renews_its_blocks_before_the_pass_ends() -> None:
    """Random runs hardly see it: the blocks must survive the pass for a request behind a debt to find them."""
    full = [[1, 2], list(range(10, 26)), [30, 31, 32, 33], [1, 2, *range(40, 46)], [1, 2]]
    queue = make_requests([0] * 5, [20, 160, 40, 80, 25], [1] * 5, full, 10)
    unit = Unit(kv_tokens=200, chunk_tokens=30)
    deployment = Deployment("one", (Instance("p", "prefill", 1, unit),), "h800", "deepseek-v3", context_tokens=200)
    config = SchedulerConfig("round_robin", decision_base_ns=0)
    cost = linear_cost_model(LinearPrefill(fixed_ns=10))
    fast, slow = run_both(Case(queue, deployment, cost, config, config, reserve_tokens=0))
    assert fast == slow
    assert fast["hit_tokens"] == {0: 0, 1: 0, 2: 0, 3: 20, 4: 20}


def test_twin_refuses_a_policy_that_it_does_not_know() -> None:
    one = make_requests([0], [1], [1], [[]], 0)
    with pytest.raises(InputError, match=r"policy = 'least_kv': the twin knows round_robin, .*sbs_auto"):
        run_twin(one_unit(one, linear_cost_model(LinearPrefill(fixed_ns=1)), policy="least_kv"))


def test_twin_shares_no_code_with_what_it_checks() -> None:
    """An agreement proves nothing where both sides call the same function."""
    for path in Path(twin.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                allowed = name.startswith(("sbs_opt.models", "sbs_opt.testing.twin")) or not name.startswith("sbs_opt")
                assert allowed, f"{path.name} imports {name}"
                assert name != "numpy" or path.name == "costs.py", f"{path.name} computes with arrays"
