"""Public P‖Cmax instances, which the repository does not carry, and what several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def pcmax_dir() -> Path:
    """Folder with `berndt` and `frangioni`, each with its `optima.csv`."""
    given = os.environ.get("SBS_OPT_PCMAX")
    folder = Path(given) if given else Path(__file__).parents[3] / "shared" / "instances" / "pcmax"
    if not folder.is_dir():
        if given:
            pytest.fail(f"SBS_OPT_PCMAX = {given}: no such folder")
        pytest.skip("public P||Cmax instances are not here: set SBS_OPT_PCMAX to a folder that holds them")
    return folder
