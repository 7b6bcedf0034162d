"""`windows`, `solve` and `list`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sbs_opt import solve, verify
from sbs_opt.cli.main import main
from sbs_opt.instances import read_trace, read_windows, scale_to_load, write_windows
from sbs_opt.models.catalogue import cost_model_of, load_deployment
from sbs_opt.models.window import Window
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.simulator.replay import simulate
from tests.cli.conftest import Run


def test_windows_are_those_of_the_whole_simulation(run: Run, fleet: Path, trace: Path) -> None:
    """The command leaves decode out to save time; with it the windows are the same."""
    done = run("windows", trace, "--deployment", fleet, "--load", "0.8", "--seed", "5", "-o", "w.jsonl", "--json", "-")
    assert done.status == 0
    deployment = load_deployment(str(fleet))
    cost_model = cost_model_of(deployment)
    requests = scale_to_load(read_trace(trace).requests, 0.8, cost_model, deployment, seed=5)
    met: list[Window] = []
    simulate(requests, deployment, cost_model, SchedulerConfig(seed=5), observe=lambda window, _: met.append(window))
    assert list(read_windows("w.jsonl")) == met
    rows = json.loads(done.out)["rows"]
    assert [row["items"] for row in rows] == [window.num_items for window in met]
    assert sum(row["placed"] for row in rows) == len(requests)


def test_limit_gives_the_first_windows(run: Run, fleet: Path, trace: Path) -> None:
    common = ("windows", trace, "--deployment", fleet, "--policy", "sbs")
    assert run(*common, "-o", "all.jsonl.gz").status == 0
    assert run(*common, "-o", "few.jsonl", "--limit", "3").status == 0
    assert list(read_windows("few.jsonl")) == list(read_windows("all.jsonl.gz"))[:3]


WINDOWS = (
    Window(demand=[[5], [3], [3]], load=[[0], [1]]),
    Window(demand=[], load=[[4], [9]]),
    Window(demand=[[2, 1], [9, 1]], load=[[0, 0], [3, 0]], price=[1, 0], limit=[[5, 5], [5, 5]]),
)


def test_rows_of_solve_are_the_results_of_the_library(run: Run) -> None:
    write_windows("w.jsonl", WINDOWS)
    done = run("solve", "w.jsonl", "--solver", "lpt", "--json", "-")
    assert done.status == 0
    for row, window in zip(json.loads(done.out)["rows"], WINDOWS, strict=True):
        result = solve(window, "lpt")
        assert row["wall_s"] > 0
        assert {name: value for name, value in row.items() if name != "wall_s"} == {
            "window": WINDOWS.index(window), "solver": "lpt", "status": result.status,
            "left_out": list(result.objective.left_out), "bottleneck": result.objective.bottleneck,
            "bound": result.bound, "gap": result.gap, "saved": result.objective.saved,
            "spread": result.objective.spread, "steps": result.stats.steps, "limit": result.limit,
        }  # fmt: skip


def test_explanation_adds_up(run: Run) -> None:
    write_windows("w.jsonl", WINDOWS)
    done = run("solve", "w.jsonl", "--explain", "--json", "-")
    assert "there before anything is placed" in done.err
    for row, window in zip(json.loads(done.out)["rows"], WINDOWS, strict=True):
        account = row["explain"]
        assert sum(part["cost"] for part in account["binding"]) == row["bottleneck"]
        unit = [-1] * window.num_items
        for of in account["units"]:
            for item in of["items"]:
                unit[item] = of["unit"]
        assert verify(window, unit).bottleneck == row["bottleneck"]
        assert account["left_out"] == [i for i, u in enumerate(unit) if u < 0]
        bound = account["bound"]
        assert bound["already_there"] <= max(bound["water_level"], bound["single_item"]) <= bound["proved"]


def test_unsupported_solver_names_file_and_window(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from sbs_opt.models.errors import UnsupportedError

    def refuse(*_: object, **__: object) -> None:
        raise UnsupportedError("solver lpt: cannot handle savings; auto can")

    write_windows("w.jsonl", WINDOWS)
    monkeypatch.setattr("sbs_opt.solvers.solve.solve", refuse)
    done = run("solve", "w.jsonl", "--solver", "lpt")
    assert done.status == 2
    assert done.err == "sbs-opt: w.jsonl, window 0: solver lpt: cannot handle savings; auto can\n"


def test_budget_is_in_milliseconds(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float | None] = []

    def recorded(window: Window, solver: str, *, budget_s: float | None, seed: int) -> object:
        seen.append(budget_s)
        return solve(window, solver, seed=seed)

    write_windows("w.jsonl", WINDOWS[:1])
    monkeypatch.setattr("sbs_opt.solvers.solve.solve", recorded)
    run("solve", "w.jsonl", "--budget-ms", "2.5")
    run("solve", "w.jsonl")
    assert seen == [0.0025, None]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("solvers", "lpt"), ("policies", "sbs_auto"), ("profiles", "h800"), ("formats", "mooncake"),
        ("deployments", "h800-deepseek-v3-3xep32-2xep72"),
    ],
)  # fmt: skip
def test_lists(run: Run, kind: str, name: str) -> None:
    done = run("list", kind, "--json", "-")
    found = json.loads(done.out)
    assert (done.status, found["schema"], found["kind"]) == (0, "sbs-opt/list/1", kind)
    assert name in [row["name"] for row in found["rows"]]
    shown = run("list", kind).out
    assert all(row["name"] in shown for row in found["rows"])
    assert max(map(len, shown.splitlines())) <= 80


def test_help_and_version_load_no_compiler() -> None:
    for flag in ("--help", "--version"):
        call = f"from sbs_opt.cli.main import main\ntry: main([{flag!r}])"
        program = f"{call}\nfinally:\n import sys\n print('numba' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("False\n")
        assert "sbs-opt" in done.stdout


def test_small_fleet_has_decode(fleet: Path) -> None:
    """The test of the windows above would say nothing otherwise."""
    deployment = load_deployment(str(fleet))
    assert deployment.of_phase("decode")
    assert replace(deployment, instances=deployment.of_phase("prefill")) != deployment


def test_page_on_the_command_line_knows_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    kinds = [f"cost {kind}" for kind in ("prefill", "decode", "attention", "gemm", "alltoall")]
    for command in ("compare", "windows", "solve", "list", "calibrate", "serve", *kinds):
        with pytest.raises(SystemExit) as left:
            main([*command.split(), "--help"])
        assert left.value.code == 0
        usage = next(block for block in page.split("sbs-opt ") if block.startswith(f"{command} "))
        for flag in set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}:
            assert flag in usage or flag == "--out"  # windows calls it -o


def test_page_on_the_command_line_knows_every_field(run: Run, fleet: Path, trace: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    compared = run("compare", trace, "--deployment", fleet, "--policies", "sbs", "--load", "0.5", "--json", "-").out
    windows = run("windows", trace, "--deployment", fleet, "-o", "w.jsonl", "--limit", "2", "--json", "-").out
    solved = run("solve", "w.jsonl", "--explain", "--json", "-").out
    for output in (compared, windows, solved):
        row = json.loads(output)["rows"][0]
        for name in (*row, *row.get("explain", {}), *row.get("explain", {}).get("bound", {})):
            assert f"`{name}`" in page
