"""Placing without an event loop: requests that come together, on a deployment that is idle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.commands import Dispatch, Reject
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.events import FirstTokens, PassEnded, RequestBatch, RequestsArrived, RequestsCancelled
from sbs_opt.scheduler.policies import Scheduler, build_scheduler


def place_batch(
    prompt_tokens: Sequence[int], deployment: Deployment, cost_model: CostModel, config: SchedulerConfig
) -> list[tuple[int, int]]:
    """Return (instance, unit) for requests that are placed together on an idle deployment; without an event loop.

    Raises
    ------
    InputError
        A request that the deployment does not take.
    """
    scheduler = build_scheduler("prefill", deployment, cost_model, config)
    ids = np.arange(len(prompt_tokens))
    placed = _place_all(scheduler, RequestBatch(ids, np.array(prompt_tokens, np.int64)))
    return [placed[number] for number in ids.tolist()]


def warm_up(deployment: Deployment, cost_model: CostModel, config: SchedulerConfig) -> None:
    """Run all that a router runs once, aside: the first requests would else wait for compiled code to be loaded."""
    scheduler = build_scheduler("prefill", deployment, cost_model, config)
    prompt = 2 * max(1, config.block_tokens)
    blocks = None if not config.block_tokens else np.array([1, 2, 1, 3])
    offset = None if blocks is None else np.array([0, 2, 4])
    batch = RequestBatch(np.arange(2), np.full(2, prompt), block_offset=offset, block_id=blocks)
    placed = _place_all(scheduler, batch)
    nothing = np.zeros(deployment.of_phase("prefill")[0].num_units, np.int64)
    instance, _ = placed[0]
    for event in (
        FirstTokens(np.array([0])),
        PassEnded(instance, 0, 1_000_000, nothing, nothing),
        RequestsCancelled(np.array([1])),
    ):
        scheduler.handle(event, now_ns=10**9)


def _place_all(scheduler: Scheduler, batch: RequestBatch) -> dict[int, tuple[int, int]]:
    """Return (instance, unit) by request, for requests that arrive at time 0."""
    commands = list(scheduler.handle(RequestsArrived(batch), now_ns=0))
    placed: dict[int, tuple[int, int]] = {}
    while True:
        for command in commands:
            if isinstance(command, Reject):
                raise InputError(f"request {command.ids.tolist()[0]}: rejected, {command.reason}")
            if isinstance(command, Dispatch):
                for number, unit in zip(command.ids.tolist(), command.units.tolist(), strict=True):
                    placed[number] = command.instance, unit
        due = scheduler.next_timer_ns()
        if len(placed) == len(batch.id) or due is None:
            return placed
        commands = list(scheduler.handle_timer(now_ns=due))
