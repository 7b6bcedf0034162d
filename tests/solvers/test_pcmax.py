"""Public P‖Cmax instances with proved optima (Berndt et al. 2022; Frangioni, Necciari, Scutellà)."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from sbs_opt.models.window import Window
from sbs_opt.solvers.solve import solve

from .helpers import plain


def read_family(folder: Path) -> list[tuple[Window, int]]:
    """Return the windows of a family with their published optima."""
    with (folder / "optima.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    out = []
    for row in rows:
        words = (folder / row["file"]).read_text().split()
        n, m = int(words[2]), int(words[3])
        out.append((plain([int(word) for word in words[4 : 4 + n]], [0] * m), int(row["optimum"])))
    return out


@pytest.mark.parametrize("family", ["berndt", "frangioni"])
@pytest.mark.parametrize("solver", ["least_loaded", "lpt"])
def test_greedy_never_contradicts_a_published_optimum(pcmax_dir: Path, family: str, solver: str) -> None:
    for window, optimum in read_family(pcmax_dir / family):
        result = solve(window, solver)
        m = window.num_units
        assert result.bound <= optimum <= result.objective.bottleneck
        assert result.objective.bottleneck * m <= (2 * m - 1) * optimum
        if solver == "lpt":
            assert 3 * m * result.objective.bottleneck <= (4 * m - 1) * optimum


def test_cp_sat_finds_and_proves_published_optima(pcmax_dir: Path) -> None:
    small = [(w, optimum) for w, optimum in read_family(pcmax_dir / "berndt") if w.num_items <= 15][:12]
    assert len(small) == 12
    for window, optimum in small:
        result = solve(window, "cp_sat", budget_steps=20_000_000)
        assert (result.objective.bottleneck, result.bound, result.status) == (optimum, optimum, "OPTIMAL")
