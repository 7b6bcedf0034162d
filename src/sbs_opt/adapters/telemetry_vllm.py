"""The load of vLLM's ranks in its Prometheus page."""

from __future__ import annotations

import re

from sbs_opt.adapters.telemetry_records import MAX_RANK, LoadSnapshot, RankLoad, TelemetryError, snapshot_of, whole
from sbs_opt.instances.source import shown
from sbs_opt.models.checks import INT64_MAX

_RUNNING, _WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")  # the second until 2025
_CONFIG = "vllm:cache_config_info"
_COMPUTED = "vllm:prompt_tokens_by_source_total"
_OF_USE = frozenset({_RUNNING, _WAITING, *_USAGE, _CONFIG, _COMPUTED})
_NAME = re.compile(r"vllm:\w+", re.ASCII)
_SAMPLE = re.compile(r"(?:\{(.*)\})?[ \t]+([^\s{}]+)(?:[ \t]+-?\d+)?\s*", re.ASCII)
_LABEL = re.compile(r'\s*([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)', re.ASCII)

_Sample = tuple[dict[str, str], float]


def parse_vllm_metrics(text: str, *, ranks: int | None = None) -> LoadSnapshot:
    """Return the load in what vLLM answers to `GET /metrics`, by the label `engine`; one engine without it is rank 0.

    Used tokens are the usage of the KV cache times its capacity, so whole blocks. Prefill tokens are those computed
    (`source="local_compute"`), where the version says so.

    Raises
    ------
    TelemetryError
        Without the gauges of running and waiting requests, or with a line of use that is malformed.

    Notes
    -----
    The few series of use are read by a strict parser of our own and all other lines are passed over: a page holds
    thousands of histogram lines, which `prometheus_client` would turn into objects on every poll, and the result must
    not depend on what is installed.
    """
    series = _vllm_series(text)
    running, waiting = (_per_rank(series, (name,)) for name in (_RUNNING, _WAITING))
    if running.keys() != waiting.keys():
        odd = min(running.keys() ^ waiting.keys())
        raise TelemetryError(f'{_WAITING}{{engine="{odd}"}}: running and waiting are not given for the same engines')
    usage = _per_rank(series, _USAGE)
    config = _per_rank(series, (_CONFIG,))
    computed = _per_rank(series, (_COMPUTED,))
    shared = config.get(0)  # older versions give the settings once, without a label
    every_rank = None if shared is None or "engine" in shared[0] else shared
    loads = []
    for rank, (_, count) in running.items():
        capacity = _cache_tokens(config.get(rank, every_rank))
        loads.append(
            RankLoad(
                rank=rank,
                running=whole(count, _RUNNING),
                waiting=whole(waiting[rank][1], _WAITING),
                used_tokens=None if rank not in usage else _used_tokens(usage[rank][1], capacity),
                capacity_tokens=capacity,
                prefill_tokens_total=None if rank not in computed else whole(computed[rank][1], _COMPUTED),
            )
        )
    return snapshot_of("vllm /metrics", None, loads, ranks)


def _vllm_series(text: str) -> list[tuple[str, _Sample]]:
    found = []
    for line in text.split("\n"):
        name = _NAME.match(line)
        if name is None or name[0] not in _OF_USE:
            continue
        sample = _SAMPLE.fullmatch(line, name.end())
        if sample is None:
            raise TelemetryError(f"{name[0]}: {shown(line)} is no sample")
        labels = _labels(sample[1] or "", name[0])
        try:
            value = float(sample[2])
        except ValueError as error:
            raise TelemetryError(f"{name[0]}: is {shown(sample[2])}, no number") from error
        if name[0] != _COMPUTED or labels.get("source") == "local_compute":
            found.append((name[0], (labels, value)))
    return found


def _labels(text: str, name: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    at = 0
    while at < len(text):
        label = _LABEL.match(text, at)
        if label is None:
            raise TelemetryError(f"{name}: {shown(text[at:])} are no labels")
        labels[label[1]] = label[2]
        at = label.end()
    return labels


def _per_rank(series: list[tuple[str, _Sample]], names: tuple[str, ...]) -> dict[int, _Sample]:
    """Return the samples of the first of `names` that is there, by rank."""
    for wanted in names:
        samples = [sample for name, sample in series if name == wanted]
        if samples:
            break
    by_rank: dict[int, _Sample] = {}
    for labels, value in samples:
        rank = _digits(labels.get("engine", "0"), f"{wanted}: engine", MAX_RANK)
        if rank in by_rank:
            raise TelemetryError(f'{wanted}: engine="{rank}" is given twice')
        by_rank[rank] = labels, value
    if not by_rank and wanted in (_RUNNING, _WAITING):
        raise TelemetryError(f"{wanted}: is missing")
    return by_rank


def _digits(text: str, field: str, most: int = INT64_MAX) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) <= most):
        raise TelemetryError(f"{field}: is {shown(text)}, not a whole number from 0 to {most}")
    return int(text)


def _cache_tokens(config: _Sample | None) -> int | None:
    labels = {} if config is None else config[0]
    blocks, size = labels.get("num_gpu_blocks", "None"), labels.get("block_size", "None")
    if "None" in (blocks, size):  # as Python writes it
        return None
    product = _digits(blocks, f"{_CONFIG}: num_gpu_blocks") * _digits(size, f"{_CONFIG}: block_size")
    return whole(product, f"{_CONFIG}: num_gpu_blocks * block_size")


def _used_tokens(usage: float, capacity: int | None) -> int | None:
    if not 0 <= usage <= 1:  # a NaN is not either
        raise TelemetryError(f"{_USAGE[0]}: is {usage}, not between 0 and 1")
    return None if capacity is None else round(usage * capacity)
