"""Writing a hardware profile: every constant with value, unit and source, every law with its evidence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from sbs_opt.models.cost.profile import Evidence, HardwareProfile, Source
from sbs_opt.models.errors import InternalError

Constant = tuple[str, str, str, str]
"""Dotted path, value, unit, source."""

_UNITS = (
    ("ns_per_kb", "ns per 1000 B"),
    ("ns_per_k", "ns per value along k"),
    ("_token_ns", "ns per token"),
    ("_ns", "ns"),
    ("tflops", "TFLOP/s"),
    ("gbps", "GB/s"),
    ("_bytes", "B"),
    ("gpus_per_node", "GPUs"),
    ("sms", "streaming multiprocessors"),
    ("_cap", "tokens"),
    ("_share", "1"),
    ("_rows", "rows per expert"),
    ("_tiles", "tiles per row of tiles"),
)


def to_toml(profile: HardwareProfile, head: Source, origin: Mapping[str, str]) -> str:
    """Return the text of a profile.

    Parameters
    ----------
    profile
        The constants; numbers are written with six significant digits.
    head
        Name, description, date, and the tables with their sha256.
    origin
        Source of each constant by dotted path; a section's entry covers all in it that have none of their own.
    """
    lines = [f"{key} = {_text(getattr(head, key))}" for key in ("name", "about", "date")]
    lines += [f"extrapolated = {_text(head.extrapolated)}"] * bool(head.extrapolated)
    lines += [
        "",
        "[data]  # sha256 of the tables fitted on",
        *(f"{_text(file)} = {_text(sum_)}" for file, sum_ in head.data),
    ]
    section = ""
    for path, value, unit, source in constants(profile, origin):
        above, _, name = path.rpartition(".")
        if above != section:
            lines += ["", f"[{above}]"]
            section = above
        lines.append(f"{name} = {{ value = {value}, unit = {_text(unit)}, source = {_text(source)} }}")
    for law, evidence in profile.evidence:
        lines += ["", f"[evidence.{law}]", *_evidence(evidence)]
    return "\n".join(lines) + "\n"


def constants(profile: HardwareProfile, origin: Mapping[str, str]) -> tuple[Constant, ...]:
    """Return dotted path, value, unit and source of every constant; `origin` as in `to_toml`."""
    return tuple(_constants(profile, "", origin))


def _constants(table: Any, path: str, origin: Mapping[str, str]) -> Iterator[Constant]:
    for field in fields(table):
        value, here = getattr(table, field.name), f"{path}.{field.name}".lstrip(".")
        if is_dataclass(value):
            yield from _constants(value, here, origin)
        elif field.name != "evidence":
            yield here, _number(value), _unit(field.name), _origin(here, origin)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON string is a basic string of TOML


def _evidence(evidence: Evidence) -> list[str]:
    lines = [f"{key} = {getattr(evidence, key):g}" for key in ("rows", "mean_error", "max_error", "left_out_error")]
    ranges = ", ".join(f"{quantity} = [{low:.10g}, {high:.10g}]" for quantity, low, high in evidence.ranges)
    return [*lines, f"range = {{ {ranges} }}"]


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _unit(name: str) -> str:
    for suffix, unit in _UNITS:
        if name.endswith(suffix):
            return unit
    raise InternalError(f"constant {name} has no unit")


def _origin(path: str, origin: Mapping[str, str]) -> str:
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        key = ".".join(parts[:length])
        if key in origin:
            return origin[key]
    raise InternalError(f"constant {path} has no source")
