"""Passes put together from what ranks tell: in order, each once, whatever is lost, late, twice or out of order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.adapters.pass_feed import PassCollator, PassOver
from sbs_opt.adapters.pass_feed_asyncio import PassFeed
from sbs_opt.adapters.pass_feed_listener import MAX_DATAGRAM, PassListener
from sbs_opt.adapters.pass_feed_sglang import SglangPasses
from sbs_opt.adapters.telemetry import LoadSnapshot, RankLoad
from sbs_opt.adapters.telemetry_passes import ForwardPass, PassWork
from sbs_opt.models.errors import InputError

MS = 1_000_000
PASS_NS = 10 * MS
WAIT_NS = 2 * MS


def work(requests: int, tokens: int) -> PassWork:
    return PassWork(requests, tokens, 0, 0, 0, 0.0, 0.0)


def message(
    rank: int, counter: int, tokens: int, queued: int = 0, *, took_ns: int = PASS_NS, waiting: int | None = None
) -> ForwardPass:
    queue = work(int(queued > 0) if waiting is None else waiting, queued)
    return ForwardPass("w", rank, counter, took_ns, work(int(tokens > 0), tokens), queue)


def heartbeat(rank: int, counter: int) -> ForwardPass:
    return message(rank, counter, 0, took_ns=0)


@dataclass
class Feed:
    """A collator on a clock that fires its timers in time."""

    collator: PassCollator
    over: list[PassOver] = field(default_factory=list)
    ended_ns: list[int] = field(default_factory=list)

    def until(self, now_ns: int) -> None:
        while (due := self.collator.next_timer_ns()) is not None and due <= now_ns:
            self._note(self.collator.handle_timer(due), due)

    def hear(self, told: ForwardPass, at_ns: int) -> None:
        self.until(at_ns)
        self._note(self.collator.heard(told, at_ns), at_ns)

    def _note(self, passes: Sequence[PassOver], now_ns: int) -> None:
        self.over += passes
        self.ended_ns += [now_ns] * len(passes)

    def runs(self) -> list[list[int]]:
        return [over.tokens_run.tolist() for over in self.over]


def feed(num_ranks: int) -> Feed:
    return Feed(PassCollator(num_ranks, wait_ns=WAIT_NS))


# ------------------------------------------------------------------------------------------------ one case at a time


def test_a_pass_is_over_once_the_last_rank_has_told() -> None:
    heard = feed(3)
    for rank, queued in ((2, 70), (0, 0)):
        heard.hear(message(rank, 40, 100 + rank, queued, took_ns=PASS_NS + rank), 1000)
    assert heard.over == []
    heard.hear(message(1, 40, 101), 1500)
    (over,) = heard.over
    assert (over.number, over.duration_ns, heard.ended_ns) == (0, PASS_NS + 2, [1500])
    assert over.tokens_run.dtype == over.tokens_queued.dtype == np.int64
    assert (over.tokens_run.tolist(), over.tokens_queued.tolist()) == ([100, 101, 102], [0, 0, 70])
    assert over.heard.all()
    assert over.queue_known.all()
    assert heard.collator.next_timer_ns() is None


def test_a_rank_that_says_nothing_is_waited_for_until_the_time_is_up() -> None:
    heard = feed(2)
    heard.hear(message(1, 5, 9), 1000)
    heard.until(1000 + WAIT_NS - 1)
    assert heard.over == []
    heard.until(1000 + WAIT_NS)
    assert (heard.runs(), heard.over[0].heard.tolist()) == ([[0, 9]], [False, True])
    assert heard.over[0].queued_or(np.array([33, 44])).tolist() == [33, 0]
    assert heard.collator.oddities.partial_passes == 1


def test_the_next_counter_ends_a_pass_before_its_time() -> None:
    heard = feed(2)
    heard.hear(message(0, 5, 1), 0)
    heard.hear(message(0, 6, 2), 10)
    assert heard.runs() == [[1, 0]]
    heard.hear(message(1, 5, 3), 20)
    assert heard.collator.oddities.late == 1
    heard.hear(message(1, 6, 4), 30)
    assert heard.runs() == [[1, 0], [2, 4]]


def test_steps_without_prefill_are_no_passes() -> None:
    heard = feed(1)
    for counter, tokens in enumerate((5, 0, 0, 7)):
        heard.hear(message(0, counter, tokens), counter * PASS_NS)
    assert ([over.number for over in heard.over], heard.runs()) == ([0, 1], [[5], [7]])
    assert heard.collator.other_steps == 2


def test_requests_without_tokens_are_a_queue_of_unknown_length() -> None:
    heard = feed(2)
    heard.hear(message(0, 0, 1, queued=0, waiting=4), 0)
    heard.hear(message(1, 0, 1, queued=0, waiting=0), 0)
    assert heard.over[0].queue_known.tolist() == [False, True]
    assert heard.over[0].queued_or(np.array([50, 60])).tolist() == [50, 0]


def test_a_dead_rank_is_given_up_and_taken_back() -> None:
    heard = feed(2)
    for step in range(PassCollator.PATIENCE + 1):
        heard.hear(message(0, step, 1), step * PASS_NS)
    assert heard.ended_ns[-1] == PassCollator.PATIENCE * PASS_NS  # at once
    assert heard.ended_ns[-2] == (PassCollator.PATIENCE - 1) * PASS_NS + WAIT_NS
    back = PassCollator.PATIENCE + 1
    heard.hear(message(1, back, 8), back * PASS_NS)  # first of the two this time, else it would be late once
    heard.hear(message(0, back, 1), back * PASS_NS)
    assert heard.runs()[-1] == [1, 8]
    heard.hear(message(0, back + 1, 1), (back + 1) * PASS_NS)
    heard.until(10**10)
    assert heard.ended_ns[-1] == (back + 1) * PASS_NS + WAIT_NS  # waited for again


def test_a_rank_that_is_too_slow_to_tell_stays_late() -> None:
    """It must not be matched with the next pass, however long it goes on."""
    heard = feed(2)
    heard.hear(message(0, 0, 1), 0)
    heard.hear(message(1, 0, 2), 0)
    for step in range(1, 300):
        heard.hear(message(0, step, 1), step * PASS_NS)
        heard.hear(message(1, step, 2), step * PASS_NS + WAIT_NS + 1)
    assert heard.runs() == [[1, 2]] + [[1, 0]] * 299
    assert (heard.collator.oddities.late, heard.collator.oddities.realigned) == (299, 0)


def test_steps_that_nobody_told_of_are_counted() -> None:
    heard = feed(1)
    heard.hear(message(0, 50, 1), 0)
    heard.hear(message(0, 54, 1), 4 * PASS_NS)
    assert ([over.number for over in heard.over], heard.collator.oddities.unheard_passes) == ([0, 1], 3)


def test_with_a_long_wait_what_was_told_is_not_told_over() -> None:
    heard = Feed(PassCollator(2, wait_ns=10 * PassCollator.FORGET_NS))
    heard.hear(message(0, 5, 1), 0)
    heard.hear(message(0, 4, 2), 2 * PassCollator.FORGET_NS)
    heard.hear(message(0, 5, 3), 2 * PassCollator.FORGET_NS)
    heard.hear(message(1, 5, 4), 2 * PassCollator.FORGET_NS)
    assert heard.runs() == [[1, 4]]
    assert (heard.collator.oddities.late, heard.collator.oddities.duplicates) == (1, 1)


def test_a_rank_back_from_idleness_is_matched_by_time() -> None:
    """An instance at work does not count its passes on a rank that is idle: its counter falls behind."""
    heard = feed(2)
    heard.hear(message(0, 0, 1), 0)
    heard.hear(message(1, 0, 1), 0)
    heard.hear(message(0, 1, 2), PASS_NS)
    heard.hear(heartbeat(1, 1), PASS_NS)
    heard.hear(message(0, 2, 3), 2 * PASS_NS)
    assert heard.runs() == [[1, 1], [2, 0]]
    heard.hear(message(0, 3, 4), 3 * PASS_NS)
    heard.hear(message(1, 2, 5), 3 * PASS_NS)
    heard.hear(message(1, 3, 7), 4 * PASS_NS)
    heard.hear(message(0, 4, 6), 4 * PASS_NS)
    assert heard.runs() == [[1, 1], [2, 0], [3, 0], [4, 5], [6, 7]]
    assert (heard.collator.heartbeats, heard.collator.oddities.realigned) == (1, 1)


def test_a_straggler_after_idleness_is_late() -> None:
    heard = feed(2)
    for rank in (0, 1):
        heard.hear(message(rank, 0, 1), 0)
    for rank in (0, 1):
        heard.hear(heartbeat(rank, 1), 2_000_000_000)
        heard.hear(message(rank, 0, 1), 2_000_000_000)  # no restart: it has just said that it is idle
    for rank in (0, 1):
        heard.hear(message(rank, 2, 2), 2_000_000_001)
    heard.hear(message(0, 3, 3), 2_000_000_001 + PASS_NS)
    heard.hear(message(0, 4, 4), 2_000_000_001 + 2 * PASS_NS)
    heard.hear(message(1, 3, 9), 2_000_000_002 + 2 * PASS_NS)
    heard.until(10**10)
    assert heard.runs() == [[1, 1], [2, 2], [3, 0], [4, 0]]
    assert (heard.collator.oddities.duplicates, heard.collator.oddities.late) == (0, 3)


def test_a_rank_first_heard_of_counts_as_those_heard_last() -> None:
    heard = feed(3)
    heard.hear(message(0, 500, 1), 0)  # of an engine that is started anew
    at_ns = 2 * PassCollator.FORGET_NS
    heard.hear(message(1, 500, 1), 0)
    heard.hear(message(1, 0, 1), at_ns)
    heard.hear(message(2, 1, 3), at_ns + PASS_NS)
    heard.hear(message(1, 1, 2), at_ns + PASS_NS)
    heard.until(at_ns + 2 * PASS_NS)
    assert heard.runs()[-1] == [0, 2, 3]


def test_heartbeats_of_all_ranks_leave_them_aligned() -> None:
    heard = feed(2)
    heard.hear(message(0, 0, 1), 0)
    heard.hear(message(1, 0, 1), 0)
    for rank, counters in ((0, (1, 2, 3)), (1, (1, 2))):
        for counter in counters:
            heard.hear(heartbeat(rank, counter), counter * 1_000_000_000)
    heard.hear(message(0, 4, 2), 4_000_000_000)
    heard.hear(message(1, 3, 3), 4_000_000_000)
    assert heard.runs() == [[1, 1], [2, 3]]
    assert heard.collator.oddities.realigned == 0


def test_a_restarted_engine_counts_anew_and_its_passes_go_on() -> None:
    heard = feed(2)
    for step in range(3):
        for rank in (0, 1):
            heard.hear(message(rank, 100 + step, 10 + rank), step * PASS_NS)
    heard.hear(message(0, 0, 77), 3 * PASS_NS)  # so soon it can only be a straggler
    assert heard.collator.oddities.late == 1
    begin = 3 * PASS_NS + PassCollator.FORGET_NS
    for step in range(3):
        for rank in (1, 0):
            heard.hear(message(rank, step, 20 + rank), begin + step * PASS_NS)
    assert heard.runs() == [[10, 11]] * 3 + [[20, 21]] * 3
    assert [over.number for over in heard.over] == list(range(6))
    assert heard.collator.oddities.realigned == 2


@pytest.mark.parametrize("ahead", [-3, -1, 1, 3])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_ranks_that_count_differently_are_matched_within_moments(ahead: int, first: int) -> None:
    """A rank that was not heard of at first, and counts differently, is matched once its counter makes no sense."""
    heard = feed(3)
    order = [first, *(rank for rank in range(3) if rank != first)]
    heard.hear(message(0, 999, 1), 0)
    for step in range(1, 400):
        for delay, rank in enumerate(order):
            heard.hear(
                message(rank, 999 + step + (ahead if rank == 2 else 0), 10 * step + rank), step * PASS_NS + delay
            )
    heard.until(400 * PASS_NS)
    assert heard.runs()[-100:] == [[10 * step + rank for rank in range(3)] for step in range(300, 400)]


def test_ranks_beyond_the_instance_are_counted() -> None:
    heard = feed(2)
    heard.hear(message(2, 0, 5), 0)
    assert (heard.over, heard.collator.oddities.unknown_ranks) == ([], 1)


@pytest.mark.parametrize(("ranks", "wait_ns", "field"), [(0, 1, "num_ranks = 0"), (1, -1, "wait_ns = -1")])
def test_a_collator_says_what_is_wrong_with_it(ranks: int, wait_ns: int, field: str) -> None:
    with pytest.raises(InputError, match=field):
        PassCollator(ranks, wait_ns=wait_ns)


# ------------------------------------------------------------------------------------------------------ properties


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, int]]]:
    """Return the number of ranks, and (time, rank, pass) of what arrives of lock-step passes, in order of time."""
    num_ranks = draw(st.integers(1, 4))
    delay = st.integers(0, WAIT_NS - 1) | st.integers(0, 5 * PASS_NS)
    arrived = []
    for number in range(draw(st.integers(1, 12))):
        for rank in range(num_ranks):
            for copy in range(draw(st.sampled_from([1, 1, 1, 1, 0, 2]))):
                late_ns = draw(delay)
                arrived.append((number * PASS_NS + late_ns, rank, number, copy))
    arrived.sort()
    return num_ranks, [(at_ns, rank, number) for at_ns, rank, number, _ in arrived]


def tokens_of(rank: int, number: int) -> int:
    return 100 * number + rank + 1


@given(deliveries(), st.integers(0, 10**6))
def test_any_interleaving_gives_each_pass_at_most_once_and_as_it_was_told(
    case: tuple[int, list[tuple[int, int, int]]], first_counter: int
) -> None:
    num_ranks, arrived = case
    heard = feed(num_ranks)
    for at_ns, rank, number in arrived:
        heard.hear(message(rank, first_counter + number, tokens_of(rank, number), tokens_of(rank, number) * 7), at_ns)
    heard.until(10**12)
    assert [over.number for over in heard.over] == list(range(len(heard.over)))
    told = []
    for over, ended_ns in zip(heard.over, heard.ended_ns, strict=True):
        ranks = np.flatnonzero(over.heard).tolist()
        (number,) = {(int(over.tokens_run[rank]) - 1) // 100 for rank in ranks}
        told.append(number)
        expected = [tokens_of(rank, number) if rank in ranks else 0 for rank in range(num_ranks)]
        assert over.tokens_run.tolist() == expected
        assert over.tokens_queued.tolist() == [7 * tokens for tokens in expected]
        times = {rank: min(at for at, r, n in arrived if (r, n) == (rank, number)) for rank in ranks}
        assert min(times.values()) <= ended_ns <= min(times.values()) + WAIT_NS
    assert told == sorted(set(told))
    used = sum(int(over.heard.sum()) for over in heard.over)
    oddities = heard.collator.oddities
    assert used + oddities.duplicates + oddities.late == len(arrived)
    assert oddities.realigned == oddities.unknown_ranks == 0


@given(deliveries())
def test_what_arrives_in_time_is_told_in_full(case: tuple[int, list[tuple[int, int, int]]]) -> None:
    num_ranks, arrived = case
    in_time = [(at, rank, number) for at, rank, number in arrived if at < number * PASS_NS + WAIT_NS]
    heard = feed(num_ranks)
    for at_ns, rank, number in in_time:
        heard.hear(message(rank, number, tokens_of(rank, number)), at_ns)
    heard.until(10**12)
    # A rank given up would be late at its return; twelve passes are too few for that.
    passes = sorted({number for _, _, number in in_time})
    assert heard.runs() == [
        [
            tokens_of(rank, number) if any((r, n) == (rank, number) for _, r, n in in_time) else 0
            for rank in range(num_ranks)
        ]
        for number in passes
    ]


ANY_MESSAGE = st.tuples(
    st.integers(0, 3),
    st.integers(0, 30) | st.integers(0, 2**63 - 1),
    st.integers(0, 5),
    st.sampled_from([0, 1, PASS_NS, 10**15]),
    st.sampled_from([0, 1, WAIT_NS, PASS_NS, PassCollator.FORGET_NS]),
)


@given(st.lists(ANY_MESSAGE, max_size=60), st.booleans())
def test_any_messages_at_all_give_ascending_passes_and_every_message_is_accounted_for(
    messages: list[tuple[int, int, int, int, int]], timers: bool
) -> None:
    heard = feed(3)
    now_ns = 0
    for rank, counter, tokens, took_ns, later_ns in messages:
        now_ns += later_ns
        told = message(rank, counter, tokens, took_ns=took_ns)
        if timers:
            heard.hear(told, now_ns)
        else:  # a driver that never gets round to its timers
            heard.over += heard.collator.heard(told, now_ns)
    heard.until(now_ns + WAIT_NS)
    assert heard.collator.next_timer_ns() is None
    assert [over.number for over in heard.over] == list(range(len(heard.over)))
    assert all(over.tokens_run.sum() > 0 and over.duration_ns > 0 for over in heard.over)
    oddities = heard.collator.oddities
    refused = oddities.unknown_ranks + oddities.duplicates + oddities.late + heard.collator.heartbeats
    used = sum(int(over.heard.sum()) for over in heard.over)
    assert used + refused <= len(messages) <= used + refused + 3 * heard.collator.other_steps


# ---------------------------------------------------------------------------------------------------------- SGLang


def loads(as_of_ns: int | None, *ranks: tuple[int, int, int, int | None]) -> LoadSnapshot:
    rows = (
        RankLoad(rank, 1, 1, waiting, prefill_tokens_total=tokens, prefill_busy_us_total=tokens * 2)
        for rank, tokens, _, waiting in ranks
    )
    return LoadSnapshot("sglang /v1/loads", as_of_ns, tuple(rows))


def test_counters_that_moved_are_told_as_a_pass() -> None:
    passes = SglangPasses(3)
    assert passes.seen(loads(1, (0, 100, 0, 0), (1, 50, 0, 0))) is None
    over = passes.seen(loads(2, (0, 300, 0, 40), (1, 50, 0, None)))
    assert over is not None
    assert (over.number, over.duration_ns, over.tokens_run.tolist()) == (0, 400_000, [200, 0, 0])
    assert (over.heard.tolist(), over.queue_known.tolist()) == ([True, True, False], [True, False, False])
    assert over.queued_or(np.array([7, 8, 9])).tolist() == [40, 8, 9]
    assert passes.seen(loads(3, (0, 300, 0, 40))) is None
    assert passes.seen(loads(2, (0, 250, 0, 40))) is None
    assert passes.late == 1
    assert passes.seen(loads(4, (0, 10, 0, 0), (7, 500, 0, 0))) is None  # restarted
    assert passes.unknown_ranks == 1
    again = passes.seen(loads(5, (0, 30, 0, 0)))
    assert again is not None
    assert (again.number, again.tokens_run.tolist()) == (1, [20, 0, 0])


def test_a_clock_that_was_set_back_does_not_stop_the_passes() -> None:
    passes = SglangPasses(1)
    passes.seen(loads(10**18, (0, 1, 0, 0)))
    assert passes.seen(loads(10**18 - 2 * SglangPasses.LATEST_NS, (0, 5, 0, 0))) is not None
    with pytest.raises(InputError, match="num_ranks = 0"):
        SglangPasses(0)


@given(st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=3, max_size=3), st.integers(0, 7)), max_size=20))
def test_no_token_is_lost_or_told_twice_whatever_snapshots_leave_out(steps: list[tuple[list[int], int]]) -> None:
    passes = SglangPasses(3)
    totals, told, number = [0, 0, 0], np.zeros(3, np.int64), 0
    steps = [([0, 0, 0], 7), *steps, ([0, 0, 0], 7)]
    for at, (grown, shown) in enumerate(steps):
        totals = [total + more for total, more in zip(totals, grown, strict=True)]
        rows = [(rank, totals[rank], 0, 0) for rank in range(3) if shown >> rank & 1]
        over = passes.seen(loads(at, *rows)) if rows else None
        if over is not None:
            told += over.tokens_run
            assert (over.number, over.duration_ns > 0) == (number, True)
            number += 1
    assert told.tolist() == totals


# -------------------------------------------------------------------------------------------------------- listener

msgspec = pytest.importorskip("msgspec")


def datagram(rank: int, counter: int, tokens: int, *, worker: str = "a", wall_time: float = 0.01) -> bytes:
    prefill = {"num_prefill_requests": 1, "sum_prefill_tokens": tokens, "var_prefill_length": 0.0}
    decode = {"num_decode_requests": 0, "sum_decode_kv_tokens": 0, "var_decode_kv_tokens": 0.0}
    data: bytes = msgspec.msgpack.encode(
        {
            "version": 1, "worker_id": worker, "dp_rank": rank, "counter_id": counter, "wall_time": wall_time,
            "scheduled_requests": prefill | decode | {"sum_prefill_kv_tokens": 0},
            "queued_requests": prefill | decode,
        }
    )  # fmt: skip
    return data


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def test_datagrams_are_told_by_worker_or_by_sender_and_malformed_ones_counted() -> None:
    async def main() -> None:
        told: list[tuple[int, ForwardPass]] = []
        listener = PassListener(
            lambda instance, heard: told.append((instance, heard)), workers={"a": 3}, hosts={"127.0.0.1": 5}
        )
        place = await listener.start()
        assert place[0] == "127.0.0.1"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as engine:
            for data in (b"", b"\xc1", b"x" * (MAX_DATAGRAM + 1), datagram(0, 1, 10), datagram(1, 2, 20, worker="?")):
                engine.sendto(data, place)
            await eventually(lambda: len(told) == 2)
        assert [(instance, heard.rank, heard.scheduled.prefill_tokens) for instance, heard in told] == [
            (3, 0, 10),
            (5, 1, 20),
        ]
        counts = listener.counts
        assert (counts.passes, counts.malformed, counts.oversized, counts.unknown_senders) == (2, 2, 1, 0)
        assert "is no msgpack" in counts.last_error
        listener.close()
        listener.close()

    asyncio.run(main())


def test_a_sender_that_nobody_knows_is_counted() -> None:
    told: list[ForwardPass] = []
    listener = PassListener(lambda _, heard: told.append(heard), workers={"a": 0})
    listener.received(datagram(0, 0, 1, worker="b"), "10.0.0.9")
    assert (told, listener.counts.unknown_senders) == ([], 1)
    listener.failed(OSError("gone"))
    assert (listener.counts.errors, listener.counts.last_error) == (1, "gone")


@given(st.binary(max_size=200) | st.builds(lambda cut: datagram(0, 1, 5)[:cut], st.integers(0, 400)))
def test_no_datagram_raises(data: bytes) -> None:
    told: list[ForwardPass] = []
    listener = PassListener(lambda _, heard: told.append(heard), workers={"a": 0})
    listener.received(data, "127.0.0.1")
    counts = listener.counts
    assert counts.passes + counts.malformed + counts.unknown_senders == 1
    assert len(told) == counts.passes


@pytest.mark.parametrize(
    ("options", "field"), [({"port": 70_000, "workers": {"a": 0}}, "port = 70000"), ({}, "workers")]
)
def test_a_listener_says_what_is_wrong_with_it(options: dict[str, object], field: str) -> None:
    with pytest.raises(InputError, match=field):
        PassListener(lambda *_: None, **options)  # type: ignore[arg-type]


def test_listener_and_collators_tell_the_passes_of_each_instance() -> None:
    async def main() -> None:
        ended: list[tuple[int, PassOver]] = []
        feed = PassFeed(
            [PassCollator(2, wait_ns=20 * MS) for _ in range(2)], lambda instance, over: ended.append((instance, over))
        )
        listener = PassListener(feed.told, workers={"a": 0, "b": 1})
        place = await listener.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as engine:
            for rank in (0, 1):
                engine.sendto(datagram(rank, 7, 10 + rank), place)
            await eventually(lambda: len(ended) == 1)
            engine.sendto(datagram(1, 9, 50, worker="b"), place)  # its other rank is silent: the wait ends it
            await eventually(lambda: len(ended) == 2)
            engine.sendto(datagram(0, 10, 60, worker="b"), place)
            await eventually(lambda: len(ended) == 3)
        assert [(instance, over.number, over.tokens_run.tolist()) for instance, over in ended] == [
            (0, 0, [10, 11]),
            (1, 0, [0, 50]),
            (1, 1, [60, 0]),
        ]
        listener.close()
        feed.close()

    asyncio.run(main())
