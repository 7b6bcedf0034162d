"""What is told of an engine's load, in one form, and the checks that its readers share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sbs_opt.instances.source import shown
from sbs_opt.models.checks import INT64_MAX

MAX_RANK = 2**16 - 1
"""A rank beyond it is a mistake, wherever it comes from."""


class TelemetryError(ValueError):
    """A message of an engine that cannot be read; the fault is not the caller's."""


@dataclass(frozen=True, slots=True)
class RankLoad:
    """The load of one data-parallel rank; None = the engine does not say.

    Parameters
    ----------
    rank
        As the engine numbers it.
    running, waiting
        Requests.
    waiting_tokens
        Prompt tokens that wait and are not in the prefix cache.
    used_tokens, capacity_tokens
        KV cache, tokens.
    prefill_tokens_total, prefill_busy_us_total
        Counters since the engine's start: prompt tokens computed, and the microseconds that took.
    """

    rank: int
    running: int
    waiting: int
    waiting_tokens: int | None = None
    used_tokens: int | None = None
    capacity_tokens: int | None = None
    prefill_tokens_total: int | None = None
    prefill_busy_us_total: int | None = None


@dataclass(frozen=True, slots=True)
class LoadSnapshot:
    """The load of the ranks of one engine.

    Parameters
    ----------
    source
        Which surface said it: `sglang /v1/loads`, `sglang /get_load` or `vllm /metrics`.
    as_of_ns
        When the engine wrote it by its own clock, Unix nanoseconds; None = it does not say. Figures may be older:
        SGLang writes the time of the answer, not of the sample.
    ranks
        By rank, ascending, each once; at least one.
    """

    source: str
    as_of_ns: int | None
    ranks: tuple[RankLoad, ...]


def snapshot_of(source: str, as_of_ns: int | None, loads: list[RankLoad], ranks: int | None) -> LoadSnapshot:
    """Return a snapshot, ranks ascending; refuse none at all, one twice, and one that is not among `ranks`."""
    if not loads:
        raise TelemetryError(f"{source}: holds no rank")
    loads.sort(key=lambda load: load.rank)
    for previous, load in pairwise(loads):
        if previous.rank == load.rank:
            raise TelemetryError(f"rank: {load.rank} is given twice")
    if ranks is not None and loads[-1].rank >= ranks:
        raise TelemetryError(f"rank: {loads[-1].rank} does not exist; there are {ranks}, from 0")
    return LoadSnapshot(source, as_of_ns, tuple(loads))


def rank_of(row: Any, name: str, where: str) -> int:
    """Return the rank at `name`."""
    rank = count_of(row, name, where)
    if rank > MAX_RANK:
        raise TelemetryError(f"{where}.{name}: {rank} is no rank; the largest possible is {MAX_RANK}")
    return rank


def count_of(row: Any, name: str, where: str) -> int:
    """Return the whole number at `name` of an object; it must be there."""
    if not isinstance(row, dict):
        raise TelemetryError(f"{where}: is {said(row)}, not an object")
    if name not in row:
        raise TelemetryError(f"{where}.{name}: is missing")
    return whole(row[name], f"{where}.{name}")


def count_or_none(row: dict[str, Any], name: str, where: str) -> int | None:
    """Return the whole number at `name`, None where there is none."""
    return None if row.get(name) is None else whole(row[name], f"{where}.{name}")


def whole(value: Any, field: str) -> int:
    """Return `value` as an integer in [0, 2⁶³); a float is taken where it is whole. `TelemetryError` names `field`."""
    number = int(value) if type(value) is float and math.isfinite(value) and value == math.floor(value) else value
    if type(number) is not int:
        raise TelemetryError(f"{field}: is {said(value)}, not a whole number")
    if not 0 <= number <= INT64_MAX:
        raise TelemetryError(f"{field}: is {said(value)}, not between 0 and 2^63 - 1")
    return number


def said(value: Any) -> str:
    """Return `value` for an error; lists and objects by their kind alone, whatever they hold."""
    if isinstance(value, dict | list | tuple):
        return "an object" if isinstance(value, dict) else "a list"
    return "missing or null" if value is None else shown(value)
