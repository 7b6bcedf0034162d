"""Shared fixtures: hypothesis profiles, and the folders of data that the repository does not carry."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def outside_folder(variable: str, default: str, what: str) -> Path:
    """Return a folder of data that the repository does not carry.

    Where `variable` names it, absence is a failure; else the default beside the repository may be absent: a skip.
    """
    given = os.environ.get(variable)
    folder = Path(given) if given else Path(__file__).parents[2] / default
    if not folder.is_dir():
        if given:
            pytest.fail(f"{variable} = {given}: no such folder")
        pytest.skip(f"{what} are not here: set {variable} to a folder that holds them")
    return folder


@pytest.fixture(scope="session")
def traces_dir() -> Path:
    """Folder of public captured traces."""
    return outside_folder("SBS_OPT_TRACES", "shared/traces", "captured traces")


@pytest.fixture(scope="session")
def calibration_dir() -> Path:
    """Folder of published and measured kernel tables."""
    return outside_folder("SBS_OPT_CALIBRATION", "shared/calibration", "calibration tables")


@pytest.fixture(scope="session")
def pcmax_dir() -> Path:
    """Folder with `berndt` and `frangioni`, each with its `optima.csv`."""
    return outside_folder("SBS_OPT_PCMAX", "shared/instances/pcmax", "public P||Cmax instances")
