"""Fits of attention: chunks over prefixes in prefill, absorbed decode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbs_opt.calibration.fit_points import FitPoints
from sbs_opt.calibration.law_fit import LawFit, evidence_of, points_of
from sbs_opt.calibration.records import AttentionRows, DecodeRows
from sbs_opt.calibration.robust import fit, quality
from sbs_opt.calibration.tables import FloatArray
from sbs_opt.models.cost.laws import DecodeAttention, PrefillAttention
from sbs_opt.models.cost.model import LatentAttention

START = PrefillAttention(600.0, 1.0, 0.02, 5000.0)
"""Where a fit starts, and the scale of its parameters."""

_LARGE = 512
_ENOUGH = 12
"""Rows from which on the small terms are fitted; with fewer only the rate and the launch are."""

_ABSORBED = LatentAttention(128, 1536, 512, 128, 64, 128)
"""DeepSeek-V3's attention, which decode tables are measured with."""


@dataclass(frozen=True, slots=True)
class _Split:
    """Which parameters stand where: rate and launch first, small terms next, the host's call last."""

    small: bool
    hosted: bool

    def law(self, x: FloatArray, base: PrefillAttention) -> PrefillAttention:
        small = (float(x[2]), float(x[3])) if self.small else (base.row_tiles, base.context_ns_per_kb)
        return PrefillAttention(float(x[0]), *small, float(x[1]))

    @property
    def start(self) -> tuple[float, ...]:
        small = (START.row_tiles, START.context_ns_per_kb) if self.small else ()
        return (START.tflops, START.launch_ns, *small, *((30000.0,) if self.hosted else ()))


def fit_attention(
    rows: AttentionRows, base: PrefillAttention = START, longest: int | None = None
) -> tuple[LawFit[PrefillAttention], float]:
    """Fit prefill attention; return the law and the time of a call from the host, 0 where no row was timed so.

    Parameters
    ----------
    rows
        Chunks over prefixes, in batches of equal ones.
    base
        Gives the small terms where there are too few rows to tell them.
    longest
        Chunks with more new tokens are shown but not fitted: no pass runs them, and at milliseconds of full power a
        GPU lowers its clock.
    """
    split = _Split(small=len(rows.ns) >= _ENOUGH, hosted=bool(rows.calls.any()))
    taken = rows.new <= (longest or np.inf)

    def law(x: FloatArray) -> FloatArray:
        host = float(x[-1]) * rows.calls if split.hosted else 0.0
        return np.asarray(split.law(x, base).ns(rows.shape, rows.new, rows.cached, rows.batch) + host)

    found = fit("prefill_attention", lambda x: law(x)[taken], rows.ns[taken], split.start)
    predicted = law(found.parameters)
    large = rows.new[taken] >= _LARGE
    qualities = [found.quality(rows.table)]
    if not taken.all():
        name = f"{rows.table}, c > {longest:,}, not fitted"
        qualities.append(quality(name, predicted[~taken], rows.ns[~taken]))
    if large.any() and not large.all():
        qualities.append(found.quality(f"{rows.table}, c ≥ {_LARGE}", large))
    series = [
        f"c = {int(c)}" + (f", batch {int(b)}" if b > 1 else "") for c, b in zip(rows.new, rows.batch, strict=True)
    ]
    context = rows.new + rows.cached
    points = FitPoints(
        "Prefill attention", rows.table, "context (c + p)", tuple(series), context, rows.ns, predicted, taken
    )
    fitted = LawFit(
        split.law(found.parameters, base),
        "prefill_attention",
        tuple(qualities),
        evidence_of(found, {"new_tokens": rows.new[taken], "context_tokens": context[taken]}),
        (points,),
    )
    return fitted, float(found.parameters[-1]) if split.hosted else 0.0


def fit_decode_attention(rows: DecodeRows, hbm_gbps: float) -> LawFit[DecodeAttention]:
    """Fit absorbed decode attention; `hbm_gbps` bounds it where arithmetic does not."""

    def law(x: FloatArray) -> FloatArray:
        core = DecodeAttention(*map(float, x))
        kv_ns = core.kv_ns(_ABSORBED.decode_flops, _ABSORBED.kv_bytes, hbm_gbps)
        return np.asarray(core.ns(rows.batch * rows.kv, rows.batch, kv_ns))

    found = fit("decode_attention", law, rows.ns, (550.0, 100.0, 20000.0))
    everything = np.ones(len(rows.ns), np.bool_)
    return LawFit(
        DecodeAttention(*map(float, found.parameters)),
        "decode_attention",
        (found.quality(rows.table),),
        evidence_of(found, {"kv_tokens": rows.kv, "sequences": rows.batch}),
        (
            points_of(
                found, "Decode attention, absorbed", rows.table, "KV tokens per sequence",
                [f"batch {int(b)}" for b in rows.batch], rows.kv, everything,
            ),
        ),
    )  # fmt: skip
