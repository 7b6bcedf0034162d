"""What `sbs-opt serve` is told: a frozen form of router.toml."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints
from urllib.parse import urlsplit

from sbs_opt.models.cost import CostModel, load_cost_model
from sbs_opt.models.deployment import Deployment, Instance, Unit
from sbs_opt.models.errors import InputError
from sbs_opt.scheduler.config import SchedulerConfig, config_from_dict
from sbs_opt.scheduler.policies import policy_info

KINDS = ("sglang", "vllm", "dynamo", "openai")
"""How a request is pinned to a rank: body field, header, headers with the worker's instance, not at all."""

PHASES = ("both", "prefill", "decode")
"""What an upstream runs of a request."""

_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
_MOST_BODY = 1 << 30
_LEAD_NS = 60_000_000
"""What a batch of some sixty requests takes until all of it has reached an engine."""

_MOST_SEQUENCES = 1 << 16
"""Of a decode unit; the engine knows its own limit, and queues."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One engine behind the router.

    Parameters
    ----------
    name
        Shown in metrics and errors.
    url
        Where its OpenAI-compatible API stands, without a path; a slash at its end is dropped.
    kind
        One of `KINDS`.
    phase
        "both", or the leg that it runs of disaggregated prefill and decode (`sglang` alone).
    bootstrap_port
        Of a prefill leg: where decode legs fetch the cache; as its `--disaggregation-bootstrap-port`.
    instance_id
        Of a `dynamo` worker; None takes the k-th of those that its frontend tells for the k-th upstream with its URL.
    """

    name: str
    url: str
    kind: str
    phase: str = "both"
    bootstrap_port: int = 8998
    instance_id: int | None = None

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise InputError(f"upstream {self.name}: phase = {self.phase!r}: must be one of {', '.join(PHASES)}")
        if self.phase != "both" and self.kind != "sglang":
            raise InputError(f"upstream {self.name}: phase = {self.phase!r}: legs are known of kind sglang alone")
        if self.kind not in KINDS:
            raise InputError(f"upstream {self.name}: kind = {self.kind!r}: must be one of {', '.join(KINDS)}")
        if not _is_origin(self.url):
            raise InputError(f"upstream {self.name}: url = {self.url!r}: write http://host:port, without a path")
        object.__setattr__(self, "url", self.url.rstrip("/"))


@dataclass(frozen=True, slots=True)
class Engines:
    """What all upstreams are alike in: data-parallel ranks and their budgets, and what their passes cost.

    Parameters
    ----------
    ranks
        Data-parallel units of each upstream.
    chunk_tokens, kv_tokens, context_tokens
        New tokens of a rank and pass; KV tokens of a rank; longest prompt.
    hardware, model
        Profiles of the cost model.
    overlap
        Whether prefill overlaps two micro-batches.
    decode_ranks
        Data-parallel units of each decode leg; 0 = as many as `ranks`.
    """

    ranks: int
    chunk_tokens: int = 16_384
    kv_tokens: int = 400_000
    context_tokens: int = 131_072
    hardware: str = "h800"
    model: str = "deepseek-v3"
    overlap: bool = True
    decode_ranks: int = 0

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise InputError(f"engines: ranks = {self.ranks!r}: must be at least 1")


@dataclass(frozen=True, slots=True)
class Shadow:
    """An existing router that keeps deciding, while this one records what it would have done.

    Parameters
    ----------
    url
        Where the existing router stands; every request goes there at once, and nowhere else.
    baseline
        Policy that stands for the existing router in the comparison.
    stretch_s
        Seconds of traffic that are compared at a time.
    """

    url: str
    baseline: str = "sglang.total_tokens"
    stretch_s: float = 60.0

    def __post_init__(self) -> None:
        Upstream("shadow", self.url, "openai")
        policy_info(self.baseline, "prefill")
        if isinstance(self.stretch_s, bool) or not isinstance(self.stretch_s, int | float) or not self.stretch_s >= 1:
            raise InputError(f"shadow: stretch_s = {self.stretch_s!r}: must be a number of at least 1")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server bears.

    Parameters
    ----------
    body_bytes
        Largest body of a request; beyond it is 413.
    waiting
        Requests held for a placement at most; beyond it is 429.
    hold_s
        A request that was held for so long, however often it had to be placed, is answered 503.
    attempts
        Placements of a request at most, when upstreams fail before its first token.
    connect_s
        For a connection to an upstream.
    silence_s
        Silence of an upstream that is taken as its failure, where an answer comes token by token.
    whole_s
        The same where it comes in one piece: all of it is generated in silence.
    health_s, telemetry_s
        Between two looks at an upstream's health, and at its load.
    look_s
        For an answer about its health: some engines generate a token first, behind all that is queued. Three looks in
        a row without one eject it.
    drain_s
        For answers that are under way when the server is told to stop.
    settle_s
        At the start, an engine that reports waiting prompts of others takes nothing for so long at most.
    """

    body_bytes: int = 16 * 2**20
    waiting: int = 10_000
    hold_s: float = 30.0
    attempts: int = 3
    connect_s: float = 2.0
    silence_s: float = 120.0
    whole_s: float = 600.0
    health_s: float = 2.0
    telemetry_s: float = 1.0
    look_s: float = 20.0
    drain_s: float = 60.0
    settle_s: float = 10.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST_BODY:
                raise InputError(f"limits: {one.name} = {value!r}: must be a number above 0")


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Everything that `sbs-opt serve` can be told.

    Parameters
    ----------
    upstreams
        At least one.
    engines, limits, scheduler
        See there.
    host, port
        Where it listens; anything but a loopback address needs `token` or `open_to_all`.
    token
        Bearer token that clients must show; None asks for none.
    open_to_all
        Listen beyond loopback without a token.
    characters_per_token
        Where the estimate of prompt lengths starts; it learns from `usage`.
    tokenizer
        A local tokenizer.json that counts instead; None without.
    shadow
        See `Shadow`; None places requests.
    passes
        host:port at which engines tell when their passes end (docs/telemetry.md), each under its upstream's name;
        None listens to nobody.
    """

    upstreams: tuple[Upstream, ...]
    engines: Engines
    limits: Limits = field(default_factory=Limits)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    open_to_all: bool = False
    characters_per_token: float = 4.0
    tokenizer: str | None = None
    shadow: Shadow | None = None
    passes: str | None = None

    def __post_init__(self) -> None:
        names = [upstream.name for upstream in self.upstreams]
        if not names or len(set(names)) != len(names):
            raise InputError(f"upstreams: names = {names}: give at least one, each with a name of its own")
        if self.decode_upstreams and any(upstream.phase == "both" for upstream in self.upstreams):
            raise InputError("upstreams: a deployment with decode legs has prefill legs beside them, and no phase both")
        if not self.prefill_upstreams or self.disaggregated != bool(self.decode_upstreams):
            raise InputError("upstreams: prefill legs need decode legs, and decode legs prefill legs")
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 0 <= self.port < 1 << 16:
            raise InputError(f"port = {self.port!r}: must be a whole number below 65,536")
        self.passes_address()
        if not (_is_loopback(self.host) or self.token or self.open_to_all):
            raise InputError(f"host = {self.host!r}: is not loopback; set token, or open_to_all = true")

    def passes_address(self) -> tuple[str, int] | None:
        """Return host and port of `passes`."""
        if self.passes is None:
            return None
        host, colon, port = str(self.passes).rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
            raise InputError(f"passes = {self.passes!r}: write host:port, as 127.0.0.1:29500")
        return host.strip("[]"), int(port)

    @property
    def prefill_upstreams(self) -> tuple[Upstream, ...]:
        """What requests are placed on, in the order of the scheduler's instances."""
        return tuple(upstream for upstream in self.upstreams if upstream.phase != "decode")

    @property
    def decode_upstreams(self) -> tuple[Upstream, ...]:
        """The decode legs; none where engines run both phases."""
        return tuple(upstream for upstream in self.upstreams if upstream.phase == "decode")

    @property
    def disaggregated(self) -> bool:
        """Whether prefill and decode run on different engines."""
        return any(upstream.phase == "prefill" for upstream in self.upstreams)

    def ranks_of(self, upstream: Upstream) -> int:
        """Return the data-parallel units of an upstream."""
        of = self.engines
        return of.decode_ranks or of.ranks if upstream.phase == "decode" else of.ranks

    @property
    def deployment(self) -> Deployment:
        """The upstreams as prefill and decode instances."""
        of = self.engines
        unit = Unit(kv_tokens=of.kv_tokens, chunk_tokens=of.chunk_tokens)
        prefill = [Instance(upstream.name, "prefill", of.ranks, unit) for upstream in self.prefill_upstreams]
        slots = Unit(kv_tokens=of.kv_tokens, slots=_MOST_SEQUENCES)
        decode = [Instance(one.name, "decode", self.ranks_of(one), slots) for one in self.decode_upstreams]
        return Deployment("serve", (*prefill, *decode), of.hardware, of.model, of.context_tokens, of.overlap)

    def cost_model(self) -> CostModel:
        """Return the cost model of the upstreams."""
        of = self.engines
        return load_cost_model(
            of.hardware, of.model, prefill_units=of.ranks, decode_units=of.decode_ranks or of.ranks,
            chunk_tokens=of.chunk_tokens, overlap=of.overlap,
        )  # fmt: skip


def load_serve_config(path: str | Path) -> ServeConfig:
    """Return the configuration in a TOML file.

    Raises
    ------
    InputError
        Unreadable, not TOML, an unknown key (the known ones are listed), a missing one, or a value out of range.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise InputError(f"{path}: is not TOML: {error}") from error
    try:
        return _config(table)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _config(table: dict[str, Any]) -> ServeConfig:
    rest = dict(table)
    rows = rest.pop("upstreams", [])
    if not isinstance(rows, list):
        raise InputError("upstreams: write them as [[upstreams]] tables")
    if (shadow := rest.pop("shadow", None)) is not None:
        rest["shadow"] = _table(Shadow, shadow, "shadow")
    parts = {
        "upstreams": tuple(_table(Upstream, row, "upstreams") for row in rows),
        "engines": _table(Engines, rest.pop("engines", {}), "engines"),
        "limits": _table(Limits, rest.pop("limits", {}), "limits"),
        "scheduler": _scheduler(rest.pop("scheduler", {})),
    }
    config: ServeConfig = _table(ServeConfig, rest | parts, "top level")
    return config


def _scheduler(given: Any) -> SchedulerConfig:
    """Fill the scheduler's settings; a batch takes time to send, so it is committed earlier than in a simulation."""
    if not isinstance(given, dict):
        raise InputError(f"scheduler: expected a table, found {given!r}")
    return config_from_dict({"lead_ns": _LEAD_NS} | given)


def _table(kind: Any, given: Any, where: str) -> Any:
    """Fill a dataclass from a table."""
    if not isinstance(given, dict):
        raise InputError(f"{where}: expected a table, found {given!r}")
    known = {one.name: one for one in fields(kind)}
    hints = get_type_hints(kind)
    for name in given:
        if name not in known:
            raise InputError(f"{where}: unknown key {name!r}; known: {', '.join(known)}")
        _check_kind(hints[name], given[name], f"{where}: {name}")
    for name, one in known.items():
        if name not in given and one.default is MISSING and one.default_factory is MISSING:
            raise InputError(f"{where}: needs a {name} = …")
    return kind(**given)


def _check_kind(hint: Any, value: Any, what: str) -> None:
    """Raise `InputError` where a plain value is of another kind than its field; tables have been read already."""
    kind = next(one for one in get_args(hint) or (hint,) if one is not NoneType)
    if kind not in _KINDS:
        return
    fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{what} = {value!r}: must be {_KINDS[kind]}")


def _is_origin(url: str) -> bool:
    """Tell whether a URL names a server and nothing on it."""
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # half an IPv6 address, a port out of range
        return False
    return named and not (parts.path.strip("/") or any(mark in url for mark in "?#@"))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
