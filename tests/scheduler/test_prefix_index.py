"""The prefix index against an OrderedDict."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_opt.scheduler.prefix_index import PrefixIndex

chains = st.lists(st.integers(0, 12), min_size=0, max_size=8, unique=True)
operations = st.lists(st.tuples(st.sampled_from(["touch", "look"]), st.integers(0, 2), chains), max_size=40)


def plain_run(unit: OrderedDict[int, None], chain: list[int]) -> int:
    for k, block in enumerate(chain):
        if block not in unit:
            return k
    return len(chain)


@settings(max_examples=200)
@given(operations=operations, capacity=st.integers(1, 6))
def test_agrees_with_ordered_dicts(operations: list[tuple[str, int, list[int]]], capacity: int) -> None:
    index = PrefixIndex(3, capacity)
    plain: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(3)]
    for kind, unit, chain in operations:
        blocks = np.array(chain, np.int64)
        if kind == "touch":
            index.touch(unit, blocks)
            for block in reversed(chain):
                plain[unit].pop(block, None)
                plain[unit][block] = None
                if len(plain[unit]) > capacity:
                    plain[unit].popitem(last=False)
        expected = [plain_run(p, chain) for p in plain]
        assert index.leading_runs(0, 3, [blocks, blocks[:1]]).tolist() == [expected, [min(1, e) for e in expected]]
        assert index.leading_run(unit, blocks) == expected[unit]


def test_a_chain_is_evicted_from_its_end() -> None:
    """The head of a chain is what others share, so it must outlive the tail."""
    index = PrefixIndex(1, 3)
    index.touch(0, np.array([1, 2, 3]))
    index.touch(0, np.array([9]))
    assert index.leading_run(0, np.array([1, 2, 3])) == 2


def test_ids_of_any_size() -> None:
    index = PrefixIndex(2, 4)
    chain = np.array([-1, np.iinfo(np.int64).min, np.iinfo(np.int64).max], np.int64)
    index.touch(1, chain)
    assert index.leading_runs(0, 2, [chain]).tolist() == [[0, 3]]
