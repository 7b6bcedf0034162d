"""Our own plain formats: exact times, sessions, blocks, and what is written is read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.instances import read_trace, write_trace
from sbs_opt.instances.parsing import LATEST_NS, decimal_seconds_to_ns
from sbs_opt.models.requests import Requests
from tests.instances.helpers import blocks_of, equal, failed, mooncake, some_requests, write


def test_csv_with_decimal_seconds_blocks_and_sessions(tmp_path: Path) -> None:
    text = (
        "output_tokens,arrival_s,prompt_tokens,session,block_tokens,block_ids\n"
        "5,1.000000001,33,alice,16,18446744073709551615 4 5\n"
        "6,1e0,10,,,\n"
        "7,1.0000000015,16,alice,16,18446744073709551615\n"
    )
    trace = read_trace(write(tmp_path, text))
    assert trace.format == "sbs-csv"
    assert trace.requests.arrival_ns.tolist() == [1_000_000_000, 1_000_000_001, 1_000_000_002]
    assert trace.requests.output_tokens.tolist() == [6, 5, 7]
    assert trace.requests.session.tolist() == [-1, 0, 0]
    assert [blocks_of(trace.requests, i) for i in range(3)] == [[], [0, 1, 2], [0]]
    assert trace.requests.block_tokens == 16
    assert "rounded to a nanosecond: 1 arrivals had finer digits" in trace.notes


@given(st.integers(0, 2**62), st.integers(0, 10**6 - 1))
def test_decimal_seconds_are_exact(nanoseconds: int, finer: int) -> None:
    seconds, fraction = divmod(nanoseconds, 10**9)
    if seconds >= LATEST_NS // 10**9:
        return
    assert decimal_seconds_to_ns(f"{seconds}.{fraction:09d}", "t", failed) == (nanoseconds, False)
    assert decimal_seconds_to_ns(f"{nanoseconds}e-9", "t", failed) == (nanoseconds, False)
    rounded = nanoseconds + (finer >= 500_000)
    assert decimal_seconds_to_ns(f"{seconds}.{fraction:09d}{finer:06d}", "t", failed) == (rounded, finer > 0)


def test_exponents_of_any_size_end_soon() -> None:
    assert decimal_seconds_to_ns("0e999999999", "t", failed) == (0, False)
    assert decimal_seconds_to_ns("1e-999999999", "t", failed) == (0, True)
    assert decimal_seconds_to_ns("5e-10", "t", failed) == (1, True)
    assert decimal_seconds_to_ns("4e-10", "t", failed) == (0, True)


def test_json_seconds_do_not_pass_through_binary_floats(tmp_path: Path) -> None:
    """1700000000.123456789 as a double is 1700000000.1234567165…"""
    trace = read_trace(write(tmp_path, '{"arrival_s": 1700000000.123456789, "prompt_tokens": 1, "output_tokens": 1}'))
    assert trace.requests.arrival_ns.tolist() == [1_700_000_000_123_456_789]


@given(some_requests(), st.sampled_from(["t.jsonl", "t.jsonl.gz", "t.zst"]), st.lists(st.text(max_size=9), max_size=2))
def test_write_then_read_gives_the_same_requests(
    tmp_path_factory: pytest.TempPathFactory, requests: Requests, name: str, notes: list[str]
) -> None:
    path = tmp_path_factory.mktemp("round") / name
    write_trace(path, requests, notes)
    trace = read_trace(path)
    assert equal(trace.requests, requests)
    assert trace.format == "sbs-jsonl"
    assert trace.notes[: len(notes)] == tuple(notes)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, mooncake((0, 600, 1, [0, 1]))))
    for name in ("a.gz", "b.gz"):
        write_trace(tmp_path / name, trace.requests)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
