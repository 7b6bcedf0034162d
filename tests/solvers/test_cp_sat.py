"""The exact solver against brute force, its budgets, and that it keeps its incumbent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.models.window import UNLIMITED, Savings, Window
from sbs_opt.solvers.cp_sat_model import WindowModel
from sbs_opt.solvers.solve import solve
from sbs_opt.testing.oracles import best_placement

from .helpers import dense_window, dense_windows, every_kind, permuted, plain

PLENTY = 5_000_000
TIGHT = plain([5, 5, 4, 4, 3, 3, 3], [0, 0, 0])  # Graham: lpt reaches 11, the optimum is 9


@settings(max_examples=150)
@given(every_kind)
def test_equals_brute_force_in_all_but_the_spread(window: Window) -> None:
    result = solve(window, "cp_sat", budget_steps=PLENTY)
    _, best = best_placement(window)
    found = result.objective
    assert (found.left_out, found.bottleneck, found.saved) == (best.left_out, best.bottleneck, best.saved)
    assert (result.status, result.limit) == ("OPTIMAL", None)


@settings(max_examples=40)
@given(dense_windows, st.data())
def test_optimum_does_not_depend_on_the_order_of_items_and_units(window: Window, data: st.DataObject) -> None:
    items = np.array(data.draw(st.permutations(range(window.num_items))), dtype=np.int64)
    units = np.array(data.draw(st.permutations(range(window.num_units))), dtype=np.int64)
    one = solve(window, "cp_sat", budget_steps=PLENTY)
    two = solve(permuted(window, items, units), "cp_sat", budget_steps=PLENTY)
    assert one.bound == two.bound
    assert (one.objective.left_out, one.objective.saved) == (two.objective.left_out, two.objective.saved)


@settings(max_examples=100)
@given(every_kind)
def test_never_gives_back_less_than_lpt_found_spread_included(window: Window) -> None:
    assert solve(window, "cp_sat", budget_steps=PLENTY).objective <= solve(window, "lpt").objective


def test_incumbent_is_kept_even_when_cp_sat_loses_the_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    # CP-SAT promises nothing about a hint; without one it comes back with ties that spread the load worse.
    monkeypatch.setattr(WindowModel, "hint", lambda model, unit: None)
    for seed in range(60):
        window = dense_window(seed)
        assert solve(window, "cp_sat", budget_steps=PLENTY).objective <= solve(window, "lpt").objective


def test_proves_what_lpt_misses() -> None:
    result = solve(TIGHT, "cp_sat", budget_steps=PLENTY)
    assert (result.objective.bottleneck, result.bound, result.status, result.limit) == (9, 9, "OPTIMAL", None)


@pytest.mark.parametrize(("budget", "limit"), [({"budget_steps": 0}, "steps"), ({"budget_s": 0.0}, "time")])
def test_without_budget_the_start_comes_back_and_nothing_is_claimed(budget: dict[str, Any], limit: str) -> None:
    result = solve(TIGHT, "cp_sat", **budget)
    assert (result.objective.bottleneck, result.status, result.limit) == (11, "FEASIBLE", limit)
    tail = solve(plain([9, 8, 7, 6, 6], [0, 0], limit=[[18], [18]]), "cp_sat", **budget)
    assert (tail.status, tail.limit) == ("FEASIBLE", limit)


def test_a_limit_below_the_load_binds_only_what_is_added() -> None:
    # Once a constraint without terms, 0 <= limit - load, made such a window infeasible.
    window = Window(
        demand=[[0, 0]],
        load=[[0, 0], [1, 0]],
        limit=[[0, 0], [0, UNLIMITED]],
        savings=Savings(item=[0], unit=[0], value=[[0, 0]]),
    )
    assert solve(window, "cp_sat", budget_steps=PLENTY).status == "OPTIMAL"


def test_crosser_must_not_be_shorter_than_an_item_that_may_not_cross() -> None:
    window = plain([4, 3], [0], limit=[[5]], open_resource=0, crossing=[False, True])
    assert solve(window, "cp_sat", budget_steps=PLENTY).objective.left_out == (1,)
    window = plain([4, 3], [0], limit=[[5]], open_resource=0, crossing=[True, False])
    assert solve(window, "cp_sat", budget_steps=PLENTY).objective.left_out == (0,)


def test_numbers_beyond_exact_doubles_give_the_start_back_without_a_claim() -> None:
    scale = 2**55
    huge = plain([size * scale for size in (5, 5, 4, 4, 3, 3, 3)], [0, 0, 0])
    result = solve(huge, "cp_sat", budget_steps=PLENTY)
    assert (result.objective.bottleneck, result.bound, result.status) == (11 * scale, 9 * scale, "FEASIBLE")
