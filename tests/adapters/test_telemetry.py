"""What engines publish: read as it is, refused in one line where it is wrong, and never any other error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.adapters.telemetry import (
    LoadSnapshot,
    PassSeen,
    RankLoad,
    TelemetryError,
    parse_forward_pass_metrics,
    parse_sglang_loads,
    parse_vllm_metrics,
    pass_ended_between,
)
from sbs_opt.models.errors import InputError

msgspec = pytest.importorskip("msgspec")

# ---------------------------------------------------------------------------------------------------------- SGLang


def sglang_rank(rank: int, **changes: Any) -> dict[str, Any]:
    return {
        "dp_rank": rank, "num_running_reqs": 3, "num_waiting_reqs": 2, "num_waiting_uncached_tokens": 5120,
        "num_used_tokens": 40960, "num_total_tokens": 47000, "max_total_num_tokens": 400_000,
        "max_running_requests": 256, "token_usage": 0.1024, "gen_throughput": 120.5, "cache_hit_rate": 0.31,
        "utilization": 0.0, "total_prefill_uncached_tokens": 409_397, "total_prefill_busy_us": 73_636_110,
    } | changes  # fmt: skip


def sglang_body(*loads: Any, **changes: Any) -> bytes:
    head = {
        "timestamp": "2026-11-20T12:00:00.123456+00:00", "version": "0.5.23", "accelerator": "NVIDIA H800",
        "num_accelerators": 1, "loads": list(loads),
    }  # fmt: skip
    return json.dumps(head | changes).encode()


def test_sglang_loads_are_read() -> None:
    snapshot = parse_sglang_loads(sglang_body(sglang_rank(1), sglang_rank(0, queues={"waiting": 1})), ranks=2)
    assert snapshot.source == "sglang /v1/loads"
    assert snapshot.as_of_ns == 1_795_176_000_123_456_000
    assert [load.rank for load in snapshot.ranks] == [0, 1]
    assert snapshot.ranks[1] == RankLoad(1, 3, 2, 5120, 40960, 400_000, 409_397, 73_636_110)


def test_sglang_before_the_prefill_counters_has_none() -> None:
    row = {name: value for name, value in sglang_rank(0).items() if not name.startswith("total_prefill")}
    load = parse_sglang_loads(sglang_body(row)).ranks[0]
    assert (load.prefill_tokens_total, load.prefill_busy_us_total, load.running) == (None, None, 3)


def test_older_sglang_answers_with_a_list() -> None:
    body = [{"dp_rank": k, "num_reqs": 5, "num_waiting_reqs": 2, "num_tokens": 9000} for k in range(2)]
    snapshot = parse_sglang_loads(json.dumps(body).encode())
    assert snapshot == LoadSnapshot("sglang /get_load", None, (RankLoad(0, 3, 2), RankLoad(1, 3, 2)))


def test_a_rank_that_has_not_reported_is_not_idle_but_unknown() -> None:
    zeros = dict.fromkeys(sglang_rank(0), 0) | {"dp_rank": 1}
    assert [load.rank for load in parse_sglang_loads(sglang_body(sglang_rank(0), zeros)).ranks] == [0]
    with pytest.raises(TelemetryError, match="no rank has reported yet"):
        parse_sglang_loads(sglang_body(zeros))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: is no JSON"),
        (b"\xff\xfe", "body: is no JSON"),
        (b"[" * 100_000, "body: is no JSON"),
        (b"7", "body: is 7"),
        (b"{}", "loads: is missing"),
        (b"[]", "holds no rank"),
        (sglang_body(), "holds no rank"),
        (sglang_body(None), r"loads\[0\]: is missing or null, not an object"),
        (sglang_body({"dp_rank": 0}), r"loads\[0\].num_running_reqs: is missing"),
        (sglang_body(sglang_rank(0), sglang_rank(0)), "rank: 0 is given twice"),
        (sglang_body(sglang_rank(-1)), r"loads\[0\].dp_rank: is -1"),
        (sglang_body(sglang_rank(4)), "rank: 4 does not exist; there are 4"),
        (sglang_body(sglang_rank(10**9)), "1000000000 is no rank"),
        (sglang_body(sglang_rank(0, num_used_tokens=-5)), "num_used_tokens: is -5"),
        (sglang_body(sglang_rank(0, num_used_tokens=2**63)), "num_used_tokens: is 9223372036854775808"),
        (sglang_body(sglang_rank(0, num_running_reqs=1.5)), "num_running_reqs: is 1.5"),
        (sglang_body(sglang_rank(0, num_running_reqs=True)), "num_running_reqs: is True"),
        (sglang_body(sglang_rank(0, num_running_reqs=float("nan"))), "num_running_reqs: is nan"),
        (sglang_body(sglang_rank(0, num_running_reqs="3")), "num_running_reqs: is '3'"),
        (sglang_body(sglang_rank(0, num_running_reqs=[1])), "num_running_reqs: is a list"),
        (sglang_body(sglang_rank(0), timestamp="now"), "timestamp: 'now' is no ISO date"),
        (sglang_body(sglang_rank(0), timestamp=5), "timestamp: 5 is no ISO date"),
        (sglang_body(sglang_rank(0), timestamp="9999-12-31T00:00:00"), "timestamp in nanoseconds"),
        (b'[{"dp_rank": 0, "num_reqs": 1, "num_waiting_reqs": 2}]', "num_waiting_reqs: is 2, more than num_reqs 1"),
    ],
)
def test_what_is_wrong_with_sglang_loads_is_one_line(body: bytes, message: str) -> None:
    with pytest.raises(TelemetryError, match=message) as raised:
        parse_sglang_loads(body, ranks=4)
    assert "\n" not in str(raised.value)


def loads_of(*counters: tuple[int, int | None, int | None]) -> LoadSnapshot:
    ranks = (RankLoad(k, 0, 0, prefill_tokens_total=t, prefill_busy_us_total=b) for k, t, b in counters)
    return LoadSnapshot("sglang /v1/loads", None, tuple(ranks))


def test_counters_that_moved_are_a_pass_that_ended() -> None:
    before = loads_of((0, 1000, 50), (1, 2000, 60), (2, 0, 0))
    after = loads_of((0, 1400, 350), (1, 2500, 460), (2, 0, 0))
    assert pass_ended_between(before, after) == PassSeen(400_000, (0, 1), (400, 500), (300_000, 400_000))


@pytest.mark.parametrize(
    "after",
    [
        loads_of((0, 1000, 50)),  # nothing moved
        loads_of((0, 10, 5)),  # the engine was restarted
        loads_of((0, 10, 5000)),
        loads_of((1, 3000, 900)),  # another rank
        loads_of((0, None, None)),
        loads_of(),
    ],
)
def test_counters_that_tell_nothing_are_no_pass(after: LoadSnapshot) -> None:
    assert pass_ended_between(loads_of((0, 1000, 50)), after) is None


# ------------------------------------------------------------------------------------------------------------ vLLM

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="qwen \\"x\\", {v2}"} 2.0
vllm:num_requests_running{engine="1",model_name="qwen \\"x\\", {v2}"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="1000"} 1.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="1",num_gpu_blocks="None"} 1.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 126901.0
vllm:prompt_tokens_by_source_total{engine="0",model_name="m",source="local_compute"} 1.26901e+05
vllm:prompt_tokens_by_source_total{engine="0",model_name="m",source="local_cache_hit"} 99.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="m"} 0.0
process_resident_memory_bytes 1.2e+09
"""


def test_vllm_metrics_are_read_by_engine() -> None:
    snapshot = parse_vllm_metrics(VLLM, ranks=2)
    assert snapshot.source == "vllm /metrics"
    assert snapshot.ranks == (
        RankLoad(0, 2, 0, None, 4000, 16000, 126_901),
        RankLoad(1, 3, 1, None, None, None, None),
    )


def test_a_node_may_own_the_later_ranks() -> None:
    page = VLLM.replace('engine="0"', 'engine="6"').replace('engine="1"', 'engine="7"')
    assert [load.rank for load in parse_vllm_metrics(page, ranks=8).ranks] == [6, 7]
    with pytest.raises(TelemetryError, match="rank: 7 does not exist"):
        parse_vllm_metrics(page, ranks=7)


def test_older_vllm_names_no_engine() -> None:
    page = (
        'vllm:num_requests_running{model_name="m"} 2\r\nvllm:num_requests_waiting 1 1700000000000\n'
        'vllm:gpu_cache_usage_perc{} 0.5\nvllm:cache_config_info{block_size="16",num_gpu_blocks="10",} 1'
    )
    assert parse_vllm_metrics(page).ranks == (RankLoad(0, 2, 1, None, 80, 160),)


def test_settings_given_once_hold_for_every_engine_only_without_a_label() -> None:
    lines = VLLM.splitlines()
    shared = [line for line in lines if "cache_config_info" not in line]
    page = "\n".join([*shared, 'vllm:cache_config_info{block_size="16",num_gpu_blocks="10"} 1'])
    assert [load.capacity_tokens for load in parse_vllm_metrics(page).ranks] == [160, 160]
    page = "\n".join([*shared, 'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="10"} 1'])
    assert [load.capacity_tokens for load in parse_vllm_metrics(page).ranks] == [160, None]


def test_the_strict_parser_agrees_with_prometheus_client() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    found = {
        sample.labels["engine"]: sample.value
        for family in parser.text_string_to_metric_families(VLLM)
        for sample in family.samples
        if sample.name == "vllm:num_requests_running"
    }
    assert {str(load.rank): load.running for load in parse_vllm_metrics(VLLM).ranks} == found


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_requests_running{", "num_requests_run{", "num_requests_running: is missing"),
        ('waiting{engine="1"', 'waiting{engine="2"', "not given for the same engines"),
        ('running{engine="1"', 'running{engine="0"', 'engine="0" is given twice'),
        ('running{engine="1"', 'running{engine="-1"', "engine: is '-1'"),
        ('running{engine="1"', 'running{engine="1', "no labels|no sample"),
        ("} 3.0", "} 3.5", "num_requests_running: is 3.5"),
        ("} 3.0", "} -3", "num_requests_running: is -3"),
        ("} 3.0", "} NaN", "num_requests_running: is nan"),
        ("} 3.0", "} three", "num_requests_running: is 'three', no number"),
        ("} 3.0", "}", "is no sample"),
        ("} 0.25", "} 25", "kv_cache_usage_perc: is 25.0"),
        ('num_gpu_blocks="1000"', 'num_gpu_blocks="many"', "num_gpu_blocks: is 'many'"),
        ('num_gpu_blocks="1000"', 'num_gpu_blocks="9000000000000000000"', r"num_gpu_blocks \* block_size"),
    ],
)
def test_what_is_wrong_with_vllm_metrics_is_one_line(old: str, new: str, message: str) -> None:
    assert old in VLLM
    with pytest.raises(TelemetryError, match=message) as raised:
        parse_vllm_metrics(VLLM.replace(old, new), ranks=2)
    assert "\n" not in str(raised.value)


# -------------------------------------------------------------------------------------------------- forward passes

SCHEDULED = {
    "num_prefill_requests": 4, "sum_prefill_tokens": 8192, "var_prefill_length": 2.5, "sum_prefill_kv_tokens": 1024,
    "num_decode_requests": 7, "sum_decode_kv_tokens": 30_000, "var_decode_kv_tokens": 9.0,
}  # fmt: skip
QUEUED = {
    "num_prefill_requests": 2, "sum_prefill_tokens": 900, "var_prefill_length": 0.0,
    "num_decode_requests": 1, "sum_decode_kv_tokens": 800, "var_decode_kv_tokens": 0.0,
}  # fmt: skip
MESSAGE = {
    "version": 1, "worker_id": "7587", "dp_rank": 3, "counter_id": 41, "wall_time": 0.0625,
    "scheduled_requests": SCHEDULED, "queued_requests": QUEUED,
}  # fmt: skip


def packed(message: Any) -> bytes:
    data: bytes = msgspec.msgpack.encode(message)
    return data


def test_forward_passes_are_read_from_maps_and_from_arrays_alike() -> None:
    found = parse_forward_pass_metrics(packed(MESSAGE), ranks=4)
    assert (found.worker_id, found.rank, found.counter, found.duration_ns) == ("7587", 3, 41, 62_500_000)
    assert (found.scheduled.prefill_tokens, found.scheduled.prefill_kv_tokens) == (8192, 1024)
    assert (found.scheduled.decode_requests, found.scheduled.var_decode_kv_tokens) == (7, 9.0)
    assert (found.queued.prefill_tokens, found.queued.prefill_kv_tokens, found.queued.decode_kv_tokens) == (900, 0, 800)
    array = [*list(MESSAGE.values())[:5], [*SCHEDULED.values(), "added later"], list(QUEUED.values())]
    assert parse_forward_pass_metrics(packed(array)) == found


def test_an_idle_engine_says_so_with_no_time() -> None:
    assert parse_forward_pass_metrics(packed(MESSAGE | {"wall_time": 0})).duration_ns == 0


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        (packed(MESSAGE)[:-3], "message: is no msgpack"),
        (b"", "message: is no msgpack"),
        (packed("text"), "message: is 'text', neither"),
        (packed([1, "w"]), r"message\.dp_rank: is missing"),
        (packed({"version": 1}), r"message\.worker_id: is missing"),
        (packed(MESSAGE | {"version": 2}), "version: is 2; known is 1"),
        (packed(MESSAGE | {"worker_id": None}), "worker_id: is missing or null"),
        (packed(MESSAGE | {"dp_rank": -1}), "dp_rank: is -1"),
        (packed(MESSAGE | {"dp_rank": 4}), "dp_rank: 4 does not exist"),
        (packed(MESSAGE | {"wall_time": -0.1}), "wall_time: is -0.1"),
        (packed(MESSAGE | {"wall_time": float("nan")}), "wall_time: is nan"),
        (packed(MESSAGE | {"wall_time": 1e308}), "longer than any pass"),
        (packed(MESSAGE | {"queued_requests": 5}), "queued_requests: is 5"),
        (packed(MESSAGE | {"queued_requests": {}}), r"queued_requests\.num_prefill_requests: is missing"),
        (packed(MESSAGE | {"scheduled_requests": SCHEDULED | {"sum_prefill_tokens": -8}}), "sum_prefill_tokens: is -8"),
    ],
)
def test_what_is_wrong_with_a_forward_pass_is_one_line(message: bytes, wrong: str) -> None:
    with pytest.raises(TelemetryError, match=wrong) as raised:
        parse_forward_pass_metrics(message, ranks=4)
    assert "\n" not in str(raised.value)


def test_without_msgspec_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(InputError, match=r"pip install 'sbs-opt\[serve\]'"):
        parse_forward_pass_metrics(packed(MESSAGE))


# --------------------------------------------------------------------------------------------------------- any input

SCALAR = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=4)
NAMES = st.sampled_from([*sglang_rank(0), *MESSAGE, *SCHEDULED, "loads", "timestamp", "num_reqs"])
ANY = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6), max_leaves=20
)


def spoiled(whole: Any, draw: Callable[..., Any]) -> Any:
    """Return a good message with one value, wherever it stands, replaced by anything."""
    if isinstance(whole, dict | list) and whole and draw(st.integers(0, 9)):
        items: Any = list(whole.items()) if isinstance(whole, dict) else list(enumerate(whole))
        name, value = draw(st.sampled_from(items))
        copy = whole.copy()
        copy[name] = spoiled(value, draw)
        return copy
    return draw(ANY)


@given(st.data())
def test_sglang_loads_are_read_or_refused(data: st.DataObject) -> None:
    good = json.loads(sglang_body(sglang_rank(0), sglang_rank(1)))
    body = data.draw(st.binary(max_size=20) | st.just(json.dumps(spoiled(good, data.draw)).encode()))
    with suppress(TelemetryError):
        snapshot = parse_sglang_loads(body, ranks=4)
        ranks = [load.rank for load in snapshot.ranks]
        assert ranks == sorted(set(ranks))
        assert set(ranks) <= set(range(4))
        assert pass_ended_between(snapshot, snapshot) is None
        later = tuple(replace(load, prefill_busy_us_total=2**62) for load in snapshot.ranks)
        pass_ended_between(snapshot, replace(snapshot, ranks=later))


@given(st.data())
def test_forward_passes_are_read_or_refused(data: st.DataObject) -> None:
    message = data.draw(st.binary(max_size=30) | st.just(packed(spoiled(MESSAGE, data.draw))))
    with suppress(TelemetryError):
        found = parse_forward_pass_metrics(message, ranks=4)
        assert 0 <= found.rank < 4
        assert found.duration_ns >= 0


@given(st.data())
def test_vllm_metrics_are_read_or_refused(data: st.DataObject) -> None:
    page = data.draw(st.text(max_size=30))
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(VLLM)))
        page = (
            VLLM[:start]
            + data.draw(st.text('{}",\\ =0-9.eN\n', max_size=6))
            + VLLM[start + data.draw(st.integers(0, 6)) :]
        )
    with suppress(TelemetryError):
        assert all(load.running >= 0 and 0 <= load.rank < 4 for load in parse_vllm_metrics(page, ranks=4).ranks)
