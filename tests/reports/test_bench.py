"""A bench as table, JSON, page and plot: the figures are those of the runs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sbs_opt.models.objective import Objective
from sbs_opt.models.placement import Placement
from sbs_opt.models.window import Window
from sbs_opt.reports.bench import NOTES, Summary, bench_json, columns, frontier, in_short, summaries
from sbs_opt.reports.bench_chart import _label, _sparse, bench_chart, standalone
from sbs_opt.reports.bench_page import bench_page
from sbs_opt.reports.bench_table import bench_tables
from sbs_opt.reports.html.svg import log_scale
from sbs_opt.solvers.bench import Bench, Run, Yardstick
from sbs_opt.solvers.result import Result, Stats
from tests.reports.test_html import Reader

WINDOWS = tuple(Window(demand=[[5]] * n, load=[[0], [1]]) for n in (3, 4, 5, 6))


def run(window: int, solver: str, bottleneck: int, bound: int, wall_s: float, **changes: Any) -> Run:
    left_out = changes.pop("left_out", (0,))
    objective = Objective(left_out, bottleneck, 0, 100)
    stats = Stats(wall_s, 9, f"{solver}(inner)", "0", 0)
    result = Result(Placement([0]), objective, bound, "OPTIMAL" if bottleneck == bound else "FEASIBLE", None, stats)
    return Run(window, solver, changes.pop("budget_s", None), result)


RUNS = (
    run(0, "near", 10, 8, 1e-3),
    run(1, "near", 10, 10, 2e-3),
    run(2, "near", 12, 10, 3e-3),
    run(3, "near", 20, 20, 4e-3),
    run(0, "<fast>", 16, 10, 1e-5),
    run(1, "<fast>", 15, 10, 1e-5),
    run(2, "<fast>", 6, 6, 1e-5, left_out=(1,)),
    Run(3, "<fast>", None, None, "solver <fast>: cannot handle limits"),
)
YARDSTICKS = {
    0: Yardstick(Objective((0,), 10, 0, 100), 10),
    1: Yardstick(Objective((0,), 10, 0, 100), 10),
    2: Yardstick(Objective((0,), 12, 0, 100), 10),
    3: Yardstick(Objective((0,), 20, 0, 100), 20),
}
BENCH = Bench(RUNS, YARDSTICKS, seed=3)


def test_summaries_by_hand() -> None:
    near, fast = summaries(BENCH)
    assert (near.solver, near.windows, near.refused, near.left_out_more) == ("near", 4, 0, 0)
    assert (near.optimal, near.best, near.comparable) == (0.5, 1.0, True)
    assert (near.gap_mean, near.gap_max) == pytest.approx((0.2 / 4, 0.2))
    assert near.wall_s_p50 == pytest.approx(2.5e-3)
    assert near.wall_s_p99 == pytest.approx(float(np.percentile([1e-3, 2e-3, 3e-3, 4e-3], 99)))
    assert (fast.solver, fast.windows, fast.refused, fast.left_out_more) == ("<fast>", 3, 1, 1)
    assert fast.optimal == pytest.approx(1 / 3)
    assert (fast.best, fast.comparable) == (0.0, False)
    assert (fast.gap_mean, fast.gap_max) == pytest.approx((0.55, 0.6))


def test_budgets_are_kept_apart() -> None:
    runs = tuple(run(0, "a", 10 + k, 10, 1e-3 * (k + 1), budget_s=1e-3 * (3 - k)) for k in range(3))
    rows = summaries(Bench(runs, {0: YARDSTICKS[0]}, 0))
    assert [row.name for row in rows] == ["a (3 ms)", "a (2 ms)", "a (1 ms)"]
    assert [row.gap_mean for row in rows] == pytest.approx([0, 0.1, 0.2])


def test_nothing_solved_is_nothing_to_say() -> None:
    bench = Bench((Run(0, "a", None, None, "no"), Run(0, "b", None, None, "no")), {}, 0)
    for row in summaries(bench):
        assert (row.windows, row.refused, row.optimal, row.gap_mean, row.wall_s_p50) == (0, 1, None, None, None)
    assert bench_chart(summaries(bench)) is None
    assert "none is ranked" in in_short(summaries(bench))
    assert "nothing to draw" in bench_page(bench, WINDOWS, "w.jsonl")
    assert json.dumps(bench_json(bench, "w.jsonl"), allow_nan=False)
    assert printed(bench)


def summary(solver: str, wall_s: float | None, gap: float | None, **changes: Any) -> Summary:
    base = Summary(solver, None, 9, 0, 0.5, 0.5, 0, gap, gap, wall_s, wall_s)
    return replace(base, **changes)


def test_frontier_is_what_nothing_beats_in_both() -> None:
    rows = (
        summary("slow and close", 1.0, 0.0),
        summary("as close, slower", 2.0, 0.0),
        summary("fast", 0.1, 0.5),
        summary("as fast, worse", 0.1, 0.6),
        summary("middle", 0.4, 0.2),
        summary("beaten", 0.5, 0.3),
        summary("refuses", 0.01, 0.0, refused=1),
        summary("leaves out", 0.01, 0.0, left_out_more=1),
        summary("nothing", None, None),
    )
    assert [row.solver for row in frontier(rows)] == ["fast", "middle", "slow and close"]
    said = in_short(rows)
    assert "fast: 50.0 % in 0.100 s; middle: 20.0 % in 0.400 s; slow and close: 0 % in 1.00 s" in said


def printed(bench: Bench, width: int = 80) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as caught:
        for part in bench_tables(bench):
            console.print(part)
    return caught.get()


def test_table_shows_every_figure_within_80_characters() -> None:
    shown = printed(BENCH)
    assert max(map(len, shown.splitlines())) <= 80
    near = next(line.split() for line in shown.splitlines() if line.split()[:1] == ["near"])
    assert near == ["near", "4", "0", "50.0", "100.0", "0", "5.00", "20.0", "2.50", "3.97"]
    fast = next(line.split() for line in shown.splitlines() if line.split()[:1] == ["<fast>"])
    assert fast == ["<fast>", "3", "1", "33.3", "0.0", "1", "55.0", "60.0", "0.0100", "0.0100"]
    assert " ".join(NOTES[1].split()) in " ".join(shown.split())


def test_columns_that_say_nothing_are_left_out() -> None:
    heads = [" ".join(column.head).strip() for column in columns((summary("a", 1.0, 0.1),))]
    assert heads == ["windows", "OPTIMAL %", "best %", "gap mean %", "gap max %", "time p50 ms", "p99 ms"]
    heads = [column.head[0] for column in columns((summary("a", 1.0, 0.1, budget_s=0.001, refused=1),))]
    assert heads[:3] == ["budget", "", "not"]


def test_json_has_a_row_per_run_and_the_summary() -> None:
    found = json.loads(json.dumps(bench_json(BENCH, "w.jsonl"), allow_nan=False))
    assert (found["schema"], found["command"], found["seed"], found["windows"]) == (
        "sbs-opt/bench/1", "bench", 3, "w.jsonl",
    )  # fmt: skip
    assert [(row["window"], row["solver"]) for row in found["rows"]] == [(r.window, r.solver) for r in RUNS]
    assert len({tuple(sorted(row)) for row in found["rows"]}) == 1
    first, shed, refused = found["rows"][0], found["rows"][6], found["rows"][7]
    assert (first["status"], first["bound"], first["gap"], first["best_bound"], first["best_gap"]) == (
        "FEASIBLE", 8, 0.25, 10, 0.0,
    )  # fmt: skip
    assert (first["ran"], first["budget_s"], first["refusal"]) == ("near(inner)", None, None)
    assert (shed["left_out"], shed["best_bound"], shed["best_gap"]) == ([1], None, None)
    assert (refused["status"], refused["bottleneck"], refused["refusal"]) == (
        "UNSUPPORTED", None, "solver <fast>: cannot handle limits",
    )  # fmt: skip
    assert [row["gap_mean"] for row in found["summary"]] == [row.gap_mean for row in summaries(BENCH)]


# -- page and plot -----------------------------------------------------------------------------------------------


def test_page_is_well_formed_offline_and_has_the_figures() -> None:
    page = bench_page(BENCH, WINDOWS, "made <up>.jsonl")
    read = Reader(page)
    assert read.svgs_in == {"plot": 1}
    assert set(read.labels) <= set(read.ids)
    assert set(re.findall(r"https?://[^\"'<> ]*", page)) == {"http://www.w3.org/2000/svg"}
    rows, shown = summaries(BENCH), columns(summaries(BENCH))
    for k, row in enumerate(rows):
        assert read.tables[0][k + 1] == [row.solver, *(column.texts[k] for column in shown)]
    said = " ".join("".join(read.texts).split())
    for part in (in_short(rows), *NOTES, "made <up>.jsonl", "3 to 6", "4 of made"):
        assert part in said
    assert "<up>" not in page
    assert "<fast>" not in page
    assert bench_page(BENCH, WINDOWS, "made <up>.jsonl") == page


def parsed(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(chart)


def dots(chart: str) -> dict[str, tuple[float, float]]:
    """Return the place of each dot by its solver."""
    found = {}
    for circle in parsed(chart).iter("{http://www.w3.org/2000/svg}circle"):
        (title,) = circle
        found[str(title.text).split(":")[0]] = (float(circle.attrib["cx"]), float(circle.attrib["cy"]))
    return found


def test_plot_puts_faster_left_and_closer_low_and_zero_on_the_floor() -> None:
    rows = (
        summary("quick", 1e-5, 0.1),
        summary("even", 1e-3, 0.01),
        summary("exact", 1e-1, 0.0),
        summary("bad", 1e-1, 1.0),
        summary("refuses", 1e-2, 0.1, refused=3),
        summary("nothing", None, None, windows=0, refused=9),
    )
    chart = bench_chart(rows)
    assert chart is not None
    at = dots(chart)
    assert set(at) == {"quick", "even", "exact", "bad", "refuses"}
    assert at["even"][0] - at["quick"][0] == pytest.approx(at["exact"][0] - at["even"][0], abs=0.2)
    assert at["exact"][0] == at["bad"][0]
    assert at["even"][1] - at["quick"][1] == pytest.approx(at["quick"][1] - at["bad"][1], abs=0.2)
    assert at["exact"][1] > at["even"][1] + 20
    assert "0 %" in chart
    assert chart.count('class="dot partial"') == 1


def test_plot_without_a_gap_of_zero_has_no_floor() -> None:
    chart = bench_chart((summary("a", 1e-3, 0.1), summary("b", 1e-3, 0.2)))
    assert chart is not None
    assert ">0 %<" not in chart
    assert "break" not in chart


def test_dots_of_one_solver_are_joined_in_the_order_of_its_budgets() -> None:
    rows = tuple(summary("a", 10.0**-k, 10.0**-k, budget_s=10.0**-k) for k in (3, 1, 2))
    chart = bench_chart(rows)
    assert chart is not None
    joints = [
        tuple(float(one.attrib[name]) for name in ("x1", "y1", "x2", "y2"))
        for one in parsed(chart).iter("{http://www.w3.org/2000/svg}line")
        if one.attrib["class"] == "joint"
    ]
    at = list(dots(chart).values())
    assert joints == [(*at[0], *at[1]), (*at[1], *at[2])]
    assert chart.count('class="label"') == 1


@given(st.lists(st.tuples(st.floats(1e-6, 10), st.floats(0, 3)), min_size=1, max_size=16))
def test_any_figures_give_a_picture_with_all_dots_inside(figures: list[tuple[float, float]]) -> None:
    chart = bench_chart([summary(f"solver_{k}", *pair) for k, pair in enumerate(figures)])
    assert chart is not None
    assert len(dots(chart)) == len(figures)
    assert all(70 < x < 960 and 0 < y < 470 for x, y in dots(chart).values())


@given(st.lists(st.tuples(st.floats(80, 800), st.floats(20, 440)), min_size=1, max_size=16))
def test_labels_keep_off_each_other(places: list[tuple[float, float]]) -> None:
    taken: list[tuple[float, float, float, float]] = []
    for k, place in enumerate(places):
        _label(f"min_cost_flow_{k}", place, taken)
    assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for a, b in combinations(taken, 2))
    assert len(taken) >= len(places) - 1


@given(st.floats(1e-9, 1e3), st.floats(1, 1e9))
def test_ticks_are_few_and_some(low: float, factor: float) -> None:
    _, ticks = log_scale([low / 1.3, low * factor * 1.3], 0, 100)
    assert len(_sparse(ticks)) <= 7
    assert _sparse(ticks) or not ticks


def test_plot_alone_spells_out_its_colours() -> None:
    chart = bench_chart(summaries(BENCH))
    assert chart is not None
    alone = standalone(chart)
    assert parsed(alone).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in alone
    assert ".p0 .dot { fill: #" in alone
    assert dots(alone) == dots(chart)
