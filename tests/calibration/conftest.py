"""The folder of calibration tables, which the repository does not carry."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def calibration_dir() -> Path:
    """Folder of published and measured kernel tables."""
    given = os.environ.get("SBS_OPT_CALIBRATION")
    folder = Path(given) if given else Path(__file__).parents[3] / "shared" / "calibration"
    if not folder.is_dir():
        if given:
            pytest.fail(f"SBS_OPT_CALIBRATION = {given}: no such folder")
        pytest.skip("calibration tables are not here: set SBS_OPT_CALIBRATION to a folder that holds them")
    return folder
