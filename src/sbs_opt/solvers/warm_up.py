"""Load or compile what a router's first window would otherwise wait for."""

from __future__ import annotations

import time

import numpy as np

from sbs_opt.models.window import Savings, Window
from sbs_opt.solvers.registry import solver_info
from sbs_opt.solvers.solve import solve

_STEPS, _SECONDS = 1_000_000, 1.0
"""Enough to reach every stage of a portfolio; the seconds are for solvers whose steps are long."""


def warm_up(*solvers: str) -> float:
    """Solve one small window of each kind, so that later calls meet no compiler and no import.

    Compiled code is cached on disk beside the package, or in the user's cache folder where that cannot be written;
    only the first process after an installation compiles, which takes a minute or two. Later ones load in well under a
    second.

    Parameters
    ----------
    solvers
        Registered names; default "auto" and "lpt".

    Returns
    -------
    float
        Seconds that it took.
    """
    began = time.perf_counter()
    for solver in solvers or ("auto", "lpt"):
        info = solver_info(solver)
        for window in _one_of_each_kind():
            if window.fields_in_use <= info.capabilities:
                solve(window, solver, budget_steps=0)
                solve(window, solver, budget_steps=_STEPS, budget_s=_SECONDS)
    return time.perf_counter() - began


def _one_of_each_kind() -> tuple[Window, ...]:
    draw = np.random.default_rng(0)
    # Few items per unit, and none that fills a unit: constructions and searches do not prove this one at once.
    stubborn = Window(demand=draw.integers(500, 1000, (14, 1)), load=draw.integers(0, 300, (5, 1)))
    demand, load = draw.integers(1, 1000, (24, 1)), draw.integers(0, 300, (6, 1))
    savings = Savings(np.arange(12), np.arange(12) % 6, demand[:12] // 2)
    wide = np.repeat(demand, 3, axis=1)
    return (
        stubborn,
        Window(demand=demand, load=load),
        Window(demand=demand, load=load, pinned=np.where(np.arange(24) < 3, np.arange(24), -1)),
        Window(demand=demand, load=load, savings=savings),
        Window(
            demand=wide,
            load=np.repeat(load, 3, axis=1),
            price=[1, 1, 0],
            limit=np.full((6, 3), 2500),
            open_resource=2,
            group=[0, 0, 0, 1, 1, 1],
            tier=np.arange(24) % 2,
            savings=Savings(savings.item, savings.unit, np.repeat(savings.value, 3, axis=1)),
        ),
    )
