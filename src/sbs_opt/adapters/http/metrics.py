"""What the proxy counts, in Prometheus' form."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sbs_opt.adapters.router import Placed
from sbs_opt.adapters.telemetry import LoadSnapshot
from sbs_opt.models.checks import IntArray

_HELD_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Metrics:
    """Counters of one proxy, in a registry of its own.

    Parameters
    ----------
    figures
        Read when they are asked for: text and function by name.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, figures: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        self._registry = registry = CollectorRegistry()
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
        self._load = Gauge(
            "sbs_reported_load",
            "As an engine reports it",
            (*of_upstream, "unit", "figure", "source"),
            registry=registry,
        )
        self._believed = Gauge(
            "sbs_believed_queue_tokens", "Prompt tokens that the router believes to wait when a report comes",
            (*of_upstream, "unit"), registry=registry,
        )  # fmt: skip
        self._report_age = Gauge("sbs_report_age_seconds", "Since the last report", of_upstream, registry=registry)
        self._unreadable = Counter(
            "sbs_unreadable_reports",
            "Reports that could not be had or read",
            (*of_upstream, "error"),
            registry=registry,
        )
        self._uncaptured = Counter("sbs_uncaptured", "Requests that the capture could not take", registry=registry)
        self._reloads = Counter("sbs_reloads", "Configurations read again", ("outcome",), registry=registry)
        for name, (text, value) in figures.items():
            Gauge(name, text, registry=registry).set_function(value)

    def answered(self, upstream: str, placed: Placed | None, status: int) -> None:
        """Count an answer that has begun."""
        self._answers.labels(upstream, str(placed.unit) if placed else "", str(status)).inc()
        if placed is not None:
            self._held.observe(placed.held_ns / 1e9)

    def failed(self, upstream: str) -> None:
        """Count a failure before a first byte."""
        self._failures.labels(upstream).inc()

    def broken(self) -> None:
        """Count a failure after a first byte."""
        self._broken.inc()

    def rejected(self, reason: str) -> None:
        """Count a request that was not placed."""
        self._rejections.labels(reason).inc()

    def healthy(self, upstream: str, well: bool) -> None:
        """Note whether an upstream takes requests."""
        self._healthy.labels(upstream).set(int(well))

    def reported(self, upstream: str, snapshot: LoadSnapshot, at_s: float) -> None:
        """Take an engine's report of its load, heard at `at_s` on the monotonic clock."""
        for load in snapshot.ranks:
            for figure in ("running", "waiting", "waiting_tokens", "used_tokens"):
                value = getattr(load, figure)
                if value is not None:
                    self._load.labels(upstream, str(load.rank), figure, snapshot.source).set(value)
        self._report_age.labels(upstream).set_function(lambda: time.monotonic() - at_s)

    def believed(self, upstream: str, queued_tokens: IntArray) -> None:
        """Show what the router believes to wait at the units of an upstream, beside what that reports."""
        for unit, tokens in enumerate(queued_tokens.tolist()):
            self._believed.labels(upstream, str(unit)).set(tokens)

    def unreadable(self, upstream: str, error: str) -> None:
        """Count a report that could not be had or read."""
        self._unreadable.labels(upstream, error).inc()

    def reloaded(self, *, taken: bool) -> None:
        """Count a configuration that was read again."""
        self._reloads.labels("taken" if taken else "refused").inc()

    def uncaptured(self) -> None:
        """Count a request that the capture could not take."""
        self._uncaptured.inc()

    def text(self) -> bytes:
        """Return all figures."""
        return bytes(generate_latest(self._registry))
