"""Real captured traces; the expected figures are those of the captures' own description."""

from __future__ import annotations

import csv
import gzip
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from sbs_opt.instances import read_trace
from sbs_opt.models.errors import TraceError
from sbs_opt.models.requests import Requests


def leading_hits(requests: Requests) -> int:
    """Tokens of full blocks that some earlier request began with, too (an infinite cache), by set of prefixes."""
    seen: set[tuple[int, int]] = set()
    hits = 0
    for i in range(len(requests)):
        ids = requests.block_id[requests.block_offset[i] : requests.block_offset[i + 1]].tolist()
        run = True
        for k, block in enumerate(ids):
            run = run and (k, block) in seen
            hits += run
            seen.add((k, block))
    return min(hits * requests.block_tokens, int(requests.prompt_tokens.sum()))


@pytest.mark.parametrize(
    ("name", "rows", "first"),
    [
        ("azure2023_code_0-1800s.csv", 5_740, "2023-11-16 18:17:03.9799600"),
        ("azure2023_conv_0-1800s.csv", 10_108, "2023-11-16 18:15:46.6805900"),
    ],
)
def test_azure(traces_dir: Path, name: str, rows: int, first: str) -> None:
    trace = read_trace(traces_dir / name)
    assert (trace.format, len(trace.requests)) == ("azure", rows)
    seconds, ticks = first.split(".")
    epoch = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp())
    assert trace.requests.arrival_ns[0] == epoch * 10**9 + int(ticks) * 100
    assert 1780e9 < trace.requests.span_ns <= 1800e9
    with (traces_dir / name).open(newline="") as file:
        oracle = list(csv.DictReader(file))
    stamps = np.array([row["TIMESTAMP"].replace(" ", "T") for row in oracle], "datetime64[ns]")
    assert (trace.requests.arrival_ns == stamps.astype(np.int64)).all()
    assert trace.requests.prompt_tokens.tolist() == [int(row["ContextTokens"]) for row in oracle]
    assert trace.requests.output_tokens.tolist() == [int(row["GeneratedTokens"]) for row in oracle]


def test_mooncake_conversation_is_spread(traces_dir: Path) -> None:
    path = traces_dir / "mooncake_conversation_1800s-end.jsonl"
    trace = read_trace(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    requests = trace.requests
    assert (trace.format, len(requests)) == ("mooncake", 6_312)
    assert any(re.search(r"steps of about 3000 ms.*seed 0", note) for note in trace.notes)
    assert "kept rows that repeat another exactly: 1" in trace.notes
    stamp = np.array([row["timestamp"] for row in rows]) * 1_000_000
    late = requests.arrival_ns - stamp
    assert late.min() >= 0
    assert late.max() < 3_000_000_000
    assert abs(late.mean() / 3e9 - 0.5) < 0.02
    assert requests.arrival_ns[0] >= 1_800_000_000_000
    assert requests.prompt_tokens.tolist() == [row["input_length"] for row in rows], "file order is kept"
    # A Poisson-like second now, where all of the step's requests used to come at once
    in_second = np.bincount((requests.arrival_ns - requests.arrival_ns[0]) // 10**9)
    assert in_second.max() < np.unique(stamp, return_counts=True)[1].max()


def test_mooncake_synthetic_is_left_alone(traces_dir: Path) -> None:
    path = traces_dir / "mooncake_synthetic.jsonl"
    trace = read_trace(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(trace.requests) == 3_993
    assert trace.notes == ()
    assert trace.requests.arrival_ns.tolist() == [row["timestamp"] * 1_000_000 for row in rows]
    assert trace.requests.prompt_tokens.max() == 191_378
    assert leading_hits(trace.requests) / trace.requests.prompt_tokens.sum() == pytest.approx(0.64, abs=0.03)


@pytest.mark.parametrize("name", ["nanoflow_lmsys.csv.gz", "nanoflow_sharegpt.csv.gz"])
def test_nanoflow_has_no_times(traces_dir: Path, name: str) -> None:
    with pytest.raises(TraceError, match=rf"{name}, row 2, field TIMESTAMP: 'XXX' .* has no times; compare needs"):
        read_trace(traces_dir / name)


def test_other_captures_are_refused_in_one_line(traces_dir: Path) -> None:
    others = [
        "claude_code_0001-0369.jsonl.zst", "lmcache_miniswe.derived.jsonl.gz", "pi_request_trace.jsonl.gz",
        "servegen_deepseek-r1.tar.zst", "tracelab_round_trace_sample.jsonl", "README.md",
    ]  # fmt: skip
    for name in others:
        with pytest.raises(TraceError, match=rf"{name}, row 1: (its fields .* fit no known format|is not UTF-8 text)"):
            read_trace(traces_dir / name)


def test_a_capture_reads_the_same_when_compressed(traces_dir: Path, tmp_path: Path) -> None:
    source = traces_dir / "azure2023_code_0-1800s.csv"
    (tmp_path / "copy").write_bytes(gzip.compress(source.read_bytes()))
    assert (read_trace(tmp_path / "copy").requests.arrival_ns == read_trace(source).requests.arrival_ns).all()
