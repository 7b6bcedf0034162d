"""Shadow mode: what is recorded is what was simulated, no request waits for it, and nothing is lost in silence."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.adapters import append_file
from sbs_opt.adapters.capture import FinishedRequest
from sbs_opt.models.errors import InputError
from sbs_opt.models.requests import Requests, requests_without_prefixes
from sbs_opt.reports.shadow import ShadowRecorder
from sbs_opt.reports.shadow_process import ShadowProcessError, StretchProcess
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.simulator.stretch import StretchRuns, run_stretch
from sbs_opt.testing.costs import LinearPrefill, linear_cost_model
from sbs_opt.testing.fleets import small_deployment

SECOND, MS = 1_000_000_000, 1_000_000
START = 1_763_640_000 * SECOND  # a multiple of every stretch used here
FLEET = small_deployment(2, 2, chunk_tokens=1_000, kv_tokens=20_000, context_tokens=8_000)
COSTS = linear_cost_model(LinearPrefill(fixed_ns=5 * MS, token_ns=20_000, chunk_tokens=1_000))
CONFIG = SchedulerConfig(policy="sbs_auto", block_tokens=64)
SIMULATE = partial(run_stretch, deployment=FLEET, cost_model=COSTS, config=CONFIG, baseline="random")
PATIENCE_S = 120


class Clock:
    """Stands until a test moves it."""

    def __init__(self) -> None:
        self.now_ns = START

    def __call__(self) -> int:
        return self.now_ns


def request(
    at_s: float, ttft_s: float | None = 0.25, prompt: int = 300, outcome: str = "answered", **more: Any
) -> FinishedRequest:
    arrival = START + round(at_s * 1e9)
    first = None if ttft_s is None else arrival + round(ttft_s * 1e9)
    end = arrival + 3 * SECOND if first is None else first + SECOND
    return FinishedRequest(arrival, end, prompt, 10, outcome, first_token_ns=first, **more)


def recorder(path: Path, **changes: Any) -> ShadowRecorder:
    fields: dict[str, Any] = {"baseline": "random", "stretch_s": 10, "grace_s": 30, "run": SIMULATE, "clock": Clock()}
    return ShadowRecorder(path, FLEET, COSTS, CONFIG, **(fields | changes))


def lines_of(path: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {line["schema"] for line in lines} <= {"sbs-opt/shadow/1"}
    assert {line["kind"] for line in lines} <= {"stretch", "request"}
    return [line for line in lines if line["kind"] == kind]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shadow.jsonl"


def traffic(count: int = 60, gap_s: float = 0.5) -> list[FinishedRequest]:
    return [
        request(k * gap_s, 0.1 + k % 5 / 10, 100 + k * 977 % 3_000, block_ids=np.array([2**62 + k % 3, k]))
        for k in range(count)
    ]


def test_lines_hold_what_was_simulated_and_measured(path: Path) -> None:
    asked: list[tuple[Requests, int, int, StretchRuns]] = []

    def simulate(requests: Requests, begin_ns: int, end_ns: int) -> StretchRuns:
        runs = SIMULATE(requests, begin_ns, end_ns)
        asked.append((requests, begin_ns, end_ns, runs))
        return runs

    sent = traffic()
    with recorder(path, run=simulate) as shadow:
        for one in sent:
            shadow.write(one)
    stretches, rows = lines_of(path, "stretch"), lines_of(path, "request")
    assert [(line["begin_ns"] - START) // SECOND for line in stretches] == [0, 10, 20]
    assert [line["requests"] for line in stretches] == [line["compared"] for line in stretches] == [20, 20, 20]
    assert [line["warm_up_requests"] for line in stretches] == [0, 20, 20]
    assert [len(requests) for requests, *_ in asked] == [20, 40, 40]
    assert [row["arrival_ns"] for row in rows] == [one.arrival_ns for one in sent]
    for (requests, begin, end, runs), line in zip(asked, stretches, strict=True):
        assert (begin, end) == (line["begin_ns"], line["end_ns"])
        assert requests.block_tokens == 64
        assert np.diff(requests.block_offset).tolist() == [2] * len(requests)
        part = [row for row in rows if begin <= row["arrival_ns"] < end]
        assert [row["policy_ttft_s"] for row in part] == (runs.policy.ttft_ns / 1e9).tolist()
        assert [row["baseline_ttft_s"] for row in part] == (runs.baseline.ttft_ns / 1e9).tolist()
        assert [row["held_s"] for row in part] == (runs.policy.held_ns / 1e9).tolist()
        assert [[row["instance"], row["unit"]] for row in part] == list(
            map(list, zip(runs.policy.instance.tolist(), runs.policy.unit.tolist(), strict=True))
        )
        assert line["policy_ttft_s"]["mean"] == pytest.approx(np.mean([row["policy_ttft_s"] for row in part]))
        assert line["measured_ttft_s"]["p50"] == pytest.approx(np.median([row["measured_ttft_s"] for row in part]))
        for first, second, difference in (
            ("policy_ttft_s", "baseline_ttft_s", "policy_minus_baseline_s"),
            ("baseline_ttft_s", "measured_ttft_s", "baseline_minus_measured_s"),
        ):
            for name in ("mean", "p50", "p90", "p99"):
                assert line[difference][name] == line[first][name] - line[second][name]


@settings(max_examples=20)
@given(st.permutations(range(40)))
def test_the_order_of_completion_does_not_matter(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    folder = tmp_path_factory.mktemp("shadow")
    sent = traffic(40)
    for name, rows in (("sorted", range(40)), ("shuffled", order)):
        with recorder(folder / name) as shadow:
            for k in rows:
                shadow.write(sent[k])
    assert (folder / "sorted").read_bytes() == (folder / "shuffled").read_bytes()


def test_the_own_process_gives_the_same_file(path: Path) -> None:
    other = path.with_name("other.jsonl")
    for target, run in ((path, SIMULATE), (other, None)):
        with recorder(target, run=run) as shadow:
            for one in traffic():
                shadow.write(one)
            shadow.close(timeout_s=PATIENCE_S)
    assert path.read_bytes() == other.read_bytes()


def test_warm_up_reaches_back_over_stretches_without_a_gap(path: Path) -> None:
    with recorder(path, warm_up=2) as shadow:
        for second in (1, 11, 21, 31, 51, 61):
            shadow.write(request(second))
    assert [line["warm_up_requests"] for line in lines_of(path, "stretch")] == [0, 1, 2, 2, 0, 1]


def test_a_backlog_beyond_the_warm_up_is_told(path: Path) -> None:
    with recorder(path) as shadow:
        for second, ttft in ((1, 5.0), (11, 5.0), (21, 15.0)):
            shadow.write(request(second, ttft))
    assert [line["warm_up_too_short"] for line in lines_of(path, "stretch")] == [True, False, True]


def test_an_answer_in_one_piece_is_simulated_and_not_compared(path: Path) -> None:
    """Nobody saw its first token; the load that it made was there."""
    with recorder(path) as shadow:
        for one in (request(1), request(2, None)):
            shadow.write(one)
    (line,) = lines_of(path, "stretch")
    assert (line["requests"], line["compared"], line["without_first_token"]) == (2, 1, 1)
    rows = lines_of(path, "request")
    assert [row["measured_ttft_s"] for row in rows] == [0.25, None]
    assert all(row["policy_ttft_s"] > 0 for row in rows)


def test_requests_without_a_first_token_are_counted_not_simulated(path: Path) -> None:
    with recorder(path) as shadow:
        for one in (
            request(1),
            request(2, None, outcome="cancelled"),
            request(3, -0.5),
            request(12, None, outcome="failed"),
        ):
            shadow.write(one)
    first, second = lines_of(path, "stretch")
    assert (first["requests"], first["compared"], first["without_first_token"]) == (3, 1, 2)
    assert (second["requests"], second["compared"], second["without_first_token"]) == (1, 0, 1)
    assert second["policy_ttft_s"] is None
    assert second["problem"] is None
    assert [row["arrival_ns"] for row in lines_of(path, "request")] == [START + SECOND]


def test_a_prompt_that_the_fleet_cannot_take_has_nulls(path: Path) -> None:
    with recorder(path) as shadow:
        shadow.write(request(1, prompt=8_001))
        shadow.write(request(2))
    (line,) = lines_of(path, "stretch")
    assert (line["requests"], line["compared"], line["too_large"]) == (2, 1, 1)
    refused, taken = lines_of(path, "request")
    assert [refused[name] for name in ("instance", "unit", "held_s", "policy_ttft_s", "baseline_ttft_s")] == [None] * 5
    assert refused["measured_ttft_s"] == 0.25
    assert taken["policy_ttft_s"] > 0


def test_blocks_beyond_the_true_length_are_left_out(path: Path) -> None:
    seen: list[Requests] = []

    def simulate(requests: Requests, begin_ns: int, end_ns: int) -> StretchRuns:
        seen.append(requests)
        return SIMULATE(requests, begin_ns, end_ns)

    with recorder(path, run=simulate) as shadow:
        shadow.write(request(1, prompt=65, block_ids=[1, 2, 3]))
        shadow.write(request(2, prompt=0, block_ids=[1]))
    assert seen[0].block_id.tolist() == [1, 2]


def test_beyond_the_cap_requests_are_counted_and_left_out(path: Path) -> None:
    with recorder(path, most_requests=3) as shadow:
        for k in range(5):
            shadow.write(request(k))
        shadow.write(request(11))
    first, second = lines_of(path, "stretch")
    assert [first[name] for name in ("requests", "compared", "over_cap")] == [5, 3, 2]
    assert [second[name] for name in ("requests", "compared", "over_cap")] == [1, 1, 0]
    assert second["warm_up_requests"] == 3


def test_a_stretch_waits_for_its_requests_for_a_bounded_time(path: Path) -> None:
    clock = Clock()
    with recorder(path, clock=clock) as shadow:
        shadow.write(request(1))
        clock.now_ns = START + 39 * SECOND
        shadow.write(request(2))  # 29 s after the end of its stretch
        clock.now_ns = START + 40 * SECOND
        until(lambda: shadow.written == 1)
        shadow.write(request(3))
        shadow.write(request(41))
        assert shadow.late == 1
    first, second = lines_of(path, "stretch")
    assert (first["requests"], first["partial"], first["still_open"], first["late"]) == (2, False, None, 0)
    assert (second["requests"], second["partial"], second["still_open"], second["late"]) == (1, True, None, 1)


def test_announced_requests_close_their_stretch_as_soon_as_all_are_over(path: Path) -> None:
    clock = Clock()
    with recorder(path, clock=clock) as shadow:
        for second in (1, 2, 12):
            shadow.arrived(START + second * SECOND)
        shadow.write(request(12))
        shadow.write(request(1))
        clock.now_ns = START + 20 * SECOND
        time.sleep(0.6)  # two looks of the worker: the younger stretch is over, and waits for the older
        assert shadow.written == 0
        shadow.write(request(2))
        until(lambda: shadow.written == 2)
    assert [line["still_open"] for line in lines_of(path, "stretch")] == [0, 0]


def test_announced_requests_that_never_end_are_told(path: Path) -> None:
    clock = Clock()
    with recorder(path, clock=clock) as shadow:
        shadow.arrived(START)
        shadow.arrived(START + 1)
        shadow.write(request(0))
        clock.now_ns = START + 40 * SECOND
        until(lambda: shadow.written == 1)
    assert lines_of(path, "stretch")[0]["still_open"] == 1


def test_a_clock_that_is_set_back_does_not_end_the_recording(path: Path) -> None:
    clock = Clock()
    clock.now_ns = START + 10_000 * SECOND
    with recorder(path, clock=clock, grace_s=0) as shadow:
        shadow.write(request(9_000))
        until(lambda: shadow.written == 1)
        clock.now_ns = START

        def taken() -> bool:  # once the worker has looked at the clock
            late = shadow.late
            shadow.write(request(1))
            return shadow.late == late

        until(taken)
    assert [line["begin_ns"] - START for line in lines_of(path, "stretch")] == [9_000 * SECOND, 0]


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """A simulation that waits for this event; set at the end in any case."""
    event = threading.Event()
    yield event
    event.set()


def waiting_for(event: threading.Event) -> Callable[[Requests, int, int], StretchRuns]:
    def simulate(requests: Requests, begin_ns: int, end_ns: int) -> StretchRuns:
        assert event.wait(PATIENCE_S)
        return SIMULATE(requests, begin_ns, end_ns)

    return simulate


def test_nothing_waits_for_a_simulation_and_what_falls_behind_is_given_up(path: Path, held: threading.Event) -> None:
    clock = Clock()
    with recorder(path, clock=clock, grace_s=0, run=waiting_for(held)) as shadow:
        for k in range(50):  # returns although the first simulation does not
            shadow.write(request(10 * k))
            clock.now_ns = START + 10 * (k + 1) * SECOND
        assert shadow.lost >= 40
        assert shadow.written == 0
        held.set()
    stretches = lines_of(path, "stretch")
    assert len(stretches) == shadow.written == 50 - shadow.lost
    assert stretches[-1]["stretches_missing"] == shadow.lost
    assert stretches[-1]["begin_ns"] == START + 490 * SECOND


def test_closing_takes_a_bounded_time(path: Path, held: threading.Event) -> None:
    shadow = recorder(path, run=waiting_for(held))
    for k in range(3):
        shadow.write(request(10 * k))
    shadow.close(timeout_s=0.05)
    held.set()
    until(lambda: shadow.lost == 3)
    assert path.read_bytes() == b""


def test_closing_ends_the_process_of_a_simulation_that_goes_on(path: Path) -> None:
    shadow = recorder(path, run=None)
    for k in range(3):
        shadow.write(request(10 * k))
    shadow.close(timeout_s=0.01)  # the process has not even started
    assert (shadow.written, shadow.lost) == (0, 3)
    shadow.write(request(40))
    assert shadow.late == 1


def test_a_simulation_that_fails_is_told_and_the_next_one_tried(path: Path) -> None:
    def simulate(requests: Requests, begin_ns: int, end_ns: int) -> StretchRuns:
        if begin_ns == START:
            raise RuntimeError("no luck")
        return SIMULATE(requests, begin_ns, end_ns)

    with recorder(path, run=simulate) as shadow:
        shadow.write(request(1))
        shadow.write(request(11))
    first, second = lines_of(path, "stretch")
    assert first["problem"] == "RuntimeError: no luck"
    assert first["measured_ttft_s"]["mean"] == 0.25
    assert first["policy_minus_baseline_s"] is None
    assert (second["problem"], second["compared"]) == (None, 1)


ONE = requests_without_prefixes(np.array([0]), np.array([100]), np.array([1]))


def process(**changes: Any) -> StretchProcess:
    return StretchProcess(FLEET, COSTS, CONFIG, "random", **({"limit_s": PATIENCE_S} | changes))


def test_a_process_that_dies_is_told_and_replaced() -> None:
    simulate = process()
    expected = simulate(ONE, 0, 1).policy.ttft_ns.tolist()
    assert simulate._running is not None
    child = simulate._running[0]
    child.kill()
    child.join()
    with pytest.raises(ShadowProcessError, match="ended with status -9"):
        simulate(ONE, 0, 1)
    assert simulate(ONE, 0, 1).policy.ttft_ns.tolist() == expected
    simulate.close()
    assert not child.is_alive()


def test_a_process_passes_errors_on_and_stays() -> None:
    simulate = process()
    with pytest.raises(InputError, match="no request arrives"):
        simulate(ONE, 5, 6)
    assert simulate._running is not None
    child = simulate._running[0]
    assert simulate(ONE, 0, 1).policy.answered.all()
    assert simulate._running[0] is child
    simulate.close()
    simulate.close()
    assert not child.is_alive()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_leaves_its_end_to_its_parent(number: signal.Signals) -> None:
    simulate = process()
    expected = simulate(ONE, 0, 1).policy.ttft_ns.tolist()
    assert simulate._running is not None
    child = simulate._running[0]
    assert child.pid is not None
    os.kill(child.pid, number)
    assert simulate(ONE, 0, 1).policy.ttft_ns.tolist() == expected
    assert simulate._running[0] is child
    simulate.close()


def test_a_simulation_that_takes_too_long_is_ended() -> None:
    simulate = process(limit_s=0.001)
    with pytest.raises(ShadowProcessError, match=r"longer than 0\.001 s"):
        simulate(ONE, 0, 1)
    assert simulate._running is None


def test_a_full_disk_loses_a_stretch_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    clock = Clock()

    def full(descriptor: int, data: bytes) -> int:
        if not data.startswith(b'{"schema":"sbs-opt/shadow'):
            return write(descriptor, data)  # of pytest or the like
        return write(descriptor, data[:40])

    with recorder(path, clock=clock, grace_s=0) as shadow:
        shadow.write(request(1))
        clock.now_ns += 10 * SECOND
        until(lambda: shadow.written == 1)
        before = path.read_bytes()
        monkeypatch.setattr(os, "write", full)
        shadow.write(request(11))
        clock.now_ns += 10 * SECOND
        until(lambda: shadow.unwritten == 1)
        assert path.read_bytes() == before
        monkeypatch.setattr(os, "write", write)
        shadow.write(request(21))
    assert path.read_bytes().startswith(before)
    assert [line["stretches_missing"] for line in lines_of(path, "stretch")] == [0, 1]


def test_a_piece_that_could_not_be_taken_back_is_removed_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, truncate = os.write, os.ftruncate
    file = append_file.AppendFile(path, start=b"{", option="shadow")
    file.append(b"{1}\n")

    def failing(descriptor: int, size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:2]))
    monkeypatch.setattr(os, "ftruncate", failing)
    with pytest.raises(OSError, match="Input/output"):
        file.append(b"{2}\n")
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "ftruncate", truncate)
    file.append(b"{3}\n")
    assert path.read_bytes() == b"{1}\n{3}\n"
    path.write_bytes(b"")  # somebody makes room
    file.append(b"{4}\n")
    file.close()
    file.close()
    assert path.read_bytes() == b"{4}\n"


@pytest.mark.parametrize("read_bytes", [16, 1 << 16])
def test_a_torn_line_is_cut_off_and_the_rest_continued(
    path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: int
) -> None:
    monkeypatch.setattr(append_file, "_READ_BYTES", read_bytes)
    with recorder(path) as shadow:
        shadow.write(request(1))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:70])
    with recorder(path) as shadow:
        shadow.write(request(2))
    assert path.read_bytes().startswith(whole)
    assert len(lines_of(path, "stretch")) == 2
    path.write_bytes(whole[:30])  # torn in its first line
    recorder(path).close()
    assert path.read_bytes() == b""


def test_another_file_is_left_alone(path: Path) -> None:
    path.write_text('{"schema":"sbs-opt/trace/1"}\n')
    with pytest.raises(InputError, match=r"shadow = .*no shadow of ours"):
        recorder(path)
    assert path.read_text() == '{"schema":"sbs-opt/trace/1"}\n'
    with pytest.raises(OSError, match="No such file"):
        recorder(path.with_name("absent") / "shadow.jsonl")


def test_two_recorders_need_two_files(path: Path) -> None:
    with recorder(path), pytest.raises(InputError, match="another process writes to it"):
        recorder(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("stretch_s", 0), ("stretch_s", float("nan")), ("grace_s", -1), ("warm_up", -1), ("most_requests", 0),
     ("baseline", "unknown")],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_before_the_file_is_made(path: Path, field: str, value: Any) -> None:
    with pytest.raises(InputError, match=r"must|known"):
        recorder(path, **{field: value})
    assert not path.exists()
