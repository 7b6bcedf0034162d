"""Conservation laws, checked at the end of every run: a violation is a bug of ours and an error."""

from __future__ import annotations

from sbs_opt.models.errors import InternalError
from sbs_opt.scheduler.policies import Scheduler
from sbs_opt.simulator.simulation import Run


def check_conservation(run: Run, prefill: Scheduler, decode: Scheduler | None) -> None:
    """Check that nothing was lost or made up.

    Every request is answered, rejected with a reason, or unfinished at the horizon, and never two of these; tokens in =
    tokens run + tokens from cache; after a complete run nothing is unfinished, queued or booked.

    Raises
    ------
    InternalError
        Naming the law and the figures on both sides.
    """
    requests = run.requests
    answered = run.finished_ns >= 0
    twice = [r for r in run.rejected if answered[r]]
    _law("answered and rejected at once", len(twice), 0)
    run_tokens = sum(int(p.tokens.sum()) for p in run.passes)
    _law("prompt tokens done = run + from cache", int(run.done_tokens.sum()), run_tokens + int(run.hit_tokens.sum()))
    prefilled = run.first_token_ns >= 0
    _law(
        "prompt tokens of prefilled requests = tokens done for them",
        int(requests.prompt_tokens[prefilled].sum()),
        int(run.done_tokens[prefilled].sum()),
    )
    early = (prefilled & (run.first_token_ns < requests.arrival_ns)).sum()
    _law("first tokens before arrival", int(early), 0)
    if run.decode is not None:
        _law("output tokens still to come of answered requests", int(run.decode.remaining_tokens[answered].sum()), 0)
        produced = requests.output_tokens[answered] - 1
        _law("sequence steps ≥ output tokens", max(0, int(produced[produced > 0].sum()) - run.decode.sequence_steps), 0)
    if run.stopped:
        return
    unfinished = len(requests) - int(answered.sum()) - len(run.rejected)
    _law("unfinished after a complete run", unfinished, 0)
    for name, scheduler in (("prefill", prefill), ("decode", decode)):
        if scheduler is not None:
            _law(f"{name} load still booked", scheduler.booked, 0)
            _law(f"{name} requests still open", scheduler.open_requests, 0)
    if run.decode is not None:
        _law("decode sequences and KV still held", run.decode.held, 0)


def _law(name: str, left: int, right: int) -> None:
    if left != right:
        raise InternalError(f"conservation: {name}: {left} ≠ {right}")
