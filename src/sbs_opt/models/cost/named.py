"""Deployments of one phase by name: ``<gpu>-<model>-<phase>-ep<N>``, as in ``h800-deepseek-v3-prefill-ep32``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sbs_opt.models.cost.profile_file import list_profiles
from sbs_opt.models.errors import InputError

DECODE_IMBALANCE = 1 / 0.81
"""Max/mean of expert tokens per rank in decode: mean/max .81 published for 72 GPUs with expert rebalancing."""

REFERENCE = (
    "h800-deepseek-v3-prefill-ep32",
    "h800-deepseek-v3-decode-ep144",
    "h100-deepseek-v3-prefill-ep32",
    "h100-deepseek-v3-decode-ep72",
    "h800-deepseek-v3-prefill-ep16",
    "h200-deepseek-v3-prefill-ep16",
    "h200-deepseek-v3-decode-ep16",
    "h20-deepseek-v3-decode-ep32",
    "h800-kimi-k2-prefill-ep32",
    "h800-qwen3-235b-a22b-prefill-ep8",
)
"""Names worth showing; every other GPU, model, phase and number of ranks goes as well."""

_MOST_RANKS = 4096


@dataclass(frozen=True, slots=True)
class Phase:
    """One instance: all ranks of an expert-parallel group in one phase.

    Parameters
    ----------
    hardware, model
        Names of profiles.
    phase
        Prefill or decode.
    units
        Data-parallel units = expert-parallel ranks.
    """

    hardware: str
    model: str
    phase: Literal["prefill", "decode"]
    units: int


def parse_phase(name: str) -> Phase:
    """Return the instance that a name describes.

    Raises
    ------
    InputError
        The name is not of the form, or names an unknown GPU or model.
    """
    hardware, models = list_profiles()
    found = re.fullmatch(r"([^-]+)-(.+)-(prefill|decode)-ep([1-9][0-9]{0,5})", name)
    if not found:
        raise InputError(
            f"deployment = {name!r}: write <gpu>-<model>-prefill-ep<N> or <gpu>-<model>-decode-ep<N>, "
            f"for example {REFERENCE[0]}"
        )
    gpu, model, phase, units = found[1], found[2], found[3], int(found[4])
    for what, given, known in (("GPU", gpu, hardware), ("model", model, models)):
        if given not in known:
            raise InputError(f"deployment = {name!r}: unknown {what} {given!r}; known: {', '.join(known)}")
    if units > _MOST_RANKS:
        raise InputError(f"deployment = {name!r}: {units:,} ranks are too many; give at most {_MOST_RANKS:,}")
    return Phase(gpu, model, "prefill" if phase == "prefill" else "decode", units)
