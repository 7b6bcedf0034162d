"""Public instances with proved optima: python benchmarks/published.py FOLDER, which holds berndt/ and frangioni/.

Each family is a folder with `optima.csv` (file, optimum) and one file per instance. Sources: Berndt, Deppert, Jansen,
Rohwedder 2022; Frangioni, Necciari, Scutellà 2004.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import numpy as np
from tables import columns, head, microseconds, row

from sbs_opt.models.window import Window
from sbs_opt.solvers.solve import solve
from sbs_opt.solvers.warm_up import warm_up

CANDIDATES = (
    ("least_loaded", None, 1),
    ("lpt", None, 1),
    ("ldm", None, 1),
    ("multifit", None, 1),
    ("auto", None, 1),
    ("auto", 1e-3, 1),
    ("auto", 1.0, 1),
    ("branch_and_bound", 1.0, 1),
    ("cp_sat", 1.0, 10),
)
"""Solver, budget in seconds, and of how many instances one is tried."""


def instances(folder: Path) -> list[tuple[Window, int]]:
    """Return the windows of a family with their optima."""
    with (folder / "optima.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    out = []
    for entry in rows:
        words = [int(word) for word in (folder / entry["file"]).read_text().split()[2:-1]]
        n, m, sizes = words[0], words[1], words[2:]
        window = Window(demand=np.array(sizes[:n])[:, None], load=np.zeros((m, 1), dtype=np.int64))
        out.append((window, int(entry["optimum"])))
    return out


def main() -> None:
    """Print the table."""
    warm_up()
    head("Public instances of P‖Cmax with proved optima", ("ortools",))
    columns("family", "solver", "budget", "instances", "p50", "max", "mean gap to the optimum", "optimal", "certified")
    for family in ("berndt", "frangioni"):
        known = instances(Path(sys.argv[1]) / family)
        for solver, budget_s, every in CANDIDATES:
            taken, gaps, certified = [], [], 0
            for window, optimum in known[::every]:
                began = time.perf_counter()
                result = solve(window, solver, budget_s=budget_s)
                taken.append(time.perf_counter() - began)
                if result.bound > optimum:
                    raise AssertionError(f"{solver} claims {result.bound}, the optimum is {optimum}")
                gaps.append(result.objective.bottleneck / optimum - 1)
                certified += result.status == "OPTIMAL"
            row(
                [
                    family,
                    solver,
                    "none" if budget_s is None else microseconds(budget_s),
                    len(gaps),
                    microseconds(float(np.median(taken))),
                    microseconds(max(taken)),
                    f"{np.mean(gaps):.4%}",
                    gaps.count(0.0),
                    certified,
                ]
            )


if __name__ == "__main__":
    main()
