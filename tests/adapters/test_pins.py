"""Bodies that are pinned by splicing fields in: the same object as if it were written anew."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.adapters.http.pins import pin, pin_legs, with_fields
from sbs_opt.adapters.serve_config import Upstream

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
BODY = st.dictionaries(
    st.sampled_from(["model", "prompt", "}", "routed_dp_rank", "bootstrap_room", "stream"]) | st.text(max_size=5),
    JSON,
    min_size=1,
    max_size=6,
)


@given(
    BODY, st.sampled_from(["utf-8", "utf-16", "utf-32-le", "utf-8-sig"]), st.booleans(), st.sampled_from(["", " \n"])
)
def test_a_pinned_body_holds_what_came_and_the_pins_of_the_router(
    body: dict[str, Any], encoding: str, ascii_only: bool, end: str
) -> None:
    raw = (json.dumps(body, ensure_ascii=ascii_only, indent=1) + end).encode(encoding, errors="surrogatepass")
    fields = {"routed_dp_rank": 3}
    pinned = json.loads(with_fields(raw, body, fields))
    assert pinned == {k: v for k, v in body.items() if k not in ("routed_dp_rank", "bootstrap_room")} | fields


def test_an_escaped_pin_is_a_pin() -> None:
    raw = rb'{"prompt": "x", "routed_dp_\u0072ank": 2, "routed_dp_rank": 1}'
    assert json.loads(with_fields(raw, json.loads(raw), {"routed_dp_rank": 0})) == {"prompt": "x", "routed_dp_rank": 0}
    assert json.loads(with_fields(raw, json.loads(raw), {})) == {"prompt": "x"}


def test_what_needs_no_field_passes_byte_for_byte() -> None:
    raw = b'{ "prompt" :"x" }\n'
    assert with_fields(raw, json.loads(raw), {}) is raw


@pytest.mark.parametrize(
    ("kind", "headers", "fields"),
    [
        ("sglang", {}, {"routed_dp_rank": 2}),
        ("vllm", {"X-data-parallel-rank": "2"}, {}),
        ("dynamo", {"x-dynamo-worker-instance-id": "77", "x-dynamo-dp-rank": "2"}, {}),
        ("openai", {}, {}),
    ],
)
def test_each_kind_is_pinned_in_its_way(kind: str, headers: dict[str, str], fields: dict[str, int]) -> None:
    assert pin(Upstream("a", "http://127.0.0.1:1", kind), 77, 2) == (headers, fields)


@given(st.integers(0, 2**48), st.integers(0, 31), st.integers(0, 143))
def test_the_room_of_both_legs_is_of_the_prefill_rank(number: int, unit: int, decode_unit: int) -> None:
    prefill = Upstream("a", "http://10.0.0.1:30000", "sglang", phase="prefill", bootstrap_port=9000)
    first, second = pin_legs(prefill, unit, decode_unit, number, 32)
    shared = {"bootstrap_host": "10.0.0.1", "bootstrap_port": 9000, "disagg_prefill_dp_rank": unit}
    assert first["bootstrap_room"] == second["bootstrap_room"] < 2**63
    assert first["bootstrap_room"] % 32 == unit
    for leg, rank in ((first, unit), (second, decode_unit)):
        assert leg | shared == leg
        assert leg["routed_dp_rank"] == rank
