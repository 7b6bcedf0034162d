"""Times and gaps of the solvers; run by hand: python benchmarks/solvers.py [FOLDER OF P‖Cmax INSTANCES].

Windows are generated, not measured: log-normal sizes, median 1,500, sigma 1, clipped at 4,096, uneven initial loads
below 4,096. Every call gets a fresh window, because repeated input flatters branch prediction and caches.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sbs_opt.models.window import Savings, Window
from sbs_opt.solvers.columns import columns_of
from sbs_opt.solvers.direct import place
from sbs_opt.solvers.greedy import longest_first
from sbs_opt.solvers.greedy_kernel import LEAST_INCREASE, greedy
from sbs_opt.solvers.plain_kernel import place_longest_first
from sbs_opt.solvers.solve import solve

REPEATS = 60
SHAPES = ((64, 32), (128, 32), (512, 32), (1000, 128), (2000, 320))


def sizes(draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return generated token counts."""
    return np.minimum(4096, np.exp(draw.normal(np.log(1500), 1.0, shape))).astype(np.int64)


def plain(draw: np.random.Generator, n: int, m: int) -> Window:
    """Return a window of one resource with initial loads and nothing else."""
    return Window(demand=sizes(draw, (n, 1)), load=draw.integers(0, 4096, (m, 1)))


def full(draw: np.random.Generator, n: int, m: int) -> Window:
    """Return a window like prefill's: two priced resources, open budget, hard limit, savings for half the items."""
    demand = np.repeat(sizes(draw, (n, 1)), 4, axis=1) * np.array([3, 1, 1, 1])
    pair = draw.permutation(n * m)[: n // 2]
    savings = Savings(pair // m, pair % m, demand[pair // m] // 2)
    limit = np.full((m, 4), [np.iinfo(np.int64).max] * 2 + [demand[:, 2].sum() // m, 10**6])
    load = np.zeros((m, 4), dtype=np.int64)
    return Window(demand=demand, load=load, price=[1, 1, 0, 0], limit=limit, open_resource=2, savings=savings)


def median_us(call: Callable[[Window], object], windows: list[Window]) -> float:
    """Return the median microseconds of a call over fresh windows, after two warm-up calls."""
    for window in windows[:2]:
        call(window)
    taken = []
    for window in windows[2:]:
        began = time.perf_counter()
        call(window)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken)) * 1e6


def order_of(window: Window) -> np.ndarray:
    """Return the items longest first."""
    return longest_first(window.demand @ window.price)


def heap_kernel(window: Window) -> object:
    """Run the plain kernel alone, sort included."""
    return place_longest_first(window.demand, window.load)


def general_kernel(window: Window) -> object:
    """Run the general kernel alone, preparation and sort included."""
    return greedy(columns_of(window), order_of(window), LEAST_INCREASE)


def main() -> None:
    """Print the tables."""
    draw = np.random.default_rng(0)
    print("lpt, plain windows: median microseconds, mean gap over the cheap bound")
    print(f"{'n×m':>9} {'heap':>8} {'general':>8} {'ratio':>6} {'place':>8} {'solve':>8} {'gap':>8} {'list gap':>8}")
    for n, m in SHAPES:
        windows = [plain(draw, n, m) for _ in range(REPEATS)]
        heap, general = median_us(heap_kernel, windows), median_us(general_kernel, windows)
        direct = median_us(lambda window: place(window, "lpt"), windows)
        certified = median_us(lambda window: solve(window, "lpt"), windows)
        gap = np.mean([solve(window, "lpt").gap for window in windows])
        worse = np.mean([solve(window, "least_loaded").gap for window in windows])
        print(
            f"{f'{n}×{m}':>9} {heap:8.1f} {general:8.1f} {general / heap:6.1f} {direct:8.1f} {certified:8.1f}"
            f" {gap:8.2%} {worse:8.2%}"
        )
    print("lpt, windows with every kind of limit and savings (4 resources): median microseconds")
    print(f"{'n×m':>9} {'general':>8} {'place':>8} {'solve':>8} {'gap':>8}")
    for n, m in SHAPES:
        windows = [full(draw, n, m) for _ in range(REPEATS // 3)]
        general = median_us(general_kernel, windows)
        direct = median_us(lambda window: place(window, "lpt"), windows)
        certified = median_us(lambda window: solve(window, "lpt"), windows)
        gap = np.mean([solve(window, "lpt").gap for window in windows])
        print(f"{f'{n}×{m}':>9} {general:8.1f} {direct:8.1f} {certified:8.1f} {gap:8.2%}")
    if len(sys.argv) > 1:
        published(Path(sys.argv[1]))


def published(folder: Path) -> None:
    """Print how solvers do on instances with published optima: `optima.csv` and one file each, in two folders."""
    for family in ("berndt", "frangioni"):
        with (folder / family / "optima.csv").open(newline="") as table:
            rows = [(row["file"], int(row["optimum"])) for row in csv.DictReader(table)]
        # The exact solver is tried on every tenth, half a second each.
        for solver, every, budget_s in (("least_loaded", 1, None), ("lpt", 1, None), ("cp_sat", 10, 0.5)):
            gaps, certified = [], 0
            for name, optimum in rows[::every]:
                words = [int(word) for word in (folder / family / name).read_text().split()[2:-1]]
                window = Window(demand=np.array(words[2:])[:, None], load=np.zeros((words[1], 1), dtype=np.int64))
                result = solve(window, solver, budget_s=budget_s)
                gaps.append(result.objective.bottleneck / optimum - 1)
                certified += result.status == "OPTIMAL"
            print(
                f"{family} {solver}: {len(gaps)} instances, mean gap to the optimum {np.mean(gaps):.3%},"
                f" optimal {gaps.count(0.0)}, certified {certified}"
            )


if __name__ == "__main__":
    main()
