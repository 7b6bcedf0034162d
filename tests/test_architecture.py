"""The house: imports run one way, the scheduler core is sans-IO, and importing the package is cheap."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sbs_opt

PACKAGE = Path(sbs_opt.__file__).parent

MAY_IMPORT = {
    "models": set[str](),
    "instances": {"models"},
    "calibration": {"models"},
    "solvers": {"models"},
    "scheduler": {"models", "instances", "solvers"},
    "simulator": {"models", "instances", "solvers", "scheduler"},
    "adapters": {"models", "instances", "solvers", "scheduler"},
    "reports": {"models", "instances", "calibration", "solvers", "scheduler", "simulator", "adapters"},
    "cli": {"models", "instances", "calibration", "solvers", "scheduler", "simulator", "adapters", "reports"},
    "testing": {"models", "instances", "calibration", "solvers", "scheduler", "simulator", "adapters", "reports"},
}
IMPURE = {
    "asyncio", "datetime", "logging", "multiprocessing", "os", "random", "secrets", "select", "signal", "socket",
    "subprocess", "threading", "time", "uuid",
}  # fmt: skip


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import, wherever in the module it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import absolutely, so that the arrows can be read"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def modules(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


def test_every_folder_is_a_room() -> None:
    assert {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"} == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room: str) -> None:
    wrong = []
    for path in modules(room):
        for line, name in imports_of(path):
            parts = name.split(".")
            if parts[0] != "sbs_opt" or len(parts) < 2:
                continue
            if parts[1] in MAY_IMPORT and parts[1] != room and parts[1] not in MAY_IMPORT[room]:
                wrong.append(f"{path.relative_to(PACKAGE)}:{line} imports {name}")
    assert not wrong


@pytest.mark.parametrize("room", ["models", "scheduler"])
def test_the_core_is_sans_io(room: str) -> None:
    """No clock, socket, thread or global randomness; NumPy's random module counts as the last."""
    wrong = []
    for path in modules(room):
        for line, name in imports_of(path):
            if name.split(".")[0] in IMPURE or name.startswith("numpy.random"):
                wrong.append(f"{path.relative_to(PACKAGE)}:{line} imports {name}")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "random":
                wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno} uses .random")
    assert not wrong


def test_the_twin_shares_only_models() -> None:
    wrong = []
    for path in sorted((PACKAGE / "testing" / "twin").rglob("*.py")):
        for line, name in imports_of(path):
            if name.startswith("sbs_opt.") and not name.startswith(("sbs_opt.models", "sbs_opt.testing.twin")):
                wrong.append(f"{path.relative_to(PACKAGE)}:{line} imports {name}")
            if name.split(".")[0] == "numba":
                wrong.append(f"{path.relative_to(PACKAGE)}:{line} imports {name}")
    assert not wrong


def test_the_checks_can_fail(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("import time\n\ndef f():\n    from sbs_opt.cli.main import main\n")
    assert [name for _, name in imports_of(path)] == ["time", "sbs_opt.cli.main.main"]
