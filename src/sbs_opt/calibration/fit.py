"""Fit the bundled hardware profiles: ``python -m sbs_opt.calibration.fit DIRECTORY [-o profile.toml]``.

Kernels first, each family on its own tables; then, with those frozen, the constants of whole passes on the anchors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sbs_opt.calibration import tables
from sbs_opt.calibration.alltoall_fit import fit_low_latency, fit_normal
from sbs_opt.calibration.anchors import fit_decode_step, fit_prefill_pass
from sbs_opt.calibration.compute_fit import (
    fit_attention,
    fit_attention_probe,
    fit_decode_attention,
    fit_gemm,
    fit_gemm_probe,
    fit_grouped_gemm,
)
from sbs_opt.calibration.profile_file import to_toml
from sbs_opt.calibration.robust import Quality
from sbs_opt.models.cost.laws import AllToAll, Link
from sbs_opt.models.cost.profile import (
    DecodeStep,
    Device,
    HardwareProfile,
    ModelProfile,
    PrefillPass,
    Source,
    load_model,
)
from sbs_opt.models.errors import InputError

H800 = Device(hbm_bytes=80 * 2**30, hbm_gbps=3350.0, gpus_per_node=8, sms=132)
H200 = Device(hbm_bytes=141 * 10**9, hbm_gbps=4800.0, gpus_per_node=8, sms=132)
_NVLINK_H100_OVER_H800 = 900.0 / 400.0

HARDWARE = ("h100", "h200", "h800")

_ABOUT = {
    "h800": "H800 SXM 80 GB, 8 a node, NVLink 400 GB/s, one 400 Gb/s NIC each",
    "h100": "H100 SXM 80 GB: the H800 profile with NVLink 900 GB/s; derived, not fitted apart",
    "h200": "H200 SXM 141 GB: attention and GEMM fitted on the probe, the rest derived from H800 and H100",
}
_PASS = "fit: five prefill passes published for SGLang on H100, EP32 (calibration/anchors.py)"
_ORIGIN_H800 = {
    "device": "NVIDIA H800 SXM specification",
    "device.gpus_per_node": "DeepEP test set-up: 8 GPUs a node",
    "prefill_attention": f"fit: {tables.PROBE} (form of the small terms)",
    "prefill_attention.tflops": f"fit: {tables.MLA_PREFILL}",
    "decode_attention": f"fit: {tables.MLA_DECODE}",
    "gemm": f"fit: {tables.GEMM}, {tables.DEEPGEMM}",
    "grouped_gemm": f"fit: {tables.GROUPED_PREFILL} and grouped_gemm_decode.csv",
    "alltoall_normal": f"fit: {tables.ALLTOALL_NORMAL}, version V1 #130",
    "alltoall_normal.dispatch.launch_ns": "the table has one size: no launch can be told apart, it is in layer_ns",
    "alltoall_normal.combine.launch_ns": "the table has one size: no launch can be told apart, it is in layer_ns",
    "alltoall_low_latency": f"fit: {tables.ALLTOALL_LOW_LATENCY}, version V1 #173 NVLink",
    "prefill_pass": _PASS,
    "prefill_pass.stream_gbps": f"rate of weight streaming, fit: {tables.GEMM}",
    "prefill_pass.communication_sms": "DeepSeek's published prefill profile: 108 SMs compute, 24 communicate",
    "decode_step": "fit: two decode steps published for SGLang on H100, EP72 (calibration/anchors.py)",
    "decode_step.dispatch_cap": "DeepEP low-latency mode: 128 tokens a rank in its published tables",
}


@dataclass(frozen=True, slots=True)
class Fitted:
    """A profile, where its constants come from, and how well they fit."""

    profile: HardwareProfile
    origin: dict[str, str]
    quality: tuple[Quality, ...]


def fit_h800(folder: Path, model: ModelProfile) -> Fitted:
    """Fit every constant of the H800 profile."""
    gemm, gemm_quality = fit_gemm(folder)
    grouped, grouped_quality = fit_grouped_gemm(folder)
    form, form_quality = fit_attention_probe(folder, model)
    attention, attention_quality = fit_attention(folder, model, form)
    decode, decode_quality = fit_decode_attention(folder, model)
    normal, normal_quality = fit_normal(folder, model)
    low_latency, low_latency_quality = fit_low_latency(folder, model)
    kernels = HardwareProfile(
        device=H800,
        prefill_attention=attention,
        decode_attention=decode,
        gemm=gemm,
        grouped_gemm=grouped,
        alltoall_normal=normal,
        alltoall_low_latency=low_latency,
        prefill_pass=PrefillPass(0.0, 0.0, stream_gbps=gemm.weight_gbps, communication_sms=24, overlap_factor=1.0),
        decode_step=DecodeStep(0.0, dispatch_cap=128),
    )
    prefill_pass, prefill_quality = fit_prefill_pass(kernels, model)
    decode_step, step_quality = fit_decode_step(kernels, model)
    return Fitted(
        replace(kernels, prefill_pass=prefill_pass, decode_step=decode_step),
        dict(_ORIGIN_H800),
        (
            *gemm_quality, *grouped_quality, form_quality, attention_quality, decode_quality,
            *normal_quality, *low_latency_quality, prefill_quality, step_quality,
        ),
    )  # fmt: skip


def fit_h100(folder: Path, model: ModelProfile) -> Fitted:
    """Derive the H100 profile: same multiprocessors, clocks and HBM as H800, faster NVLink."""
    base = fit_h800(folder, model)
    origin = dict(base.origin) | {"device": "NVIDIA H100 SXM specification"}
    for mode in ("alltoall_normal", "alltoall_low_latency"):
        for way in ("dispatch", "combine"):
            origin[f"{mode}.{way}.nvlink_gbps"] = "H800 fit × 900/400, the ratio of the NVLink specifications"
    profile = replace(
        base.profile,
        alltoall_normal=_faster_nvlink(base.profile.alltoall_normal),
        alltoall_low_latency=_faster_nvlink(base.profile.alltoall_low_latency),
    )
    return Fitted(profile, origin, base.quality)


def fit_h200(folder: Path, model: ModelProfile) -> Fitted:
    """Fit attention and GEMM on the probe; experts get the HBM ratio, the all-to-all and the rest are H100's."""
    base = fit_h100(folder, model)
    hopper = base.profile
    attention, attention_quality = fit_attention_probe(folder, model)
    gemm, gemm_quality = fit_gemm_probe(folder, hopper.gemm)
    ratio = H200.hbm_gbps / H800.hbm_gbps
    grouped = replace(hopper.grouped_gemm, weight_gbps=hopper.grouped_gemm.weight_gbps * ratio)
    profile = replace(
        hopper,
        device=H200,
        prefill_attention=attention,
        gemm=gemm,
        grouped_gemm=grouped,
        prefill_pass=replace(hopper.prefill_pass, stream_gbps=gemm.weight_gbps),
    )
    origin = base.origin | {
        "device": "NVIDIA H200 SXM specification",
        "prefill_attention": f"fit: {tables.PROBE}",
        "prefill_attention.tflops": f"fit: {tables.PROBE}",
        "gemm": f"fit: {tables.PROBE}",
        "gemm.launch_ns": f"fit: {tables.GEMM}, as the host's floor hides it in the probe",
        "gemm.depth_ns_per_k": f"fit: {tables.GEMM}, as the host's floor hides it in the probe",
        "grouped_gemm.weight_gbps": "H800 fit × 4800/3350, the ratio of the HBM specifications",
        "prefill_pass.stream_gbps": f"rate of weight streaming, fit: {tables.PROBE}",
    }
    return Fitted(profile, origin, (*base.quality, gemm_quality, attention_quality))


FIT = {"h100": fit_h100, "h200": fit_h200, "h800": fit_h800}


def profile_toml(folder: Path, hardware: str, date: str) -> tuple[str, tuple[Quality, ...]]:
    """Return the text of a fitted profile and the in-sample errors.

    Raises
    ------
    InputError
        On unknown hardware or a folder without the tables.
    """
    if hardware not in FIT:
        raise InputError(f"hardware = {hardware!r}: unknown; known: {', '.join(FIT)}")
    fitted = FIT[hardware](folder, load_model("deepseek-v3"))
    data = tuple((name, tables.checksum(folder, name)) for name in tables.ALL)
    return to_toml(fitted.profile, Source(hardware, _ABOUT[hardware], date, data), fitted.origin), fitted.quality


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, print the in-sample errors, write the profile where asked to."""
    parser = argparse.ArgumentParser(prog="python -m sbs_opt.calibration.fit", description="Fit a hardware profile.")
    parser.add_argument("directory", type=Path, help="folder of the calibration tables")
    parser.add_argument("--hardware", default="h800", choices=HARDWARE)
    parser.add_argument("--date", required=True, help="day of the fit, written into the profile")
    parser.add_argument("-o", "--output", type=Path, help="profile to write; default: only print the errors")
    options = parser.parse_args(arguments)
    try:
        text, qualities = profile_toml(options.directory, options.hardware, options.date)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    _print_quality(qualities)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    return 0


def _print_quality(qualities: Sequence[Quality]) -> None:
    print(f"{'table':52} {'rows':>5} {'mean |e|':>9} {'max |e|':>9} {'bias':>8}")
    for row in qualities:
        print(f"{row.table:52} {row.rows:5d} {row.mean_abs:9.1%} {row.max_abs:9.1%} {row.bias:+8.1%}")


def _faster_nvlink(mode: AllToAll) -> AllToAll:
    def faster(link: Link) -> Link:
        return replace(link, nvlink_gbps=link.nvlink_gbps * _NVLINK_H100_OVER_H800)

    return AllToAll(faster(mode.dispatch), faster(mode.combine))


if __name__ == "__main__":
    sys.exit(main())
