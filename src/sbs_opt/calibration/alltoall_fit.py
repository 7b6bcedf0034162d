"""Fits of the all-to-all on DeepEP's published tables."""

from __future__ import annotations

import numpy as np

from sbs_opt.calibration.law_fit import LawFit, evidence_of, points_of
from sbs_opt.calibration.records import BandwidthRows, LatencyRows
from sbs_opt.calibration.robust import Fit, fit
from sbs_opt.calibration.tables import FloatArray
from sbs_opt.models.cost.laws import AllToAll, Link
from sbs_opt.models.cost.model import ModelProfile
from sbs_opt.models.cost.routing import counted_copies, published_spread

_GPUS_PER_NODE = 8
_NORMAL_TOKENS, _LOW_LATENCY_TOKENS = 4096.0, 128.0
"""Tokens a rank in the published tables."""

_MANY = 32


def fit_normal(rows: BandwidthRows, model: ModelProfile) -> LawFit[AllToAll]:
    """Fit both networks of the normal mode.

    The tables give the bandwidth at one size, so no launch can be told apart: it is 0 here, and part of the floor of
    a pass.
    """
    spread = [published_spread(int(ranks), _GPUS_PER_NODE) for ranks in rows.ranks]
    remote = np.array([to.remote_nodes for to in spread])
    copies = np.array([to.ranks for to in spread])
    counted = np.array([counted_copies(to) for to in spread])

    def one(name: str, size: int, gbps: FloatArray) -> tuple[Link, Fit]:
        tokens = _NORMAL_TOKENS * size

        def law(x: FloatArray) -> FloatArray:
            return np.asarray(Link(0.0, *map(float, x)).token_ns(tokens * remote, tokens * copies))

        found = fit(f"alltoall_normal.{name}", law, tokens * counted / gbps, (44.0, 155.0))
        return Link(0.0, *map(float, found.parameters)), found

    ways = (
        one("dispatch", model.dispatch_bytes, rows.dispatch_gbps),
        one("combine", model.combine_bytes, rows.combine_gbps),
    )
    return _both("alltoall_normal", "All-to-all, normal mode", rows.table, rows.ranks, ways)


def fit_low_latency(rows: LatencyRows, model: ModelProfile) -> LawFit[AllToAll]:
    """Fit both networks of the low-latency mode in the version that also uses NVLink."""
    remote = np.maximum(0.0, 1.0 - _GPUS_PER_NODE / rows.ranks)

    def one(name: str, size: int, ns: FloatArray) -> tuple[Link, Fit]:
        total = _LOW_LATENCY_TOKENS * model.top_experts * size

        def law(x: FloatArray) -> FloatArray:
            link = Link(*map(float, x))
            return np.asarray(link.launch_ns + link.token_ns(total * remote, total * (1.0 - remote)))

        found = fit(f"alltoall_low_latency.{name}", law, ns, (30000.0, 45.0, 170.0))
        return Link(*map(float, found.parameters)), found

    ways = (
        one("dispatch", model.dispatch_bytes_low_latency, rows.dispatch_ns),
        one("combine", model.combine_bytes, rows.combine_ns),
    )
    title = "All-to-all, low-latency mode"
    return _both("alltoall_low_latency", title, rows.table, rows.ranks, ways)


def _both(
    section: str, title: str, table: str, ranks: FloatArray, ways: tuple[tuple[Link, Fit], ...]
) -> LawFit[AllToAll]:
    fits = {name: found for name, (_, found) in zip(("dispatch", "combine"), ways, strict=True)}
    together = Fit(
        np.empty(0),
        *(np.concatenate([getattr(f, part) for f in fits.values()]) for part in ("predicted", "left_out", "measured")),
    )
    many = (ranks >= _MANY) & (ranks <= 2 * _MANY)
    qualities = [found.quality(f"{table}, {name}") for name, found in fits.items()]
    if many.any():
        qualities += [found.quality(f"{table}, {name}, EP32 and EP64", many) for name, found in fits.items()]
    names = [name for name in fits for _ in ranks]
    everything = np.ones(2 * len(ranks), np.bool_)
    return LawFit(
        AllToAll(*(link for link, _ in ways)),
        section,
        tuple(qualities),
        evidence_of(together, {"ranks": ranks}),
        (points_of(together, title, table, "ranks", names, np.tile(ranks, 2), everything),),
    )
