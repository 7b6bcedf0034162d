"""`read_trace` on small files made here: each line of what a reader must get right has a test."""

from __future__ import annotations

import gzip
import tracemalloc
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.instances import list_formats, read_trace
from sbs_opt.instances.parsing import LATEST_NS, iso_to_ns
from sbs_opt.models.errors import TraceError
from tests.instances.helpers import AZURE_HEADER, blocks_of, equal, failed, mooncake, write

# --- azure


def test_azure_keeps_100_ns_with_crlf_and_without_final_newline(tmp_path: Path) -> None:
    rows = [AZURE_HEADER, "2023-11-16 18:17:03.9799600,4808,10", "2023-11-16 18:17:03.9799601,0,0"]
    trace = read_trace(write(tmp_path, "\r\n".join(rows)))
    assert trace.format == "azure"
    # Oracle: `date -u -d '2023-11-16 18:17:03' +%s`
    assert trace.requests.arrival_ns.tolist() == [1_700_158_623_979_960_000, 1_700_158_623_979_960_100]
    assert trace.requests.prompt_tokens.tolist() == [4808, 0]
    assert trace.requests.output_tokens.tolist() == [10, 0]
    assert trace.requests.block_tokens == 0
    assert trace.requests.session.tolist() == [-1, -1]


@given(st.datetimes(min_value=datetime(1970, 1, 1)), st.integers(0, 999))
def test_iso_agrees_with_datetime(when: datetime, extra_ns: int) -> None:

    micro = (when - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    text = f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond:06d}{extra_ns:03d}".rjust(29, "0")
    expected = micro * 1000 + extra_ns
    if expected <= LATEST_NS:
        assert iso_to_ns(text, "t", failed) == (expected, False)
        assert iso_to_ns(text + "Z", "t", failed) == (expected, True)
        if expected + 5400 * 10**9 <= LATEST_NS:
            assert iso_to_ns(text.replace(" ", "T") + "-01:30", "t", failed) == (expected + 5400 * 10**9, True)
    else:
        with pytest.raises(TraceError, match="beyond"):
            iso_to_ns(text, "t", failed)


def test_azure_2024_stamps_with_offset_and_without_fraction(tmp_path: Path) -> None:
    text = f"{AZURE_HEADER}\n2024-05-10 00:00:00+00:00,1,2\n2024-05-10 00:00:01.5+00:00,3,4\n"
    trace = read_trace(write(tmp_path, text))
    assert np.diff(trace.requests.arrival_ns).tolist() == [1_500_000_000]
    assert trace.notes == ()


# --- mooncake


def test_mooncake_start_is_kept_and_ids_become_dense(tmp_path: Path) -> None:
    big = 2**64 - 1
    trace = read_trace(write(tmp_path, mooncake((1_800_000, 1024, 5, [big, 7]), (1_800_001, 1025, 0, [big, 7, 9]))))
    assert trace.format == "mooncake"
    assert trace.requests.arrival_ns.tolist() == [1_800_000_000_000, 1_800_001_000_000]
    assert blocks_of(trace.requests, 0) == [0, 1]
    assert blocks_of(trace.requests, 1) == [0, 1, 2]
    assert trace.requests.block_tokens == 512
    assert trace.notes == ("prefix block ids renumbered to 0…2",)


def test_length_zero_and_longer_than_any_context(tmp_path: Path) -> None:
    ids = list(range(2000))
    trace = read_trace(write(tmp_path, mooncake((0, 0, 0, []), (1, 1_024_000, 1, ids))))
    assert trace.requests.prompt_tokens.tolist() == [0, 1_024_000]
    assert blocks_of(trace.requests, 1) == ids


def test_out_of_order_rows_are_sorted_stably_and_said(tmp_path: Path) -> None:
    rows = [(5, 10, 1, [1]), (3, 20, 2, [2]), (5, 30, 3, [3]), (3, 40, 4, [4])]
    trace = read_trace(write(tmp_path, mooncake(*rows)))
    assert trace.requests.prompt_tokens.tolist() == [20, 40, 10, 30]
    assert [blocks_of(trace.requests, i) for i in range(4)] == [[1], [3], [0], [2]]
    assert "sorted by arrival: 2 rows came after a later one" in trace.notes


def test_exact_duplicates_are_kept_and_said(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, mooncake((0, 1, 1, [0]), (0, 1, 1, [0]), (0, 1, 1, [0]))))
    assert len(trace.requests) == 3
    assert trace.notes == ("kept rows that repeat another exactly: 2",)


def test_coarse_stamps_are_spread_within_their_step(tmp_path: Path) -> None:
    ticks = np.cumsum([1_800_000, *([3000, 2999, 3000, 3001] * 10)])
    rows = [(int(t), 10 * k + j + 1, 1, [0]) for k, t in enumerate(ticks) for j in range(7)]
    path = write(tmp_path, mooncake(*rows))
    trace, again, other = read_trace(path), read_trace(path), read_trace(path, seed=1)
    requests = trace.requests
    assert any("steps of about 3000 ms" in note and "seed 0" in note for note in trace.notes)
    assert requests.prompt_tokens.tolist() == [row[1] for row in rows], "file order is kept"
    stamp = np.repeat(ticks, 7) * 1_000_000
    assert (requests.arrival_ns >= stamp).all()
    following = np.repeat(np.append(ticks[1:], ticks[-1] + 3000), 7) * 1_000_000
    assert (requests.arrival_ns < following).all()
    assert len(np.unique(requests.arrival_ns)) == len(rows)
    offset = (requests.arrival_ns - stamp) / 3e9
    assert abs(offset.mean() - 0.5) < 0.1, "uniform over the step"
    assert equal(requests, again.requests)
    assert not np.array_equal(requests.arrival_ns, other.requests.arrival_ns)


def test_fine_stamps_are_left_alone(tmp_path: Path) -> None:
    stamps = np.cumsum(np.random.default_rng(3).geometric(1 / 250, 2000))
    trace = read_trace(write(tmp_path, mooncake(*((int(t), 1, 1, [0]) for t in stamps))))
    assert (trace.requests.arrival_ns == stamps * 1_000_000).all()


def test_regular_single_arrivals_are_no_coarse_clock(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, mooncake(*((1000 * t, 1, 1, [0]) for t in range(100)))))
    assert (np.diff(trace.requests.arrival_ns) == 10**9).all()


def test_whole_second_stamps_with_silences_are_spread_over_one_second(tmp_path: Path) -> None:
    seconds = np.repeat(np.cumsum(np.random.default_rng(5).integers(1, 5, 60)), 3)
    trace = read_trace(write(tmp_path, mooncake(*((int(1000 * t), 1, 1, [0]) for t in seconds))))
    offset = trace.requests.arrival_ns - seconds * 10**9
    assert offset.min() >= 0
    assert 0.9e9 < offset.max() < 10**9


# --- containers


def test_compression_is_known_by_content(tmp_path: Path) -> None:
    text = mooncake((0, 600, 1, [0, 1]), (7, 5, 1, [2])).encode()
    plain = read_trace(write(tmp_path, text)).requests
    half = len(text) // 2
    for packed in (
        gzip.compress(text),
        gzip.compress(text[:half]) + gzip.compress(text[half:]),  # several members, as `cat a.gz b.gz` makes
        zstandard.compress(text),
        zstandard.compress(text[:half]) + zstandard.compress(text[half:]),
    ):
        assert equal(read_trace(write(tmp_path, packed, "misleading.csv")).requests, plain)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_compressed_file_cut_off_is_an_error(tmp_path: Path, pack: Any) -> None:
    """A zstd stream reader ends silently where the file does: half a trace must not pass for a whole one."""
    packed = pack(mooncake(*((k, 5, 1, [k]) for k in range(500))).encode())
    with pytest.raises(TraceError, match=r"trace: compressed data ends early; fetch the file again"):
        read_trace(write(tmp_path, packed[: len(packed) * 2 // 3]))
    with pytest.raises(TraceError, match=r"damaged|not valid JSON|not UTF-8"):
        read_trace(write(tmp_path, packed[:20] + b"\xff\x00\xff\x00" * 20 + packed[60:]))


def test_byte_order_mark_blank_lines_and_odd_separators(tmp_path: Path) -> None:
    text = "\ufeff" + AZURE_HEADER + "\r\n\r\n2023-11-16 18:17:03.1,1,2\r\n\r\n"
    assert len(read_trace(write(tmp_path, text)).requests) == 1
    # U+2028 separates no rows: str.splitlines would cut the record
    record = '{"arrival_ns": 1, "prompt_tokens": 2, "output_tokens": 3, "session": "a\u2028b"}'
    assert len(read_trace(write(tmp_path, record)).requests) == 1


def test_ignored_fields_are_said(tmp_path: Path) -> None:
    text = '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [0], "type": "chat"}'
    assert read_trace(write(tmp_path, text)).notes == ("ignored fields: 'type'",)


def test_formats_are_listed() -> None:
    assert [f.name for f in list_formats()] == ["mooncake", "azure", "sbs-csv", "sbs-jsonl"]
    assert all(f.description for f in list_formats())


def test_memory_stays_near_the_size_of_the_file(tmp_path: Path) -> None:
    """Columns, not objects per row: 20,000 rows of 60 bytes must not take hundreds of megabytes."""
    path = write(tmp_path, AZURE_HEADER + "\n" + "2023-11-16 18:17:03.9799600,4808,10\n" * 20_000)
    tracemalloc.start()
    read_trace(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
