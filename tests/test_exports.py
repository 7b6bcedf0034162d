"""The public surface: complete, lazy, and the same for the type checker as at run time."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import sbs_opt

HEAVY = ("numba", "ortools", "scipy", "rich", "zstandard", "hypothesis")


def loaded_after(statement: str) -> list[str]:
    """Return which heavy packages a fresh interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys, json\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(done.stdout)
    return names


def test_every_name_of_all_is_there() -> None:
    for name in sbs_opt.__all__:
        assert getattr(sbs_opt, name) is not None
    assert set(sbs_opt.__all__) <= set(dir(sbs_opt))


def test_star_import_binds_exactly_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from sbs_opt import *", names)
    assert set(names) - {"__builtins__"} == set(sbs_opt.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'slove'"):
        _ = sbs_opt.slove


def test_static_imports_say_where_the_lazy_names_come_from() -> None:
    source = Path(str(sbs_opt.__file__)).read_text(encoding="utf-8")
    static = {
        alias.name: node.module
        for block in ast.parse(source).body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(static) | {"__version__"} == set(sbs_opt.__all__)
    for name, module in static.items():
        assert getattr(import_module(str(module)), name) is getattr(sbs_opt, name)


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import sbs_opt") == []


def test_describing_windows_and_solvers_loads_nothing_heavy() -> None:
    assert loaded_after("from sbs_opt import Window, Savings, verify, list_solvers; list_solvers()") == []


def test_solving_greedily_loads_no_exact_back_end() -> None:
    program = "import sbs_opt; sbs_opt.solve(sbs_opt.Window(demand=[[1]], load=[[0]]))"
    assert "numba" in loaded_after(program)
    assert "ortools" not in loaded_after(program)
