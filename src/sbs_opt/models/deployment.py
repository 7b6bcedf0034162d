"""The fleet: instances of data-parallel units, each instance one barrier group."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from sbs_opt.models.errors import InputError

Phase = Literal["prefill", "decode"]

MOST_UNITS = 4_096
"""Units of one instance, and instances of one name."""
MOST_TOKENS = 1 << 40
"""Any budget of tokens: sums over a fleet stay far from the end of int64."""
MOST_SLOTS = 65_536


@dataclass(frozen=True, slots=True)
class Unit:
    """Budgets of one data-parallel attention unit (one GPU in the reference fleet).

    Parameters
    ----------
    kv_tokens
        Tokens of KV cache that fit on the unit.
    chunk_tokens
        Prefill: new tokens that one pass may run on the unit.
    slots
        Decode: sequences that may run on the unit at once.
    """

    kv_tokens: int
    chunk_tokens: int = 0
    slots: int = 0


@dataclass(frozen=True, slots=True)
class Instance:
    """One EP instance: `num_units` equal units behind one barrier.

    Parameters
    ----------
    name
        Unique within the deployment.
    phase
        "prefill" or "decode".
    num_units
        Data-parallel units, equal to the EP degree in the reference fleet.
    unit
        Budgets of each unit.
    """

    name: str
    phase: Phase
    num_units: int
    unit: Unit

    def __post_init__(self) -> None:
        _text("instances", "name", self.name)
        where = f"instance {self.name}"
        if self.phase not in ("prefill", "decode"):
            raise InputError(f"{where}: phase = {self.phase!r}, must be 'prefill' or 'decode'")
        if not isinstance(self.unit, Unit):
            raise InputError(f"{where}: needs a unit = {{ kv_tokens = …, … }} table, not {self.unit!r}")
        is_prefill = self.phase == "prefill"
        _whole(where, "num_units", self.num_units, 1, MOST_UNITS)
        _whole(where, "kv_tokens", self.unit.kv_tokens, 1, MOST_TOKENS)
        _whole(where, "chunk_tokens", self.unit.chunk_tokens, int(is_prefill), MOST_TOKENS)
        _whole(where, "slots", self.unit.slots, int(not is_prefill), MOST_SLOTS)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A prefill/decode-disaggregated fleet.

    Parameters
    ----------
    name
        Shown in results.
    instances
        All instances; prefill and decode units are numbered apart, in this order.
    hardware, model
        Names of the cost model's profiles.
    context_tokens
        Longest prompt that the model serves; a longer one is rejected as `too_large`.
    overlap
        Whether prefill overlaps two micro-batches (compute of one with all-to-all of the other).
    """

    name: str
    instances: tuple[Instance, ...]
    hardware: str
    model: str
    context_tokens: int
    overlap: bool = True

    def __post_init__(self) -> None:
        for key in ("name", "hardware", "model"):
            _text("deployment", key, getattr(self, key))
        names = [instance.name for instance in self.instances]
        if len(set(names)) != len(names):
            raise InputError(f"deployment {self.name}: instance names repeat: {', '.join(names)}")
        if not self.of_phase("prefill"):
            raise InputError(f"deployment {self.name}: has no prefill instance")
        for phase in ("prefill", "decode"):
            # One block of unit state per phase keeps the hot path in plain arrays.
            if len({(i.num_units, i.unit) for i in self.of_phase(phase)}) > 1:
                raise InputError(f"deployment {self.name}: the {phase} instances differ; they must be equal")
        _whole(f"deployment {self.name}", "context_tokens", self.context_tokens, 1, MOST_TOKENS)
        if not isinstance(self.overlap, bool):
            raise InputError(f"deployment {self.name}: overlap = {self.overlap!r}, must be true or false")

    def of_phase(self, phase: Phase) -> tuple[Instance, ...]:
        """Return the instances of one phase, in order."""
        return tuple(instance for instance in self.instances if instance.phase == phase)


def deployment_from_dict(data: dict[str, object]) -> Deployment:
    """Build a deployment from parsed TOML; an unknown key is an error that lists the known ones.

    ``[[instances]]`` tables carry name, phase, num_units and a `unit` table; `count` repeats one (name-0, name-1, …).
    """
    top = dict(data)
    rows = top.pop("instances", [])
    _only("deployment", top, {f.name for f in fields(Deployment)} - {"instances"})
    _needs("deployment", top, ("name", "hardware", "model", "context_tokens"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError("deployment: write instances as [[instances]] tables")
    instances = tuple(instance for row in rows for instance in _instances(row))
    return Deployment(instances=instances, **top)  # type: ignore[arg-type]  # types are checked there


def _instances(given: dict[str, Any]) -> list[Instance]:
    row = dict(given)
    unit, count = row.pop("unit", None), row.pop("count", None)
    _only("instances", row, {"name", "phase", "num_units"}, extra="unit, count")
    _needs("instances", row, ("name",))
    name = row.pop("name")
    _text("instances", "name", name)
    where = f"instance {name}"
    _needs(where, row, ("phase", "num_units"))
    if not isinstance(unit, dict):
        raise InputError(f"{where}: needs a unit = {{ kv_tokens = …, … }} table")
    _only("unit", unit, {f.name for f in fields(Unit)})
    _needs(f"{where}, unit", unit, ("kv_tokens",))
    budgets = Unit(**unit)
    if count is None:
        return [Instance(name, **row, unit=budgets)]
    _whole(where, "count", count, 1, MOST_UNITS)
    return [Instance(f"{name}-{k}", **row, unit=budgets) for k in range(count)]


def _whole(where: str, key: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{where}: {key} = {value!r}, must be a whole number from {least} to {most:,}")


def _text(where: str, key: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {key} = {value!r}, must be text that is not empty")


def _needs(where: str, table: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys:
        if key not in table:
            raise InputError(f"{where}: needs a {key} = …")


def _only(what: str, table: dict[str, Any], known: set[str], extra: str = "") -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        names = ", ".join(sorted(known)) + (f", {extra}" if extra else "")
        raise InputError(f"{what}: unknown key {unknown[0]!r}; known keys: {names}")
