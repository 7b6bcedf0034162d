"""One small study, simulated once, and a way to change its cells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sbs_opt.models.catalogue import cost_model_of
from sbs_opt.models.deployment import Deployment, Instance, Unit
from sbs_opt.models.requests import requests_without_prefixes
from sbs_opt.simulator.study import Cell, Study, compare

POLICIES = ("random", "phase_aware", "sbs", "sbs_auto")


def small_fleet() -> Deployment:
    prefill, decode = Unit(100_000, chunk_tokens=4_096), Unit(200_000, slots=64)
    instances = (
        Instance("<prefill>-0", "prefill", 4, prefill), Instance("<prefill>-1", "prefill", 4, prefill),
        Instance("decode", "decode", 4, decode),
    )  # fmt: skip
    return Deployment("small", instances, "h800", "deepseek-v3", context_tokens=16_384)


@pytest.fixture(scope="session")
def study() -> Study:
    """Four policies at two loads on a made-up trace."""
    k = np.arange(150)
    requests = requests_without_prefixes(k * 50_000_000, 200 + k * 977 % 5_000, 1 + k * 13 % 40)
    fleet = small_fleet()
    return compare(requests, fleet, cost_model_of(fleet), trace="made <up> & small", policies=POLICIES,
                   loads=(0.4, 0.8), notes=("a note with <angles>",), seed=1)  # fmt: skip


def with_metrics(cell: Cell, **changes: Any) -> Cell:
    return replace(cell, metrics=replace(cell.metrics, **changes))
