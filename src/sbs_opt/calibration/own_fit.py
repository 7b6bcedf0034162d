"""A profile of one's own GPU: what was measured is fitted, the rest is taken from a profile that is there already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sbs_opt.calibration.alltoall_fit import fit_low_latency, fit_normal
from sbs_opt.calibration.attention_fit import fit_attention, fit_decode_attention
from sbs_opt.calibration.gemm_fit import fit_gemm, fit_grouped_gemm, fit_reads, is_of_a_model
from sbs_opt.calibration.law_fit import FittedProfile, LawFit
from sbs_opt.calibration.records import (
    AttentionRows,
    BandwidthRows,
    DecodeRows,
    GemmRows,
    GroupedRows,
    LatencyRows,
    ReadRows,
    Records,
)
from sbs_opt.models.cost.model import ModelProfile
from sbs_opt.models.cost.profile import HardwareProfile, Host
from sbs_opt.models.errors import InputError

Kind = TypeVar("Kind")


def fit_own(records: Sequence[Records], base: HardwareProfile, base_name: str, model: ModelProfile) -> FittedProfile:
    """Fit the laws that measurements speak of.

    Routed experts that were not measured are scaled from `base` as dense GEMMs are, decode attention as prefill
    attention is; both are marked extrapolated. Everything else is taken over.

    Parameters
    ----------
    records
        Measurements of one GPU, from any number of tables.
    base, base_name
        The profile to start from, and its name.
    model
        Whose message sizes the all-to-all tables hold.

    Raises
    ------
    InputError
        No measurements, or two tables of a kind that only one can be fitted on.
    """
    if not records:
        raise InputError("measurements: none given; a fit needs at least one table")
    laws: list[LawFit[Any]] = []
    changes: dict[str, Any] = {}
    call_ns: list[float] = []
    gemms = [is_of_a_model(rows) for rows in _of(records, GemmRows)]
    if gemms:
        gemm, host = fit_gemm(gemms, base.gemm)
        laws.append(gemm)
        changes["gemm"] = gemm.law
        call_ns += [host] * (host > 0)
    attention_rows = _single(records, AttentionRows)
    if attention_rows:
        attention, host = fit_attention(attention_rows, base.prefill_attention)
        laws.append(attention)
        changes["prefill_attention"] = attention.law
        call_ns += [host] * (host > 0 and not call_ns)
    if call_ns:
        changes["host"] = Host(call_ns[0])
    pass_law = base.prefill_pass
    reads = _single(records, ReadRows)
    if reads:
        read = fit_reads(reads)
        laws.append(read)
        pass_law = replace(pass_law, stream_gbps=read.law)
        changes["prefill_pass"] = pass_law
    for section, fitted in _others(records, base, pass_law.stream_gbps, model):
        laws.append(fitted)
        changes[section] = fitted.law
    origin = dict.fromkeys(sections(base), f"taken from profile {base_name}")
    origin |= {law.section: "fit: " + ", ".join(points.table for points in law.points) for law in laws}
    if call_ns:
        origin["host"] = origin["gemm" if gemms else "prefill_attention"]
    _scale_what_is_missing(base, base_name, changes, origin)
    evidence = {name: found for name, found in base.evidence if name not in changes}
    evidence |= {law.section: law.evidence for law in laws if law.section in changes}
    return FittedProfile(
        replace(base, **changes, evidence=tuple(evidence.items())),
        origin,
        tuple(quality for law in laws for quality in law.qualities),
        tuple(points for law in laws for points in law.points),
    )


def _others(
    records: Sequence[Records], base: HardwareProfile, stream_gbps: float, model: ModelProfile
) -> Iterator[tuple[str, LawFit[Any]]]:
    grouped = list(_of(records, GroupedRows))
    if grouped:
        yield "grouped_gemm", fit_grouped_gemm(grouped)
    decode = _single(records, DecodeRows)
    if decode:
        yield "decode_attention", fit_decode_attention(decode, stream_gbps)
    normal = _single(records, BandwidthRows)
    if normal:
        yield "alltoall_normal", fit_normal(normal, model)
    low_latency = _single(records, LatencyRows)
    if low_latency:
        yield "alltoall_low_latency", fit_low_latency(low_latency, model)


def _scale_what_is_missing(
    base: HardwareProfile, base_name: str, changes: dict[str, Any], origin: dict[str, str]
) -> None:
    """Scale experts and decode attention, where they were not measured, as their nearest kin was found to differ."""
    if "gemm" in changes and "grouped_gemm" not in changes:
        arithmetic = changes["gemm"].tflops / base.gemm.tflops
        memory = changes["gemm"].weight_gbps / base.gemm.weight_gbps
        grouped = base.grouped_gemm
        changes["grouped_gemm"] = replace(
            grouped, tflops=grouped.tflops * arithmetic, weight_gbps=grouped.weight_gbps * memory
        )
        origin["grouped_gemm"] = f"extrapolated: profile {base_name}, its rates scaled as those of dense GEMMs"
    if "prefill_attention" in changes and "decode_attention" not in changes:
        ratio = changes["prefill_attention"].tflops / base.prefill_attention.tflops
        changes["decode_attention"] = replace(base.decode_attention, tflops=base.decode_attention.tflops * ratio)
        origin["decode_attention"] = f"extrapolated: profile {base_name}, its rate scaled as that of prefill attention"


def sections(profile: HardwareProfile) -> tuple[str, ...]:
    """Return the names of a profile's sections."""
    return tuple(name for name in type(profile).__slots__ if name != "evidence")


def _of(records: Sequence[Records], kind: type[Kind]) -> Iterator[Kind]:
    return (rows for rows in records if isinstance(rows, kind))


def _single(records: Sequence[Records], kind: type[Kind]) -> Kind | None:
    found = list(_of(records, kind))
    if len(found) > 1:
        raise InputError(f"measurements: {len(found)} tables of {kind.__name__}; one fit takes one, give them apart")
    return found[0] if found else None
