"""Superposition, thinning, compression, cuts: what must stay the same when the load changes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.instances import GeneratorConfig, compress, cut, generate, superpose
from sbs_opt.models.errors import InputError
from sbs_opt.models.requests import Requests, requests_without_prefixes
from tests.instances.helpers import blocks_of, equal, some_requests

TRACE = generate(GeneratorConfig(requests=300, system_prompts=3), seed=7)


def chains(requests: Requests) -> list[tuple[int, ...]]:
    return [tuple(blocks_of(requests, i)) for i in range(len(requests))]


def structure(requests: Requests) -> Counter[tuple[int, ...]]:
    """How often how many requests share a block: independent of how blocks are numbered and of the order of rows."""
    users: dict[int, int] = Counter(block for chain in chains(requests) for block in chain)
    return Counter(tuple(sorted(users[block] for block in chain)) for chain in chains(requests))


def test_one_copy_is_the_trace_itself() -> None:
    assert superpose(TRACE, 1.0, seed=3) is TRACE


@given(some_requests(), st.integers(2, 5), st.integers(0, 2**64 - 1))
def test_whole_copies_keep_every_request_and_share_nothing(requests: Requests, copies: int, seed: int) -> None:
    many = superpose(requests, copies, seed=seed)
    pairs = Counter(zip(requests.prompt_tokens.tolist(), requests.output_tokens.tolist(), strict=True))
    found = Counter(zip(many.prompt_tokens.tolist(), many.output_tokens.tolist(), strict=True))
    assert found == Counter({pair: copies * count for pair, count in pairs.items()})
    assert many.arrival_ns[0] == requests.arrival_ns[0]
    assert many.span_ns == requests.span_ns
    assert structure(many) == Counter({key: copies * count for key, count in structure(requests).items()})
    assert len(set(many.block_id.tolist())) == copies * len(set(requests.block_id.tolist()))
    known = requests.session[requests.session >= 0]
    assert len(set(many.session[many.session >= 0].tolist())) == copies * len(set(known.tolist()))
    assert (many.session < 0).sum() == copies * (requests.session < 0).sum()


@given(st.floats(0.05, 4.5), st.integers(0, 100))
def test_number_of_requests_and_span(copies: float, seed: int) -> None:
    scaled = superpose(TRACE, copies, seed=seed)
    assert len(scaled) == round(copies * 300)
    assert scaled.span_ns == TRACE.span_ns


def test_copies_that_would_fill_the_memory_are_refused() -> None:
    with pytest.raises(InputError, match=r"copies = 1e\+06: makes about 3e\+08 requests, more than the 20,000,000"):
        superpose(TRACE, 1e6, seed=0)


def test_thinning_keeps_arrivals_and_the_order_of_prefixes() -> None:
    thin = superpose(TRACE, 0.4, seed=1)
    assert set(thin.arrival_ns.tolist()) <= set(TRACE.arrival_ns.tolist())
    where = np.searchsorted(TRACE.arrival_ns, thin.arrival_ns)
    assert thin.prompt_tokens.tolist() == TRACE.prompt_tokens[where].tolist()
    original = chains(TRACE)
    renamed: dict[int, int] = {}
    for chain, k in zip(chains(thin), where.tolist(), strict=True):
        for mine, theirs in zip(chain, original[k], strict=True):
            assert renamed.setdefault(mine, theirs) == theirs
    assert len(set(renamed.values())) == len(renamed)


def test_more_copies_only_add_requests() -> None:
    """Curves over load then differ by what was added, not by a new draw."""
    fewer, more = superpose(TRACE, 1.3, seed=5), superpose(TRACE, 1.7, seed=5)
    assert not Counter(fewer.arrival_ns.tolist()) - Counter(more.arrival_ns.tolist())


def test_copies_are_rotated_apart_and_seeded() -> None:
    burst = requests_without_prefixes(np.array([0] * 50 + [10**12]), np.ones(51, np.int64), np.ones(51, np.int64))
    many = superpose(burst, 8, seed=0)
    at_once = np.unique(many.arrival_ns, return_counts=True)[1]
    assert (at_once >= 50).sum() == 8, "eight bursts at eight times"
    assert equal(many, superpose(burst, 8, seed=0))
    assert not equal(many, superpose(burst, 8, seed=1))


def test_equal_arrivals_stay_in_file_order() -> None:
    same = requests_without_prefixes(np.array([5, 5, 5, 5]), np.arange(4), np.zeros(4, np.int64))
    assert superpose(same, 2, seed=0).prompt_tokens.tolist() == [0, 1, 2, 3] * 2


def test_ids_of_any_size_are_namespaced() -> None:
    huge = Requests(np.array([0, 1]), np.array([1, 1]), np.array([1, 1]), np.array([0, 1, 2]),
                    np.array([2**63 - 1, -(2**63)]), 16, np.array([2**63 - 1, -1]))  # fmt: skip
    many = superpose(huge, 3, seed=0)
    assert sorted(many.block_id.tolist()) == [0, 1, 2, 3, 4, 5]
    assert sorted(many.session.tolist()) == [-1, -1, -1, 0, 1, 2]


@pytest.mark.parametrize("copies", [0, -1.0, float("nan"), float("inf")])
def test_copies_must_be_positive(copies: float) -> None:
    with pytest.raises(InputError, match="copies = "):
        superpose(TRACE, copies, seed=0)


def test_seed_must_be_a_64_bit_number() -> None:
    for seed in (-1, 2**64, True, 1.0):
        with pytest.raises(InputError, match="seed = "):
            superpose(TRACE, 2, seed=seed)  # type: ignore[arg-type]


@given(some_requests(), st.floats(0.6, 50))
def test_compress_keeps_start_and_order(requests: Requests, factor: float) -> None:
    if requests.arrival_ns[0] + requests.span_ns / factor > 2**62:
        with pytest.raises(InputError, match="factor = "):
            compress(requests, factor)
        return
    fast = compress(requests, factor)
    assert fast.arrival_ns[0] == requests.arrival_ns[0]
    assert fast.span_ns == pytest.approx(requests.span_ns / factor, abs=1, rel=1e-12)
    assert chains(fast) == chains(requests)
    assert equal(compress(requests, 1.0), requests) or requests.span_ns >= 2**53


def test_compress_refuses_nonsense() -> None:
    for factor in (0.0, -2.0, float("nan")):
        with pytest.raises(InputError, match="factor = "):
            compress(TRACE, factor)


@given(some_requests(), st.integers(0, 2**62))
def test_cut_keeps_what_arrives_in_time(requests: Requests, span_ns: int) -> None:
    kept = cut(requests, span_ns)
    expected = [t for t in requests.arrival_ns.tolist() if t <= requests.arrival_ns[0] + span_ns]
    assert kept.arrival_ns.tolist() == expected
    assert chains(kept) == chains(requests)[: len(expected)]
    assert equal(cut(requests, requests.span_ns), requests)


def test_cut_refuses_a_negative_span() -> None:
    with pytest.raises(InputError, match="span_ns = -1"):
        cut(TRACE, -1)
