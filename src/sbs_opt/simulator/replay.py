"""Run a trace under a policy: build the schedulers, simulate, check conservation, measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.models.requests import Requests
from sbs_opt.scheduler.batch import Observer
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.policies import build_scheduler
from sbs_opt.simulator.conservation import check_conservation
from sbs_opt.simulator.simulation import Run, Simulation


def simulate(
    requests: Requests,
    deployment: Deployment,
    cost_model: CostModel,
    config: SchedulerConfig,
    decode_config: SchedulerConfig | None = None,
    *,
    horizon_ns: int | None = None,
    record: bool = False,
    observe: Observer | None = None,
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Simulate one trace under one prefill and one decode policy.

    Parameters
    ----------
    requests
        The trace, already scaled to the load of interest.
    deployment, cost_model
        The fleet.
    config, decode_config
        Settings of the two schedulers; the size of prefix blocks is taken from the trace.
    horizon_ns
        Virtual time at which to stop; None runs until every request is answered or rejected.
    record
        Keep the event log in `Run.log`.
    observe
        Called with every window that a late-binding policy places.
    progress
        Called now and then with the number of requests that have arrived.

    Returns
    -------
    Run
        Deterministic: the same arguments give the same run.

    Raises
    ------
    InputError
        On an empty trace or an unknown policy.
    InternalError
        When a conservation law does not hold.
    """
    config = replace(config, block_tokens=requests.block_tokens)
    prefill = build_scheduler("prefill", deployment, cost_model, config, observe=observe)
    decode = None
    if deployment.of_phase("decode"):
        decode = build_scheduler("decode", deployment, cost_model, decode_config or SchedulerConfig(policy="least_kv"))
    simulation = Simulation(
        requests, deployment, cost_model, prefill, decode, notification_ns=config.notification_ns, record=record
    )
    run = simulation.execute(horizon_ns=horizon_ns, progress=progress)
    check_conservation(run, prefill, decode)
    return run
