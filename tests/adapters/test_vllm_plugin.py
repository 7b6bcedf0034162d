"""The plug-in inside vLLM: cheap to import, silent unless asked, never in the engine's way; heard over real UDP."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.adapters.pass_feed import PassCollator, PassOver
from sbs_opt.adapters.pass_feed_asyncio import PassFeed
from sbs_opt.adapters.pass_feed_listener import PassListener
from sbs_opt.adapters.telemetry_passes import parse_forward_pass_metrics
from sbs_opt.adapters.vllm_plugin import ADDRESS, WORKER, SbsStatLogger

pytest.importorskip("msgspec")

DETAILED = SimpleNamespace(observability_config=SimpleNamespace(enable_logging_iteration_details=True))


def step(index: int, prefill: int, *, decode: int = 0, waiting: int = 0, dummy: bool = False) -> SimpleNamespace:
    """Return what vLLM's scheduler says of a step, by the names of vLLM 0.33."""
    details = SimpleNamespace(
        iteration_index=index, num_ctx_requests=int(prefill > 0), num_ctx_tokens=prefill,
        num_generation_requests=decode, num_generation_tokens=decode, elapsed_ms=12.5,
        num_encoder_inputs=0, num_encoder_output_tokens=0, is_dummy=dummy,
    )  # fmt: skip
    return SimpleNamespace(
        num_running_reqs=decode, num_waiting_reqs=waiting, num_skipped_waiting_reqs=1 if waiting else 0,
        kv_cache_usage=0.1, iteration_details=details,
    )  # fmt: skip


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return the socket that the plug-in is told to publish to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind(("127.0.0.1", 0))
        heard.settimeout(30)
        monkeypatch.setenv(ADDRESS, f"127.0.0.1:{heard.getsockname()[1]}")
        monkeypatch.setenv(WORKER, "a")
        yield heard


@pytest.fixture
def loggers() -> Iterator[Callable[..., SbsStatLogger]]:
    """Return a maker of plug-ins that are closed in the end."""
    made = []

    def make(rank: int = 0, config: object = DETAILED) -> SbsStatLogger:
        made.append(SbsStatLogger(config, rank))
        return made[-1]

    yield make
    for logger in made:
        logger.close()


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM itself loads most of it")
def test_importing_it_loads_neither_compilers_nor_arrays() -> None:
    heavy = ("numpy", "numba", "msgspec", "asyncio", "sbs_opt.models", "sbs_opt.scheduler")
    program = (
        "import sys, json, sbs_opt.adapters.vllm_plugin\n"
        f"print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_without_an_address_it_does_nothing(
    monkeypatch: pytest.MonkeyPatch, loggers: Callable[..., SbsStatLogger], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    logger = loggers(config=None)
    logger.record(step(0, 5), None)
    assert (logger.sent, logger.failed, caplog.records) == (0, 0, [])


def test_a_step_is_read_as_a_forward_pass(router: socket.socket, loggers: Callable[..., SbsStatLogger]) -> None:
    logger = loggers(3)
    logger.log_engine_initialized()
    logger.record(step(41, 8192, decode=7, waiting=2), None, mm_cache_stats=None, engine_idx=3)
    heard = parse_forward_pass_metrics(router.recv(65536))
    assert (heard.worker_id, heard.rank, heard.counter, heard.duration_ns) == ("a", 3, 41, 12_500_000)
    assert (heard.scheduled.prefill_requests, heard.scheduled.prefill_tokens) == (1, 8192)
    assert heard.scheduled.decode_requests == 7
    assert (heard.queued.prefill_requests, heard.queued.prefill_tokens) == (3, 0)
    assert (logger.sent, logger.failed) == (1, 0)
    assert logger._socket is not None
    assert not logger._socket.getblocking()


def test_a_dummy_step_is_no_idleness(router: socket.socket, loggers: Callable[..., SbsStatLogger]) -> None:
    told = step(5, 0, dummy=True)
    told.iteration_details.elapsed_ms = 0.0
    loggers().record(told, None)
    heard = parse_forward_pass_metrics(router.recv(65536))
    assert (heard.counter, heard.duration_ns, heard.scheduled.prefill_tokens) == (5, 1, 0)


def test_messages_that_are_no_steps_are_not_published(
    router: socket.socket, loggers: Callable[..., SbsStatLogger]
) -> None:
    logger = loggers()
    without = step(0, 5)
    without.iteration_details = None
    for stats in (None, without, SimpleNamespace()):
        logger.record(stats, None)
    logger.record(step(9, 1), None)
    assert parse_forward_pass_metrics(router.recv(65536)).counter == 9
    assert (logger.sent, logger.failed) == (1, 0)


@pytest.mark.parametrize(
    "place", ["nowhere", ":5", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:0", "[::1]:65536"]
)
def test_a_wrong_address_is_said_once_and_ends_nothing(
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    loggers: Callable[..., SbsStatLogger],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(ADDRESS, place)
    logger = loggers()
    logger.record(step(0, 5), None)
    assert (logger.sent, logger.failed) == (0, 0)
    (said,) = caplog.messages
    assert f"{ADDRESS} = {place!r}" in said


def test_without_details_it_says_which_option_is_missing(
    router: socket.socket, loggers: Callable[..., SbsStatLogger], caplog: pytest.LogCaptureFixture
) -> None:
    loggers(config=SimpleNamespace(observability_config=SimpleNamespace(enable_logging_iteration_details=False)))
    assert "--enable-logging-iteration-details" in caplog.text


def test_without_msgspec_it_ends_nothing(
    router: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    loggers: Callable[..., SbsStatLogger],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "msgspec", None)
    logger = loggers()
    logger.record(step(0, 5), None)
    assert (logger.sent, logger.failed) == (0, 0)
    assert "msgspec" in caplog.text


def test_what_cannot_be_sent_is_counted_and_said_once(
    monkeypatch: pytest.MonkeyPatch, loggers: Callable[..., SbsStatLogger], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ADDRESS, "255.255.255.255:9")  # a broadcast, which this socket may not send
    logger = loggers()
    for index in range(3):
        logger.record(step(index, 5), None)
    assert (logger.sent, logger.failed, len(caplog.records)) == (0, 3, 1)


def test_nobody_needs_to_listen(monkeypatch: pytest.MonkeyPatch, loggers: Callable[..., SbsStatLogger]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        monkeypatch.setenv(ADDRESS, f"127.0.0.1:{gone.getsockname()[1]}")
    logger = loggers()
    for index in range(1000):
        logger.record(step(index, 5), None)
    assert logger.sent + logger.failed == 1000


ANYTHING: st.SearchStrategy[Any] = st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.builds(object)


@given(st.dictionaries(st.sampled_from([*vars(step(0, 1).iteration_details)]), ANYTHING), ANYTHING, ANYTHING)
def test_nothing_that_vllm_says_is_raised_into_it(details: dict[str, Any], waiting: Any, rank: Any) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(ADDRESS, "127.0.0.1:9")
        logger = SbsStatLogger(DETAILED)
    told = step(0, 1, waiting=0)
    told.num_waiting_reqs = waiting
    told.iteration_details = SimpleNamespace(**details)
    logger.record(told, None, None, rank)
    assert logger.sent + logger.failed == 1
    logger.close()


def test_ranks_of_an_engine_are_heard_as_passes_of_its_instance(
    monkeypatch: pytest.MonkeyPatch, loggers: Callable[..., SbsStatLogger]
) -> None:
    async def main() -> None:
        over: list[PassOver] = []
        done = asyncio.Event()

        def ended(instance: int, ended_pass: PassOver) -> None:
            assert instance == 1
            over.append(ended_pass)
            if len(over) == 2:
                done.set()

        feed = PassFeed([PassCollator(2), PassCollator(2, wait_ns=30_000_000_000)], ended)
        listener = PassListener(feed.told, workers={"b": 1})
        host, port = await listener.start()
        monkeypatch.setenv(ADDRESS, f"{host}:{port}")
        monkeypatch.setenv(WORKER, "b")
        ranks = [loggers(rank) for rank in range(2)]
        for index, (first, second) in enumerate(((100, 200), (0, 0), (300, 0))):
            ranks[0].record(step(index, first), None, engine_idx=0)
            ranks[1].record(step(index, second, dummy=not second), None, engine_idx=1)
        await asyncio.wait_for(done.wait(), 30)
        assert [(p.number, p.duration_ns, p.tokens_run.tolist()) for p in over] == [
            (0, 12_500_000, [100, 200]),
            (1, 12_500_000, [300, 0]),
        ]
        listener.close()
        feed.close()

    asyncio.run(main())


def test_vllm_takes_it_for_one_of_its_own() -> None:
    loggers = pytest.importorskip("vllm.v1.metrics.loggers")
    stats = pytest.importorskip("vllm.v1.metrics.stats")
    assert issubclass(SbsStatLogger, loggers.StatLoggerBase)
    manager = loggers.PerEngineStatLoggerAdapter(DETAILED, [0, 1], SbsStatLogger)
    manager.record(stats.SchedulerStats(), None, engine_idx=1)
    names = {field.name for field in dataclasses.fields(stats.SchedulerIterationDetails)}
    assert set(vars(step(0, 1).iteration_details)) == names
    assert set(vars(step(0, 1))) <= {field.name for field in dataclasses.fields(stats.SchedulerStats)}
