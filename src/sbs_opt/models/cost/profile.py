"""The profile of a GPU: the constants of its laws, and the evidence for them."""

from __future__ import annotations

from dataclasses import dataclass

from sbs_opt.models.cost.laws import AllToAll, DecodeAttention, Gemm, GroupedGemm, PrefillAttention
from sbs_opt.models.errors import InputError


@dataclass(frozen=True, slots=True)
class Device:
    """What one GPU is: memory in bytes, spec bandwidth, streaming multiprocessors, and how many share a node."""

    hbm_bytes: int
    hbm_gbps: float
    gpus_per_node: int
    sms: int


@dataclass(frozen=True, slots=True)
class PrefillPass:
    """What no kernel table holds: calibrated on whole passes.

    Parameters
    ----------
    layer_ns
        Fixed cost of one layer and micro-batch: launches, routing bookkeeping, synchronisation.
    waiting_token_ns
        Per MoE layer and token on the busiest expert rank: permutation, expert activation and waiting.
    stream_gbps
        Rate of elementwise kernels over HBM.
    communication_sms
        Streaming multiprocessors lent to communication while micro-batches overlap.
    sm_bound_share
        Share of the time of attention and GEMMs that grows as multiprocessors are lent; the rest waits for memory.
    """

    layer_ns: float
    waiting_token_ns: float
    stream_gbps: float
    communication_sms: int
    sm_bound_share: float

    def stretch(self, sms: int) -> float:
        """Return how much longer attention and GEMMs take while micro-batches overlap, on a GPU of `sms`."""
        return 1.0 + self.sm_bound_share * (sms / (sms - self.communication_sms) - 1.0)


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """What no kernel table holds.

    Parameters
    ----------
    layer_ns
        Fixed cost of one layer and micro-batch.
    dispatch_cap
        Tokens that a rank may dispatch per micro-batch in low-latency mode.
    """

    layer_ns: float
    dispatch_cap: int


@dataclass(frozen=True, slots=True)
class Host:
    """What a call from the host adds in the measurements that a profile was fitted on.

    Parameters
    ----------
    call_ns
        Per call timed alone. A pass launches ahead and does not pay it.
    """

    call_ns: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """How well a law fits its measurements and where they lie.

    Parameters
    ----------
    rows
        Measurements.
    mean_error, max_error
        Relative, in sample.
    left_out_error
        Mean relative error of rows that the fit did not see (cross-validation); NaN where there are too few.
    ranges
        (quantity, least, most) measured.
    """

    rows: int
    mean_error: float
    max_error: float
    left_out_error: float
    ranges: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """Speeds of one kind of GPU in its cluster."""

    device: Device
    host: Host
    prefill_attention: PrefillAttention
    decode_attention: DecodeAttention
    gemm: Gemm
    grouped_gemm: GroupedGemm
    alltoall_normal: AllToAll
    alltoall_low_latency: AllToAll
    prefill_pass: PrefillPass
    decode_step: DecodeStep
    evidence: tuple[tuple[str, Evidence], ...] = ()
    """(section, evidence) of each fitted law."""

    def __post_init__(self) -> None:
        """Refuse communication that leaves no multiprocessor to compute."""
        lent, sms = self.prefill_pass.communication_sms, self.device.sms
        if lent >= sms:
            raise InputError(f"prefill_pass.communication_sms = {lent}: must be less than device.sms = {sms}")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a profile comes from: shown, never used in a prediction."""

    name: str
    about: str
    date: str
    data: tuple[tuple[str, str], ...] = ()
    """(file, sha256) of the measurements it was fitted on."""
    extrapolated: str = ""
    """Why its figures are not those of anything measured; empty where they are."""
