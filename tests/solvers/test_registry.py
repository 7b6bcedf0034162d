"""Solvers by name: the table, and what other installed packages offer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from sbs_opt.cli.main import main
from sbs_opt.instances import write_windows
from sbs_opt.models.errors import InputError, PlacementError, UnsupportedError
from sbs_opt.models.window import FIELDS, FREE
from sbs_opt.solvers import registry
from sbs_opt.solvers.direct import place
from sbs_opt.solvers.registry import list_solvers, load_solver, solver_info
from sbs_opt.solvers.solve import solve

from .helpers import plain

PAGE = Path(__file__).parents[2] / "docs" / "own-solver.md"
WINDOW = plain([5, 3, 3], [0, 1])

Offer = Callable[..., None]


def write_package(folder: Path, name: str, version: str, entry_points: dict[str, str], modules: dict[str, str]) -> None:
    """Write what an installer leaves behind: modules, and the metadata beside them."""
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")
    points = "".join(f"{name} = {value}\n" for name, value in entry_points.items())
    (metadata / "entry_points.txt").write_text(f"[sbs_opt.solvers]\n{points}", "utf-8")
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source, "utf-8")


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Offer]:
    """Return a function that installs a package with one module; all of them are gone after the test."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(package: str, names: str | dict[str, str], source: str) -> None:
        module = package.replace("-", "_")
        points = {names: f"{module}:Own"} if isinstance(names, str) else names
        write_package(tmp_path, package, "0.3", points, {module: source})

    yield install
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    for remembered in (load_solver, registry._load_installed):
        remembered.cache_clear()


def answering(expression: str, **attributes: str) -> str:
    """Return the source of a solver that returns an expression of `window`, `start` and `np`."""
    lines = "".join(f"    {name} = {value}\n" for name, value in attributes.items())
    return (
        "import numpy as np\nfrom sbs_opt.models.placement import Placement\n"
        "from sbs_opt.solvers.protocol import Solution, SolverInfo\n\n"
        f"class Own:\n{lines}"
        "    def solve(self, window, *, budget_s, budget_steps, start, seed):\n"
        f"        return {expression}\n"
    )


ALL_ON_0 = "[0] * window.num_items"


def test_a_table_entry_is_loaded_once_and_knows_its_source() -> None:
    assert load_solver("lpt") is load_solver("lpt")
    for info in list_solvers():
        assert info.reference
        assert solver_info(info.name) is info
        load_solver(info.name)


def test_unknown_name_lists_the_known_ones(offer: Offer) -> None:
    offer("other-things", "mine", answering(ALL_ON_0))
    with pytest.raises(InputError, match=r"'ltp': unknown; known solvers: auto, .*\blpt\b.*, mine$"):
        solve(WINDOW, "ltp")


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param("[0, 1, 1]", id="list"),
        pytest.param("np.array([0, 1, 1], np.int32)", id="array"),
        pytest.param("Placement([0, 1, 1])", id="placement"),
        pytest.param("Solution(np.array([0, 1, 1]), bound=6, steps=4, limit='steps')", id="solution"),
    ],
)
def test_an_installed_solver_answers_in_any_form(offer: Offer, expression: str) -> None:
    offer("other-things", "mine", answering(expression))
    result = solve(WINDOW, "mine")
    assert (result.placement.unit.tolist(), result.stats.solver) == ([0, 1, 1], "mine")
    assert (result.stats.steps, result.limit) == ((4, "steps") if "steps" in expression else (0, None))
    unit, _ = place(WINDOW, "mine")
    assert unit.tolist() == [0, 1, 1]


def test_arguments_reach_an_installed_solver(offer: Offer) -> None:
    offer(
        "other-things", "mine",
        answering("Solution(start if (budget_s, budget_steps, seed) == (9.0, 7, 5) else np.array([0, 0, 0]))"),
    )  # fmt: skip
    assert solve(WINDOW, "mine", start=[1, 0, 0], budget_s=9.0, budget_steps=7, seed=5).objective.bottleneck == 6
    assert solve(WINDOW, "mine").objective.bottleneck == 11


@pytest.mark.parametrize(
    ("attributes", "capabilities", "reference"),
    [
        ({}, frozenset(FIELDS), "of package other-things 0.3"),
        ({"capabilities": "{'limits'}"}, {"limits"}, "of package other-things 0.3"),
        ({"info": "SolverInfo('thine', frozenset({'tiers'}), 'a book')"}, {"tiers"}, "a book"),
    ],
)
def test_an_installed_solver_is_listed_under_the_name_of_its_entry_point(
    offer: Offer, attributes: dict[str, str], capabilities: frozenset[str], reference: str
) -> None:
    built_in = list_solvers()
    offer("other-things", "mine", answering(ALL_ON_0, **attributes))
    assert list_solvers()[:-1] == built_in
    info = list_solvers()[-1]
    assert (info.name, info.capabilities, info.reference) == ("mine", capabilities, reference)
    if "tiers" not in capabilities:
        with pytest.raises(UnsupportedError, match=r"solver mine: cannot handle tiers, .*; auto can"):
            solve(plain([1, 1], [0], limit=[[1]], tier=[0, 1]), "mine")


def test_an_object_may_stand_in_for_a_class(offer: Offer) -> None:
    offer("other-things", {"mine": "other_things:made"}, answering(ALL_ON_0) + "\nmade = Own()\n")
    assert solve(WINDOW, "mine").objective.bottleneck == 11


BROKEN = {
    "raises": ("raise OSError('no licence')", r"cannot be loaded \(OSError: no licence\)"),
    "is not there": ("", r"cannot be loaded \(AttributeError: .*Own"),
    "is no Python": ("class Own(:", r"cannot be loaded \(SyntaxError"),
    "wants arguments": ("class Own:\n    def __init__(self, key): ...", r"cannot be loaded \(TypeError: .*key"),
    "has no method": ("class Own: ...", r"other_things:Own has no method solve"),
    "knows strange fields": (answering(ALL_ON_0, capabilities="{'tears'}"), "unknown capability 'tears'"),
    "has a number of capabilities": (answering(ALL_ON_0, capabilities="3"), "'int' object is not iterable"),
    "describes itself in prose": (answering(ALL_ON_0, info="'fast'"), "info = 'fast', which is no SolverInfo"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_package_is_named_and_harms_nobody_else(offer: Offer, name: str) -> None:
    source, said = BROKEN[name]
    offer("other-things", "mine", source)
    offer("good-things", "good", answering(ALL_ON_0))
    with pytest.raises(InputError, match=f"^solver mine of package other-things 0.3: .*{said}"):
        solve(WINDOW, "mine")
    with pytest.warns(UserWarning, match=f"solver mine of package other-things 0.3: .*{said}") as warned:
        names = [info.name for info in list_solvers()]
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert "good" in names
    assert "mine" not in names
    assert solve(WINDOW, "good").objective.bottleneck == 11


def test_the_name_of_a_built_in_solver_cannot_be_taken(offer: Offer) -> None:
    offer("other-things", "lpt", answering(ALL_ON_0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert solve(WINDOW, "lpt").objective.bottleneck == 7
    with pytest.warns(UserWarning, match="solver lpt of package other-things 0.3: the name is that of a built-in"):
        assert [info.name for info in list_solvers()].count("lpt") == 1


def test_two_packages_of_one_name_are_both_named(offer: Offer) -> None:
    offer("other-things", "mine", answering(ALL_ON_0))
    offer("good-things", "mine", answering(ALL_ON_0))
    said = "solver mine: is offered by good-things 0.3 and other-things 0.3; uninstall all but one"
    with pytest.raises(InputError, match=said):
        solve(WINDOW, "mine")
    with pytest.warns(UserWarning, match=said):
        assert "mine" not in [info.name for info in list_solvers()]


@pytest.mark.parametrize(
    ("expression", "error", "said"),
    [
        ("[0, 1, 2]", PlacementError, "item 2 is on unit 2"),
        ("[0, 1]", PlacementError, "2 entries"),
        ("None", InputError, "placement.unit"),
        ("Solution(np.array([0, 1, 1]), bound=8)", InputError, "claims bound 8, above the bottleneck 7"),
        ("Solution(np.array([0, 1, 1]), bound=0.5)", InputError, "claims bound 0.5, which is no whole number"),
        ("Solution(np.array([0, 1, -1]), left_out_proved=True)", InputError, r"claims that \(1,\) is the least"),
    ],
)
def test_an_installed_solver_that_errs_is_its_packages_fault(
    offer: Offer, expression: str, error: type[Exception], said: str
) -> None:
    offer("other-things", "mine", answering(expression))
    with pytest.raises(error, match=f"^solver mine of package other-things 0.3: .*{said}"):
        solve(WINDOW, "mine", start=[1, 0, 0])


def test_a_package_may_be_installed_later(offer: Offer) -> None:
    with pytest.raises(InputError, match="'mine': unknown"):
        solve(WINDOW, "mine")
    offer("other-things", "mine", answering(ALL_ON_0))
    assert solve(WINDOW, "mine").objective.bottleneck == 11


def test_built_in_names_do_not_look_for_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(**_: str) -> None:
        raise AssertionError("the metadata of all packages was read")

    monkeypatch.setattr("sbs_opt.solvers.installed.entry_points", looked)
    load_solver.cache_clear()
    assert solve(WINDOW, "lpt").objective.bottleneck == 7
    with pytest.raises(AssertionError, match="was read"):
        list_solvers()
    with pytest.raises(AssertionError, match="was read"):
        solve(WINDOW, "snake")


def test_the_command_line_warns_in_one_line(offer: Offer, capsys: pytest.CaptureFixture[str]) -> None:
    offer("other-things", "mine", "raise OSError('no\\nlicence')")
    offer("bad-things", "wrong", answering("[9] * window.num_items"))
    assert main(["list", "solvers"]) == 0
    shown = capsys.readouterr()
    assert re.search(r"^ *wrong\b", shown.out, re.M)
    assert shown.err.startswith("sbs-opt: solver mine of package other-things 0.3: cannot be loaded")
    assert len(shown.err.splitlines()) == 1


def test_the_command_line_blames_the_package_in_one_line(
    offer: Offer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offer("bad-things", "wrong", answering("[9] * window.num_items"))
    write_windows(tmp_path / "w.jsonl", [WINDOW])
    assert main(["solve", str(tmp_path / "w.jsonl"), "--solver", "wrong"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("sbs-opt: solver wrong of package bad-things 0.3: item 0 is on unit 9")
    assert len(shown.err.splitlines()) == 1


# -- the package of docs/own-solver.md ---------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)


def installed_by_hand(source: Path, target: Path) -> None:
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    modules = {path.stem: path.read_text(encoding="utf-8") for path in source.glob("*.py")}
    write_package(target, project["name"], project["version"], project["entry-points"]["sbs_opt.solvers"], modules)


def installed_by_pip(source: Path, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--disable-pip-version-check", "--target", str(target), str(source)], check=True)


@pytest.mark.parametrize(
    "install",
    [
        installed_by_hand,
        pytest.param(
            installed_by_pip,
            marks=pytest.mark.skipif(
                not (find_spec("hatchling") and find_spec("pip")), reason="there is no hatchling to build with"
            ),
        ),
    ],
)
def test_the_package_of_the_page_works(install: Callable[[Path, Path], None], tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (toml,), python = blocks("toml"), blocks("python")[0]
    (source / "pyproject.toml").write_text(toml, encoding="utf-8")
    solver = python[python.index("class Snake") : python.index("\nresult =")]
    (source / "snake_placement.py").write_text(f"import numpy as np\n\n\n{solver}", encoding="utf-8")
    install(source, target)

    def said(*command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(target)}
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, check=True)
        assert done.stderr == ""
        return done.stdout

    program, expected = re.findall(r'^\$ python -c "(.*)"\n(.*)', PAGE.read_text(encoding="utf-8"), re.M)[0]
    assert said("-c", program) == f"{expected}\n"
    listed = said("-m", "sbs_opt.cli.main", "list", "solvers")
    assert re.search(r"^ *snake +– +of package snake-placement 0\.1", listed, re.M)
    refused = "from sbs_opt import *; w = Window(demand=[[1]], load=[[0]], limit=[[0]])\ntry: solve(w, 'snake')\n"
    assert "solver snake: cannot handle limits" in said("-c", f"{refused}except UnsupportedError as e: print(e)")


def test_nothing_is_left_of_the_packages_of_other_tests() -> None:
    assert "mine" not in [info.name for info in list_solvers()]
    assert np.array_equal(solve(WINDOW, "lpt").placement.unit == FREE, [False] * 3)
