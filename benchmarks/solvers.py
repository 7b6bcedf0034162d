"""Speed, gaps and proofs of the solvers on generated windows: python benchmarks/solvers.py [PART …].

Parts: lpt, auto, hard, savings, resources; default all. A gap is over the bound of the answer itself, so it bounds what
is lost from above, unless the table says otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import generated
import numpy as np
from tables import columns, head, microseconds, row, timed

from sbs_opt.models.window import Window
from sbs_opt.solvers.bounds import lower_bound
from sbs_opt.solvers.direct import place
from sbs_opt.solvers.result import Result
from sbs_opt.solvers.solve import solve
from sbs_opt.solvers.warm_up import warm_up

WARM = 5


def fresh(draw: generated.Draw, n: int, m: int, number: int, seed: int = 0) -> list[Window]:
    """Return windows nobody has seen."""
    random = np.random.default_rng([seed, n, m])
    return [draw(random, n, m) for _ in range(number + WARM)]


def call(solver: str, budget_s: float | None = None) -> Callable[[Window], Result]:
    """Return a call of `solve`."""
    return lambda window: solve(window, solver, budget_s=budget_s)


def shown(budget_s: float | None) -> str:
    """Return a budget in words."""
    return "none" if budget_s is None else microseconds(budget_s)


def optimal(results: Sequence[Result]) -> str:
    """Return the share that is proved."""
    return f"{np.mean([result.status == 'OPTIMAL' for result in results]):.0%}"


def lpt() -> None:
    """Print what a whole call takes, and the placement alone."""
    head("Longest first: certified, and without certificate")
    columns(
        "n × m", '`solve(w, "lpt")` p50', "p90", "`place` p50", "`Window(…)` p50", "mean gap", "gap of `least_loaded`"
    )
    for n, m in ((64, 32), (128, 32), (512, 32), (1000, 128), (2000, 320)):
        seconds, results = timed(call("lpt"), fresh(generated.loaded, n, m, 300), WARM)
        direct, _ = timed(lambda window: place(window, "lpt"), fresh(generated.loaded, n, m, 300, 1), WARM)
        random = np.random.default_rng(n)
        raw = [(generated.sizes(random, n), random.integers(0, 4096, (m, 1))) for _ in range(300)]
        build, _ = timed(lambda pair: Window(demand=pair[0], load=pair[1]), raw, WARM)
        _, others = timed(call("least_loaded"), fresh(generated.loaded, n, m, 100), WARM)
        row(
            [
                f"{n} × {m}",
                *map(
                    microseconds, (np.median(seconds), np.quantile(seconds, 0.9), np.median(direct), np.median(build))
                ),
                f"{np.mean([r.gap for r in results]):.2%}",
                f"{np.mean([r.gap for r in others]):.1%}",
            ]
        )


def by_budget(
    kinds: dict[str, generated.Draw], shapes: Sequence[tuple[int, int]], budgets: Sequence[float | None], number: int
) -> None:
    """Print time, gap and share of proofs of `auto`."""
    columns("windows", "n × m", "budget", "p50", "p90", "mean gap", "proven optimal")
    for kind, draw in kinds.items():
        for n, m in shapes:
            for budget_s in budgets:
                seconds, results = timed(call("auto", budget_s), fresh(draw, n, m, number), WARM)
                quantiles = map(microseconds, np.quantile(seconds, (0.5, 0.9)))
                gap = f"{np.mean([r.gap for r in results]):.4%}"
                row([kind, f"{n} × {m}", shown(budget_s), *quantiles, gap, optimal(results)])


def auto() -> None:
    """Print the portfolio on windows with many items per unit."""
    head("auto: many items per unit")
    kinds = {"A": generated.long_tailed, "D": generated.clipped, "E": generated.loaded}
    by_budget(kinds, ((512, 32), (1000, 128), (2000, 320)), (None, 60e-6, 150e-6, 250e-6, 700e-6, 1e-3), 100)


def hard() -> None:
    """Print the portfolio on windows with few items per unit."""
    head("auto: few items per unit")
    kinds = {"D": generated.clipped, "E": generated.loaded}
    by_budget(kinds, ((64, 32), (128, 32)), (None, 25e-6, 1e-3, 10e-3, 100e-3), 40)


def savings() -> None:
    """Print windows with prefix hits, against the linear relaxation or what was proved, whichever is greater."""
    head("auto and two_phase: half of the items hit two units", ("scipy",))
    columns(
        "n × m", "solver", "budget", "p50", "gap over the LP or the best proof, mean", "gap over the answer's own bound"
    )
    for n, m in ((64, 32), (512, 32), (2000, 320)):
        windows = fresh(generated.with_savings, n, m, 20)
        known = [lower_bound(window, (0,), method="lp") for window in windows[WARM:]]
        for solver, budget_s in (
            ("lpt", None),
            ("two_phase", None),
            ("auto", None),
            ("auto", 1e-4),
            ("auto", 1e-3),
            ("auto", 1.0),
        ):
            if budget_s == 1.0 and n > 64:
                continue
            seconds, results = timed(call(solver, budget_s), fresh(generated.with_savings, n, m, 20), WARM)
            if budget_s == 1.0:
                known = [max(k, r.bound) for k, r in zip(known, results, strict=True)]
            gaps = [r.objective.bottleneck / max(k, r.bound) - 1 for r, k in zip(results, known, strict=True)]
            own = np.mean([r.gap for r in results])
            row(
                [
                    f"{n} × {m}",
                    solver,
                    shown(budget_s),
                    microseconds(np.median(seconds)),
                    f"{np.mean(gaps):.2%}",
                    f"{own:.2%}",
                ]
            )


def resources() -> None:
    """Print windows of several resources."""
    head("Several resources")
    columns("windows", "n × m", "solver", "p50", "mean gap")
    kinds = {"two priced resources": generated.two_resources, "as prefill makes them": generated.prefill_like}
    for kind, draw in kinds.items():
        for n, m in ((64, 32), (512, 32), (1000, 128)):
            for solver in ("least_loaded", "lpt", "auto", "local_search"):
                seconds, results = timed(call(solver), fresh(draw, n, m, 20), WARM)
                gap = f"{np.mean([r.gap for r in results]):.2%}"
                row([kind, f"{n} × {m}", solver, microseconds(np.median(seconds)), gap])


PARTS = {"lpt": lpt, "auto": auto, "hard": hard, "savings": savings, "resources": resources}


def main() -> None:
    """Print the parts asked for."""
    warm_up()
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
