"""`sbs-opt compare`: every policy on one trace, at some loads."""

from __future__ import annotations

import argparse
import os
from typing import Any

from sbs_opt.cli.arguments import add_json, add_seed, add_trace, input_files, load_fleet, loads, names, naming

_LOADS = [0.3, 0.5, 0.7]


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "compare",
        help="compare policies on a trace: a table, a report",
        description="Simulate every policy on the same requests and compare the times to the first token.",
    )
    add_trace(parser)
    parser.add_argument("--policies", type=names, metavar="A,B,C", help="prefill policies (default: all of them)")
    parser.add_argument("--decode-policy", default="least_kv", metavar="P", help="decode policy (default least_kv)")
    parser.add_argument(
        "--load",
        type=loads,
        default=_LOADS,
        metavar="X[,Y…]",
        help="prefill loads, reached by superposition (default 0.3,0.5,0.7)",
    )
    parser.add_argument(
        "--full", action="store_true", help="simulate the whole span, not only the least that gives 2,000 passes"
    )
    parser.add_argument("--out", default="report.html", metavar="PATH", help="the report (default report.html)")
    add_json(parser)
    add_seed(parser)
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Compare, print the tables, write report and JSON."""
    from sbs_opt.cli.output import check_outputs, console, progress_bar, written

    check_outputs([given.out], given.json, input_files(given))

    from sbs_opt.instances import read_trace
    from sbs_opt.reports import compare_json, comparison_tables, html_report, too_long_notes
    from sbs_opt.reports.json_rows import json_text
    from sbs_opt.scheduler.policies import POLICIES, policy_info
    from sbs_opt.simulator.study import compare

    policies = given.policies or [name for name, info in POLICIES.items() if info.phase == "prefill"]
    with naming("--policies"):
        for policy in policies:
            policy_info(policy, "prefill")
    with naming("--decode-policy"):
        policy_info(given.decode_policy, "decode")
    deployment, cost_model = load_fleet(given)
    trace = read_trace(given.trace, format=given.format, seed=given.seed)
    with progress_bar() as progress, naming(given.trace):
        study = compare(
            trace.requests,
            deployment,
            cost_model,
            trace=trace.name,
            policies=policies,
            decode_policy=given.decode_policy,
            loads=given.load,
            seed=given.seed,
            full=given.full,
            notes=(*trace.notes, *too_long_notes(trace.requests, deployment)),
            workers=os.cpu_count() or 1,
            progress=progress,
        )
    page, rows = html_report(study), json_text(compare_json(study))
    with written(given.out, page), written(given.json, rows):
        pass  # both are written by now; leaving puts them in place
    screen = console(given.json)
    for part in comparison_tables(study, screen.width):
        screen.print(part)
    screen.print(f"\nreport: {given.out}")
