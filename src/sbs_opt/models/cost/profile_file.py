"""Profiles as TOML files where every constant names its unit and its source.

A constant is a table ``{ value = …, unit = "…", source = "…" }``; sections nest as the dataclasses do. ``[evidence.…]``
says how well the law of a section fits and where it was measured.
"""

from __future__ import annotations

import tomllib
from dataclasses import fields, is_dataclass, replace
from importlib import resources
from math import nan
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from sbs_opt.models.cost.model import Attention, GroupedAttention, LatentAttention, ModelProfile
from sbs_opt.models.cost.profile import Evidence, HardwareProfile, Source
from sbs_opt.models.errors import InputError

Profile = TypeVar("Profile", HardwareProfile, ModelProfile)


def list_profiles() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the bundled (hardware, model) profiles."""
    return _names("hardware"), _names("model")


def load_hardware(name: str) -> HardwareProfile:
    """Return a hardware profile by name or path of a TOML file.

    Raises
    ------
    InputError
        Unknown name, unreadable file, or a constant that is unknown, missing, unsourced or out of range.
    """
    profile = _load(HardwareProfile, "hardware", name)
    return replace(profile, evidence=_evidence(_parse("hardware", name).get("evidence", {}), name))


def load_model(name: str) -> ModelProfile:
    """Return a model profile by name or path of a TOML file; errors as `load_hardware`."""
    return _load(ModelProfile, "model", name)


def load_source(kind: str, name: str) -> Source:
    """Return what the `kind` ("hardware" or "model") profile says about its origin."""
    table = _parse(kind, name)
    data = tuple(sorted(table.get("data", {}).items()))
    return Source(table["name"], table["about"], table["date"], data, str(table.get("extrapolated", "")))


_SUFFIX = {"hardware": ".hardware.toml", "model": ".model.toml"}
_MAY_BE_ZERO = ("_ns", "_ns_per_k", "_ns_per_kb", "dense_layers", "dense_width", "shared_experts", "communication_sms")
_HEAD = ("name", "about", "date", "data", "evidence", "extrapolated")
_KIND_OF_ATTENTION = {"latent": LatentAttention, "grouped": GroupedAttention}


def _names(kind: str) -> tuple[str, ...]:
    folder = resources.files("sbs_opt.models") / "profiles"
    found = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX[kind]) for name in found if name.endswith(_SUFFIX[kind])))


def _parse(kind: str, name: str) -> dict[str, Any]:
    if name in _names(kind):
        text = (resources.files("sbs_opt.models") / "profiles" / (name + _SUFFIX[kind])).read_text("utf-8")
    else:
        path = Path(name)
        if not path.is_file():
            known = ", ".join(_names(kind))
            raise InputError(f"{kind} profile {name!r}: unknown; known: {known}, or give the path of a TOML file")
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{kind} profile {name}: cannot be read: {error}") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{kind} profile {name}: not TOML: {error}") from error
    for key in ("name", "about", "date"):
        if not isinstance(table.get(key), str):
            raise InputError(f'{kind} profile {name}: needs {key} = "…" at its top')
    return table


def _load(kind: type[Profile], what: str, name: str) -> Profile:
    table = _parse(what, name)
    body = {key: value for key, value in table.items() if key not in _HEAD}
    profile: Profile = _build(kind, body, f"{what} profile {name}", extra=_HEAD)
    return profile


def _build(kind: Any, table: Any, where: str, extra: tuple[str, ...] = ()) -> Any:
    """Fill a dataclass from a table: nested dataclasses from sections, numbers from sourced constants."""
    if not isinstance(table, dict):
        raise InputError(f"{where}: expected a table, found {table!r}")
    known = [field.name for field in fields(kind) if field.name not in _HEAD]
    for key in table:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; known keys: {', '.join((*extra, *known))}")
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key in known:
        if key not in table:
            raise InputError(f"{where}: lacks {key!r}; it needs: {', '.join(known)}")
        hint = hints[key]
        here = f"{where}: {key}"
        if hint == Attention:
            values[key] = _attention(table[key], here)
        else:
            values[key] = _build(hint, table[key], here) if is_dataclass(hint) else _constant(hint, table[key], here)
    return kind(**values)


def _attention(table: Any, where: str) -> Attention:
    kind = table.get("kind") if isinstance(table, dict) else None
    if kind not in _KIND_OF_ATTENTION:
        raise InputError(f"{where}: kind = {kind!r}, must be one of {', '.join(_KIND_OF_ATTENTION)}")
    body = {key: value for key, value in table.items() if key != "kind"}
    attention: Attention = _build(_KIND_OF_ATTENTION[kind], body, where, extra=("kind",))
    return attention


def _evidence(table: Any, name: str) -> tuple[tuple[str, Evidence], ...]:
    try:
        return tuple(
            (
                section,
                Evidence(
                    int(row["rows"]),
                    float(row["mean_error"]),
                    float(row["max_error"]),
                    float(row.get("left_out_error", nan)),
                    tuple((key, float(low), float(high)) for key, (low, high) in row["range"].items()),
                ),
            )
            for section, row in table.items()
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"hardware profile {name}: evidence: each section needs rows, mean_error, max_error and "
            f"range = {{ quantity = [least, most] }} ({error!r})"
        ) from error


def _constant(hint: Any, row: Any, where: str) -> Any:
    if not isinstance(row, dict) or set(row) != {"value", "unit", "source"} or not str(row["source"]).strip():
        raise InputError(f'{where}: write {{ value = …, unit = "…", source = "…" }}, a source is a must')
    value = row["value"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InputError(f"{where}: value = {value!r}, must be a number of at least 0")
    if hint is int and not isinstance(value, int):
        raise InputError(f"{where}: value = {value!r}, must be a whole number")
    if value == 0 and not where.endswith(_MAY_BE_ZERO):
        raise InputError(f"{where}: value = 0, must be positive")
    return hint(value)
