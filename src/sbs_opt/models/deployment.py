"""The fleet: instances of data-parallel units, each instance one barrier group."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from sbs_opt.models.errors import InputError

Phase = Literal["prefill", "decode"]


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
        if self.phase not in ("prefill", "decode"):
            raise InputError(f"instance {self.name}: phase = {self.phase!r}, must be 'prefill' or 'decode'")
        needed = "chunk_tokens" if self.phase == "prefill" else "slots"
        for name, value in (
            ("num_units", self.num_units),
            ("kv_tokens", self.unit.kv_tokens),
            (needed, getattr(self.unit, needed)),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"instance {self.name}: {name} = {value!r}, must be a whole number of at least 1")


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
        names = [instance.name for instance in self.instances]
        if len(set(names)) != len(names):
            raise InputError(f"deployment {self.name}: instance names repeat: {', '.join(names)}")
        if not self.of_phase("prefill"):
            raise InputError(f"deployment {self.name}: has no prefill instance")
        for phase in ("prefill", "decode"):
            # One block of unit state per phase keeps the hot path in plain arrays.
            if len({(i.num_units, i.unit) for i in self.of_phase(phase)}) > 1:
                raise InputError(f"deployment {self.name}: the {phase} instances differ; they must be equal")
        if isinstance(self.context_tokens, bool) or not isinstance(self.context_tokens, int) or self.context_tokens < 1:
            raise InputError(
                f"deployment {self.name}: context_tokens = {self.context_tokens}, must be a whole number of at least 1"
            )
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
    if not isinstance(rows, list):
        raise InputError("deployment: write instances as [[instances]] tables")
    instances: list[Instance] = []
    for given in rows:
        if not isinstance(given, dict):
            raise InputError("deployment: write instances as [[instances]] tables")
        row = dict(given)
        unit, count = row.pop("unit", None), row.pop("count", None)
        _only("instances", row, {"name", "phase", "num_units"}, extra="unit, count")
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise InputError(f"instance {row.get('name')}: count = {count!r}, must be a whole number of at least 1")
        if not isinstance(unit, dict):
            raise InputError(f"instance {row.get('name')}: needs a unit = {{ kv_tokens = …, … }} table")
        _only("unit", unit, {f.name for f in fields(Unit)})
        try:
            budgets = Unit(**unit)
            if count is None:
                instances.append(Instance(**row, unit=budgets))
            else:
                base = row.pop("name")
                instances += [Instance(name=f"{base}-{k}", **row, unit=budgets) for k in range(count)]
        except (TypeError, KeyError) as error:
            raise InputError(f"deployment: an instance lacks a key: {error}") from error
    try:
        return Deployment(instances=tuple(instances), **top)  # type: ignore[arg-type]
    except TypeError as error:
        raise InputError(f"deployment: {error}") from error


def _only(what: str, table: dict[str, object], known: set[str], extra: str = "") -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        names = ", ".join(sorted(known)) + (f", {extra}" if extra else "")
        raise InputError(f"{what}: unknown key {unknown[0]!r}; known keys: {names}")
