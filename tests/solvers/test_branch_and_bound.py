"""Bounds, searches and improvement for one resource with unequal loads, each against enumeration."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.models.checks import IntArray
from sbs_opt.models.placement import Placement
from sbs_opt.solvers import branch_and_bound, branch_and_bound_dual_kernel, branch_and_bound_kernel
from sbs_opt.solvers.branch_and_bound_dual_kernel import Dual, evaluate, improve, new_dual, raised, slack
from sbs_opt.solvers.branch_and_bound_kernel import (
    CUT,
    FOUND,
    REFUTED,
    new_tree,
    restart,
    search,
    second_stack,
    write_solution,
)
from sbs_opt.solvers.branch_and_bound_reach_kernel import rank_of, reachable
from sbs_opt.solvers.exact_fill_kernel import exact_fill
from sbs_opt.solvers.packing_bounds_kernel import counting_bound, mass_bound, plain_bound, water_level
from sbs_opt.solvers.repartition_kernel import STATE_LENGTH, repartition, wander
from sbs_opt.solvers.solve import solve

from .helpers import least_makespan, permuted, plain
from .test_pcmax import read_family

Case = tuple[IntArray, IntArray]
"""Sizes in descending and loads in ascending order."""


@st.composite
def cases(draw: st.DrawFn, max_items: int = 7) -> Case:
    """Draw small windows whose sizes tie, are nearly equal, or are large and unlike each other."""
    sizes = draw(
        st.sampled_from(
            [st.integers(0, 4), st.integers(18, 24), st.sampled_from([0, 1, 30, 31]), st.integers(0, 10**12)]
        )
    )
    size = sorted(draw(st.lists(sizes, min_size=1, max_size=max_items)), reverse=True)
    load = sorted(draw(st.lists(st.integers(0, 3 * size[0] + 1) | st.just(0), min_size=1, max_size=4)))
    return np.array(size, dtype=np.int64), np.array(load, dtype=np.int64)


def hard_case(seed: int) -> Case:
    """Return a case that the plain bound rarely settles: eight sizes of the same order."""
    draw = np.random.default_rng(seed)
    return np.sort(draw.integers(100, 200, 8))[::-1].copy(), np.sort(draw.integers(0, 100, 3))


hard_cases = st.integers(0, 2**32 - 1).map(hard_case)


def loaded_case(n: int, m: int, seed: int) -> Case:
    """Return a generated case: log-normal sizes clipped at 4,096 and uniform loads below that."""
    draw = np.random.default_rng(seed)
    size = np.minimum(4096, np.exp(draw.normal(np.log(1500), 1.0, n))).astype(np.int64)
    return np.sort(size)[::-1].copy(), np.sort(draw.integers(0, 4096, m))


def longest_first(case: Case) -> IntArray:
    """Return the list schedule in the order of the case."""
    total, unit = case[1].copy(), np.empty(len(case[0]), dtype=np.int64)
    for i, size in enumerate(case[0]):
        unit[i] = np.argmin(total)
        total[unit[i]] += size
    return unit


def least(case: Case) -> int:
    """Return the optimum of a case."""
    return least_makespan(case[0].tolist(), case[1].tolist())


def makespan_of(case: Case, unit: IntArray) -> int:
    """Return the makespan of a placement."""
    total = case[1].copy()
    np.add.at(total, unit, case[0])
    return int(total.max())


def dual_for(case: Case, multipliers: list[float] | None = None) -> Dual:
    """Return a dual with a filled table, for makespans up to one above the optimum."""
    size, load = case
    dual = new_dual(size, int(least(case) + 1 - load[0]))
    if multipliers is not None:
        dual.multiplier[:] = multipliers
    evaluate(dual, dual.multiplier)
    return dual


# Bounds


@settings(max_examples=400)
@given(cases())
def test_plain_bounds_never_exceed_the_optimum(case: Case) -> None:
    size, load = case
    water = water_level(int(size.sum()), load)
    optimum = least(case)
    assert water <= counting_bound(size, load, water) <= optimum
    assert water <= mass_bound(size, load, water) <= optimum
    assert plain_bound(size, load) <= optimum


@pytest.mark.parametrize(
    ("size", "load", "water", "bound"),
    [
        pytest.param([], [3, 5], 5, 5, id="no items"),
        pytest.param([9, 1], [0, 4], 7, 9, id="largest item on the least loaded unit"),
        pytest.param([5, 5, 5], [0, 0], 8, 10, id="pigeonhole"),
        pytest.param([5, 5, 5], [0, 3], 9, 10, id="pigeonhole with a load"),
        pytest.param([6, 6, 6], [0, 0, 5], 8, 11, id="pigeonhole that fills the loaded unit"),
        pytest.param([10, 10, 10, 10, 10, 1], [0, 0, 0], 17, 20, id="two of five on one"),
        pytest.param([10, 10, 10, 10, 10, 9, 9, 9, 9, 9, 9], [0, 0, 0], 35, 37, id="a unit short of one item"),
        pytest.param([99, 98, 95, 92, 91, 1], [0, 0, 0], 159, 188, id="short, and small items left over"),
        pytest.param([98, 98, 97, 97, 95, 95, 93, 91, 2, 1], [25, 29, 43], 288, 311, id="the same with loads"),
    ],
)
def test_plain_bound_of(size: list[int], load: list[int], water: int, bound: int) -> None:
    sizes, loads = np.array(size, dtype=np.int64), np.array(load, dtype=np.int64)
    assert water_level(int(sizes.sum()), loads) == water
    assert plain_bound(sizes, loads) == bound


def test_plain_bound_near_the_largest_numbers() -> None:
    sizes, loads = np.array([2**60, 2**60, 2**59, 5], dtype=np.int64), np.array([0, 7, 2**60], dtype=np.int64)
    assert plain_bound(sizes, loads) <= least_makespan(sizes.tolist(), loads.tolist())
    assert plain_bound(sizes, loads) >= water_level(int(sizes.sum()), loads)


@settings(max_examples=300)
@given(cases(), st.data())
def test_any_multipliers_bound_the_optimum(case: Case, data: st.DataObject) -> None:
    size, load = case
    weights = st.floats(0, 100) | st.sampled_from([0.0, 1.0])
    optimum = least(case)
    dual = dual_for(case, data.draw(st.lists(weights, min_size=len(size), max_size=len(size))))
    assert slack(dual, load, optimum) <= 0
    assert raised(dual, load, int(load[-1]), optimum + 1) <= optimum


@settings(max_examples=200)
@given(cases())
def test_steps_of_the_multipliers_keep_the_bound_valid(case: Case) -> None:
    _, load = case
    optimum = least(case)
    dual = dual_for(case)
    lower = raised(dual, load, int(load[-1]), optimum)
    for _ in range(20):
        improve(dual, load, lower, False)
        evaluate(dual, dual.multiplier)
        assert slack(dual, load, optimum) <= 0
        lower = max(lower, raised(dual, load, lower, optimum))


@settings(max_examples=100)
@given(cases())
def test_coarse_cells_keep_the_bound_valid(case: Case) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branch_and_bound_dual_kernel, "_ENTRIES", 60)
        dual = dual_for(case)
    assert slack(dual, case[1], least(case)) <= 0


def test_sizes_as_multipliers_lift_the_bound_to_sums_that_can_be_reached() -> None:
    # Even sizes on empty units have no odd makespan; with loads of 1 they have.
    size = np.array([8, 8, 6, 4, 4, 4], dtype=np.int64)
    for load, optimum in (([0, 0], 18), ([1, 1], 19), ([0, 1], 18)):
        case = size, np.array(load, dtype=np.int64)
        assert least(case) == optimum
        assert plain_bound(*case) == optimum - (load != [0, 1])
        assert raised(dual_for(case), case[1], plain_bound(*case), optimum + 1) == optimum


def test_multipliers_close_a_gap_that_the_sizes_leave() -> None:
    size, load = loaded_case(64, 32, 1)
    lower = first = plain_bound(size, load)
    dual = new_dual(size, 2 * first)
    evaluate(dual, dual.multiplier)
    for number in range(100):
        improve(dual, load, lower, number == 0)
        evaluate(dual, dual.multiplier)
        lower = raised(dual, load, lower, 2 * first)
    assert lower > first


# Search


@settings(max_examples=100)
@given(cases(), st.integers(1, 200), st.integers(0, 60))
def test_reachable_sums_are_those_of_all_subsets(case: Case, entries: int, top: int) -> None:
    size = case[0]
    reach = reachable(size, top, entries)
    for i in range(reach.first, len(size) + 1):
        rest = size[i:].tolist()
        sums = sorted({sum(part) for k in range(len(rest) + 1) for part in combinations(rest, k)})
        value = reach.value[reach.start[i] :][: reach.length[i]].tolist()
        assert value == [total for total in sums if total <= top]
        for rank, room in enumerate(value if i < len(size) else []):
            entry = reach.start[i] + rank
            later = reach.value[reach.start[i + 1] :]
            assert rank_of(reach, i, room) == rank
            assert later[reach.keep[entry]] == max(x for x in later[: reach.length[i + 1]] if x <= room)
            assert (reach.take[entry] >= 0) == (room >= size[i])
            if room >= size[i]:
                assert later[reach.take[entry]] == max(x for x in later[: reach.length[i + 1]] if x <= room - size[i])


def decide(case: Case, makespan: int, dual: Dual, slice_nodes: int) -> tuple[int, int, IntArray]:
    """Return status and nodes of a whole search, in slices, and what it found."""
    size, load = case
    tree = new_tree(size, len(load), int(dual.best.shape[1] << dual.shift) - 1)
    restart(tree, load, makespan)
    status, nodes = CUT, 0
    while status == CUT:
        status, visited = search(tree, dual, slice_nodes)
        nodes += visited
    unit = np.zeros(len(size), dtype=np.int64)
    if status == FOUND:
        write_solution(tree, unit)
    return status, nodes, unit


@settings(max_examples=300)
@given(cases() | hard_cases, st.sampled_from([1, 8, 1 << 14]), st.sampled_from([60, 1 << 21]), st.data())
def test_search_decides_every_makespan(case: Case, entries: int, cells: int, data: st.DataObject) -> None:
    # Few entries: only the last items have lists; few cells: a cell holds many sums; few known nodes: places collide.
    weights = data.draw(st.lists(st.floats(0, 100), min_size=len(case[0]), max_size=len(case[0])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branch_and_bound_kernel, "ENTRIES", entries)
        patch.setattr(branch_and_bound_kernel, "_KNOWN_NUMBERS", 1)
        patch.setattr(branch_and_bound_dual_kernel, "_ENTRIES", cells)
        dual = dual_for(case, data.draw(st.sampled_from([None, weights])))
        optimum = least(case)
        for makespan in range(max(int(case[1][-1]), optimum - 3), optimum + 2):
            status, nodes, unit = decide(case, makespan, dual, 10**6)
            assert status == (FOUND if makespan >= optimum else REFUTED)
            if status == FOUND:
                assert makespan_of(case, unit) <= makespan
            assert decide(case, makespan, dual, 1)[:2] == (status, nodes)


def test_what_one_search_refutes_another_knows() -> None:
    case = np.array([18, 18, 17, 16, 15, 15, 13, 6, 5], dtype=np.int64), np.array([0, 0, 1], dtype=np.int64)
    dual = new_dual(case[0], 60)
    dual.multiplier[:] = 0.0  # a bound that refutes nothing
    evaluate(dual, dual.multiplier)
    one = new_tree(case[0], 3, 60)
    two = second_stack(one)
    makespan = least(case) - 1
    restart(one, case[1], makespan)
    restart(two, case[1], makespan)
    status, nodes = search(one, dual, 10**7)
    assert status == REFUTED
    assert nodes > 1
    assert search(two, dual, 10**7) == (REFUTED, 1)


# Filling and re-dividing


@settings(max_examples=200)
@given(cases(12), st.integers(0, 5), st.sampled_from([0, 5, 10**6]))
def test_exact_fill_places_everything_and_says_what_it_reached(case: Case, turn: int, max_steps: int) -> None:
    size, load = case
    unit = np.full(len(size), -7, dtype=np.int64)
    makespan, steps = exact_fill(size, load, plain_bound(size, load), turn, max_steps, unit)
    assert makespan == makespan_of(case, unit)
    assert 0 <= unit.min() <= unit.max() < len(load)
    assert steps <= max_steps + 4 * len(size)


@pytest.mark.parametrize(("n", "m"), [(256, 32), (512, 32), (1000, 128)])
def test_exact_fill_reaches_the_water_level_where_there_are_many_items(n: int, m: int) -> None:
    for seed in range(5):
        size, load = loaded_case(n, m, seed)
        unit = np.empty(n, dtype=np.int64)
        water = water_level(int(size.sum()), load)
        assert exact_fill(size, load, water, 0, 10**7, unit)[0] == water


def descend(case: Case, lower: int, slice_steps: int) -> tuple[IntArray, int]:
    """Return the local optimum from the list schedule, and the steps to it."""
    unit, state = longest_first(case), np.zeros(STATE_LENGTH, dtype=np.int64)
    total, stuck = 0, False
    while not stuck:
        makespan, steps, stuck = repartition(*case, unit, lower, slice_steps, state)
        total += steps
        assert makespan == makespan_of(case, unit)
    return unit, total


@settings(max_examples=100)
@given(cases(12), st.sampled_from([1, 50, 1000]))
def test_repartition_lowers_the_makespan_and_slices_add_up(case: Case, slice_steps: int) -> None:
    lower = plain_bound(*case)
    unit, steps = descend(case, lower, 10**9)
    assert makespan_of(case, unit) <= makespan_of(case, longest_first(case))
    sliced, sliced_steps = descend(case, lower, slice_steps)
    assert np.array_equal(unit, sliced)
    assert steps == sliced_steps


@settings(max_examples=100)
@given(cases(8))
def test_two_or_three_units_with_few_items_are_divided_at_best(case: Case) -> None:
    size, load = case[0], case[1][:3]
    unit, _ = descend((size, load), 0, 10**9)
    assert makespan_of((size, load), unit) == least((size, load))


def test_repartition_takes_other_items_of_large_pairs_each_time() -> None:
    # Forty items to a unit: one choice of sixteen items does not level them out.
    case = loaded_case(400, 10, 3)
    unit, _ = descend(case, plain_bound(*case), 10**9)
    assert makespan_of(case, unit) == plain_bound(*case)


def test_wander_leaves_a_local_optimum_and_slices_add_up() -> None:
    case = loaded_case(64, 32, 2)
    lower = plain_bound(*case)
    start, _ = descend(case, lower, 10**9)
    found = []
    for slice_steps in (1, 700, 10**9):
        unit, present, state = start.copy(), start.copy(), np.zeros(STATE_LENGTH, dtype=np.int64)
        taken = 0
        while taken < 200_000:
            makespan, steps = wander(*case, unit, present, lower, min(slice_steps, 200_000 - taken), state)
            taken += steps
            assert makespan == makespan_of(case, unit)
        found.append((taken, unit.tolist()))
    assert found[0] == found[1] == found[2]
    assert makespan_of(case, unit) < makespan_of(case, start)


def test_wander_has_nothing_to_do_on_two_units() -> None:
    case = np.array([3, 3, 2, 2, 2], dtype=np.int64), np.array([0, 0], dtype=np.int64)
    unit = longest_first(case)
    state = np.zeros(STATE_LENGTH, dtype=np.int64)
    assert wander(*case, unit, unit.copy(), 6, 1000, state) == (7, 0)


# The solver


@settings(max_examples=200)
@given(cases() | hard_cases, st.data())
def test_solver_proves_the_optimum_pins_or_not(case: Case, data: st.DataObject) -> None:
    n, m = len(case[0]), len(case[1])
    size = case[0][np.array(data.draw(st.permutations(range(n))))]
    load = case[1][np.array(data.draw(st.permutations(range(m))))]
    pinned = np.maximum(-1, data.draw(st.lists(st.integers(-9 * m, m - 1), min_size=n, max_size=n)))
    base = load.copy()
    np.add.at(base, pinned[pinned >= 0], size[pinned >= 0])
    price = data.draw(st.sampled_from([1, 3]))
    window = plain(size, load, pinned=pinned, price=[price])
    result = solve(window, "branch_and_bound")
    optimum = price * least_makespan(size[pinned < 0].tolist(), base.tolist())
    assert (result.objective.bottleneck, result.bound, result.status) == (optimum, optimum, "OPTIMAL")
    assert result.limit is None


@settings(max_examples=50)
@given(cases(9), st.data())
def test_optimum_does_not_depend_on_the_order_of_items_and_units(case: Case, data: st.DataObject) -> None:
    window = plain(*case)
    items = np.array(data.draw(st.permutations(range(window.num_items))), dtype=np.int64)
    units = np.array(data.draw(st.permutations(range(window.num_units))), dtype=np.int64)
    other = permuted(window, items, units)
    assert solve(window, "branch_and_bound").bound == solve(other, "branch_and_bound").bound


@pytest.mark.parametrize("budget_steps", [0, 1, 300, 5_000, 50_000, 400_000])
def test_a_budget_may_end_anywhere(budget_steps: int) -> None:
    size, load = loaded_case(48, 20, 4)
    load = load[::-1]
    result = solve(plain(size, load), "branch_and_bound", budget_steps=budget_steps)
    assert result.bound <= 6058 <= result.objective.bottleneck  # proved below
    assert result.limit == "steps" or result.status == "OPTIMAL"
    assert result.stats.steps <= budget_steps + 3_000


def test_more_steps_give_better_placements_and_bounds_up_to_the_proof() -> None:
    size, load = loaded_case(48, 20, 4)
    answers = [
        solve(plain(size, load), "branch_and_bound", budget_steps=steps)
        for steps in (0, 3_000, 30_000, 300_000, 30_000_000)
    ]
    makespans = [answer.objective.bottleneck for answer in answers]
    assert makespans == sorted(makespans, reverse=True)
    assert [answer.bound for answer in answers] == sorted(answer.bound for answer in answers)
    assert makespans[0] > makespans[-1]
    assert (answers[-1].status, answers[-1].objective.bottleneck) == ("OPTIMAL", 6058)


def test_time_ends_the_search_and_the_start_is_kept() -> None:
    size, load = loaded_case(90, 32, 0)
    window = plain(size, load)
    start = Placement(solve(window, "branch_and_bound", budget_steps=2_000_000).placement.unit)
    result = solve(window, "branch_and_bound", budget_s=0.0, start=start)
    assert (result.placement, result.status, result.limit) == (start, "FEASIBLE", "time")
    assert solve(window, "branch_and_bound", budget_s=0.02, start=start).limit == "time"


def test_search_goes_on_from_the_start() -> None:
    size, load = loaded_case(64, 32, 2)
    window = plain(size, np.roll(load, 5))
    start = solve(window, "branch_and_bound", budget_steps=200_000)
    further = solve(window, "branch_and_bound", budget_steps=100_000, start=start.placement)
    assert further.objective.bottleneck < start.objective.bottleneck


def test_without_room_for_tables_it_wanders_on(monkeypatch: pytest.MonkeyPatch) -> None:
    window = plain(*loaded_case(64, 32, 2))
    before = solve(window, "branch_and_bound", budget_steps=100_000).objective.bottleneck
    monkeypatch.setattr(branch_and_bound, "_STACK_NUMBERS", 100)
    result = solve(window, "branch_and_bound", budget_steps=3_000_000)
    assert (result.status, result.limit) == ("FEASIBLE", "steps")
    assert result.objective.bottleneck < before
    two_units = solve(plain([8, 7, 6, 5, 5], [0, 0]), "branch_and_bound")
    assert (two_units.objective.bottleneck, two_units.status) == (16, "OPTIMAL")


def test_large_numbers_are_solved_through_coarse_cells() -> None:
    size, load = loaded_case(24, 8, 1)
    scale = 10**13
    small = solve(plain(size, load), "branch_and_bound")
    large = solve(plain(size * scale, load * scale), "branch_and_bound")
    assert small.status == large.status == "OPTIMAL"
    assert large.objective.bottleneck == scale * small.objective.bottleneck


def test_published_optima_are_reached_and_proved(pcmax_dir: Path) -> None:
    families = [read_family(pcmax_dir / family)[::7] for family in ("berndt", "frangioni")]
    for window, optimum in [*families[0], *families[1]]:
        result = solve(window, "branch_and_bound", budget_steps=20_000_000)
        assert (result.objective.bottleneck, result.bound, result.status) == (optimum, optimum, "OPTIMAL")
