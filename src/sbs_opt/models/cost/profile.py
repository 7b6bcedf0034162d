"""Profiles: the constants of a GPU and of a model, read from TOML where every constant names its unit and source.

A constant is a table ``{ value = …, unit = "…", source = "…" }``; sections nest as the dataclasses below do.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

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
    overlap_factor
        Overlapped time over the longer of compute and communication.
    """

    layer_ns: float
    waiting_token_ns: float
    stream_gbps: float
    communication_sms: int
    overlap_factor: float


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
class HardwareProfile:
    """Speeds of one kind of GPU in its cluster."""

    device: Device
    prefill_attention: PrefillAttention
    decode_attention: DecodeAttention
    gemm: Gemm
    grouped_gemm: GroupedGemm
    alltoall_normal: AllToAll
    alltoall_low_latency: AllToAll
    prefill_pass: PrefillPass
    decode_step: DecodeStep


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """Shape of a mixture-of-experts model with multi-head latent attention."""

    layers: int
    dense_layers: int
    hidden: int
    vocabulary: int
    heads: int
    query_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    dense_width: int
    expert_width: int
    routed_experts: int
    shared_experts: int
    top_experts: int
    expert_groups: int
    top_groups: int
    kv_bytes: int
    dispatch_bytes: int
    dispatch_bytes_low_latency: int
    combine_bytes: int

    @property
    def moe_layers(self) -> int:
        """Layers with routed experts."""
        return self.layers - self.dense_layers

    @property
    def projections(self) -> tuple[tuple[int, int], ...]:
        """(k, n) of the attention GEMMs that run once per new token: q_a, kv_a, q_b, o."""
        return (
            (self.hidden, self.query_rank),
            (self.hidden, self.kv_rank + self.rope_dim),
            (self.query_rank, self.heads * (self.nope_dim + self.rope_dim)),
            (self.heads * self.value_dim, self.hidden),
        )

    @property
    def kv_projection(self) -> tuple[int, int]:
        """(k, n) of kv_b: once per new token, and again for each prefix token of a chunk in prefill."""
        return self.kv_rank, self.heads * (self.nope_dim + self.value_dim)

    def feed_forward(self, width: int) -> tuple[tuple[int, int], ...]:
        """Return (k, n) of gate+up and of down for a feed-forward block of this width."""
        return (self.hidden, 2 * width), (width, self.hidden)

    @property
    def pair_flops(self) -> float:
        """FLOP per (query, key) pair and layer, non-absorbed."""
        return 2.0 * self.heads * (self.nope_dim + self.rope_dim + self.value_dim)

    @property
    def absorbed_flops(self) -> float:
        """FLOP per KV token and layer in decode, absorbed: scores over rank + rope, output over rank."""
        return 2.0 * self.heads * (2 * self.kv_rank + self.rope_dim)

    @property
    def attention_bytes(self) -> float:
        """BF16 bytes of query and output of a token, and equally of its key and value, per layer."""
        return 2.0 * self.heads * (self.nope_dim + self.rope_dim + self.value_dim)

    @property
    def elementwise_bytes(self) -> tuple[float, float]:
        """HBM bytes per layer that elementwise kernels move, per new token and per context token.

        Counted, not measured. New: two residual-and-norm passes (4 BF16 vectors each), two quantisations to FP8 (3 B a
        value), rotation of the query (read, write), quantisation of the attention output, activation of the shared
        expert. Context: the key is assembled from the no-position part (read) and the rotated part (write all).
        """
        head = self.nope_dim + self.rope_dim
        new = (
            16.0 * self.hidden
            + 6.0 * self.hidden
            + 4.0 * self.heads * head
            + 3.0 * self.heads * self.value_dim
            + 5.0 * self.expert_width * self.shared_experts
        )
        return new, 2.0 * self.heads * (self.nope_dim + head)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a profile comes from: shown by `sbs-opt cost`, never used in a computation."""

    name: str
    about: str
    date: str
    data: tuple[tuple[str, str], ...] = ()
    """(file, sha256) of the measurements it was fitted on."""


Profile = TypeVar("Profile", HardwareProfile, ModelProfile)


def list_profiles() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the bundled (hardware, model) profiles."""
    return _names("hardware"), _names("model")


def load_hardware(name: str) -> HardwareProfile:
    """Return a hardware profile by name or path of a TOML file."""
    return _load(HardwareProfile, "hardware", name)


def load_model(name: str) -> ModelProfile:
    """Return a model profile by name or path of a TOML file."""
    return _load(ModelProfile, "model", name)


def load_source(kind: str, name: str) -> Source:
    """Return what the `kind` ("hardware" or "model") profile says about its origin."""
    table = _parse(kind, name)
    return Source(table["name"], table["about"], table["date"], tuple(sorted(table.get("data", {}).items())))


_SUFFIX = {"hardware": ".hardware.toml", "model": ".model.toml"}
_MAY_BE_ZERO = ("_ns", "_ns_per_k", "_ns_per_kb", "dense_layers", "shared_experts", "communication_sms")
_HEAD = ("name", "about", "date", "data")


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
    known = [field.name for field in fields(kind)]
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
        values[key] = _build(hint, table[key], here) if is_dataclass(hint) else _constant(hint, table[key], here)
    return kind(**values)


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
