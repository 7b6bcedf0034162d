"""`sbs-opt windows`: the scheduling windows met while a trace is simulated."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sbs_opt.cli.arguments import add_json, add_seed, add_trace, input_files, load, load_fleet, naming, positive

if TYPE_CHECKING:
    from sbs_opt.models.cost import CostModel
    from sbs_opt.models.deployment import Deployment
    from sbs_opt.models.placement import Placement
    from sbs_opt.models.requests import Requests
    from sbs_opt.models.window import Window
    from sbs_opt.scheduler.config import SchedulerConfig

_LOAD = 0.7


class _EnoughError(Exception):
    """Ends a simulation of which no more windows are wanted."""


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "windows",
        help="write the scheduling windows met while simulating a trace",
        description="Simulate a trace under a late-binding policy and write every window that it places.",
    )
    add_trace(parser)
    parser.add_argument(
        "-o", "--out", required=True, metavar="FILE", help="the window file (.jsonl; .gz or .zst is compressed)"
    )
    parser.add_argument("--policy", default="sbs_auto", metavar="P", help="late-binding policy (default sbs_auto)")
    parser.add_argument(
        "--load",
        type=load,
        default=_LOAD,
        metavar="X",
        help=f"prefill load, reached by superposition (default {_LOAD})",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="stop after so many windows")
    add_json(parser)
    add_seed(parser)
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Simulate, collect the windows, write them."""
    from sbs_opt.cli.output import check_outputs, console, progress_bar, writing, written

    check_outputs([given.out], given.json, input_files(given))

    from sbs_opt.instances import read_trace, scale_to_load, write_windows
    from sbs_opt.reports.json_rows import envelope, json_text
    from sbs_opt.reports.solutions import window_row
    from sbs_opt.scheduler.config import SchedulerConfig
    from sbs_opt.scheduler.policies import policy_info

    with naming("--policy"):
        policy_info(given.policy, "prefill")
        config = SchedulerConfig(policy=given.policy, seed=given.seed)
        config.decisions()  # refuses a policy that binds at once, and names those that do not
    deployment, cost_model = load_fleet(given)
    trace = read_trace(given.trace, format=given.format, seed=given.seed)
    with naming(given.trace):
        requests = scale_to_load(trace.requests, given.load, cost_model, deployment, seed=given.seed)
    with progress_bar() as progress:
        met = _windows_met(requests, deployment, cost_model, config, given.limit, progress)
    result = envelope(
        "windows",
        given.seed,
        [window_row(k, window, placement) for k, (window, placement) in enumerate(met)],
        trace=trace.name,
        deployment=deployment.name,
        policy=given.policy,
        load=given.load,
        notes=list(trace.notes),
    )
    with written(given.json, json_text(result)), writing(given.out):
        write_windows(given.out, (window for window, _ in met))
    items = [window.num_items for window, _ in met]
    console(given.json).print(
        f"{given.out}: {len(met):,} windows, {sum(items):,} items, at most {max(items, default=0):,} in one; "
        f"{trace.name} at load {given.load:g} under {given.policy} on {deployment.name}, seed {given.seed}"
    )


def _windows_met(
    requests: Requests,
    deployment: Deployment,
    cost_model: CostModel,
    config: SchedulerConfig,
    limit: int | None,
    progress: Callable[[float, str], None],
) -> list[tuple[Window, Placement]]:
    from sbs_opt.simulator.replay import simulate

    # Prefill windows do not depend on decode, which takes much of the time.
    prefill_only = replace(deployment, instances=deployment.of_phase("prefill"))
    met: list[tuple[Window, Placement]] = []

    def observe(window: Window, placement: Placement) -> None:
        met.append((window, placement))
        if len(met) == limit:
            raise _EnoughError

    def advance(arrived: int) -> None:
        progress(arrived / len(requests), config.policy)

    with suppress(_EnoughError):
        simulate(requests, prefill_only, cost_model, config, observe=observe, progress=advance)
    return met
