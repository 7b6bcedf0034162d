"""`sbs-opt bench`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sbs_opt import solve
from sbs_opt.cli.main import main
from sbs_opt.instances import write_windows
from sbs_opt.models.window import Window
from tests.cli.conftest import Run
from tests.cli.test_mistakes import assert_refused

WINDOWS = (
    Window(demand=[[5], [3], [3]], load=[[0], [1]]),
    Window(demand=[], load=[[4], [9]]),
    Window(demand=[[2, 1], [9, 1]], load=[[0, 0], [3, 0]], price=[1, 0], limit=[[5, 5], [5, 5]]),
)
PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def window_file(tmp_path: Path) -> None:
    write_windows(tmp_path / "w.jsonl", WINDOWS)


def test_table_page_and_json_come_together(run: Run) -> None:
    done = run("bench", "w.jsonl", "--solvers", "lpt,least_loaded", "--out", "b.html", "--json", "b.json", "--seed", 4)
    assert (done.status, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    assert re.search(r"^ *lpt +3 ", done.out, re.M)
    assert "run once on each kind of window before" in " ".join(done.out.split())
    assert done.out.endswith("report: b.html\n")
    assert Path("b.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    found = json.loads(Path("b.json").read_text(encoding="utf-8"))
    assert (found["schema"], found["seed"], found["windows"]) == ("sbs-opt/bench/1", 4, "w.jsonl")
    for row in found["rows"]:
        result = solve(WINDOWS[row["window"]], row["solver"])
        assert (row["status"], row["bottleneck"], row["bound"], tuple(row["left_out"]), row["gap"]) == (
            result.status, result.objective.bottleneck, result.bound, result.objective.left_out, result.gap,
        )  # fmt: skip
        assert row["wall_s"] > 0
    assert [(row["window"], row["solver"]) for row in found["rows"]] == [
        (k, solver) for k in range(3) for solver in ("lpt", "least_loaded")
    ]


def test_budgets_are_in_milliseconds_and_each_is_tried(run: Run) -> None:
    done = run("bench", "w.jsonl", "--solvers", "lpt", "--budgets-ms", "2,.05", "--json", "-", "--out", "b.svg")
    found = json.loads(done.out)
    assert [row["budget_s"] for row in found["rows"]] == [0.002, 5e-05] * 3
    assert [row["budget_s"] for row in found["summary"]] == [0.002, 5e-05]
    assert "plot: b.svg" in done.err
    assert Path("b.svg").read_text(encoding="utf-8").startswith("<svg ")


def test_plain_call_has_defaults(run: Run) -> None:
    assert run("bench", "w.jsonl").status == 0
    assert Path("bench.html").exists()


def test_same_command_gives_the_same_rows_but_for_the_times(run: Run) -> None:
    def rows() -> list[dict[str, object]]:
        done = run("bench", "w.jsonl", "--solvers", "auto,lpt", "--json", "-")
        return [{**row, "wall_s": None} for row in json.loads(done.out)["rows"]]

    assert rows() == rows()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--solvers", "lpt,magic"], ["--solvers", "'magic'", "known solvers", "lpt"]),
        (["--solvers", "lpt,lpt"], ["--solvers", "each once"]),
        (["--solvers", "lpt,"], ["--solvers", "empty name"]),
        (["--budgets-ms", "1,soon"], ["--budgets-ms", "'soon'", "milliseconds"]),
        (["--budgets-ms", "-1"], ["--budgets-ms", "'-1'"]),
        (["--budgets-ms", "1,1.0"], ["--budgets-ms", "twice"]),
        (["--out", "bench.png"], ["--out", "bench.png", ".html", ".svg"]),
        (["--out", "nowhere/b.html"], ["nowhere/b.html", "create it first"]),
        (["--out", "-"], ["-:", "only --json"]),
        (["--out", "b.html", "--json", "./b.html"], ["b.html", "name of its own"]),
        (["--json", "w.jsonl"], ["w.jsonl", "name of its own"]),
        (["--seed", "x"], ["--seed", "'x'"]),
    ],
)
def test_mistakes(run: Run, flags: list[str], said: list[str]) -> None:
    assert_refused(run, said, "bench", "w.jsonl", *flags)


def test_mistakes_in_the_file(run: Run) -> None:
    assert_refused(run, ["nothere.jsonl", "readable"], "bench", "nothere.jsonl")
    Path("none.jsonl").write_text("", encoding="utf-8")
    assert_refused(run, ["none.jsonl", "is empty"], "bench", "none.jsonl")


def test_windows_that_nobody_takes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from sbs_opt.models.errors import UnsupportedError

    def refuse(*_: object, **__: object) -> None:
        raise UnsupportedError("solver lpt: cannot handle savings; auto can")

    monkeypatch.setattr("sbs_opt.solvers.bench.solve", refuse)
    assert_refused(run, ["b.svg", "no plot"], "bench", "w.jsonl", "--solvers", "lpt", "--out", "b.svg")
    assert run("bench", "w.jsonl", "--solvers", "lpt").status == 0


def test_the_page_on_the_command_line_knows_every_flag_and_field(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run("bench", "w.jsonl", "--json", "-").out)
    for name in {*found["rows"][0], *found["summary"][0]}:
        assert f"`{name}`" in PAGE
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    usage = next(block for block in PAGE.split("sbs-opt ") if block.startswith("bench "))
    for flag in set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}:
        assert flag in usage
