"""Writing a hardware profile: every constant with value, unit and source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from sbs_opt.models.cost.profile import HardwareProfile, Source
from sbs_opt.models.errors import InternalError

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
    ("_factor", "1"),
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
    lines = [f'{key} = "{getattr(head, key)}"' for key in ("name", "about", "date")]
    lines += ["", "[data]  # sha256 of the tables fitted on", *(f'"{file}" = "{digest}"' for file, digest in head.data)]
    lines += _sections(profile, "", origin)
    return "\n".join(lines) + "\n"


def _sections(table: Any, path: str, origin: Mapping[str, str]) -> list[str]:
    lines = ["", f"[{path}]"] if path else []
    nested: list[str] = []
    for field in fields(table):
        value, here = getattr(table, field.name), f"{path}.{field.name}".lstrip(".")
        if is_dataclass(value):
            nested += _sections(value, here, origin)
        else:
            row = f'value = {_number(value)}, unit = "{_unit(field.name)}", source = "{_origin(here, origin)}"'
            lines.append(f"{field.name} = {{ {row} }}")
    return lines + nested


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
