"""A user's mistake: one line on standard error that names what, where and the mend; status 2; nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sbs_opt.models.errors import InternalError
from tests.cli.conftest import Run, trace_text

HEADER = "arrival_s,prompt_tokens,output_tokens\n"

BAD_TRACES = {
    "missing": (None, ["nothere.csv", "give a readable file"]),
    "of another kind": ("hello, world\n1,2\n", ["trace.csv", "no known format"]),
    "empty": ("", ["trace.csv", "is empty", "give a file"]),
    "header only": (HEADER, ["trace.csv", "row 1", "no request"]),
    "cut in its last line": (HEADER + "0.1,10,5\n0.2,1", ["trace.csv", "row 3", "output_tokens", "fetch it again"]),
    "with a negative length": (HEADER + "0.1,10,5\n0.2,-7,5\n", ["trace.csv", "row 3", "prompt_tokens", "-7"]),
    "without times": ("prompt_tokens,output_tokens\n10,5\n", ["trace.csv", "arrival"]),
    "at one instant": (HEADER + "0.1,10,5\n0.1,10,5\n", ["trace.csv", "instant"]),
    "without prompts": (HEADER + "0.1,0,5\n0.2,0,5\n", ["trace.csv", "no prompt tokens"]),
}


def assert_refused(run: Run, said: list[str], *arguments: str | Path) -> None:
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    done = run(*arguments)
    assert done.status == 2
    assert done.out == ""
    assert len(done.err.splitlines()) == 1, done.err
    assert done.err.startswith("sbs-opt: ")
    for words in said:
        assert words in done.err
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


@pytest.mark.parametrize("name", BAD_TRACES)
@pytest.mark.parametrize("command", ["compare", "windows"])
def test_bad_traces(run: Run, fleet: Path, tmp_path: Path, command: str, name: str) -> None:
    content, said = BAD_TRACES[name]
    path = tmp_path / ("trace.csv" if content is not None else "nothere.csv")
    if content is not None:
        path.write_text(content, encoding="utf-8")
    output = [] if command == "compare" else ["-o", "windows.jsonl"]
    assert_refused(run, said, command, path, "--deployment", fleet, *output)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--policies", "sbs,best_effort"], ["--policies", "best_effort", "known:", "phase_aware"]),
        (["--policies", "sbs,sbs"], ["--policies", "sbs,sbs", "each once"]),
        (["--policies", "sbs,,random"], ["--policies", "empty name"]),
        (["--policies", "least_kv"], ["--policies", "least_kv", "not a prefill policy"]),
        (["--decode-policy", "sbs"], ["--decode-policy", "sbs", "not a decode policy", "least_kv"]),
        (["--deployment", "h900"], ["h900", "bundled are", "h800-deepseek-v3-3xep32-2xep72"]),
        (["--deployment", "nothere.toml"], ["nothere.toml", "cannot read"]),
        (["--load", "heavy"], ["--load", "'heavy'", "like 0.7"]),
        (["--load", "0"], ["--load", "'0'", "above 0"]),
        (["--load", "0.3,-0.7"], ["--load", "'-0.7'"]),
        (["--load", "1e9"], ["trace.csv", "load = 1e+09", "20,000,000", "ask for less"]),
        (["--load", "1e300"], ["trace.csv", "load = 1e+300"]),
        (["--load", "nan"], ["--load", "'nan'"]),
        (["--load", "inf"], ["--load", "'inf'"]),
        (["--load", "0.3,0.30"], ["--load", "twice"]),
        (["--seed", "-1"], ["--seed", "'-1'"]),
        (["--format", "parquet"], ["trace.csv", "'parquet'", "known formats", "sbs-csv"]),
        (["--out", "nowhere/report.html"], ["nowhere/report.html", "create it first"]),
        (["--out", "."], [".", "is a folder"]),
        (["--json", "nowhere/out.json"], ["nowhere/out.json", "create it first"]),
        (["--out", "same", "--json", "./same"], ["same", "name of its own"]),
        (["--out", "trace.csv"], ["trace.csv", "name of its own"]),
        (["--deployment", "small.toml", "--out", "small.toml"], ["small.toml", "name of its own"]),
        (["--deployment", "small.toml", "--json", "./small.toml"], ["small.toml", "name of its own"]),
        (["--deployment", "a\0b.toml"], ["NUL"]),
        (["--out", "-"], ["-:", "only --json"]),
        (["--out", ""], ["no file name given"]),
        (["--out", "a\0b"], ["NUL"]),
        (["--json", "a\0b"], ["NUL"]),
        (["--polices", "sbs"], ["--polices", "--help"]),
    ],
)
def test_bad_flags_of_compare(run: Run, fleet: Path, trace: Path, flags: list[str], said: list[str]) -> None:
    assert_refused(run, said, "compare", trace, *flags)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ["COMMAND", "--help"]),
        (["conquer"], ["conquer", "compare", "solve"]),
        (["compare"], ["TRACE"]),
        (["windows", "sample"], ["-o"]),
        (
            ["windows", "sample", "-o", "w.jsonl", "--policy", "phase_aware"],
            ["--policy", "phase_aware", "late", "sbs_auto"],
        ),
        (["windows", "sample", "-o", "w.jsonl", "--policy", "sbz"], ["--policy", "sbz", "known:", "sbs"]),
        (["windows", "sample", "-o", "w.jsonl", "--limit", "0"], ["--limit", "at least 1"]),
        (["windows", "sample", "-o", "w.jsonl", "--load", "0.3,0.7"], ["--load", "'0.3,0.7'"]),
        (["windows", "sample", "-o", "-"], ["-:", "only --json"]),
        (["windows", "sample", "-o", "w.jsonl", "--format", "nope"], ["sample", "'nope'", "known formats"]),
        (["windows", "sample", "-o", "w.jsonl", "--format", "azure"], ["sample", "sbs-jsonl", "azure", "leave it out"]),
        (["windows", "", "-o", "w.jsonl"], ["no file name given"]),
        (["compare", "a\0b"], ["NUL"]),
        (["solve", ""], ["no file name given"]),
        (["list", "solvers", "--json", ""], ["no file name given"]),
        (["list", "wishes"], ["wishes", "solvers"]),
        (["list", "solvers", "--json", "nowhere/x"], ["nowhere/x", "create it first"]),
        (["solve", "nothere.jsonl"], ["nothere.jsonl", "readable"]),
        (["solve", "nothere.jsonl", "--solver", "magic"], ["magic", "known solvers", "lpt"]),
        (["solve", "nothere.jsonl", "--budget-ms", "soon"], ["--budget-ms", "'soon'"]),
    ],
)
def test_bad_command_lines(run: Run, arguments: list[str], said: list[str]) -> None:
    assert_refused(run, said, *arguments)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", ["w.jsonl", "is empty"]),
        ('{"schema":"sbs-opt/window/1","demand":[[1]],"load":[[0]]}\n{"sch', ["w.jsonl", "row 2", "cut off"]),
        ('{"schema":"sbs-opt/window/1","demand":[[-1]],"load":[[0]]}\n', ["w.jsonl", "row 1", "demand[0, 0] = -1"]),
        ('{"schema":"sbs-opt/window/1","demand":[[1]],"load":[[0]],"load":[[9]]}\n', ["row 1, field load", "twice"]),
        ('{"schema":"sbs-opt/window/9"}\n', ["w.jsonl", "row 1", "sbs-opt/window/9", "known"]),
    ],
)
def test_bad_window_files(run: Run, tmp_path: Path, content: str, said: list[str]) -> None:
    path = tmp_path / "w.jsonl"
    path.write_text(content, encoding="utf-8")
    assert_refused(run, said, "solve", path, "--json", "out.json")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(run: Run, trace: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert_refused(run, ["locked", "may not be written"], "compare", trace, "--out", locked / "report.html")


def test_disk_that_fills_up_while_writing(run: Run, fleet: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a full disk, and for a folder whose permission goes while computing: the rename fails."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    flags = ("--deployment", fleet, "--policies", "sbs", "--load", "0.3")
    assert_refused(run, ["report.html", "No space left"], "compare", trace, *flags)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full here")
@pytest.mark.parametrize(("out", "json"), [("report.html", "/dev/full"), ("/dev/full", "out.json")])
def test_outputs_come_together_or_not_at_all(run: Run, fleet: Path, trace: Path, out: str, json: str) -> None:
    """A JSON file that could not be written used to leave a new report behind."""
    Path("report.html").write_text("before", encoding="utf-8")
    flags = ("--deployment", fleet, "--policies", "sbs", "--load", "0.3", "--out", out, "--json", json)
    assert_refused(run, ["/dev/full: cannot be written", "No space left"], "compare", trace, *flags)
    other = ("--deployment", fleet, "--load", "0.3", "-o", "report.html", "--json", "/dev/full")
    assert_refused(run, ["/dev/full: cannot be written"], "windows", trace, *other)


@pytest.mark.parametrize("said", ["hardware = 3", "needs a unit"])
def test_bad_deployment_file(run: Run, fleet: Path, trace: Path, said: str) -> None:
    text = fleet.read_text(encoding="utf-8")
    fleet.write_text(text.replace('hardware = "h800"', said) if "=" in said else text.replace("unit =", "#"), "utf-8")
    assert_refused(run, ["small.toml", said], "compare", trace, "--deployment", "small.toml")


def test_unknown_profile_names_the_deployment_file(run: Run, fleet: Path, trace: Path) -> None:
    fleet.write_text(fleet.read_text(encoding="utf-8").replace('"h800"', '"h900"'), encoding="utf-8")
    assert_refused(run, ["small.toml", "'h900'", "known"], "compare", trace, "--deployment", "small.toml")


LIST = f"{sys.executable} -m sbs_opt.cli.main list formats"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full here")
@pytest.mark.parametrize("command", [LIST, f"{LIST} --json -", f"{sys.executable} -m sbs_opt.cli.main --help"])
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_standard_output_that_cannot_be_written(command: str, redirection: str) -> None:
    """A full disk under `> table.txt` printed a traceback, and a closed descriptor another."""
    done = subprocess.run(f"{command} {redirection}", shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("sbs-opt: cannot write to standard output: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="the shell's redirection")
def test_closed_standard_error_leaves_standard_output_alone() -> None:
    """`print` takes standard output where there is no standard error."""
    for command, status in ((LIST, 0), (f"{LIST} --no-such-flag", 2)):
        done = subprocess.run(f"{command} 2>&-", shell=True, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout != "") == (status, status == 0)


def test_our_bug_is_one_line_and_asks_for_a_report(run: Run, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise InternalError("tokens were lost")

    monkeypatch.setattr("sbs_opt.simulator.study.compare", broken)
    done = run("compare", trace)
    assert done.status == 1
    assert len(done.err.splitlines()) == 1
    assert "tokens were lost" in done.err
    assert "report" in done.err


def test_unforeseen_errors_keep_their_traceback(run: Run, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sbs_opt.simulator.study.compare", broken)
    with pytest.raises(ZeroDivisionError):
        run("compare", trace)


def status_when_the_reader_leaves(command: list[str]) -> int:
    """Run a command and close its standard output after one byte."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    status = process.wait()
    assert error == b""
    return status


def test_reader_that_leaves_is_no_error_to_tell_of(tmp_path: Path) -> None:
    """`… | head` printed a BrokenPipeError traceback in many a tool."""
    path = tmp_path / "w.jsonl"
    path.write_text('{"schema":"sbs-opt/window/1","demand":[[1]],"load":[[0]]}\n' * 300, encoding="utf-8")
    command = [sys.executable, "-m", "sbs_opt.cli.main", "solve", str(path), "--explain"]
    assert status_when_the_reader_leaves(command) == 141


def test_trace_text_of_these_tests_is_legal(run: Run, fleet: Path, tmp_path: Path) -> None:
    """Else every refusal above could be for another reason."""
    path = tmp_path / "good.csv"
    path.write_text(trace_text(20), encoding="utf-8")
    assert run("windows", path, "--deployment", fleet, "-o", "w.jsonl").status == 0
