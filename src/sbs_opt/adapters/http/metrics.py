"""What the proxy counts, in Prometheus' form."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sbs_opt.adapters.router import Placed, Router
from sbs_opt.adapters.serve_config import Upstream
from sbs_opt.adapters.telemetry import LoadSnapshot

_HELD_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Metrics:
    """Counters of one proxy, in a registry of its own.

    Parameters
    ----------
    router
        Its waiting, in-flight and booked figures are read when they are asked for.
    upstreams
        Their names label what concerns one.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, router: Router, upstreams: Sequence[Upstream]) -> None:
        self.open_answers = 0
        self._registry = registry = CollectorRegistry()
        self._names = [upstream.name for upstream in upstreams]
        of_upstream = ("upstream",)
        self._answers = Counter(
            "sbs_answers", "Answers by upstream, unit and status", (*of_upstream, "unit", "status"), registry=registry
        )
        self._failures = Counter(
            "sbs_upstream_failures", "Upstreams that failed before a first byte", of_upstream, registry=registry
        )
        self._broken = Counter("sbs_broken_answers", "Answers that broke off after their first byte", registry=registry)
        self._rejections = Counter("sbs_rejections", "Requests that were not placed", ("reason",), registry=registry)
        self._held = Histogram("sbs_held_seconds", "From asking to the decision", buckets=_HELD_S, registry=registry)
        self._healthy = Gauge(
            "sbs_upstream_healthy", "1 while an upstream takes requests", of_upstream, registry=registry
        )
        for name in self._names:
            self._healthy.labels(name).set(1)
        self._load = Gauge(
            "sbs_reported_load",
            "As an engine reports it",
            (*of_upstream, "unit", "figure", "source"),
            registry=registry,
        )
        self._report_age = Gauge("sbs_report_age_seconds", "Since the last report", of_upstream, registry=registry)
        self._unreadable = Counter(
            "sbs_unreadable_reports",
            "Reports that could not be had or read",
            (*of_upstream, "error"),
            registry=registry,
        )
        self._uncaptured = Counter("sbs_uncaptured", "Requests that the capture could not take", registry=registry)
        for name, text, value in (
            ("sbs_waiting", "Requests without a placement", lambda: router.waiting),
            ("sbs_in_flight", "Requests without a first token", lambda: router.in_flight),
            ("sbs_booked", "Booked tokens and requests", lambda: router.booked),
            ("sbs_open_answers", "Answers under way", lambda: self.open_answers),
        ):
            Gauge(name, text, registry=registry).set_function(value)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count an answer as under way."""
        self.open_answers += 1
        try:
            yield
        finally:
            self.open_answers -= 1

    def answered(self, placed: Placed, status: int) -> None:
        """Count an answer that has begun."""
        self._answers.labels(self._names[placed.instance], str(placed.unit), str(status)).inc()
        self._held.observe(placed.held_ns / 1e9)

    def failed(self, instance: int) -> None:
        """Count a failure before a first byte."""
        self._failures.labels(self._names[instance]).inc()

    def broken(self) -> None:
        """Count a failure after a first byte."""
        self._broken.inc()

    def rejected(self, reason: str) -> None:
        """Count a request that was not placed."""
        self._rejections.labels(reason).inc()

    def healthy(self, instance: int, well: bool) -> None:
        """Note whether an upstream takes requests."""
        self._healthy.labels(self._names[instance]).set(int(well))

    def reported(self, instance: int, snapshot: LoadSnapshot, at_s: float) -> None:
        """Take an engine's report of its load, heard at `at_s` on the monotonic clock."""
        name = self._names[instance]
        for load in snapshot.ranks:
            for figure in ("running", "waiting", "waiting_tokens", "used_tokens"):
                value = getattr(load, figure)
                if value is not None:
                    self._load.labels(name, str(load.rank), figure, snapshot.source).set(value)
        self._report_age.labels(name).set_function(lambda: time.monotonic() - at_s)

    def unreadable(self, instance: int, error: str) -> None:
        """Count a report that could not be had or read."""
        self._unreadable.labels(self._names[instance], error).inc()

    def uncaptured(self) -> None:
        """Count a request that the capture could not take."""
        self._uncaptured.inc()

    def text(self) -> bytes:
        """Return all figures."""
        return bytes(generate_latest(self._registry))
