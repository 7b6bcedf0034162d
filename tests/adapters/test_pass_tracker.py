"""Passes inferred from first tokens, held against an engine whose passes are known."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sbs_opt.adapters.pass_tracker import PassInferred, PassTracker
from sbs_opt.testing.costs import LinearDecode, LinearPrefill
from sbs_opt.testing.engines import EngineConfig
from sbs_opt.testing.engines.ranks import PassWork, Ranks, Sequence

RANKS, CHUNK = 3, 1000
MS = 1_000_000
CONFIG = EngineConfig(
    ranks=RANKS, chunk_tokens=CHUNK, slots=10**6, context_tokens=10_000, prefill=LinearPrefill(20 * MS, 10_000),
    decode=LinearDecode(MS), mode="prefill",
)  # fmt: skip


@dataclass
class Told:
    """What an engine did and what the tracker said of it."""

    passes: list[PassWork]
    inferred: list[PassInferred]


def follow(requests: list[tuple[int, int, int]], way_ns: int, burst_ns: int) -> Told:
    """Run requests (time, rank, tokens) on an engine in virtual time; sending takes `way_ns`, tokens of a pass come
    one after the other within `burst_ns` after it."""
    ranks, tracker, told = Ranks(CONFIG), PassTracker(1, RANKS, CHUNK), Told([], [])
    events: list[tuple[int, int, str, object]] = []
    numbers: dict[int, int] = {}
    order = 0

    def post(at_ns: int, kind: str, what: object) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (at_ns, order, kind, what))

    for number, (at_ns, rank, tokens) in enumerate(requests):
        post(at_ns, "send", (number, rank, tokens))
    running = False

    def launch(at_ns: int) -> None:
        nonlocal running
        work = ranks.begin(at_ns)
        running = work is not None
        if isinstance(work, PassWork):
            post(at_ns + work.record.duration_ns, "end", work)

    while events:
        now_ns, _, kind, what = heapq.heappop(events)
        if kind == "send":
            number, rank, tokens = what  # type: ignore[misc]
            tracker.sent(number, 0, rank, tokens, now_ns)
            post(now_ns + way_ns, "reach", (number, rank, tokens))
        elif kind == "reach":
            number, rank, tokens = what  # type: ignore[misc]
            sequence = Sequence(rank, tokens, 1, lambda: None)
            numbers[id(sequence)] = number
            told_of.append(sequence)
            ranks.submit(sequence)
            if not running:
                # All that reaches an idle engine at one instant is in its first pass.
                post(now_ns, "launch", None)
        elif kind == "launch" and not running:
            launch(now_ns)
        elif kind == "end":
            assert isinstance(what, PassWork)
            ranks.end(what)
            told.passes.append(what)
            count = len(what.finishing)
            for k, sequence in enumerate(what.finishing):
                post(now_ns + way_ns + burst_ns * k // count, "token", numbers[id(sequence)])
            launch(now_ns)
        elif kind == "token":
            assert isinstance(what, int)
            told.inferred += tracker.first_token(what, now_ns)
        elif kind == "overdue":
            told.inferred += tracker.overdue(now_ns)
        if (due_ns := tracker.due_ns()) is not None:
            post(max(due_ns, now_ns + 1), "overdue", None)
    return told


told_of: list[Sequence] = []  # keeps sequences alive, so that their ids stay theirs


def close_to_a_launch(requests: list[tuple[int, int, int]], told: Told, way_ns: int) -> bool:
    """Tell whether a request was sent so closely to a launch that it may count to either pass."""
    return any(
        -2 * way_ns <= sent_ns - work.record.start_ns <= PassTracker.TRANSIT_NS
        and sent_ns != work.record.start_ns - way_ns  # it opened the pass of an idle engine
        for sent_ns, _, _ in requests
        for work in told.passes
    )


def arrivals(longest: int) -> st.SearchStrategy[list[tuple[int, int, int]]]:
    one = st.tuples(st.integers(0, 400 * MS), st.integers(0, RANKS - 1), st.integers(1, longest))
    return st.lists(one, min_size=1, max_size=60)


ARRIVALS = arrivals(3500)
ONE_CHUNK = arrivals(CHUNK)
"""Every pass shows a token: what middle chunks of other ranks ran is known only once their prompts are done."""


@given(ARRIVALS | ONE_CHUNK, st.integers(0, MS), st.integers(0, 8 * MS))
@settings(max_examples=200, deadline=None)
def test_passes_that_answer_are_seen_once_when_their_first_token_comes(
    requests: list[tuple[int, int, int]], way_ns: int, burst_ns: int
) -> None:
    told = follow(requests, way_ns, burst_ns)
    assume(not close_to_a_launch(requests, told, way_ns))
    answering = [work for work in told.passes if work.finishing]
    ends = [work.record.start_ns + work.record.duration_ns + way_ns for work in answering]
    inferred = [one.ended_ns for one in told.inferred]
    assert len(set(inferred)) == len(inferred), "no pass is told twice"
    # A pass may go unnoticed after one whose length is unknown, because middle chunks showed no token.
    assert set(inferred) <= set(ends)
    if max(tokens for _, _, tokens in requests) <= CHUNK:
        assert inferred == ends


@given(ONE_CHUNK)
@settings(max_examples=200, deadline=None)
def test_what_is_still_queued_is_told_exactly_where_nothing_is_on_its_way(requests: list[tuple[int, int, int]]) -> None:
    told = follow(requests, 0, 0)
    assume(not close_to_a_launch(requests, told, 0))
    for one in told.inferred:
        at_ns = one.ended_ns
        sent = np.zeros(RANKS, np.int64)
        for sent_ns, rank, tokens in requests:
            if sent_ns <= at_ns:
                sent[rank] += tokens
        run = sum(
            (work.record.tokens for work in told.passes if work.record.start_ns + work.record.duration_ns <= at_ns),
            np.zeros(RANKS, np.int64),
        )
        late = sum(tokens for sent_ns, _, tokens in requests if abs(sent_ns - at_ns) <= PassTracker.TRANSIT_NS)
        if not late:
            assert (one.tokens_queued == sent - run).all()


def test_a_request_that_missed_its_pass_is_counted_to_the_next() -> None:
    tracker = PassTracker(1, 2, CHUNK)
    tracker.sent(0, 0, 0, 500, at_ns=0)
    tracker.sent(1, 0, 1, 500, at_ns=0)
    assert tracker.first_token(0, at_ns=24 * MS) == []  # the other one may still come
    assert tracker.due_ns() == 36 * MS
    assert tracker.overdue(35 * MS) == []
    (first,) = tracker.overdue(36 * MS)
    assert (first.tokens_run.tolist(), first.tokens_queued.tolist()) == ([500, 0], [0, 500])
    (second,) = tracker.first_token(1, at_ns=50 * MS)
    assert (second.tokens_run.tolist(), second.duration_ns) == ([0, 500], 26 * MS)
    assert tracker.due_ns() is None


def test_a_client_that_leaves_is_waited_for_no_longer() -> None:
    tracker = PassTracker(1, 2, CHUNK)
    tracker.sent(0, 0, 0, 500, at_ns=0)
    tracker.sent(1, 0, 1, 500, at_ns=0)
    assert tracker.first_token(0, at_ns=24 * MS) == []
    (only,) = tracker.gone(1)
    assert (only.tokens_run.tolist(), only.tokens_queued.tolist()) == ([500, 500], [0, 0])


def test_a_long_prompt_tells_of_passes_that_showed_no_token() -> None:
    tracker = PassTracker(1, 2, CHUNK)
    tracker.sent(0, 0, 0, 2500, at_ns=0)
    (ended,) = tracker.first_token(0, at_ns=90 * MS)
    assert (ended.duration_ns, ended.tokens_run.tolist()) == (30 * MS, [500, 0])


def test_an_answer_out_of_order_bends_the_picture_not_the_tracker() -> None:
    tracker = PassTracker(1, 1, CHUNK)
    tracker.sent(0, 0, 0, 900, at_ns=0)
    tracker.sent(1, 0, 0, 900, at_ns=10 * MS)
    assert (
        tracker.first_token(1, at_ns=40 * MS) == []
    )  # the later one first: a prefix hit, or no first come, first served
    (first,) = tracker.first_token(0, at_ns=41 * MS)
    assert (first.ended_ns, first.tokens_queued.tolist()) == (40 * MS, [0])
    assert tracker.gone(0) == []
    tracker.sent(2, 0, 0, 900, at_ns=42 * MS)
    tracker.lost(0)
    assert tracker.first_token(2, at_ns=60 * MS) == []


def test_a_request_is_at_one_place_only() -> None:
    """Dispatched and its instance lost in one round: it was kept at both places, and losing the other one failed."""
    tracker = PassTracker(2, 4, CHUNK)
    tracker.sent(0, 0, 1, 100, at_ns=1)
    tracker.sent(0, 1, 1, 100, at_ns=1)
    assert tracker.queued_tokens(0).sum() == 0
    assert tracker.queued_tokens(1).sum() == 100
    tracker.gone(0)
    tracker.lost(0)
    tracker.lost(1)
