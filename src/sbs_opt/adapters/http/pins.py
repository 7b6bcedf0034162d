"""What makes an engine run a request on the rank that it was placed on; see docs/serve.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from sbs_opt.adapters.serve_config import Upstream
from sbs_opt.models.errors import InputError

VLLM_RANK = "X-data-parallel-rank"
DYNAMO_INSTANCE, DYNAMO_RANK = "x-dynamo-worker-instance-id", "x-dynamo-dp-rank"

RANK_HEADERS = frozenset(
    name.lower()
    for name in (
        VLLM_RANK, DYNAMO_INSTANCE, DYNAMO_RANK, "x-worker-instance-id", "x-dp-rank", "x-dynamo-prefill-instance-id",
        "x-dynamo-prefill-dp-rank", "x-override-routed-dp-rank", "x-override-disagg-prefill-dp-rank",
        "x-override-bootstrap-host", "x-override-bootstrap-port", "x-override-bootstrap-room",
    )
)  # fmt: skip
"""Headers by which a client could pin a request itself: there is one decision point."""

_PIN_FIELDS = frozenset(
    ("routed_dp_rank", "data_parallel_rank", "disagg_prefill_dp_rank", "bootstrap_host", "bootstrap_port",
     "bootstrap_room")
)  # fmt: skip


def pin(upstream: Upstream, instance_id: int | None, unit: int) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the headers and the body fields that pin a request to a unit of an upstream that runs both phases.

    Parameters
    ----------
    upstream, unit
        Where it goes.
    instance_id
        Of a Dynamo worker; None for other kinds.
    """
    if upstream.kind == "sglang":
        return {}, {"routed_dp_rank": unit}
    if upstream.kind == "vllm":
        return {VLLM_RANK: str(unit)}, {}
    if upstream.kind == "dynamo":
        return {DYNAMO_INSTANCE: str(instance_id), DYNAMO_RANK: str(unit)}, {}
    return {}, {}


def pin_legs(
    prefill: Upstream, unit: int, decode_unit: int, round_number: int, ranks: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the body fields of the prefill and the decode leg of a request.

    SGLang's prefill takes the rank from `bootstrap_room` modulo its ranks, and refuses another pin; a room of that
    rank, and the rank told to both legs, suit every setting of its load balancing.

    Parameters
    ----------
    prefill, unit
        Where the prefill leg goes.
    decode_unit
        Rank of the decode leg.
    round_number
        Makes the room one that is not in use.
    ranks
        Of the prefill engine.
    """
    both = {
        "bootstrap_host": urlsplit(prefill.url).hostname,
        "bootstrap_port": prefill.bootstrap_port,
        "bootstrap_room": round_number * ranks + unit,
        "disagg_prefill_dp_rank": unit,
    }
    return both | {"routed_dp_rank": unit}, both | {"routed_dp_rank": decode_unit}


def with_fields(raw: bytes, body: Mapping[str, Any], fields: Mapping[str, Any]) -> bytes:
    """Return a JSON object with fields added; what it says of its rank itself is dropped.

    Parameters
    ----------
    raw, body
        The object as it came, not empty, and as it was read.
    fields
        To be added, none of them in `body` unless it pins.

    Raises
    ------
    InputError
        It has to be written anew, and is nested too deeply for that.
    """
    if not _PIN_FIELDS.isdisjoint(body) or json.detect_encoding(raw) != "utf-8":
        kept = {name: value for name, value in body.items() if name not in _PIN_FIELDS}
        try:
            return json.dumps(kept | dict(fields)).encode()  # ASCII: half a surrogate pair has no other form
        except RecursionError as error:
            raise InputError("the body is nested too deeply; nest it less") from error
    if not fields:
        return raw
    end = raw.rindex(b"}")  # a long prompt is not written anew
    return raw[:end] + b", " + json.dumps(dict(fields)).encode()[1:]
