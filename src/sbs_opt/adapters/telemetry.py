"""What engines publish of their load, brought to one form: pure functions from bytes or text to frozen records.

Whatever is wrong with a message, the reader raises `TelemetryError` and nothing else: one line, field and value. A rank
whose figures are not there is left out or has None; a figure is never made up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sbs_opt.adapters.telemetry_passes import ForwardPass, PassWork, parse_forward_pass_metrics
from sbs_opt.adapters.telemetry_records import (
    LoadSnapshot,
    RankLoad,
    TelemetryError,
    count_of,
    count_or_none,
    rank_of,
    said,
    snapshot_of,
    whole,
)
from sbs_opt.adapters.telemetry_vllm import parse_vllm_metrics

__all__ = [
    "ForwardPass",
    "LoadSnapshot",
    "PassSeen",
    "PassWork",
    "RankLoad",
    "TelemetryError",
    "parse_forward_pass_metrics",
    "parse_sglang_loads",
    "parse_vllm_metrics",
    "pass_ended_between",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PassSeen:
    """Prefill passes that ended between two snapshots.

    Parameters
    ----------
    duration_ns
        The longest of `busy_ns`: ranks of one instance wait for the slowest.
    ranks, tokens, busy_ns
        The ranks that ran, and of each the tokens it computed and the time it took.
    """

    duration_ns: int
    ranks: tuple[int, ...]
    tokens: tuple[int, ...]
    busy_ns: tuple[int, ...]


def parse_sglang_loads(body: bytes, *, ranks: int | None = None) -> LoadSnapshot:
    """Return what SGLang answers to `GET /v1/loads`, or to `GET /get_load` of older servers (a bare list).

    A rank that says `max_total_num_tokens` 0 has not reported yet (SGLang fills in zeros, which look idle): it is left
    out.

    Parameters
    ----------
    body
        The JSON; sections beyond `core` are passed over.
    ranks
        How many there are; a rank beyond is an error. None: unknown.

    Raises
    ------
    TelemetryError
        Malformed, without a rank that has reported, or with a rank twice.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise TelemetryError(f"body: is no JSON ({error})") from error
    if isinstance(answer, list):
        return snapshot_of("sglang /get_load", None, [_older_load(row, k) for k, row in enumerate(answer)], ranks)
    if not isinstance(answer, dict):
        raise TelemetryError(f"body: is {said(answer)}, neither an object nor a list")
    loads = answer.get("loads")
    if not isinstance(loads, list):
        raise TelemetryError(f"loads: is {said(loads)}, not a list")
    found = [_core_load(row, k) for k, row in enumerate(loads)]
    reported = [load for load in found if load.capacity_tokens != 0]
    if found and not reported:
        raise TelemetryError("loads: no rank has reported yet (max_total_num_tokens is 0 everywhere)")
    return snapshot_of("sglang /v1/loads", _unix_ns(answer.get("timestamp")), reported, ranks)


def pass_ended_between(before: LoadSnapshot, after: LoadSnapshot) -> PassSeen | None:
    """Return the prefill passes that ended between two snapshots of one SGLang engine, None where no counter moved.

    Notes
    -----
    SGLang counts a prefill pass only where it follows another without a break (launch to launch): the first after a
    pause or after a decode step never shows. So what shows is a pass that ended, and that nothing shows proves nothing.
    Between two snapshots several passes may have ended: their durations and tokens come added up. A counter that went
    back (the engine was restarted) tells nothing.
    """
    earlier = {load.rank: load for load in before.ranks}
    seen: list[tuple[int, int, int]] = []
    for load in after.ranks:
        was = earlier.get(load.rank)
        tokens = _grown(None if was is None else was.prefill_tokens_total, load.prefill_tokens_total)
        busy_us = _grown(None if was is None else was.prefill_busy_us_total, load.prefill_busy_us_total)
        if tokens is not None and busy_us is not None and tokens + busy_us > 0:
            seen.append((load.rank, tokens, busy_us * 1000))
    if not seen:
        return None
    ran, tokens_run, busy_ns = zip(*seen, strict=True)
    return PassSeen(max(busy_ns), ran, tokens_run, busy_ns)


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None or after < before else after - before


def _core_load(row: Any, index: int) -> RankLoad:
    where = f"loads[{index}]"
    return RankLoad(
        rank=rank_of(row, "dp_rank", where),
        running=count_of(row, "num_running_reqs", where),
        waiting=count_of(row, "num_waiting_reqs", where),
        waiting_tokens=count_or_none(row, "num_waiting_uncached_tokens", where),
        used_tokens=count_or_none(row, "num_used_tokens", where),
        capacity_tokens=count_or_none(row, "max_total_num_tokens", where),
        prefill_tokens_total=count_or_none(row, "total_prefill_uncached_tokens", where),
        prefill_busy_us_total=count_or_none(row, "total_prefill_busy_us", where),
    )


def _older_load(row: Any, index: int) -> RankLoad:
    where = f"[{index}]"
    rank = rank_of(row, "dp_rank", where)
    all_requests, waiting = count_of(row, "num_reqs", where), count_of(row, "num_waiting_reqs", where)
    if waiting > all_requests:
        raise TelemetryError(f"{where}.num_waiting_reqs: is {waiting}, more than num_reqs {all_requests}")
    return RankLoad(rank, all_requests - waiting, waiting)  # its num_tokens adds prompts that wait to what is in use


def _unix_ns(stamp: Any) -> int | None:
    if stamp is None:
        return None
    try:
        moment = datetime.fromisoformat(stamp)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (TypeError, ValueError) as error:
        raise TelemetryError(f"timestamp: {said(stamp)} is no ISO date") from error
    return whole((moment - _EPOCH) // timedelta(microseconds=1) * 1000, "timestamp in nanoseconds since 1970")
