"""The flow solvers: exact where they say so, on the whole objective; bounds, engines, networks and failures."""

from __future__ import annotations

import logging
import math
from itertools import product
from typing import Any

import networkx
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.models.checks import IntArray
from sbs_opt.models.objective import Objective
from sbs_opt.models.verify import verify
from sbs_opt.models.window import FREE, UNLIMITED, Savings, Window
from sbs_opt.solvers.assignment import Assignment
from sbs_opt.solvers.assignment_model import OneEach
from sbs_opt.solvers.budget import Budget
from sbs_opt.solvers.flow import FlowSolver
from sbs_opt.solvers.flow_equal import EqualItems
from sbs_opt.solvers.flow_exact import Best, Claim, ExactModel, solve_exact
from sbs_opt.solvers.flow_fluid import FluidItems, solve_fluid
from sbs_opt.solvers.flow_network import Flows, Network, UnprovedError, largest_cost
from sbs_opt.solvers.flow_settled import Settled
from sbs_opt.solvers.flow_thresholds import ThresholdSearch
from sbs_opt.solvers.incumbent import Incumbent, nothing_placed
from sbs_opt.solvers.min_cost_flow import MinCostFlow
from sbs_opt.solvers.min_cost_flow_ortools import MinCostFlowOrTools
from sbs_opt.solvers.solve import solve
from sbs_opt.testing.oracles import best_placement, least_bottlenecks

from .helpers import every_kind, plain

FLOW_SOLVERS = ("min_cost_flow", "min_cost_flow_ortools")
ALL = (*FLOW_SOLVERS, "assignment")
ENGINES = (MinCostFlow().engine, MinCostFlowOrTools().engine)
PLENTY = 5_000_000


def is_exact(result: Any) -> bool:
    """Tell whether the solver claims the whole objective."""
    return bool(result.stats.solver.endswith("(exact)"))


def fields(draw: np.random.Generator, n: int, m: int) -> dict[str, Any]:
    """Draw what a window may have beside its amounts, each with even chances."""
    given: dict[str, Any] = {}
    if draw.random() < 0.5:
        given["group"] = draw.integers(0, 2, m)
    if draw.random() < 0.5:
        given["tier"] = draw.integers(0, 3, n)
    if draw.random() < 0.5:
        given["pinned"] = np.where(draw.random(n) < 0.7, FREE, draw.integers(0, m, n))
    if draw.random() < 0.5:
        given["crossing"] = draw.random(n) < 0.5
    return given


def window_of_equal_items(seed: int) -> Window:
    """Return a window whose items add the same wherever they may go, with any other field."""
    draw = np.random.default_rng(seed)
    n, m, resources = int(draw.integers(0, 6)), int(draw.integers(1, 4)), int(draw.integers(1, 4))
    size = draw.integers(0, 5, resources)
    given = fields(draw, n, m)
    if draw.random() < 0.6:
        given["limit"] = np.where(draw.random((m, resources)) < 0.5, UNLIMITED, draw.integers(0, 16, (m, resources)))
        given["open_resource"] = int(draw.integers(resources)) if draw.random() < 0.5 else None
    pairs: list[tuple[int, int, IntArray]] = []
    if draw.random() < 0.25:  # some units save the same for every item
        for u in np.flatnonzero(draw.random(m) < 0.5).tolist():
            value = draw.integers(0, size + 1)
            pairs += [(i, u, value) for i in range(n)]
    elif draw.random() < 0.5:  # some units save all of an item
        pairs = [(i, u, size) for i, u in product(range(n), range(m)) if draw.random() < 0.2]
    if pairs:
        given["savings"] = Savings(*(np.array(column) for column in zip(*pairs, strict=True)))
    return Window(
        demand=np.tile(size, (n, 1)).reshape(n, resources),
        load=draw.integers(0, 12, (m, resources)),
        price=draw.integers(0, 3, resources),
        spread_weight=draw.integers(0, 3, resources),
        **given,
    )


def window_of_one_each(seed: int) -> Window:
    """Return a window whose first resource nearly always keeps two items from one unit, with any other field."""
    draw = np.random.default_rng(seed)
    n, m, resources = int(draw.integers(0, 5)), int(draw.integers(1, 5)), int(draw.integers(1, 4))
    demand, load = draw.integers(0, 6, (n, resources)), draw.integers(0, 12, (m, resources))
    demand[:, 0] = draw.integers(3, 6, n)
    limit = np.where(draw.random((m, resources)) < 0.8, UNLIMITED, draw.integers(0, 16, (m, resources)))
    limit[:, 0] = load[:, 0] + draw.integers(0, 6, m)
    given = fields(draw, n, m)
    if n and draw.random() < 0.6:
        pairs = draw.permutation(n * m)[: int(draw.integers(1, n + 1))]
        value = np.where(draw.random() < 0.4, demand[pairs // m], draw.integers(0, demand[pairs // m] + 1))
        value[:, 0] *= draw.random(len(pairs)) < 0.3  # else the limit excludes two items less often
        given["savings"] = Savings(pairs // m, pairs % m, value)
    return Window(
        demand=demand,
        load=load,
        limit=limit,
        open_resource=int(draw.integers(resources)) if draw.random() < 0.5 else None,
        price=draw.integers(0, 3, resources),
        spread_weight=draw.integers(0, 3, resources),
        **given,
    )


def window_with_savings(seed: int, n: int, m: int, *, units_that_save: int, equally: bool) -> Window:
    """Return generated long-tailed items of which half are known to two of the first units."""
    draw = np.random.default_rng(seed)
    size = np.minimum(4096, draw.lognormal(math.log(1500), 1.0, n).astype(np.int64) + 1)
    item = np.repeat(np.flatnonzero(draw.random(n) < 0.5), 2)
    unit = np.concatenate([draw.permutation(units_that_save)[:2] for _ in range(len(item) // 2 + 1)])[: len(item)]
    share = draw.random(len(item)) * 0.9
    if equally:
        share = np.repeat(share[::2], 2)
    value = (size[item] * share).astype(np.int64)
    return plain(size, draw.integers(0, 2000, m), savings=Savings(item, unit, value.reshape(-1, 1)))


seeds = st.integers(0, 2**32 - 1)
equal_windows, one_each_windows = seeds.map(window_of_equal_items), seeds.map(window_of_one_each)


@pytest.mark.parametrize("solver", FLOW_SOLVERS)
@settings(max_examples=150)
@given(equal_windows)
def test_equal_items_reach_the_whole_objective_of_brute_force(solver: str, window: Window) -> None:
    result = solve(window, solver)
    assert is_exact(result)
    assert result.objective == best_placement(window)[1]
    assert result.status == "OPTIMAL"


@settings(max_examples=300)
@given(one_each_windows)
def test_one_item_to_a_unit_reaches_the_whole_objective_of_brute_force(window: Window) -> None:
    result = solve(window, "assignment")
    if is_exact(result):
        assert result.objective == best_placement(window)[1]
        assert result.status == "OPTIMAL"


def found_by_flows_alone(model: ExactModel, engine: Any) -> tuple[Claim, Objective]:
    """Return what the flows of a model claim and reach when nothing is placed at first."""
    best = Best(model.window, nothing_placed(model.window))
    claim = solve_exact(model, Flows(engine, Budget(None, None)), best)
    return claim, best.objective


@pytest.mark.parametrize("engine", ENGINES, ids=FLOW_SOLVERS)
@settings(max_examples=150)
@given(equal_windows)
def test_flows_of_equal_items_need_no_start(engine: Any, window: Window) -> None:
    model = EqualItems.of(Settled.of(window))
    assert model is not None
    claim, found = found_by_flows_alone(model, engine)
    best = best_placement(window)[1]
    assert (claim.exact, claim.left_out_proved, claim.bound, found) == (True, True, best.bottleneck, best)


@settings(max_examples=300)
@given(one_each_windows)
def test_assignments_need_no_start_and_equal_flows(window: Window) -> None:
    model = OneEach.of(Settled.of(window))
    if model is not None:
        best = best_placement(window)[1]
        for engine in (Assignment().engine, *ENGINES):
            claim, found = found_by_flows_alone(model, engine)
            assert (claim.exact, claim.left_out_proved, claim.bound, found) == (True, True, best.bottleneck, best)


@settings(max_examples=150)
@given(equal_windows)
def test_a_dearer_flow_is_not_taken_for_the_least(window: Window) -> None:
    model = EqualItems.of(Settled.of(window))
    assert model is not None
    claim, found = found_by_flows_alone(model, finds_the_dearest)
    if claim.exact:
        assert found == best_placement(window)[1]


def test_most_windows_of_one_item_to_a_unit_are_recognised() -> None:
    found = [is_exact(solve(window_of_one_each(seed), "assignment")) for seed in range(100)]
    assert sum(found) > 75


@pytest.mark.parametrize("solver", ALL)
@settings(max_examples=150)
@given(every_kind)
def test_exact_is_said_only_of_optima(solver: str, window: Window) -> None:
    result = solve(window, solver, budget_steps=PLENTY)
    assert result.objective <= solve(window, "lpt").objective
    assert result.bound <= least_bottlenecks(window)[result.objective.left_out]
    if is_exact(result):
        assert result.objective == best_placement(window)[1]


@pytest.mark.parametrize("solver", ALL)
@settings(max_examples=60)
@given(equal_windows, st.sampled_from([0, 5, 20, 60, 200]))
def test_a_flow_cut_short_claims_no_more_than_is_true(solver: str, window: Window, steps: int) -> None:
    result = solve(window, solver, budget_steps=steps)
    least = least_bottlenecks(window)
    assert result.bound <= least[result.objective.left_out]
    if is_exact(result):
        assert result.objective == best_placement(window)[1]
    if result.status == "OPTIMAL":
        assert result.objective.left_out == min(least)


@settings(max_examples=100)
@given(every_kind | equal_windows)
def test_both_engines_give_the_same_objective_and_proof(window: Window) -> None:
    one, two = (solve(window, solver, budget_steps=PLENTY) for solver in FLOW_SOLVERS)
    assert (one.objective, one.bound, one.status) == (two.objective, two.bound, two.status)
    assert is_exact(one) == is_exact(two)


@settings(max_examples=20)
@given(seeds, st.booleans())
def test_both_engines_round_alike(seed: int, equally: bool) -> None:
    window = window_with_savings(seed, 40, 6, units_that_save=4, equally=equally)
    one, two = (solve(window, solver, budget_steps=PLENTY) for solver in FLOW_SOLVERS)
    assert one.placement == two.placement
    assert (one.bound, one.stats.steps) == (two.bound, two.stats.steps)


@pytest.mark.parametrize("solver", FLOW_SOLVERS)
def test_equal_items_beyond_what_longest_first_can_do(solver: str) -> None:
    # Two groups share the price of a barrier: one item more on the idle group costs less than on the busy one.
    window = plain([4] * 5, [0, 0, 3], group=[0, 0, 1], limit=[[8], [8], [7]], pinned=[FREE, FREE, FREE, FREE, 0])
    result = solve(window, solver)
    assert is_exact(result)
    assert result.objective == best_placement(window)[1]


@pytest.mark.parametrize("solver", FLOW_SOLVERS)
def test_a_crossing_item_takes_the_place_that_others_may_not(solver: str) -> None:
    # Budget 5 holds one item of 4 and lets a second one start, but only item 2 may be that one.
    window = plain([4] * 4, [0], limit=[[5]], open_resource=0, crossing=[False, False, True, False], tier=[0, 0, 1, 0])
    result = solve(window, solver)
    assert is_exact(result)
    assert result.objective.left_out == (2, 0)


@pytest.mark.parametrize("solver", FLOW_SOLVERS)
def test_pinned_items_of_any_size_do_not_spoil_equal_ones(solver: str) -> None:
    window = plain([9, 5, 3, 3, 3, 3], [0, 0, 0], pinned=[0, 0, FREE, FREE, FREE, FREE])
    result = solve(window, solver)
    assert is_exact(result)
    assert (result.objective.bottleneck, result.objective.spread) == (14, 14**2 + 2 * 6**2)


@pytest.mark.parametrize("engine", ENGINES, ids=FLOW_SOLVERS)
def test_savings_come_before_the_spread(engine: Any) -> None:
    # Unit 2 sets the bottleneck. Unit 0 saves 2 of 3, unit 1 is empty and would spread less.
    window = plain([3], [5, 0, 10], savings=Savings([0], [0], [[2]]))
    model = EqualItems.of(Settled.of(window))
    assert model is not None
    claim, found = found_by_flows_alone(model, engine)
    assert (claim.exact, found.bottleneck, found.saved, found.spread) == (True, 10, 2, 136)


def test_items_that_add_nothing_to_a_full_unit_may_share_it() -> None:
    window = Window(demand=[[1, 0], [1, 0]], load=[[0, 5]], limit=[[UNLIMITED, 3]])
    result = solve(window, "assignment")
    assert (result.objective.left_out, is_exact(result)) == ((0,), False)


def test_no_bound_is_drawn_from_items_that_others_could_replace() -> None:
    # There is one slot. With item 0 in it the bottleneck is at least 8, with item 1 it is 3.
    window = Window(
        demand=[[9, 1], [3, 1]],
        load=[[0, 0]],
        price=[1, 0],
        limit=[[UNLIMITED, 1]],
        savings=Savings([0], [0], [[1, 0]]),
    )
    unit = np.array([0, FREE])
    best = Best(window, Incumbent(unit, verify(window, unit), 0))
    claim = solve_fluid(window, Flows(ENGINES[1], Budget(None, None)), best)
    assert claim.bound <= least_bottlenecks(window)[1,]


def test_assignment_minds_the_bottleneck_before_the_savings() -> None:
    # Item 0 saves 6 on unit 0, but then item 1 needs unit 1, which is loaded.
    window = Window(
        demand=[[8, 1], [7, 1]],
        load=[[0, 0], [3, 0]],
        price=[1, 0],
        limit=[[UNLIMITED, 1], [UNLIMITED, 1]],
        savings=Savings([0, 0], [0, 1], [[2, 0], [4, 0]]),
    )
    result = solve(window, "assignment")
    assert is_exact(result)
    assert result.placement.unit.tolist() == [1, 0]
    assert (result.objective.bottleneck, result.objective.saved) == (7, 4)


def test_exchanges_find_what_longest_first_misses() -> None:
    better = 0
    for seed in range(10):
        draw = np.random.default_rng(seed)
        window = plain(draw.integers(100, 1000, 40), draw.integers(0, 1000, 8))
        better += solve(window, "assignment").objective.bottleneck < solve(window, "lpt").objective.bottleneck
    assert better >= 8


@settings(max_examples=60)
@given(seeds, st.booleans())
def test_fluid_bound_is_below_every_placement_and_the_linear_relaxation(seed: int, equally: bool) -> None:
    window = window_with_savings(seed, 24, 5, units_that_save=3, equally=equally)
    fluid = FluidItems(window, np.arange(24))
    for engine in ENGINES:
        bound = fluid.bound(Flows(engine, Budget(None, None)), int(window.load.max()), 2**40)
        least = max(float(window.load.max()), linear_relaxation(window))
        assert bound <= math.ceil(least - 1e-6)
        if equally:
            assert bound >= least * (1 - 1e-4)


@settings(max_examples=100)
@given(seeds, st.integers(1, 3), st.data())
def test_fluid_bound_holds_for_small_windows_with_pins(seed: int, m: int, data: st.DataObject) -> None:
    draw = np.random.default_rng(seed)
    n = data.draw(st.integers(1, 5))
    size = draw.integers(1, 12, (n, 2))
    pairs = draw.permutation(n * m)[: int(draw.integers(1, n + 1))]
    window = Window(
        demand=size,
        load=draw.integers(0, 9, (m, 2)),
        price=draw.integers(1, 3, 2),
        pinned=np.where(draw.random(n) < 0.6, FREE, draw.integers(0, m, n)),
        savings=Savings(pairs // m, pairs % m, draw.integers(0, size[pairs // m] + 1)),
    )
    fluid = FluidItems(window, np.arange(n))
    bound = fluid.bound(Flows(ENGINES[1], Budget(None, None)), int(fluid.load.max()), 2**40)
    assert bound <= least_bottlenecks(window)[0,]


def linear_relaxation(window: Window) -> float:
    """Return the least makespan with items divided at will, from SciPy's linear programming."""
    n, m = window.num_items, window.num_units
    added = np.repeat(window.demand, m, axis=1).astype(float)
    assert window.savings is not None
    added[window.savings.item, window.savings.unit] -= window.savings.value[:, 0]
    at_most = np.zeros((m, n * m + 1))
    whole = np.zeros((n, n * m + 1))
    for i, u in product(range(n), range(m)):
        at_most[u, i * m + u] = added[i, u]
        whole[i, i * m + u] = 1
    at_most[:, -1] = -1
    cost = np.zeros(n * m + 1)
    cost[-1] = 1
    answer = scipy.optimize.linprog(cost, at_most, -window.load[:, 0], whole, np.ones(n))
    return float(answer.fun)


def everywhere(fluid: FluidItems) -> tuple[Network, IntArray]:
    """Return the fluid's network with an arc for every (item, unit) pair in place of the hub."""
    m, nodes = len(fluid.load), fluid.nodes
    cost = {(i, u): fluid.work[i] - fluid.least[i] for i, u in product(nodes.tolist(), range(m))}
    for i, u, added in zip(fluid.item.tolist(), fluid.unit.tolist(), fluid.added.tolist(), strict=True):
        cost[i, u] = added - fluid.least[i]
    node_of = {i: k for k, i in enumerate(nodes.tolist())}
    tail = [node_of[i] for i, _ in cost] + [len(nodes) + u for u in range(m)]
    head = [len(nodes) + u for _, u in cost] + [len(nodes) + m] * m
    capacity = [fluid.least[i] for i, _ in cost] + [fluid.total] * m
    supply = np.append(fluid.least[nodes], np.zeros(m + 1, dtype=np.int64))
    supply[-1] = -fluid.total
    share = [(extra << 16) // fluid.least[i] for (i, _), extra in cost.items()] + [0] * m
    return Network(np.array(tail), np.array(head), np.array(capacity), supply), np.array(share)


@settings(max_examples=30)
@given(seeds)
def test_hub_costs_no_more_and_no_less_than_all_arcs(seed: int) -> None:
    window = window_with_savings(seed, 20, 6, units_that_save=4, equally=False)
    fluid = FluidItems(window, np.arange(20))
    full, full_cost = everywhere(fluid)
    flows = Flows(ENGINES[1], Budget(None, None))
    low = fluid.bound(flows, int(fluid.load.max()), 2**40)
    for level in (low, low + low // 5, 2 * low):
        tops = np.full(6, level)
        hub = flows.least(fluid.network(tops), fluid.cost).amount
        capacity = full.capacity.copy()
        capacity[-6:] = np.minimum(tops - fluid.load, fluid.total)
        direct = flows.least(full._replace(capacity=capacity), full_cost).amount
        assert int(hub @ fluid.cost) == int(direct @ full_cost)


def test_networks_are_far_smaller_than_all_pairs() -> None:
    n, m = 2000, 320
    fluid = FluidItems(window_with_savings(1, n, m, units_that_save=m, equally=True), np.arange(n))
    assert len(fluid.tail) < n * m / 80
    sizes: list[int] = []

    def counting(network: Network, cost: IntArray) -> IntArray | None:
        sizes.append(len(cost))
        return MinCostFlowOrTools().engine(network, cost)

    window = plain([5] * n, np.arange(m), pinned=np.where(np.arange(n) < 40, 7, FREE))
    assert is_exact(solve(window, Broken(counting)))
    assert max(sizes) < n * m / 80


@st.composite
def networks(draw: st.DrawFn) -> tuple[Network, list[IntArray]]:
    """Draw small networks in which everything can also go straight to the sink."""
    nodes = draw(st.integers(2, 5))
    arcs = draw(st.lists(st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)), max_size=8))
    arcs = [(tail, head) for tail, head in arcs if tail != head] + [(k, nodes - 1) for k in range(nodes - 1)]
    supply = [draw(st.integers(0, 3)) for _ in range(nodes - 1)]
    capacity = [draw(st.integers(0, 3)) for _ in arcs[: 1 - nodes]] + [sum(supply)] * (nodes - 1)
    costs = [np.array([draw(st.integers(0, 2)) for _ in arcs]) for _ in range(3)]
    tail, head = (np.array(column) for column in zip(*arcs, strict=True))
    return Network(tail, head, np.array(capacity), np.array([*supply, -sum(supply)])), costs


@pytest.mark.parametrize("engine", ENGINES, ids=FLOW_SOLVERS)
@settings(max_examples=100)
@given(networks())
def test_lexicographic_flow_equals_one_of_outranking_weights(
    engine: Any, drawn: tuple[Network, list[IntArray]]
) -> None:
    network, costs = drawn
    found = Flows(engine, Budget(None, None)).least(network, *costs).amount
    graph = networkx.MultiDiGraph()
    for node, supply in enumerate(network.supply.tolist()):
        graph.add_node(node, demand=-supply)
    for arc, (tail, head, capacity) in enumerate(zip(*(x.tolist() for x in network[:3]), strict=True)):
        weight = sum(int(cost[arc]) * 10 ** (6 - 3 * k) for k, cost in enumerate(costs))
        graph.add_edge(tail, head, capacity=capacity, weight=weight)
    expected, _ = networkx.network_simplex(graph)
    assert sum(int(found @ cost) * 10 ** (6 - 3 * k) for k, cost in enumerate(costs)) == expected


@settings(max_examples=100)
@given(st.integers(1, 3), st.data())
def test_threshold_search_finds_every_least_corner(dimensions: int, data: st.DataObject) -> None:
    axis = st.lists(st.integers(0, 20), min_size=1, max_size=5, unique=True).map(sorted)
    values = [data.draw(axis) for _ in range(dimensions)]
    weight = data.draw(st.lists(st.integers(1, 3), min_size=dimensions, max_size=dimensions))
    corners = list(product(*values))
    seeds_of_feasible = [*data.draw(st.lists(st.sampled_from(corners), max_size=4)), corners[-1]]

    def feasible(corner: tuple[int, ...]) -> bool:
        return any(all(x >= y for x, y in zip(corner, seed, strict=True)) for seed in seeds_of_feasible)

    def cost(corner: tuple[int, ...]) -> int:
        return sum(w * x for w, x in zip(weight, corner, strict=True))

    search = ThresholdSearch(weight, [np.array(column) for column in values], feasible)
    least = min(cost(corner) for corner in corners if feasible(corner))
    assert search.bound <= least
    expected = [corner for corner in corners if feasible(corner) and cost(corner) == least]
    assert sorted(search.run()) == sorted(expected)
    assert search.bound == least


class Broken(FlowSolver):
    """Runs the engine that it is given."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def engine(self, network: Network, cost: IntArray) -> IntArray | None:
        found: IntArray | None = self._engine(network, cost)
        return found


def raises(network: Network, cost: IntArray) -> IntArray:
    raise RuntimeError("out of licences")


def finds_nothing(network: Network, cost: IntArray) -> None:
    return None


def finds_the_dearest(network: Network, cost: IntArray) -> IntArray | None:
    return MinCostFlowOrTools().engine(network, -cost)


def sends_nothing(network: Network, cost: IntArray) -> IntArray:
    return np.zeros_like(cost)


def sends_too_much(network: Network, cost: IntArray) -> IntArray:
    return network.capacity + 1


def forgets_an_arc(network: Network, cost: IntArray) -> IntArray:
    return np.zeros(len(cost) + 1, dtype=np.int64)


LIARS = (raises, finds_nothing, finds_the_dearest, sends_nothing, sends_too_much, forgets_an_arc)


@pytest.mark.parametrize("engine", LIARS)
@settings(max_examples=40)
@given(window=equal_windows | every_kind)
def test_an_engine_that_fails_or_lies_costs_nothing_but_its_help(engine: Any, window: Window) -> None:
    logging.getLogger("sbs_opt.solvers.flow_network").setLevel(logging.CRITICAL)
    start, _ = best_placement(window)
    result = solve(window, Broken(engine), budget_steps=PLENTY)
    assert result.objective <= solve(window, "lpt").objective
    least = least_bottlenecks(window)
    assert result.bound <= least[result.objective.left_out]
    if is_exact(result):
        assert result.objective == best_placement(window)[1]
    if result.status == "OPTIMAL":
        assert result.objective.left_out == min(least)
    assert solve(window, Broken(engine), start=start, budget_steps=PLENTY).objective == verify(window, start)


def test_an_engine_that_raises_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("sbs_opt.solvers.flow_network").setLevel(logging.NOTSET)
    result = solve(plain([3, 3, 3], [0, 0]), Broken(raises))
    assert (result.objective.bottleneck, is_exact(result)) == (6, False)
    assert "out of licences" in caplog.text


@pytest.mark.parametrize("solver", ALL)
def test_without_steps_the_start_comes_back(solver: str) -> None:
    window = window_with_savings(3, 30, 4, units_that_save=3, equally=True)
    result = solve(window, solver, budget_steps=0)
    assert result.placement == solve(window, "lpt").placement
    assert (result.limit, is_exact(result)) == ("steps", False)
    assert solve(window, solver, budget_s=0.0).objective <= solve(window, "lpt").objective


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("size", [2**30, 2**45, 2**57])
def test_large_numbers_never_overflow(solver: str, size: int) -> None:
    equal = solve(plain([size] * 5, [0, size, 0]), solver)
    assert (equal.objective.bottleneck, equal.status) == (2 * size, "OPTIMAL")
    mixed = plain([size, size - 1, size // 3], [5, 0], savings=Savings([0, 2], [0, 1], [[size // 2], [size // 3]]))
    assert solve(mixed, solver).objective <= solve(mixed, "lpt").objective


def test_costs_that_could_leave_64_bits_are_refused() -> None:
    network = Network(np.array([0]), np.array([1]), np.array([1]), np.array([1, -1]))
    flows = Flows(ENGINES[1], Budget(None, None))
    assert flows.least(network, np.array([largest_cost(2)])).amount.tolist() == [1]
    with pytest.raises(UnprovedError):
        flows.least(network, np.array([largest_cost(2) + 1]))
