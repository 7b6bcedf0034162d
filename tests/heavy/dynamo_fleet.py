"""Dynamo on this machine: a front end, two mocker workers, and a listener to the passes that they report."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from sbs_opt.adapters.telemetry import ForwardPass, parse_forward_pass_metrics
from sbs_opt.testing.costs import LinearDecode, LinearPrefill, linear_cost_model
from tests.heavy.tiny_model import write_tiny_model

MODEL = "tiny"
WORKERS, RANKS = 2, 4
CHUNK_TOKENS = 8192
BLOCK_TOKENS = 64
KV_TOKENS = 16_384 * BLOCK_TOKENS
COST = linear_cost_model(
    LinearPrefill(16_501_420, token_ns=17_500, chunk_tokens=CHUNK_TOKENS), LinearDecode(5_740_000)
)  # fmt: skip
"""Within 6 % of the mocker's own law, which is quadratic in the new tokens of the fullest rank: `docs/dynamo.md`."""

_START_S = 120.0
_STOP_S = 15.0
_PLANES = {
    "DYN_DISCOVERY_BACKEND": "file", "DYN_REQUEST_PLANE": "tcp", "DYN_EVENT_PLANE": "zmq", "DYN_LOG": "error",
    "HF_HUB_OFFLINE": "1",
}  # fmt: skip


class Fleet:
    """What runs, and how to hear of it.

    Parameters
    ----------
    folder
        For the model, the discovery files and a log of each process.
    running
        Ends the processes.
    router_mode
        Of the front end.
    """

    def __init__(self, folder: Path, running: ExitStack, router_mode: str) -> None:
        self._folder = folder
        self._running = running
        self._model = write_tiny_model(folder / "model")
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.workers = [self.start_worker() for _ in range(WORKERS)]
        self._others = [
            self._start(
                "frontend", "-m", "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", str(port),
                "--router-mode", router_mode,
            ),
            self._start("passes", str(Path(__file__).with_name("dynamo_passes.py"))),
        ]  # fmt: skip

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start one more worker of the mocker, in a process of its own."""
        return self._start(
            f"worker-{time.monotonic_ns()}", "-m", "dynamo.mocker", "--model-path", str(self._model),
            "--model-name", MODEL, "--data-parallel-size", str(RANKS), "--block-size", str(BLOCK_TOKENS),
            "--max-num-batched-tokens", str(CHUNK_TOKENS), "--no-enable-prefix-caching",
        )  # fmt: skip

    def ready(self) -> bool:
        """Tell whether every rank has reported and the model is served; a process that ended is an error."""
        for process in (*self.workers, *self._others):
            if process.poll() is not None:
                logs = "".join(path.read_text()[-2000:] for path in sorted(self._folder.glob("*.log")))
                raise RuntimeError(f"{process.args!r} ended with status {process.returncode}: {logs}")
        return len(self.heard_of()) == WORKERS * RANKS and _models(self.url) == [MODEL]

    def passes(self) -> list[ForwardPass]:
        """Return the passes that were reported so far, without the messages that say that a rank is idle."""
        return [one for one in self._heard() if one.duration_ns]

    def heard_of(self) -> set[tuple[int, int]]:
        """Return (instance id, rank) of all that ever reported, idle or not."""
        return {(int(one.worker_id), one.rank) for one in self._heard()}

    def _heard(self) -> list[ForwardPass]:
        lines = (self._folder / "passes.out").read_bytes().split(b"\n")[:-1]  # the last one is not ended yet
        return [parse_forward_pass_metrics(bytes.fromhex(line.decode()), ranks=RANKS) for line in lines]

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        return self._running.enter_context(_process(self._folder, name, command))


@contextmanager
def dynamo_fleet(folder: Path, router_mode: str) -> Iterator[Fleet]:
    """Start everything, and end it."""
    with ExitStack() as running:
        fleet = Fleet(folder, running, router_mode)
        wait_until(fleet.ready, _START_S)
        yield fleet


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Return once something holds; it is an error that it does not for a long time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not so after {seconds} s")
        time.sleep(0.05)


@contextmanager
def _process(folder: Path, name: str, command: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | _PLANES | {"DYN_FILE_KV": str(folder / "discovery")}
    with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=out, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _models(url: str) -> list[str]:
    try:
        with urlopen(f"{url}/v1/models", timeout=5) as answer:
            return [one["id"] for one in json.load(answer)["data"]]
    except URLError:
        return []
