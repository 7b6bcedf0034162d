"""Metrics of a run: distributions over the requests that arrive in the middle, sums over its passes and steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sbs_opt.models.checks import BoolArray, IntArray
from sbs_opt.models.deployment import Deployment
from sbs_opt.simulator.simulation import Run

NS = 1e-9
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Metrics:
    """Figures of one run, seconds and shares; `row()` gives the JSON form.

    Parameters
    ----------
    requests, answered, rejected, unfinished
        Counts over the whole run; they sum up.
    ttft_s
        float64[k], ascending, of the answered requests that arrived in the 10–90 % window.
    """

    requests: int
    answered: int
    rejected: int
    unfinished: int
    rejected_reasons: dict[str, int]
    passes: int
    steps: int
    simulated_s: float
    ttft_s: FloatArray
    tpot_s: FloatArray
    end_to_end_s: FloatArray
    tokens_per_s: float
    output_tokens_per_s: float
    chunk_utilisation: float
    barrier_idle_prefill: float
    barrier_idle_decode: float | None
    passes_all_active: float
    cache_hit_share: float
    holding_s_mean: float
    decision_s_mean: float
    preemptions: int

    def row(self) -> dict[str, Any]:
        """Return the figures of a row of `compare --json`."""
        return {
            "requests": self.requests,
            "answered": self.answered,
            "rejected": self.rejected,
            "unfinished": self.unfinished,
            "rejected_reasons": self.rejected_reasons,
            "passes": self.passes,
            "steps": self.steps,
            "simulated_s": self.simulated_s,
            "ttft_s": _summary(self.ttft_s, (50, 90, 99)),
            "tpot_s": _summary(self.tpot_s, (50, 99)),
            "end_to_end_s": _summary(self.end_to_end_s, (50, 99)),
            "tokens_per_s": self.tokens_per_s,
            "output_tokens_per_s": self.output_tokens_per_s,
            "chunk_utilisation": self.chunk_utilisation,
            "barrier_idle": {"prefill": self.barrier_idle_prefill, "decode": self.barrier_idle_decode},
            "passes_all_active": self.passes_all_active,
            "cache_hit_share": self.cache_hit_share,
            "holding_s_mean": self.holding_s_mean,
            "decision_s_mean": self.decision_s_mean,
            "preemptions": self.preemptions,
        }


def measure(run: Run, deployment: Deployment) -> Metrics:
    """Compute the metrics of a run. O(requests + passes × units)."""
    requests = run.requests
    answered = run.finished_ns >= 0
    middle = middle_of(requests.arrival_ns) & answered
    ttft = np.sort((run.first_token_ns - requests.arrival_ns)[middle] * NS)
    # Without decode instances there are no later tokens, so no time per output token either.
    later = middle & (requests.output_tokens > 1) & (run.decode is not None)
    tpot = np.sort((run.finished_ns - run.first_token_ns)[later] * NS / (requests.output_tokens[later] - 1))
    end_to_end = np.sort((run.finished_ns - requests.arrival_ns)[middle] * NS)
    simulated = (run.end_ns - int(requests.arrival_ns[0])) * NS
    prefill = deployment.of_phase("prefill")[0]
    tokens = np.array([p.tokens for p in run.passes]).reshape(len(run.passes), prefill.num_units)
    unit_ns = np.array([p.unit_ns for p in run.passes]).reshape(len(run.passes), prefill.num_units)
    dispatched = middle & (run.dispatched_ns >= 0)
    decode = run.decode
    reasons = sorted(set(run.rejected.values()))
    offered = int(requests.prompt_tokens[answered].sum())
    return Metrics(
        requests=len(requests),
        answered=int(answered.sum()),
        rejected=len(run.rejected),
        unfinished=len(requests) - int(answered.sum()) - len(run.rejected),
        rejected_reasons={reason: sum(r == reason for r in run.rejected.values()) for reason in reasons},
        passes=len(run.passes),
        steps=sum(decode.steps) if decode else 0,
        simulated_s=simulated,
        ttft_s=ttft,
        tpot_s=tpot,
        end_to_end_s=end_to_end,
        tokens_per_s=_share(int((requests.prompt_tokens + requests.output_tokens)[answered].sum()), simulated),
        output_tokens_per_s=_share(int(requests.output_tokens[answered].sum()), simulated),
        chunk_utilisation=_share(float(tokens.sum()), tokens.size * prefill.unit.chunk_tokens),
        barrier_idle_prefill=1 - _share(float(unit_ns.mean(axis=1).sum()), float(unit_ns.max(axis=1).sum()), 1.0),
        barrier_idle_decode=1 - _share(decode.unit_ns, decode.barrier_ns, 1.0) if decode else None,
        passes_all_active=_share(float((tokens > 0).all(axis=1).sum()), len(run.passes)),
        cache_hit_share=_share(int(run.hit_tokens[answered].sum()), offered),
        holding_s_mean=_mean((run.dispatched_ns - requests.arrival_ns)[dispatched] * NS),
        decision_s_mean=_mean(run.decision_ns[dispatched] * NS),
        preemptions=decode.preemptions if decode else 0,
    )


def middle_of(arrival_ns: IntArray) -> BoolArray:
    """Return which requests arrive in the 10–90 % window of the arrivals' span: start-up and run-out do not count."""
    start, span = int(arrival_ns[0]), int(arrival_ns[-1] - arrival_ns[0])
    return (arrival_ns >= start + span // 10) & (arrival_ns <= start + span * 9 // 10)


def _share(part: float, whole: float, empty: float = 0.0) -> float:
    return part / whole if whole else empty


def _mean(values: npt.NDArray[np.floating[Any]]) -> float:
    return float(values.mean()) if len(values) else 0.0


def _summary(values: FloatArray, percentiles: tuple[int, ...]) -> dict[str, float | None]:
    if len(values) == 0:
        return {"mean": None, **{f"p{p}": None for p in percentiles}}
    return {"mean": float(values.mean()), **{f"p{p}": float(np.percentile(values, p)) for p in percentiles}}
