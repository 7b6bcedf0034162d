"""`compare`: table, report and JSON of one study, deterministic to the byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sbs_opt.scheduler.policies import POLICIES
from tests.cli.conftest import Run, trace_text

ROW_FIELDS = {
    "policy", "decode_policy", "solver", "load", "decode_load", "seed", "requests", "answered", "rejected",
    "unfinished", "passes", "simulated_s", "ttft_s", "tpot_s", "tokens_per_s", "chunk_utilisation", "barrier_idle",
    "holding_s_mean", "decision_s_mean",
}  # fmt: skip


def test_compare_prints_a_table_and_writes_the_report(run: Run, fleet: Path, trace: Path, tmp_path: Path) -> None:
    done = run("compare", trace, "--deployment", fleet, "--policies", "phase_aware,sbs_auto", "--load", "0.5")
    assert (done.status, done.err) == (0, "")
    assert "load 0.5" in done.out
    assert "sbs_auto" in done.out
    assert "report: report.html" in done.out
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_default_is_all_prefill_policies_at_three_loads(run: Run, fleet: Path, tmp_path: Path) -> None:
    source = tmp_path / "short.csv"
    source.write_text(trace_text(30), encoding="utf-8")
    done = run("compare", source, "--deployment", fleet, "--json", "out.json")
    assert done.status == 0, done.err
    rows = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["rows"]
    prefill = [name for name, info in POLICIES.items() if info.phase == "prefill"]
    assert [(row["asked_load"], row["policy"]) for row in rows] == [(x, p) for x in (0.3, 0.5, 0.7) for p in prefill]


def test_json_on_standard_output_stands_alone(run: Run, fleet: Path, trace: Path) -> None:
    flags = ("--policies", "sbs", "--load", ".4", "--json", "-", "--seed", "3")
    done = run("compare", trace, "--deployment", fleet, *flags)
    assert done.status == 0
    found = json.loads(done.out)
    assert {name: found[name] for name in ("schema", "command", "seed", "trace", "deployment", "notification_ns")} == {
        "schema": "sbs-opt/compare/1", "command": "compare", "seed": 3, "trace": "trace.csv", "deployment": "small",
        "notification_ns": 2_000_000,
    }  # fmt: skip
    assert set(found["rows"][0]) >= ROW_FIELDS
    assert "sbs" in done.err  # people read the table there


def test_same_seed_gives_the_same_bytes_and_another_seed_others(run: Run, fleet: Path, trace: Path) -> None:
    common = ("compare", trace, "--deployment", fleet, "--policies", "random,sbs_auto", "--load", "0.6", "--json", "-")
    first, second, other = (run(*common, "--seed", seed, "--out", f"{k}.html") for k, seed in enumerate("778"))
    assert first.out == second.out
    assert Path("0.html").read_bytes() == Path("1.html").read_bytes()
    assert json.loads(first.out)["rows"] != json.loads(other.out)["rows"]


def test_processes_with_different_hash_seeds_agree(fleet: Path, trace: Path, tmp_path: Path) -> None:
    outputs = []
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "sbs_opt.cli.main", "compare", str(trace), "--deployment", str(fleet), "--policies",
             "random,sbs_auto", "--load", "0.5", "--json", "-", "--out", f"{hash_seed}.html"],
            capture_output=True, check=True, cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )  # fmt: skip
        outputs.append((done.stdout, (tmp_path / f"{hash_seed}.html").read_bytes()))
    assert outputs[0] == outputs[1]


def test_prompts_beyond_the_context_are_counted_and_told(run: Run, fleet: Path, tmp_path: Path) -> None:
    source = tmp_path / "long.csv"
    source.write_text(trace_text(40) + "2.5,16385,1\n", encoding="utf-8")
    done = run("compare", source, "--deployment", fleet, "--policies", "sbs_auto", "--load", "2", "--json", "-")
    found = json.loads(done.out)
    assert any(note.startswith("1 of 41 requests") and "too_large" in note for note in found["notes"])
    assert found["rows"][0]["rejected_reasons"]["too_large"] >= 1


def test_interruption_leaves_what_was_there(
    run: Run, fleet: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    Path("report.html").write_text("before", encoding="utf-8")
    monkeypatch.setattr("sbs_opt.simulator.study.compare", interrupted)
    done = run("compare", trace, "--deployment", fleet)
    assert done.status == 130
    assert len(done.err.splitlines()) == 1
    assert sorted(p.name for p in Path().iterdir()) == ["report.html", "small.toml", "trace.csv"]
    assert Path("report.html").read_text(encoding="utf-8") == "before"


def test_bundled_sample_is_known_by_name(run: Run, fleet: Path) -> None:
    """`sample` needs no file; whatever else is wrong is found first, so this stays fast."""
    done = run("compare", "sample", "--deployment", fleet, "--policies", "sbs", "--load", "0.001")
    assert done.status == 0, done.err
    assert "generated data" in done.out


def test_report_may_be_called_like_the_bundled_trace(run: Run, fleet: Path) -> None:
    """`sample` is no file, so nothing is overwritten."""
    flags = ("--deployment", fleet, "--policies", "sbs", "--load", "0.001", "--out", "sample")
    done = run("compare", "sample", *flags)
    assert done.status == 0, done.err
    assert Path("sample").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_fleet_without_decode_has_no_decode_figures(run: Run, fleet: Path, trace: Path) -> None:
    text = fleet.read_text(encoding="utf-8")
    fleet.write_text(text[: text.rindex("[[instances]]")], encoding="utf-8")
    done = run("compare", trace, "--deployment", fleet, "--policies", "sbs,phase_aware", "--load", "0.5", "--json", "-")
    assert done.status == 0, done.err
    row = json.loads(done.out)["rows"][0]
    assert row["decode_load"] is None
    assert row["barrier_idle"]["decode"] is None
    assert "Barrier idle in decode" not in Path("report.html").read_text(encoding="utf-8")


def test_progress_goes_to_a_terminal_only(run: Run, fleet: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--deployment", fleet, "--policies", "sbs", "--load", "0.5", "--json", "-")
    quiet = run("compare", trace, *flags)
    assert "%" not in quiet.err.replace("used %", "").replace("idle %", "").replace("hits %", "").replace("80 %", "")
    monkeypatch.setattr("sbs_opt.cli.output._PATIENCE_S", -1.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = run("compare", trace, *flags)
    assert "100 %" in shown.err
    assert shown.out == quiet.out
