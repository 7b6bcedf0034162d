"""Tables of measurements, each headed by what it was measured with."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from sbs_opt.models.window import Window
from sbs_opt.solvers.result import Result


def head(title: str, packages: Sequence[str] = ()) -> None:
    """Print title, command, date, commit, machine and versions."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    names = ("numpy", "numba", *packages)
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    print(f"\n## {title}\n")
    print(f"`python {' '.join(sys.argv)}`, {datetime.now(UTC):%Y-%m-%d}, commit {commit}, {_processor()},")
    print(f"Python {platform.python_version()}, {versions}.\n")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def row(cells: Iterable[object]) -> None:
    """Print a row of a Markdown table."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def columns(*names: str) -> None:
    """Print the first two lines of a Markdown table."""
    row(names)
    row("---" for _ in names)


def timed(
    call: Callable[[Window], Result], windows: Sequence[Window], warm: int = 3
) -> tuple[np.ndarray, list[Result]]:
    """Return the seconds and the results of a call over windows; the first `warm` of them are thrown away."""
    taken, results = [], []
    for window in windows:
        began = time.perf_counter()
        result = call(window)
        taken.append(time.perf_counter() - began)
        results.append(result)
    return np.array(taken[warm:]), results[warm:]


def microseconds(seconds: float) -> str:
    """Return a short text."""
    value = seconds * 1e6
    return f"{value:.1f} µs" if value < 100 else f"{value:.0f} µs" if value < 10_000 else f"{value / 1000:.0f} ms"
