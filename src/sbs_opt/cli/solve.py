"""`sbs-opt solve`: solve the windows of a file, with a certificate each."""

from __future__ import annotations

import argparse
from typing import Any

from sbs_opt.cli.arguments import add_json, add_seed, milliseconds


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "solve",
        help="solve scheduling windows and say how good the answers are",
        description="Solve every window of a file; each answer is verified and comes with a lower bound.",
    )
    parser.add_argument("windows", metavar="WINDOWS", help="a window file, plain, gzip or zstd")
    parser.add_argument("--solver", default="auto", metavar="NAME", help="see sbs-opt list solvers (default auto)")
    parser.add_argument(
        "--budget-ms",
        type=milliseconds,
        dest="budget_s",
        metavar="B",
        help="wall time per window (default: the solver's own)",
    )
    parser.add_argument(
        "--explain", action="store_true", help="say of each window what binds and where the bound is from"
    )
    add_json(parser)
    add_seed(parser)
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Solve every window, print the table, write the JSON."""
    from sbs_opt.cli.output import check_outputs, console, progress_bar, write_json

    check_outputs([], given.json, [given.windows])

    from sbs_opt.instances import read_windows
    from sbs_opt.models.errors import InputError, UnsupportedError
    from sbs_opt.reports.explanation import explain, explanation_tables
    from sbs_opt.reports.json_rows import envelope
    from sbs_opt.reports.solutions import solution_row, solution_tables
    from sbs_opt.solvers.registry import solver_info
    from sbs_opt.solvers.solve import solve
    from sbs_opt.solvers.warm_up import warm_up

    solver_info(given.solver)
    windows = list(read_windows(given.windows))
    if not windows:
        raise InputError(f"{given.windows}: is empty; give a file that holds windows")
    warm_up(given.solver)  # or the first windows would spend their budget on loading compiled code
    screen = console(given.json)
    rows = []
    with progress_bar() as progress:
        for index, window in enumerate(windows):
            progress(index / len(windows), f"window {index:,}")
            try:
                result = solve(window, given.solver, budget_s=given.budget_s, seed=given.seed)
            except UnsupportedError as error:
                raise InputError(f"{given.windows}, window {index}: {error}") from error
            rows.append(solution_row(index, result))
            if given.explain:
                rows[-1]["explain"] = account = explain(window, result)
                for part in explanation_tables(index, result, account):
                    screen.print(part)
    write_json(given.json, envelope("solve", given.seed, rows, windows=given.windows))
    for part in solution_tables(rows):
        screen.print(part)
