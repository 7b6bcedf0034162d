"""Forward passes as engines publish them: `ForwardPassMetrics`, one message per pass and rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sbs_opt.adapters.telemetry_records import TelemetryError, count_of, count_or_none, rank_of, said
from sbs_opt.models.errors import InputError

_FORWARD_PASS_VERSION = 1
_LONGEST_PASS_S = 1e6
# In the order of the wire: a sender may leave out the names (arrays), and new fields are only ever appended.
_MESSAGE = ("version", "worker_id", "dp_rank", "counter_id", "wall_time", "scheduled_requests", "queued_requests")
_PREFILL = ("num_prefill_requests", "sum_prefill_tokens", "var_prefill_length")
_DECODE = ("num_decode_requests", "sum_decode_kv_tokens", "var_decode_kv_tokens")
_SCHEDULED = (*_PREFILL, "sum_prefill_kv_tokens", *_DECODE)
_QUEUED = (*_PREFILL, *_DECODE)


@dataclass(frozen=True, slots=True)
class PassWork:
    """What ran in a pass, or what was queued meanwhile, on one rank.

    Parameters
    ----------
    prefill_requests, prefill_tokens
        Requests in prefill, and their tokens: computed in this pass, or the whole prompts where queued.
    prefill_kv_tokens
        Tokens read from the cache for them; 0 where queued.
    decode_requests, decode_kv_tokens
        Requests in decode (queued: preempted) and their context, tokens.
    var_prefill_length, var_decode_kv_tokens
        Population variances of prompt lengths and of contexts, tokens².
    """

    prefill_requests: int
    prefill_tokens: int
    prefill_kv_tokens: int
    decode_requests: int
    decode_kv_tokens: int
    var_prefill_length: float
    var_decode_kv_tokens: float


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """One pass of one rank as `ForwardPassMetrics` tells it.

    Parameters
    ----------
    worker_id, rank
        Which engine and rank.
    counter
        Number of the message, ascending per worker and rank; a gap is a message lost.
    duration_ns
        0 = no pass: the engine says that it is idle.
    scheduled, queued
        What ran, and what waited.
    """

    worker_id: str
    rank: int
    counter: int
    duration_ns: int
    scheduled: PassWork
    queued: PassWork


def parse_forward_pass_metrics(message: bytes, *, ranks: int | None = None) -> ForwardPass:
    """Return a `ForwardPassMetrics` message (msgpack) of SGLang, Dynamo, vLLM or TensorRT-LLM.

    Raises
    ------
    TelemetryError
        Malformed, of a version other than 1, or of a rank beyond `ranks`.
    InputError
        The package msgspec is not installed.
    """
    fields = _fields(_unpacked(message), _MESSAGE, "message")
    if fields["version"] != _FORWARD_PASS_VERSION:
        raise TelemetryError(f"version: is {said(fields['version'])}; known is {_FORWARD_PASS_VERSION}")
    worker_id = fields["worker_id"]
    if not isinstance(worker_id, str | int):
        raise TelemetryError(f"worker_id: is {said(worker_id)}, not a text")
    rank = rank_of(fields, "dp_rank", "message")
    if ranks is not None and rank >= ranks:
        raise TelemetryError(f"dp_rank: {rank} does not exist; there are {ranks}, from 0")
    return ForwardPass(
        worker_id=str(worker_id),
        rank=rank,
        counter=count_of(fields, "counter_id", "message"),
        duration_ns=_nanoseconds(_real(fields["wall_time"], "wall_time")),
        scheduled=_work(fields["scheduled_requests"], _SCHEDULED, "scheduled_requests"),
        queued=_work(fields["queued_requests"], _QUEUED, "queued_requests"),
    )


def _unpacked(message: bytes) -> Any:
    try:
        import msgspec
    except ImportError as error:
        raise InputError(
            "telemetry: needs the package msgspec; install it with: pip install 'sbs-opt[serve]'"
        ) from error
    try:
        return msgspec.msgpack.decode(message)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise TelemetryError(f"message: is no msgpack ({error})") from error


def _fields(value: Any, names: tuple[str, ...], where: str) -> dict[str, Any]:
    if isinstance(value, list):
        value = dict(zip(names, value, strict=False))
    if not isinstance(value, dict):
        raise TelemetryError(f"{where}: is {said(value)}, neither a map nor an array")
    for name in names:
        if name not in value:
            raise TelemetryError(f"{where}.{name}: is missing")
    return value


def _work(value: Any, names: tuple[str, ...], where: str) -> PassWork:
    fields = _fields(value, names, where)
    return PassWork(
        prefill_requests=count_of(fields, "num_prefill_requests", where),
        prefill_tokens=count_of(fields, "sum_prefill_tokens", where),
        prefill_kv_tokens=count_or_none(fields, "sum_prefill_kv_tokens", where) or 0,
        decode_requests=count_of(fields, "num_decode_requests", where),
        decode_kv_tokens=count_of(fields, "sum_decode_kv_tokens", where),
        var_prefill_length=_real(fields["var_prefill_length"], f"{where}.var_prefill_length"),
        var_decode_kv_tokens=_real(fields["var_decode_kv_tokens"], f"{where}.var_decode_kv_tokens"),
    )


def _nanoseconds(seconds: float) -> int:
    if seconds > _LONGEST_PASS_S:
        raise TelemetryError(f"wall_time: is {seconds} s, longer than any pass; is its unit right?")
    return round(seconds * 1e9)


def _real(value: Any, field: str) -> float:
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise TelemetryError(f"{field}: is {said(value)}, not a number of at least 0")
    return float(value)
