"""`sbs-opt bench`: several solvers on the windows of a file, quality against time."""

from __future__ import annotations

import argparse
from typing import Any

from sbs_opt.cli.arguments import add_json, add_seed, milliseconds, names, naming

_SOLVERS = ["auto", "lpt", "least_loaded"]


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "bench",
        help="compare solvers on windows: quality against time, one table and one plot",
        description="Run several solvers on every window of a file and hold all of them against the best proved bound.",
    )
    parser.add_argument("windows", metavar="WINDOWS", help="a window file, plain, gzip or zstd")
    parser.add_argument(
        "--solvers",
        type=names,
        default=_SOLVERS,
        metavar="A,B,C",
        help=f"see sbs-opt list solvers (default {','.join(_SOLVERS)})",
    )
    parser.add_argument(
        "--budgets-ms",
        type=_budgets,
        default=[None],
        dest="budgets_s",
        metavar="B[,C…]",
        help="wall times per window, each tried (default: the solver's own)",
    )
    parser.add_argument(
        "--out", default="bench.html", metavar="PATH", help="page (.html) or plot alone (.svg) (default bench.html)"
    )
    add_json(parser)
    add_seed(parser)
    parser.set_defaults(run=run)


def _budgets(text: str) -> list[float]:
    """Return the time budgets of a list separated by commas, each once, in seconds."""
    values = [milliseconds(part.strip()) for part in text.split(",")]
    if len(set(values)) != len(values):
        raise argparse.ArgumentTypeError(f"{text!r} holds a budget twice; give each once")
    return values


def run(given: argparse.Namespace) -> None:
    """Run the bench, print the table, write page or plot, and the JSON."""
    from sbs_opt.cli.output import check_outputs, console, progress_bar, written
    from sbs_opt.models.errors import InputError

    check_outputs([given.out], given.json, [given.windows])
    if not given.out.endswith((".html", ".svg")):
        raise InputError(f"--out: {given.out} ends neither in .html nor in .svg; the ending says what to write")

    from sbs_opt.instances import read_windows
    from sbs_opt.reports.bench import bench_json, summaries
    from sbs_opt.reports.bench_chart import bench_chart, standalone
    from sbs_opt.reports.bench_page import bench_page
    from sbs_opt.reports.bench_table import bench_tables
    from sbs_opt.reports.json_rows import json_text
    from sbs_opt.solvers.bench import bench
    from sbs_opt.solvers.registry import solver_info

    with naming("--solvers"):
        for name in given.solvers:
            solver_info(name)
    windows = list(read_windows(given.windows))
    if not windows:
        raise InputError(f"{given.windows}: is empty; give a file that holds windows")
    with progress_bar() as progress:
        found = bench(windows, given.solvers, given.budgets_s, seed=given.seed, progress=progress)
    if given.out.endswith(".html"):
        page = bench_page(found, windows, given.windows)
    else:
        chart = bench_chart(summaries(found))
        if chart is None:
            raise InputError(f"{given.out}: none of these solvers takes any of the windows, so there is no plot")
        page = standalone(chart)
    with written(given.out, page), written(given.json, json_text(bench_json(found, given.windows))):
        pass  # both are written by now; leaving puts them in place
    screen = console(given.json)
    for part in bench_tables(found):
        screen.print(part)
    screen.print(f"\n{'report' if given.out.endswith('.html') else 'plot'}: {given.out}")
