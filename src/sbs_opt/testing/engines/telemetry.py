"""How engines report the load of their ranks: SGLang's `/v1/loads`, vLLM's `/metrics`.

Times on the wire are wall times: seen from outside, the engine is as fast as it was told to be.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from sbs_opt.testing.engines.config import EngineConfig
from sbs_opt.testing.engines.records import RankLoad

_GAUGES = (
    ("vllm:num_requests_running", "Number of requests in model execution batches."),
    ("vllm:num_requests_waiting", "Number of requests waiting to be processed."),
    ("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage."),
)


def report(config: EngineConfig, loads: Sequence[RankLoad], first_rank: int = 0) -> bytes:
    """Return the body of the report that an engine of this kind gives; ranks are named from `first_rank`."""
    return _metrics(config, loads, first_rank) if config.kind == "vllm" else _sglang_loads(config, loads, first_rank)


def _usage(config: EngineConfig, load: RankLoad) -> float:
    return min(1.0, load.kv_tokens / config.kv_tokens)


def _sglang_loads(config: EngineConfig, loads: Sequence[RankLoad], first_rank: int) -> bytes:
    now_s = time.time()
    rows = [
        {
            "dp_rank": rank,
            "timestamp": now_s,
            "num_running_reqs": load.running,
            "num_waiting_reqs": load.waiting,
            "num_waiting_uncached_tokens": load.queued_tokens,
            "num_used_tokens": load.kv_tokens,
            "num_total_tokens": load.kv_tokens + load.queued_tokens,
            "max_total_num_tokens": config.kv_tokens,
            "max_running_requests": config.slots,
            "token_usage": _usage(config, load),
            "total_prefill_uncached_tokens": load.prefilled_tokens,
            "total_prefill_busy_us": round(load.prefill_busy_ns / config.speed / 1e3),
        }
        for rank, load in enumerate(loads, first_rank)
    ]
    stamp = datetime.fromtimestamp(now_s, UTC).isoformat()
    whole = {"timestamp": stamp, "version": "fake", "accelerator": None, "num_accelerators": 1, "loads": rows}
    return json.dumps(whole).encode()


def _metrics(config: EngineConfig, loads: Sequence[RankLoad], first_rank: int) -> bytes:
    lines = []
    for name, meaning in _GAUGES:
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
        for rank, load in enumerate(loads, first_rank):
            value = {
                "vllm:num_requests_running": float(load.running),
                "vllm:num_requests_waiting": float(load.waiting),
                "vllm:kv_cache_usage_perc": _usage(config, load),
            }[name]
            lines.append(f'{name}{{engine="{rank}",model_name="{config.model}"}} {value!r}')
    return ("\n".join(lines) + "\n").encode()
