"""Shared fixtures: hypothesis profiles and the folder of captured traces."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def traces_dir() -> Path:
    """Folder of public captured traces, which the repository does not carry."""
    given = os.environ.get("SBS_OPT_TRACES")
    folder = Path(given) if given else Path(__file__).parents[2] / "shared" / "traces"
    if not folder.is_dir():
        if given:
            pytest.fail(f"SBS_OPT_TRACES = {given}: no such folder")
        pytest.skip("captured traces are not here: set SBS_OPT_TRACES to a folder that holds them")
    return folder
