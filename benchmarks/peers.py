"""Our solvers beside what else can be installed, in one run on the same fresh windows: python benchmarks/peers.py.

Needs `pip install prtpy numberpartitioning binpacking`. Peers take one list of sizes and empty units, so the windows
are of kind D. The makespan of every peer is recomputed from its parts where it returns them.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable

import binpacking
import generated
import numberpartitioning
import numpy as np
import prtpy
from tables import columns, head, microseconds, row

from sbs_opt.models.window import Window
from sbs_opt.solvers.bounds import lower_bound
from sbs_opt.solvers.cp_sat import CpSat
from sbs_opt.solvers.protocol import Solver
from sbs_opt.solvers.scipy_milp import ScipyMilp
from sbs_opt.solvers.solve import solve

SHAPES = ((128, 32), (512, 32), (1000, 128), (2000, 320))


def pure_python_differencing(values: list[int], parts: int) -> int:
    """Return the makespan of Karmarkar and Karp's method on plain lists, as training frameworks do it."""
    queue: list[tuple[int, int, list[tuple[int, list[int]]]]] = []
    for k, value in enumerate(values):
        slots = [(value, [k])] + [(0, []) for _ in range(parts - 1)]
        queue.append((-value, k, slots))
    heapq.heapify(queue)
    while len(queue) > 1:
        _, k, one = heapq.heappop(queue)
        _, _, other = heapq.heappop(queue)
        slots = [(a + b, x + y) for (a, x), (b, y) in zip(one, reversed(other), strict=True)]
        slots.sort(key=lambda slot: -slot[0])
        heapq.heappush(queue, (slots[-1][0] - slots[0][0], k, slots))
    return queue[0][2][0][0]


def ours(name: str, budget_s: float | None = None) -> Callable[[Window], int]:
    """Return a call of `solve`."""
    return lambda window: solve(window, name, budget_s=budget_s).objective.bottleneck


def alone(solver: Solver) -> Callable[[Window], int | None]:
    """Return a call of an exact back end without our incumbent, for one second; None where it places nothing."""

    def call(window: Window) -> int | None:
        objective = solve(window, solver, budget_s=1.0).objective
        return None if any(objective.left_out) else objective.bottleneck

    return call


def values_of(window: Window) -> list[int]:
    """Return what peers take."""
    return window.demand[:, 0].tolist()


CANDIDATES: dict[str, tuple[Callable[[Window], int | None], int]] = {
    "sbs_opt lpt": (ours("lpt"), 100),
    "sbs_opt ldm": (ours("ldm"), 100),
    "sbs_opt multifit": (ours("multifit"), 100),
    "sbs_opt auto, 25 µs": (ours("auto", 25e-6), 100),
    "sbs_opt auto": (ours("auto"), 100),
    "prtpy LPT": (
        lambda w: max(prtpy.partition(prtpy.partitioning.lpt, w.num_units, values_of(w), outputtype=prtpy.out.Sums)),
        20,
    ),
    "prtpy KK": (
        lambda w: max(prtpy.partition(prtpy.partitioning.kk, w.num_units, values_of(w), outputtype=prtpy.out.Sums)),
        20,
    ),
    "prtpy MULTIFIT": (
        lambda w: max(
            prtpy.partition(prtpy.partitioning.multifit, w.num_units, values_of(w), outputtype=prtpy.out.Sums)
        ),
        5,
    ),
    "pure-Python KK": (lambda w: pure_python_differencing(values_of(w), w.num_units), 10),
    "numberpartitioning KK": (
        lambda w: max(numberpartitioning.karmarkar_karp(values_of(w), num_parts=w.num_units).sizes),
        5,
    ),
    "binpacking": (lambda w: max(map(sum, binpacking.to_constant_bin_number(values_of(w), w.num_units))), 10),
    "CP-SAT alone, 1 s": (alone(CpSat(incumbent=False)), 2),
    "HiGHS alone, 1 s": (alone(ScipyMilp(incumbent=False)), 2),
}
"""A call that returns the makespan, and on how many windows it is timed."""


def main() -> None:
    """Print the table."""
    head("Peers", ("ortools", "scipy", "prtpy", "numberpartitioning", "binpacking"))
    columns("n × m", "solver", "windows", "median", "mean gap over the cheap bound")
    for n, m in SHAPES:
        for name, (call, number) in CANDIDATES.items():
            draw = np.random.default_rng(n)  # the same values for everybody, in objects of their own
            windows = [generated.clipped(draw, n, m) for _ in range(number + 2)]
            taken, gaps = [], []
            for window in windows:
                began = time.perf_counter()
                makespan = call(window)
                taken.append(time.perf_counter() - began)
                gaps.append(makespan / lower_bound(window, (0,)) - 1 if makespan is not None else np.nan)
            gap = "no placement found" if np.isnan(gaps[2:]).any() else f"{np.mean(gaps[2:]):.4%}"
            row([f"{n} × {m}", name, number, microseconds(float(np.median(taken[2:]))), gap])


if __name__ == "__main__":
    main()
