"""The process that simulates stretches: beside the router's, at low priority, so that no request waits for it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.models.requests import Requests
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.simulator.stretch import StretchRuns, run_stretch

_NICENESS = 10


class ShadowProcessError(RuntimeError):
    """The simulating process ended, was stopped, or took too long; the next stretch gets a new one."""


class StretchProcess:
    """Call `run_stretch` in a process of its own, which starts with the first call.

    Parameters
    ----------
    deployment, cost_model, config, baseline
        As of `run_stretch`.
    limit_s
        A call that takes longer is given up, and its process killed.

    Notes
    -----
    The process is spawned, since its parent has threads, and ends with its parent.
    """

    def __init__(
        self, deployment: Deployment, cost_model: CostModel, config: SchedulerConfig, baseline: str, *, limit_s: float
    ) -> None:
        self._fleet = (deployment, cost_model, config, baseline)
        self._limit_s = limit_s
        self._running: tuple[SpawnProcess, Connection] | None = None
        self._killed = False

    def __call__(self, requests: Requests, begin_ns: int, end_ns: int) -> StretchRuns:
        """Return what `run_stretch` does, or raise what it raises; one call at a time.

        Raises
        ------
        ShadowProcessError
            There is no answer.
        """
        process, pipe = self._running = self._running or self._start()
        try:
            if self._killed:
                raise ShadowProcessError("the simulating process was stopped")
            pipe.send((requests, begin_ns, end_ns))
            if not pipe.poll(self._limit_s):
                raise ShadowProcessError(f"the simulation took longer than {self._limit_s:g} s")
            answer: StretchRuns | Exception = pipe.recv()
        except (EOFError, OSError) as error:
            self._end()
            raise ShadowProcessError(f"the simulating process has ended with status {process.exitcode}") from error
        except ShadowProcessError:
            self._end()
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self) -> None:
        """End the process, from any thread: a call that is under way raises, and so do later ones."""
        self._killed = True
        if (running := self._running) is not None:
            running[0].kill()

    def close(self) -> None:
        """End the process, once no call is under way."""
        if self._running is not None:
            self._end()

    def _start(self) -> tuple[SpawnProcess, Connection]:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, *self._fleet), name="sbs-opt shadow", daemon=True)
        process.start()
        theirs.close()  # so that its end is seen as the end of the pipe
        return process, ours

    def _end(self) -> None:
        assert self._running is not None
        process, pipe = self._running
        self._running = None
        process.kill()
        process.join()
        pipe.close()


def _serve(pipe: Connection, *fleet: Any) -> None:
    """Answer calls until the other end is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # told to the whole group: the parent ends us when it is done
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    with suppress(EOFError, OSError):  # the parent has gone
        while True:
            call = pipe.recv()
            try:
                answer: StretchRuns | Exception = run_stretch(*call, *fleet)
            except Exception as error:  # every one belongs to the caller
                answer = error
            pipe.send(answer)
