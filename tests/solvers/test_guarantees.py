"""Worst-case ratios of the literature, for one resource and one group without limits, pins or savings."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.solvers.solve import solve

from .helpers import least_makespan, plain

sizes_of_items = st.lists(st.integers(0, 30), max_size=8)
loads_of_units = st.lists(st.integers(0, 40), min_size=1, max_size=4)


def ratio(solver: str, sizes: list[int], loads: list[int]) -> Fraction:
    """Return what the solver achieves over the optimum."""
    value, least = solve(plain(sizes, loads), solver).objective.bottleneck, least_makespan(sizes, loads)
    return Fraction(value, least) if least else Fraction(1)


@given(sizes_of_items, loads_of_units)
def test_any_list_order_is_within_2_minus_1_over_m(sizes: list[int], loads: list[int]) -> None:
    assert ratio("least_loaded", sizes, loads) <= 2 - Fraction(1, len(loads))


@given(sizes_of_items, st.integers(1, 4))
def test_lpt_on_empty_units_is_within_4_thirds(sizes: list[int], m: int) -> None:
    assert ratio("lpt", sizes, [0] * m) <= Fraction(4, 3) - Fraction(1, 3 * m)


@given(sizes_of_items, loads_of_units)
def test_lpt_with_initial_loads_is_within_3_halves(sizes: list[int], loads: list[int]) -> None:
    assert ratio("lpt", sizes, loads) <= Fraction(3, 2) - Fraction(1, 2 * len(loads))


@pytest.mark.parametrize("m", [2, 3, 4, 7])
def test_grahams_tight_example_of_lpt(m: int) -> None:
    sizes = [size for size in range(2 * m - 1, m, -1) for _ in range(2)] + [m] * 3
    result = solve(plain(sizes, [0] * m), "lpt")
    assert result.objective.bottleneck == 4 * m - 1
    assert result.bound == 3 * m  # the water level happens to be the optimum here
    assert result.status == "FEASIBLE"
    if m <= 4:
        assert least_makespan(sizes, [0] * m) == 3 * m


@pytest.mark.parametrize("m", [2, 3, 5])
def test_grahams_tight_example_of_list_scheduling(m: int) -> None:
    sizes = [1] * (m * (m - 1)) + [m]
    assert solve(plain(sizes, [0] * m), "least_loaded").objective.bottleneck == 2 * m - 1
    assert solve(plain(sizes, [0] * m), "lpt").objective.bottleneck == m


@given(st.lists(st.integers(0, 20), max_size=12), loads_of_units)
def test_least_loaded_takes_items_as_they_come(sizes: list[int], loads: list[int]) -> None:
    expected, now = [], list(loads)
    for size in sizes:
        u = now.index(min(now))
        expected.append(u)
        now[u] += size
    assert solve(plain(sizes, loads), "least_loaded").placement.unit.tolist() == expected
