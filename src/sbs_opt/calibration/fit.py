"""Fit a hardware profile from a folder of calibration tables: kernels first, then what only whole passes show.

::

    python -m sbs_opt.calibration.fit CALIBRATION_DIR --hardware h800 --date 2026-11-20 -o h800.hardware.toml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from sbs_opt.calibration import tables
from sbs_opt.calibration.alltoall_fit import fit_low_latency, fit_normal
from sbs_opt.calibration.anchors import fit_decode_step, fit_prefill_pass
from sbs_opt.calibration.attention_fit import fit_attention, fit_decode_attention
from sbs_opt.calibration.gemm_fit import fit_gemm, fit_grouped_gemm, fit_reads, is_of_a_model
from sbs_opt.calibration.law_fit import FittedProfile, LawFit
from sbs_opt.calibration.profile_text import to_toml
from sbs_opt.calibration.records import (
    AttentionRows,
    BandwidthRows,
    DecodeRows,
    GemmRows,
    GroupedRows,
    LatencyRows,
    ReadRows,
    read_records,
)
from sbs_opt.calibration.robust import Quality
from sbs_opt.models.cost.laws import AllToAll, Link
from sbs_opt.models.cost.model import ModelProfile
from sbs_opt.models.cost.profile import DecodeStep, Device, Evidence, HardwareProfile, Host, PrefillPass, Source
from sbs_opt.models.cost.profile_file import load_model
from sbs_opt.models.errors import InputError

H800 = Device(hbm_bytes=80 * 2**30, hbm_gbps=3350.0, gpus_per_node=8, sms=132)
H200 = Device(hbm_bytes=141 * 10**9, hbm_gbps=4800.0, gpus_per_node=8, sms=132)
H20 = Device(hbm_bytes=96 * 10**9, hbm_gbps=4000.0, gpus_per_node=8, sms=78)
_NVLINK = 900.0 / 400.0
"""NVLink of H100, H200 and H20 over that of H800, by specification."""
_H20_ARITHMETIC = 296.0 / 1979.0
_H20_NETWORK = 4.0 / 8.0
"""Four 400 Gb/s network cards for eight GPUs, where the others have eight."""

_LONGEST_CHUNK = 16_384
"""New tokens of a pass in the reference deployment."""

HARDWARE = ("h100", "h20", "h200", "h800")

_ABOUT = {
    "h800": "H800 SXM 80 GB, 8 a node, NVLink 400 GB/s, one 400 Gb/s NIC each",
    "h100": "H100 SXM 80 GB: the H800 profile with NVLink 900 GB/s; derived, not fitted apart",
    "h200": "H200 SXM 141 GB: attention, GEMM and HBM fitted on the probe, the rest derived from H800 and H100",
    "h20": "H20 96 GB: extrapolated from H800 by specification, nothing of it was measured",
}
_EXTRAPOLATED = {"h20": "every rate from H800 by specification"}
_PASS = "fit: five prefill passes published for SGLang on H100, EP32 (calibration/anchors.py)"
_ONE_SIZE = "the table has one size: no launch can be told apart, it is in layer_ns"
_ORIGIN_H800 = {
    "device": "NVIDIA H800 SXM specification",
    "device.gpus_per_node": "DeepEP test set-up: 8 GPUs a node",
    "host": "the tables time kernels, not calls",
    "prefill_attention": f"fit: {tables.PROBE} (form of the small terms)",
    "prefill_attention.tflops": f"fit: {tables.MLA_PREFILL}",
    "prefill_attention.launch_ns": f"fit: {tables.MLA_PREFILL}",
    "decode_attention": f"fit: {tables.MLA_DECODE}",
    "gemm": f"fit: {tables.GEMM}, {tables.DEEPGEMM}",
    "grouped_gemm": f"fit: {tables.GROUPED_PREFILL}, grouped_gemm_decode.csv and {tables.DEEPGEMM}",
    "alltoall_normal": f"fit: {tables.ALLTOALL_NORMAL}, version V1 #130",
    "alltoall_normal.dispatch.launch_ns": _ONE_SIZE,
    "alltoall_normal.combine.launch_ns": _ONE_SIZE,
    "alltoall_low_latency": f"fit: {tables.ALLTOALL_LOW_LATENCY}, version V1 #173 NVLink",
    "prefill_pass": _PASS,
    "prefill_pass.stream_gbps": f"rate of weight streaming, fit: {tables.GEMM}",
    "prefill_pass.communication_sms": "DeepSeek's published prefill profile: 108 SMs compute, 24 communicate",
    "decode_step": "fit: two decode steps published for SGLang on H100, EP72 (calibration/anchors.py)",
    "decode_step.dispatch_cap": "DeepEP low-latency mode: 128 tokens a rank in its published tables",
}


Kind = TypeVar("Kind")
EvidenceBySection = tuple[tuple[str, Evidence], ...]


def _rows(folder: Path, name: str, kind: type[Kind]) -> Kind:
    found = [rows for rows in read_records(tables.table_path(folder, name), name) if isinstance(rows, kind)]
    if not found:
        raise InputError(f"calibration folder {folder}: {name} lacks the rows of {kind.__name__}")
    return found[0]


def fit_h800(folder: Path, model: ModelProfile) -> FittedProfile:
    """Fit every constant of the H800 profile."""
    gemm, _ = fit_gemm([is_of_a_model(_rows(folder, tables.GEMM, GemmRows)), _rows(folder, tables.DEEPGEMM, GemmRows)])
    grouped = fit_grouped_gemm(
        [_rows(folder, name, GroupedRows) for name in (tables.GROUPED_PREFILL, tables.GROUPED_DECODE, tables.DEEPGEMM)]
    )
    form, _ = fit_attention(_rows(folder, tables.PROBE, AttentionRows))
    attention, _ = fit_attention(_rows(folder, tables.MLA_PREFILL, AttentionRows), form.law, _LONGEST_CHUNK)
    # Grouped-query attention: not what the profile's model runs, but the only chunks over prefixes timed on H800.
    chunks, _ = fit_attention(_rows(folder, tables.CHUNKS, AttentionRows))
    decode = fit_decode_attention(_rows(folder, tables.MLA_DECODE, DecodeRows), gemm.law.weight_gbps)
    normal = fit_normal(_rows(folder, tables.ALLTOALL_NORMAL, BandwidthRows), model)
    low_latency = fit_low_latency(_rows(folder, tables.ALLTOALL_LOW_LATENCY, LatencyRows), model)
    laws: tuple[LawFit[object], ...] = (gemm, grouped, attention, form, chunks, decode, normal, low_latency)
    kernels = HardwareProfile(
        device=H800,
        host=Host(0.0),
        prefill_attention=attention.law,
        decode_attention=decode.law,
        gemm=gemm.law,
        grouped_gemm=grouped.law,
        alltoall_normal=normal.law,
        alltoall_low_latency=low_latency.law,
        prefill_pass=PrefillPass(0.0, 0.0, stream_gbps=gemm.law.weight_gbps, communication_sms=24, sm_bound_share=1.0),
        decode_step=DecodeStep(0.0, dispatch_cap=128),
        evidence=tuple(
            (law.section, law.evidence) for law in (gemm, grouped, _wider(attention, form), decode, normal, low_latency)
        ),
    )
    prefill_pass, prefill_quality = fit_prefill_pass(kernels, model)
    decode_step, step_quality = fit_decode_step(kernels, model)
    return FittedProfile(
        replace(kernels, prefill_pass=prefill_pass, decode_step=decode_step),
        dict(_ORIGIN_H800),
        (*(quality for law in laws for quality in law.qualities), prefill_quality, step_quality),
        tuple(points for law in laws for points in law.points),
    )


def fit_h100(folder: Path, model: ModelProfile) -> FittedProfile:
    """Derive the H100 profile: same multiprocessors, clocks and HBM as H800, faster NVLink."""
    base = fit_h800(folder, model)
    origin = dict(base.origin) | {"device": "NVIDIA H100 SXM specification"}
    origin |= _scaled_links("nvlink_gbps", "H800 fit × 900/400, the ratio of the NVLink specifications")
    return replace(base, profile=_links(base.profile, nvlink=_NVLINK), origin=origin)


def fit_h200(folder: Path, model: ModelProfile) -> FittedProfile:
    """Fit attention, GEMM and reads on the probe; experts get the HBM ratio, the all-to-all and the rest are H100's."""
    base = fit_h100(folder, model)
    hopper = base.profile
    attention, _ = fit_attention(_rows(folder, tables.PROBE, AttentionRows))
    gemm, call_ns = fit_gemm([_rows(folder, tables.PROBE, GemmRows)], hopper.gemm)
    reads = fit_reads(_rows(folder, tables.PROBE, ReadRows))
    ratio = H200.hbm_gbps / H800.hbm_gbps
    profile = replace(
        hopper,
        device=H200,
        host=Host(call_ns),
        prefill_attention=attention.law,
        gemm=gemm.law,
        grouped_gemm=replace(hopper.grouped_gemm, weight_gbps=hopper.grouped_gemm.weight_gbps * ratio),
        prefill_pass=replace(hopper.prefill_pass, stream_gbps=reads.law),
        evidence=_with_evidence(hopper.evidence, attention, gemm),
    )
    hidden = f"fit: {tables.GEMM}, as the host's call hides it in the probe"
    origin = base.origin | {
        "device": "NVIDIA H200 SXM specification",
        "host.call_ns": f"fit: {tables.PROBE}, single FP8 GEMMs; the probe's attention says the same within 5 %",
        "prefill_attention": f"fit: {tables.PROBE}",
        "prefill_attention.tflops": f"fit: {tables.PROBE}",
        "prefill_attention.launch_ns": f"fit: {tables.PROBE}",
        "gemm": f"fit: {tables.PROBE}",
        "gemm.launch_ns": hidden,
        "gemm.depth_ns_per_k": hidden,
        "grouped_gemm.weight_gbps": "H800 fit × 4800/3350, the ratio of the HBM specifications",
        "prefill_pass.stream_gbps": f"fit: {tables.PROBE}, reads of HBM",
    }
    return FittedProfile(
        profile,
        origin,
        (*base.quality, *gemm.qualities, *reads.qualities),  # the probe's attention is there as the form of H800's
        (*base.points, *gemm.points, *reads.points),
    )


def fit_h20(folder: Path, model: ModelProfile) -> FittedProfile:
    """Extrapolate the H20 profile from H800: arithmetic, HBM, NVLink and network by their specifications."""
    base = fit_h800(folder, model)
    hopper = base.profile
    arithmetic, memory = _H20_ARITHMETIC, H20.hbm_gbps / H800.hbm_gbps
    gemm, grouped, law = hopper.gemm, hopper.grouped_gemm, hopper.prefill_pass
    profile = replace(
        _links(hopper, nvlink=_NVLINK, rdma=_H20_NETWORK),
        device=H20,
        prefill_attention=replace(hopper.prefill_attention, tflops=hopper.prefill_attention.tflops * arithmetic),
        decode_attention=replace(hopper.decode_attention, tflops=hopper.decode_attention.tflops * arithmetic),
        gemm=replace(gemm, tflops=gemm.tflops * arithmetic, weight_gbps=gemm.weight_gbps * memory),
        grouped_gemm=replace(grouped, tflops=grouped.tflops * arithmetic, weight_gbps=grouped.weight_gbps * memory),
        prefill_pass=replace(law, stream_gbps=law.stream_gbps * memory, communication_sms=14),
        evidence=(),
    )
    by_arithmetic = "extrapolated: H800 fit × 296/1979, the ratio of the FP8 peaks"
    by_memory = "extrapolated: H800 fit × 4000/3350, the ratio of the HBM specifications"
    origin = {path: f"extrapolated: as on H800 ({source})" for path, source in base.origin.items()}
    origin |= {
        f"{law}.tflops": by_arithmetic for law in ("prefill_attention", "decode_attention", "gemm", "grouped_gemm")
    }
    origin |= {f"{law}.weight_gbps": by_memory for law in ("gemm", "grouped_gemm")}
    origin |= _scaled_links("nvlink_gbps", "extrapolated: H800 fit × 900/400, the ratio of the NVLink specifications")
    origin |= _scaled_links("rdma_gbps", "extrapolated: H800 fit × 4/8, four network cards for eight GPUs")
    origin |= {
        "device": "NVIDIA H20 specification",
        "prefill_pass.stream_gbps": by_memory,
        "prefill_pass.communication_sms": "extrapolated: 24 of 132 multiprocessors, as 14 of 78",
    }
    return replace(base, profile=profile, origin=origin)


def _wider(law: LawFit[object], form: LawFit[object]) -> LawFit[object]:
    """Return a law whose ranges take in those that its form was fitted on."""
    other = {name: (low, high) for name, low, high in form.evidence.ranges}
    ranges = tuple(
        (name, min(low, other[name][0]), max(high, other[name][1])) for name, low, high in law.evidence.ranges
    )
    return replace(law, evidence=replace(law.evidence, ranges=ranges))


def _with_evidence(base: EvidenceBySection, *laws: LawFit[object]) -> EvidenceBySection:
    return tuple((dict(base) | {law.section: law.evidence for law in laws}).items())


def _links(profile: HardwareProfile, *, nvlink: float = 1.0, rdma: float = 1.0) -> HardwareProfile:
    """Return a profile whose networks are so many times as fast."""

    def link(given: Link) -> Link:
        return replace(given, nvlink_gbps=given.nvlink_gbps * nvlink, rdma_gbps=given.rdma_gbps * rdma)

    def mode(given: AllToAll) -> AllToAll:
        return AllToAll(link(given.dispatch), link(given.combine))

    return replace(
        profile,
        alltoall_normal=mode(profile.alltoall_normal),
        alltoall_low_latency=mode(profile.alltoall_low_latency),
    )


def _scaled_links(constant: str, source: str) -> dict[str, str]:
    modes, ways = ("alltoall_normal", "alltoall_low_latency"), ("dispatch", "combine")
    return {f"{mode}.{way}.{constant}": source for mode in modes for way in ways}


FIT: dict[str, Callable[[Path, ModelProfile], FittedProfile]] = {
    "h100": fit_h100, "h20": fit_h20, "h200": fit_h200, "h800": fit_h800,
}  # fmt: skip


def fit_hardware(folder: Path, hardware: str) -> FittedProfile:
    """Fit a profile.

    Raises
    ------
    InputError
        On unknown hardware or a folder without the tables.
    """
    if hardware not in FIT:
        raise InputError(f"hardware = {hardware!r}: unknown; known: {', '.join(FIT)}")
    return FIT[hardware](folder, load_model("deepseek-v3"))


def profile_toml(folder: Path, hardware: str, date: str) -> tuple[str, FittedProfile]:
    """Return the text of a fitted profile, and the fit; errors as `fit_hardware`."""
    fitted = fit_hardware(folder, hardware)
    data = tuple((name, tables.checksum(folder, name)) for name in tables.ALL)
    head = Source(hardware, _ABOUT[hardware], date, data, _EXTRAPOLATED.get(hardware, ""))
    return to_toml(fitted.profile, head, fitted.origin), fitted


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, print the errors, write the profile where asked to."""
    parser = argparse.ArgumentParser(prog="python -m sbs_opt.calibration.fit", description="Fit a hardware profile.")
    parser.add_argument("directory", type=Path, help="folder of the calibration tables")
    parser.add_argument("--hardware", default="h800", choices=HARDWARE)
    parser.add_argument("--date", required=True, help="day of the fit, written into the profile")
    parser.add_argument("-o", "--output", type=Path, help="profile to write; default: only print the errors")
    options = parser.parse_args(arguments)
    try:
        text, fitted = profile_toml(options.directory, options.hardware, options.date)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    _print_quality(fitted.quality)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    return 0


def _print_quality(qualities: Sequence[Quality]) -> None:
    print(f"{'table':60} {'rows':>5} {'mean |e|':>9} {'max |e|':>9} {'bias':>8} {'left out':>9}")
    for row in qualities:
        left_out = f"{row.left_out:9.1%}" if row.left_out == row.left_out else f"{'–':>9}"
        print(f"{row.table:60} {row.rows:5d} {row.mean_abs:9.1%} {row.max_abs:9.1%} {row.bias:+8.1%} {left_out}")


if __name__ == "__main__":
    sys.exit(main())
