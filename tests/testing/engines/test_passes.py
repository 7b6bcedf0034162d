"""Fake engines take the time of the cost model: barrier, chunks, slots, steps."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("aiohttp")

import aiohttp

from sbs_opt.models.checks import IntArray
from sbs_opt.testing.costs import LinearPrefill
from sbs_opt.testing.engines import EngineConfig, FakeEngine, PassRecord, StepRecord
from sbs_opt.testing.engines.ranks import PassWork, Ranks, Sequence, StepWork
from tests.testing.engines.bench import FAST, ask, assert_empty, body, served, until


def test_passes_and_steps_last_what_the_cost_model_says() -> None:
    config = EngineConfig(ranks=4, chunk_tokens=2_000, slots=4, speed=500.0)
    prompts = [100, 5_000, 700, 1_999, 2_001, 3, 4_000, 60, 900, 1]

    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        await asyncio.gather(*(ask(engine, client, body(p, 5, routed_dp_rank=k % 3)) for k, p in enumerate(prompts)))
        cost = config.cost_model()
        assert engine.passes
        assert engine.steps
        for k, ran in enumerate(engine.passes):
            assert ran.number == k
            assert ran.duration_ns == cost.prefill.pass_ns(ran.pairs, ran.tokens, ran.context_tokens)
            assert ran.tokens.max() <= config.chunk_tokens
            assert ran.tokens[3] == 0  # nothing was sent there: it takes part all the same
        for step in engine.steps:
            assert step.duration_ns == cost.decode.step_ns(step.kv_tokens, step.sequences)
            assert 0 < step.sequences.max() <= config.slots
        expected = [sum(prompts[rank::3]) for rank in range(3)]
        assert sum(ran.tokens for ran in engine.passes).tolist() == [*expected, 0]  # type: ignore[union-attr]
        # A prompt of n tokens has n(n+1)/2 pairs, however it was cut.
        assert sum(int(ran.pairs.sum()) for ran in engine.passes) == sum(p * (p + 1) // 2 for p in prompts)
        works: list[PassRecord | StepRecord] = [*engine.passes, *engine.steps]
        timeline = sorted(works, key=lambda work: work.start_ns)
        for before, after in pairwise(timeline):
            assert after.start_ns >= before.start_ns + before.duration_ns
        assert_empty(engine)

    served(config, scenario)


def test_a_long_prompt_keeps_its_rest_at_the_head() -> None:
    ranks = Ranks(FAST)
    grown: list[str] = []
    for name, rank, tokens in (("long", 1, 2_500), ("behind", 1, 300), ("other", 2, 10)):
        ranks.submit(Sequence(rank, tokens, 1, lambda name=name: grown.append(name)))  # type: ignore[misc]
    seen = []
    while work := ranks.begin(0):
        assert isinstance(work, PassWork)
        before = list(grown)
        ranks.end(work)
        seen.append((work.record.tokens.tolist(), work.record.context_tokens.tolist(), grown[len(before) :]))
    assert seen == [
        ([0, 1_000, 10], [0, 1_000, 10], ["other"]),
        ([0, 1_000, 0], [0, 2_000, 0], []),
        ([0, 800, 0], [0, 2_800, 0], ["long", "behind"]),
    ]


def test_prefill_goes_before_decode() -> None:
    ranks = Ranks(FAST)
    ranks.submit(Sequence(0, 5, 10, lambda: None))
    kinds = []
    for k in range(4):
        work = ranks.begin(0)
        assert work is not None
        kinds.append(type(work))
        if k == 1:
            ranks.submit(Sequence(1, 5, 10, lambda: None))
        ranks.end(work)
    assert kinds == [PassWork, StepWork, PassWork, StepWork]


def test_slots_hold_prompts_back() -> None:
    ranks = Ranks(replace(FAST, slots=1))
    first, second = (Sequence(0, 5, 2, lambda: None) for _ in range(2))
    ranks.submit(first)
    ranks.submit(second)
    done = []
    while work := ranks.begin(0):
        ranks.end(work)
        done.append((first.produced, second.produced))
    assert done == [(1, 0), (2, 0), (2, 1), (2, 2)]


def test_the_prefill_leg_has_no_slots() -> None:
    ranks = Ranks(replace(FAST, mode="prefill", slots=1))
    for _ in range(3):
        ranks.submit(Sequence(0, 5, 1, lambda: None))
    work = ranks.begin(0)
    assert work is not None
    ranks.end(work)
    assert ranks.begin(0) is None


def test_decode_leg_starts_at_once() -> None:
    ranks = Ranks(replace(FAST, mode="decode"))
    sequence = Sequence(2, 100, 3, lambda: None)
    ranks.submit(sequence)
    kv = []
    while work := ranks.begin(0):
        assert isinstance(work, StepWork)
        kv.append(work.record.kv_tokens.tolist())
        ranks.end(work)
    assert kv == [[0, 0, 101], [0, 0, 102]]  # the first token comes with the cache
    assert sequence.produced == 3


@given(
    lengths=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4_000), st.integers(1, 4)), max_size=25),
    withdrawn=st.dictionaries(st.integers(0, 60), st.integers(0, 24), max_size=8),
    mode=st.sampled_from(["unified", "prefill", "decode"]),
    slots=st.integers(1, 3),
)
def test_books_return_to_zero_whatever_is_withdrawn(
    lengths: list[tuple[int, int, int]], withdrawn: dict[int, int], mode: Any, slots: int
) -> None:
    ranks = Ranks(replace(FAST, mode=mode, slots=slots))
    sequences = [Sequence(rank, tokens, 1 if mode == "prefill" else out, lambda: None) for rank, tokens, out in lengths]
    for sequence in sequences:
        ranks.submit(sequence)
    left: set[int] = set()
    for round_ in range(1_000):
        work = ranks.begin(0)
        index = withdrawn.get(round_)
        if index is not None and index < len(sequences):  # in the middle of a pass or step
            left |= set() if sequences[index].finished else {index}
            ranks.withdraw(sequences[index])
            ranks.withdraw(sequences[index])
        assert all(min(load.running, load.waiting, load.queued_tokens, load.kv_tokens) >= 0 for load in ranks.loads())
        if work is None:
            break
        ranks.end(work)
    for k, sequence in enumerate(sequences):
        assert sequence.finished == (k not in left)
    for load in ranks.loads():
        assert (load.running, load.waiting, load.queued_tokens, load.kv_tokens) == (0, 0, 0, 0)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5_000)), min_size=1, max_size=15))
def test_every_token_runs_exactly_once(requests: list[tuple[int, int]]) -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        answers = await asyncio.gather(
            *(ask(engine, client, body(tokens, 1, routed_dp_rank=rank)) for rank, tokens in requests)
        )
        assert [answer["usage"]["prompt_tokens"] for _, answer in answers] == [tokens for _, tokens in requests]
        ran = np.sum([record.tokens for record in engine.passes], axis=0).tolist()
        assert ran == [sum(tokens for at, tokens in requests if at == rank) for rank in range(3)]
        assert [load.prefilled_tokens for load in engine.loads()] == ran
        assert_empty(engine)

    served(replace(FAST, speed=1_000.0), scenario)


def gaps_between(engine: FakeEngine) -> list[int]:
    timeline: list[PassRecord | StepRecord] = [*engine.passes, *engine.steps]
    return [after.start_ns - before.start_ns - before.duration_ns for before, after in pairwise(timeline)]


def test_work_under_way_follows_without_drift() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        await ask(engine, client, body(9_500, 30))
        assert [int(record.tokens.max()) for record in engine.passes] == [1_000] * 9 + [500]
        assert len(engine.steps) == 29
        assert sum(gaps_between(engine)) == engine.slipped_ns

    served(FAST, scenario)


def test_time_that_cannot_be_caught_up_is_told() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        answer = asyncio.create_task(ask(engine, client, body(9_500, 1)))
        await until(lambda: bool(engine.passes))
        time.sleep(0.2)  # nothing else runs meanwhile
        await answer
        assert sum(gaps_between(engine)) == engine.slipped_ns > 0

    served(replace(FAST, prefill=LinearPrefill(100_000_000)), scenario)


def test_the_first_token_waits_for_the_end_of_its_pass() -> None:
    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        await ask(engine, client, body(5, 1))
        assert loop.time() - start_s >= 0.2  # one second at five times the speed
        assert engine.passes[0].duration_ns == 1_000_000_000

    served(replace(FAST, prefill=LinearPrefill(1_000_000_000), speed=5.0), scenario)


def test_a_failing_cost_model_leaves_no_client_waiting() -> None:
    class Failing(LinearPrefill):
        def pass_ns(self, pairs: IntArray, new_tokens: IntArray, context_tokens: IntArray) -> int:
            if new_tokens.any():
                raise ArithmeticError("no law")
            return 0

    async def scenario(engine: FakeEngine, client: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.ClientError):
            await ask(engine, client, body())

    served(replace(FAST, prefill=Failing(1)), scenario)
