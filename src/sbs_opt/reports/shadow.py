"""Shadow mode: another router decides; this records what ours would have done, and the predicted difference.

Finished requests are gathered into stretches by arrival. Once a stretch is over it is simulated under our policy and
under a baseline, and appended to a file: one line, and one per request.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from sbs_opt._version import __version__
from sbs_opt.adapters.append_file import AppendFile
from sbs_opt.adapters.capture import FinishedRequest
from sbs_opt.instances.files import PathLike
from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import CostModel
from sbs_opt.models.deployment import Deployment
from sbs_opt.models.errors import InputError
from sbs_opt.models.requests import Requests
from sbs_opt.reports.shadow_lines import LINE_START, measured_ttft_ns, request_lines, stretch_line
from sbs_opt.reports.shadow_process import StretchProcess
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.simulator.stretch import StretchRuns, baseline_config

RunStretch = Callable[[Requests, int, int], StretchRuns]
"""Simulates the stretch between two times of some requests."""

_LOOK_S = 0.25
_SPARE_STRETCHES = 4
"""Stretches by which the simulation may fall behind before the oldest are given up."""


@dataclass(slots=True)
class _Stretch:
    """What is known of one stretch so far."""

    number: int
    kept: list[FinishedRequest] = field(default_factory=list)
    arrived: int = 0
    finished: int = 0
    without_first_token: int = 0
    over_cap: int = 0


class ShadowRecorder:
    """Record what a policy would have done with requests that another router places.

    Parameters
    ----------
    path
        File of JSON lines; made where it is absent, else continued. A last line that a crash cut off is removed.
    deployment, cost_model
        The fleet behind the existing router, as `ServeConfig` describes it.
    config
        The policy under trial; `block_tokens` says how prefix blocks were cut.
    baseline
        Name of the policy that comes closest to what the existing router does.
    stretch_s
        Seconds of arrivals that are simulated and reported together; stretches begin at multiples of it since 1970.
    grace_s
        Seconds after the end of a stretch for its requests to be over; what comes later is left out.
    warm_up
        Stretches before the reported one that are simulated with it.
    most_requests
        Requests kept of a stretch; those that finish after so many are counted and left out.
    run
        Simulates one stretch; default: `run_stretch` in a process of its own at low priority.
    clock
        Unix time in nanoseconds.

    Attributes
    ----------
    written, unwritten, lost, late
        Stretches in the file; stretches that the file system refused; stretches that were given up because simulating
        fell behind or the recorder was closed; requests that came after their stretch was closed.

    Raises
    ------
    InputError
        A parameter is out of range, or `path` is another kind of file or being written by another process.
    OSError
        The file cannot be opened.

    Notes
    -----
    `write` and `arrived` append to a list under a lock that is never held for longer than that. At most `most_requests`
    × (`grace_s` / `stretch_s` + `warm_up` + 8) requests are in memory at a time.
    """

    def __init__(
        self,
        path: PathLike,
        deployment: Deployment,
        cost_model: CostModel,
        config: SchedulerConfig,
        *,
        baseline: str,
        stretch_s: float = 60.0,
        grace_s: float = 300.0,
        warm_up: int = 1,
        most_requests: int = 50_000,
        run: RunStretch | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        for name, value, least in (("stretch_s", stretch_s, 1e-3), ("grace_s", grace_s, 0.0)):
            if not (math.isfinite(value) and least <= value <= 1e6):
                raise InputError(f"{name} = {value}: must lie between {least:g} and 1e6 seconds")
        for name, count, minimum in (("warm_up", warm_up, 0), ("most_requests", most_requests, 1)):
            if count < minimum:
                raise InputError(f"{name} = {count}: must be at least {minimum}")
        baseline_config(config, baseline)  # fails now rather than in an hour
        self._names = (config.policy, baseline)
        self._block_tokens = config.block_tokens
        self._stretch_ns, self._grace_ns = round(stretch_s * 1e9), round(grace_s * 1e9)
        self._most_requests = most_requests
        self._most_open = math.ceil(grace_s / stretch_s) + 2 + _SPARE_STRETCHES
        self._clock = clock
        self._process: StretchProcess | None = None
        if run is None:
            # Longer than its share of real time: simulating does not keep up, and a later stretch fares no better.
            limit_s = max(60.0, _SPARE_STRETCHES * stretch_s)
            run = self._process = StretchProcess(deployment, cost_model, config, baseline, limit_s=limit_s)
        self._run = run
        self.written = self.unwritten = self.lost = self.late = 0
        self._late_told = 0
        self._lock = threading.Lock()
        self._open: dict[int, _Stretch] = {}
        self._closed = -1
        self._before: deque[_Stretch] = deque(maxlen=warm_up)
        self._started_ns = clock()
        self._file = AppendFile(path, start=LINE_START, option="shadow")
        self._closing, self._given_up = threading.Event(), False
        self._worker = threading.Thread(target=self._work, name="sbs-opt shadow", daemon=True)
        self._worker.start()

    # -- from the event loop -----------------------------------------------------------------------------------

    def arrived(self, arrival_ns: int) -> None:
        """Announce a request that `write` will be called for: a stretch closes early once all of its are over.

        Announce every request or none; without, a stretch stays open for `grace_s`.
        """
        with self._lock:
            if (stretch := self._stretch_of(arrival_ns)) is not None:
                stretch.arrived += 1

    def write(self, request: FinishedRequest) -> None:
        """Take in a request that is over, in any order; never blocks, never raises."""
        with self._lock:
            stretch = self._stretch_of(request.arrival_ns)
            if stretch is None:
                self.late += 1
                return
            stretch.finished += 1
            first_ns = request.first_token_ns
            in_one_piece = first_ns is None and request.outcome == "answered"
            # A first token before the arrival: the clock was set back in between.
            unheard = first_ns is None or first_ns < request.arrival_ns
            stretch.without_first_token += unheard
            if unheard and not in_one_piece:
                return
            if len(stretch.kept) < self._most_requests:
                stretch.kept.append(request)
            else:
                stretch.over_cap += 1

    def close(self, timeout_s: float = 30.0) -> None:
        """Simulate and write what is gathered, then close the file.

        Parameters
        ----------
        timeout_s
            After so long what is left is given up, and counted in `lost`.
        """
        self._closing.set()
        self._worker.join(timeout_s)
        self._given_up = True
        if self._process is not None:
            self._process.kill()
            self._worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stretch_of(self, arrival_ns: int) -> _Stretch | None:
        """Return the stretch that a request belongs to, None where it is closed."""
        number = arrival_ns // self._stretch_ns
        stretch = self._open.get(number)
        if stretch is None and number > self._closed and not self._closing.is_set():
            stretch = self._open[number] = _Stretch(number)
            if len(self._open) > self._most_open:
                self._closed = min(self._open)
                del self._open[self._closed]
                self.lost += 1
                return self._open.get(number)
        return stretch

    # -- in the worker -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._closing.wait(_LOOK_S):
                self._settle()
            self._settle()
        finally:
            with self._lock:
                self.lost += len(self._open)
                self._open.clear()
            if self._process is not None:
                self._process.close()
            self._file.close()

    def _settle(self) -> None:
        """Report every stretch that is over, oldest first."""
        while not self._given_up and (stretch := self._take()) is not None:
            self._report(stretch)
            self._before.append(stretch)

    def _take(self) -> _Stretch | None:
        now_ns = self._clock()
        with self._lock:
            self._closed = min(self._closed, now_ns // self._stretch_ns - 1)  # a clock that was set back
            if not self._open:
                return None
            number = min(self._open)
            stretch, end_ns = self._open[number], (number + 1) * self._stretch_ns
            all_over = 0 < stretch.arrived <= stretch.finished and now_ns >= end_ns
            if not (all_over or now_ns >= end_ns + self._grace_ns or self._closing.is_set()):
                return None
            self._closed = number
            return self._open.pop(number)

    def _report(self, stretch: _Stretch) -> None:
        """Simulate one stretch and append its lines."""
        begin_ns, end_ns = stretch.number * self._stretch_ns, (stretch.number + 1) * self._stretch_ns
        kept = sorted(stretch.kept, key=_by_arrival)
        measured_ns = measured_ttft_ns(kept)
        known_ns = measured_ns[measured_ns >= 0]
        warm_up, warm_up_ns = self._warm_up(stretch.number)
        runs, problem = None, None
        if kept:
            try:
                runs = self._run(_requests_of(warm_up + kept, self._block_tokens), begin_ns, end_ns)
            except Exception as error:  # whatever it was: the line says it, and the next stretch is another try
                problem = f"{type(error).__name__}: {error}"
        if self._given_up:
            self.lost += 1
            return
        with self._lock:
            late, self._late_told = self.late - self._late_told, self.late
        about = {
            "begin_ns": begin_ns,
            "end_ns": end_ns,
            "policy": self._names[0],
            "baseline": self._names[1],
            "requests": stretch.finished,
            "partial": begin_ns < self._started_ns or self._clock() < end_ns,
            "without_first_token": stretch.without_first_token,
            "over_cap": stretch.over_cap,
            "still_open": max(0, stretch.arrived - stretch.finished) if stretch.arrived else None,
            "late": late,
            # A backlog that is older than the warm-up is not in the simulation.
            "warm_up_too_short": bool(len(known_ns)) and float(np.percentile(known_ns, 99)) > warm_up_ns,
            "stretches_missing": self.lost + self.unwritten,
            "version": __version__,
        }
        lines = [stretch_line(about, measured_ns, runs, problem)]
        if runs is not None:
            lines += request_lines(kept, measured_ns, runs)
        try:
            self._file.append(b"".join(lines))
            self.written += 1
        except OSError:
            self.unwritten += 1

    def _warm_up(self, number: int) -> tuple[list[FinishedRequest], int]:
        """Return the requests right before a stretch, sorted by arrival, and the time that they cover."""
        rows: list[FinishedRequest] = []
        first = number
        for before in reversed(self._before):
            if before.number != first - 1:
                break
            first = before.number
            rows += before.kept
        return sorted(rows, key=_by_arrival), (number - first) * self._stretch_ns


def _by_arrival(request: FinishedRequest) -> tuple[int, ...]:
    """Order requests by arrival, whatever the order in which they finished."""
    return (request.arrival_ns, request.first_token_ns or 0, request.end_ns, request.prompt_tokens)


def _requests_of(rows: list[FinishedRequest], block_tokens: int) -> Requests:
    """Return finished requests, sorted by arrival, as a trace of prefills."""
    n = len(rows)
    prompt = np.array([row.prompt_tokens for row in rows], np.int64)
    blocks: list[IntArray] = []
    if block_tokens:
        # Blocks are cut by an estimate of the length: no more than the true one can fill.
        most = (-(-prompt // block_tokens)).tolist()
        blocks = [np.asarray(row.block_ids, np.int64)[:fill] for row, fill in zip(rows, most, strict=True)]
    offset = np.zeros(n + 1, np.int64)
    np.cumsum([len(ids) for ids in blocks] or np.zeros(n, np.int64), out=offset[1:])
    return Requests(
        np.array([row.arrival_ns for row in rows], np.int64),
        prompt,
        np.ones(n, np.int64),
        offset,
        np.concatenate(blocks) if blocks else np.zeros(0, np.int64),
        block_tokens,
        np.full(n, -1, np.int64),
    )
