"""Small things for commands to work on: a fleet, traces, a way of running a command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sbs_opt.cli.main import main

FLEET = """
name = "small"
hardware = "h800"
model = "deepseek-v3"
context_tokens = 16_384

[[instances]]
name = "prefill"
count = 2
phase = "prefill"
num_units = 4
unit = { kv_tokens = 100_000, chunk_tokens = 4_096 }

[[instances]]
name = "decode"
phase = "decode"
num_units = 4
unit = { kv_tokens = 200_000, slots = 64 }
"""


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in an empty folder; return its status and what it printed."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str | Path) -> Outcome:
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Outcome(status, out, err)

    return command


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(FLEET, encoding="utf-8")
    return path


def trace_text(count: int = 120) -> str:
    """A made-up trace: lengths that vary, arrivals 50 ms apart."""
    rows = [f"{k * 0.05:.2f},{200 + (k * 977) % 5000},{1 + (k * 13) % 40}" for k in range(count)]
    return "\n".join(["arrival_s,prompt_tokens,output_tokens", *rows, ""])


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(trace_text(), encoding="utf-8")
    return path
