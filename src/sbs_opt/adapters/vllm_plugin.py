"""Runs inside vLLM: publishes every step of its engine as a datagram, for the router to hear when passes end.

vLLM loads it by the entry point group `vllm.stat_logger_plugins` (its `vllm/plugins/__init__.py`) into the process of
its HTTP server. It imports the standard library alone, and msgspec, which vLLM brings.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class StatLoggerBase:
        """What is asked of vLLM's class."""
else:
    try:
        from vllm.v1.metrics.loggers import StatLoggerBase
    except ModuleNotFoundError as error:
        # Without vLLM the module is still of use (tests, documentation). With a vLLM that keeps the class elsewhere the
        # import must fail: vLLM logs that and starts, while a class of another base makes its start fail.
        if error.name != "vllm":
            raise
        StatLoggerBase = object

ADDRESS = "SBS_OPT_PASSES"
"""Environment variable: where to publish, `host:port`. Without it nothing is published."""
WORKER = "SBS_OPT_WORKER"
"""Environment variable: the name that the engine goes by; its host name where it is not set."""

_log = logging.getLogger("vllm.sbs_opt")  # below vLLM's own logger, so that its handlers show it
_SHORTEST_PASS_S = 1e-9


class SbsStatLogger(StatLoggerBase):
    """Publishes the steps of one data-parallel rank in the schema `ForwardPassMetrics`.

    vLLM makes one per rank that a server process manages and calls `record` once per message of the engine, in the loop
    that hands out tokens. So nothing here waits and nothing raises: what fails is counted.

    Parameters
    ----------
    vllm_config
        vLLM's configuration; asked whether steps are detailed at all.
    engine_index
        The data-parallel rank.

    Attributes
    ----------
    sent, failed
        Messages published, and those that were not.
    """

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self.engine_index = engine_index
        self.sent = 0
        self.failed = 0
        self._socket: socket.socket | None = None
        self._to: Any = None
        self._worker = os.environ.get(WORKER) or socket.gethostname()
        place = os.environ.get(ADDRESS)
        if not place:
            return
        try:
            import msgspec

            self._encode = msgspec.msgpack.Encoder().encode
            self._open(place)
        except (ImportError, OSError, ValueError) as error:
            _log.warning("sbs_opt: publishes no passes: %s = %r: %s", ADDRESS, place, error)
            return
        observability = getattr(vllm_config, "observability_config", None)
        if not getattr(observability, "enable_logging_iteration_details", False):
            _log.warning("sbs_opt: publishes no passes: start vLLM with --enable-logging-iteration-details")

    def _open(self, place: str) -> None:
        host, _, port = place.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError("must be host:port")
        family, kind, protocol, _, self._to = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """Publish a step; called by vLLM.

        Only messages with `iteration_details` are steps; others tell of requests alone, or went to another of several
        server processes. The counter is the engine's own: it counts the steps of a rank whichever process hears of
        them, dummy steps included, and so is the same on all ranks of a pass.
        """
        details = getattr(scheduler_stats, "iteration_details", None)
        if self._socket is None or details is None:
            return
        try:
            message = _message(self._worker, engine_idx, scheduler_stats, details)
            self._socket.sendto(self._encode(message), self._to)
            self.sent += 1
        except Exception as error:  # an error that got out would end vLLM's output loop, and with it every request
            self.failed += 1
            if self.failed == 1:
                _log.warning("sbs_opt: a pass was not published, further ones are only counted: %r", error)

    def log_engine_initialized(self) -> None:
        """Nothing to tell; vLLM asks for the method."""

    def log(self) -> None:
        """Nothing to tell; vLLM asks for the method."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """Nothing to tell; vLLM asks for the method."""

    def close(self) -> None:
        """Publish no more; vLLM never calls it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _message(worker: str, rank: int, stats: Any, details: Any) -> dict[str, Any]:
    """Return a step as `ForwardPassMetrics`; fields as of vLLM 0.33, `vllm/v1/metrics/stats.py`.

    vLLM says how many requests wait, not how long they are: requests without a token among those queued are of unknown
    length. Contexts and the spread of lengths are not told either, and are 0.
    """
    return {
        "version": 1,
        "worker_id": worker,
        "dp_rank": rank,
        "counter_id": details.iteration_index,
        "wall_time": max(details.elapsed_ms / 1e3, _SHORTEST_PASS_S),  # 0 would say that the engine is idle
        "scheduled_requests": {
            "num_prefill_requests": details.num_ctx_requests,
            "sum_prefill_tokens": details.num_ctx_tokens,
            "var_prefill_length": 0.0,
            "sum_prefill_kv_tokens": 0,
            "num_decode_requests": details.num_generation_requests,
            "sum_decode_kv_tokens": 0,
            "var_decode_kv_tokens": 0.0,
        },
        "queued_requests": {
            "num_prefill_requests": stats.num_waiting_reqs + stats.num_skipped_waiting_reqs,
            "sum_prefill_tokens": 0,
            "var_prefill_length": 0.0,
            "num_decode_requests": 0,
            "sum_decode_kv_tokens": 0,
            "var_decode_kv_tokens": 0.0,
        },
    }
