"""States compile to windows, and placements back to dispatches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.models.deployment import Unit
from sbs_opt.models.errors import PlacementError
from sbs_opt.models.placement import Placement
from sbs_opt.models.translate import DecodeState, PrefillState, decode_window, dispatch_of, prefill_window
from sbs_opt.models.verify import verify
from sbs_opt.models.window import UNLIMITED
from sbs_opt.testing.costs import LinearDecode, LinearPrefill

COST = LinearPrefill(fixed_ns=1_000, token_ns=7, pair_ns=2, chunk_tokens=100)


def state(
    prompt: list[int], *, queued: list[tuple[int, int, int]], hits: list[tuple[int, int, int]], m: int = 3
) -> PrefillState:
    queue = np.array(queued, np.int64).reshape(-1, 3)
    hit = np.array(hits, np.int64).reshape(-1, 3)
    kv = np.zeros(m, np.int64)
    np.add.at(kv, queue[:, 0], queue[:, 1] + queue[:, 2])
    return PrefillState(
        np.array(prompt, np.int64), np.zeros(len(prompt), np.int64), queue[:, 0], queue[:, 1], queue[:, 2], kv,
        hit[:, 0], hit[:, 1], hit[:, 2], Unit(kv_tokens=1_000, chunk_tokens=100),
    )  # fmt: skip


def pairs(new: int, cached: int) -> int:
    return new * cached + new * (new + 1) // 2


def test_by_time_prices_compute_and_alltoall_and_limits_tokens_and_kv() -> None:
    window = prefill_window(state([10, 20], queued=[(1, 30, 50)], hits=[(1, 2, 16)]), COST, "time")
    assert window.demand.tolist() == [
        [7 * 10 + 2 * pairs(10, 0), 0, 10, 10],
        [7 * 20 + 2 * pairs(20, 0), 0, 20, 20],
    ]
    assert window.load[1].tolist() == [7 * 30 + 2 * pairs(30, 50), 0, 30, 80]
    assert window.load[0].tolist() == [0, 0, 0, 0]
    assert window.price.tolist() == [1, 1, 0, 0]
    assert window.limit[0].tolist() == [UNLIMITED, UNLIMITED, 100, 1_000]
    assert window.open_resource == 2
    assert window.savings is not None
    saved = 7 * 20 + 2 * pairs(20, 0) - (7 * 4 + 2 * pairs(4, 16))
    assert window.savings.value.tolist() == [[saved, 0, 16, 0]]  # KV is needed for the whole prompt all the same


def test_by_tokens_prices_tokens_alone() -> None:
    window = prefill_window(state([10, 20], queued=[(1, 30, 50)], hits=[]), COST, "tokens")
    assert window.demand.tolist() == [[10, 10], [20, 20]]
    assert window.load.tolist() == [[0, 0], [30, 80], [0, 0]]
    assert window.price.tolist() == [1, 0]
    assert window.open_resource == 0
    assert window.savings is None


@given(
    prompts=st.lists(st.integers(0, 300), min_size=0, max_size=12),
    debts=st.lists(st.integers(0, 90), min_size=3, max_size=3),
    data=st.data(),
)
def test_round_trip(prompts: list[int], debts: list[int], data: st.DataObject) -> None:
    """The dispatch holds each placed item once, on its unit, each unit's items shorter first."""
    queued = [(u, debt, 5) for u, debt in enumerate(debts) if debt]
    window = prefill_window(state(prompts, queued=queued, hits=[]), COST, "time")
    unit = data.draw(st.lists(st.integers(-1, 2), min_size=len(prompts), max_size=len(prompts)))
    items, units = dispatch_of(window, Placement(unit))
    assert sorted(items.tolist()) == [i for i, u in enumerate(unit) if u >= 0]
    assert units.tolist() == [unit[i] for i in items.tolist()]
    keys = [(unit[i], prompts[i], i) for i in items.tolist()]
    assert keys == sorted(keys)
    try:
        bottleneck = verify(window, unit).bottleneck
    except PlacementError:
        return  # beyond the budgets: a legal input of the translation, not a legal placement
    work = [7 * d + 2 * pairs(d, 5) if d else 0 for d in debts]
    for i, u in enumerate(unit):
        if u >= 0:
            work[u] += 7 * prompts[i] + 2 * pairs(prompts[i], 0)
    assert bottleneck == max(work)


def test_decode_groups_are_instances_and_growth_is_reserved() -> None:
    cost = LinearDecode(fixed_ns=100, kv_ns=3, batch_ns=50)
    decode = DecodeState(
        waiting_kv_tokens=np.array([40]), tier=np.array([0]), kv_tokens=np.array([100, 0]), sequences=np.array([2, 0]),
        instance=np.array([0, 1]), reserve_tokens=10, budgets=Unit(kv_tokens=160, slots=4),
    )  # fmt: skip
    window = decode_window(decode, cost)
    assert window.group.tolist() == [0, 1]
    assert window.demand.tolist() == [[120, 50, 50, 1]]
    assert window.load.tolist() == [[300, 100, 120, 2], [0, 0, 0, 0]]
    assert window.limit[0].tolist() == [UNLIMITED, UNLIMITED, 160, 4]
    with pytest.raises(PlacementError, match="resource 2"):
        verify(window, [0])  # 100 + 40 fit, but not with 10 tokens of growth for each of three sequences
    assert verify(window, [1]).bottleneck == 300 + 100 + 120 + 50
