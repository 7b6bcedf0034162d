"""Fits of the all-to-all on DeepEP's published tables (H800, 400 Gb/s per GPU)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sbs_opt.calibration import tables
from sbs_opt.calibration.robust import Quality, fit
from sbs_opt.calibration.tables import FloatArray, columns, read_rows
from sbs_opt.models.cost.laws import AllToAll, Link
from sbs_opt.models.cost.profile import ModelProfile
from sbs_opt.models.cost.routing import uniform_distinct

_GPUS_PER_NODE = 8
_NORMAL_VERSION = "V1 #130"
_LOW_LATENCY_VERSION = "V1 #173 NVLink"
_LOW_LATENCY_TOKENS = 128.0


def fit_normal(folder: Path, model: ModelProfile) -> tuple[AllToAll, tuple[Quality, ...]]:
    """Fit both networks of the normal mode.

    The tables give bandwidth at one size, so no launch can be told apart: it is 0 here and part of the pass floor.
    Their test draws at most 4 groups with one group a node, then experts among them.
    """
    rows = [r for r in read_rows(folder, tables.ALLTOALL_NORMAL) if r["version"] == _NORMAL_VERSION]
    (ranks,) = columns(rows, "ep")
    num_nodes = ranks / _GPUS_PER_NODE
    reached = np.minimum(num_nodes, float(model.top_groups))
    nodes = np.array([uniform_distinct(float(x), model.top_experts) for x in reached])
    remote = nodes * (1.0 - 1.0 / num_nodes)
    copies = np.array([uniform_distinct(float(x) * _GPUS_PER_NODE, model.top_experts) for x in reached])
    found = [
        _fit_rates(f"{tables.ALLTOALL_NORMAL} {way}", remote, copies, np.where(num_nodes > 1, nodes, copies), *gbps)
        for way, gbps in (("dispatch", columns(rows, "dispatch_GBps")), ("combine", columns(rows, "combine_GBps")))
    ]
    return AllToAll(found[0][0], found[1][0]), (found[0][1], found[1][1])


def _fit_rates(
    table: str, remote: FloatArray, copies: FloatArray, counted: FloatArray, gbps: FloatArray
) -> tuple[Link, Quality]:
    """Fit the time per byte of message; the table's bandwidth counts `counted` copies, one node counts ranks."""

    def law(x: FloatArray) -> FloatArray:
        return np.asarray(Link(0.0, *map(float, x)).token_ns(remote, copies))

    found, quality = fit(table, law, counted / gbps, (44.0, 155.0))
    return Link(0.0, *map(float, found)), quality


def fit_low_latency(folder: Path, model: ModelProfile) -> tuple[AllToAll, tuple[Quality, ...]]:
    """Fit both networks of the low-latency mode, the version that also uses NVLink; 128 tokens a rank."""
    rows = [r for r in read_rows(folder, tables.ALLTOALL_LOW_LATENCY) if r["version"] == _LOW_LATENCY_VERSION]
    ranks, dispatch, combine = columns(rows, "ep", "dispatch_us", "combine_us")
    remote = 1.0 - _GPUS_PER_NODE / ranks
    found = []
    for way, size, micros in (
        ("dispatch", model.dispatch_bytes_low_latency, dispatch),
        ("combine", model.combine_bytes, combine),
    ):
        total = _LOW_LATENCY_TOKENS * model.top_experts * size
        found.append(_fit_link(f"{tables.ALLTOALL_LOW_LATENCY} {way}", total * remote, total * (1 - remote), micros))
    return AllToAll(found[0][0], found[1][0]), (found[0][1], found[1][1])


def _fit_link(table: str, rdma: FloatArray, nvlink: FloatArray, micros: FloatArray) -> tuple[Link, Quality]:
    def law(x: FloatArray) -> FloatArray:
        link = Link(*map(float, x))
        return np.asarray(link.launch_ns + link.token_ns(rdma, nvlink))

    found, quality = fit(table, law, micros * 1e3, (30000.0, 45.0, 170.0))
    return Link(*map(float, found)), quality
