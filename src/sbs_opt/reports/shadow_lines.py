"""The lines of a shadow file: one per stretch, one per request; docs/shadow.md says how to read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sbs_opt.adapters.capture import FinishedRequest
from sbs_opt.models.checks import IntArray
from sbs_opt.simulator.stretch import StretchRuns, TtftSummary, figures_of

SCHEMA = "sbs-opt/shadow/1"
"""First field of every line."""

LINE_START = f'{{"schema":"{SCHEMA}","kind":"'.encode()


def measured_ttft_ns(requests: Sequence[FinishedRequest]) -> IntArray:
    """Return int64[n], the measured times to the first token; −1 of answers that came in one piece."""
    ttft_ns = [-1 if one.first_token_ns is None else one.first_token_ns - one.arrival_ns for one in requests]
    return np.array(ttft_ns, np.int64)


def stretch_line(about: dict[str, Any], measured_ns: IntArray, runs: StretchRuns | None, problem: str | None) -> bytes:
    """Return the line of a stretch.

    Parameters
    ----------
    about
        What the recorder counted.
    measured_ns
        int64[n], times to the first token of the requests in `runs`; −1 = unknown.
    runs, problem
        What was simulated, and why nothing was: predictions are then null.
    """
    figures = None if runs is None else figures_of(runs, measured_ns)
    return _line(
        "stretch",
        about
        | {
            "too_large": figures.too_large if figures else None,
            "compared": figures.compared if figures else 0,
            "warm_up_requests": runs.warm_up_requests if runs else 0,
            "problem": problem,
            "measured_ttft_s": asdict(figures.measured if figures else TtftSummary.of(measured_ns[measured_ns >= 0])),
            "policy_ttft_s": asdict(figures.policy) if figures else None,
            "baseline_ttft_s": asdict(figures.baseline) if figures else None,
            "policy_minus_baseline_s": asdict(figures.difference) if figures else None,
            "baseline_minus_measured_s": asdict(figures.error) if figures else None,
        },
    )


def request_lines(requests: Sequence[FinishedRequest], measured_ns: IntArray, runs: StretchRuns) -> list[bytes]:
    """Return a line per request of a stretch, in order of arrival; one that a policy rejects has nulls."""
    ours = runs.policy
    columns = (measured_ns, ours.instance, ours.unit, ours.held_ns, ours.ttft_ns, runs.baseline.ttft_ns)
    return [
        _line(
            "request",
            {
                "arrival_ns": request.arrival_ns,
                "prompt_tokens": request.prompt_tokens,
                "instance": None if instance < 0 else instance,
                "unit": None if unit < 0 else unit,
                "held_s": _seconds(held),
                "policy_ttft_s": _seconds(policy),
                "baseline_ttft_s": _seconds(baseline),
                "measured_ttft_s": _seconds(measured),
            },
        )
        for request, measured, instance, unit, held, policy, baseline in zip(
            requests, *(column.tolist() for column in columns), strict=True
        )
    ]


def _line(kind: str, fields: dict[str, Any]) -> bytes:
    return json.dumps({"schema": SCHEMA, "kind": kind, **fields}, separators=(",", ":")).encode() + b"\n"


def _seconds(duration_ns: int) -> float | None:
    return None if duration_ns < 0 else duration_ns / 1e9
