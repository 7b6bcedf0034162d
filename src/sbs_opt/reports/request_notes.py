"""What a reader must know of the requests themselves."""

from __future__ import annotations

from sbs_opt.models.deployment import Deployment
from sbs_opt.models.requests import Requests


def too_long_notes(requests: Requests, deployment: Deployment) -> tuple[str, ...]:
    """Return a sentence on the prompts that the deployment will reject as too large, none where there are none."""
    too_long = int((requests.prompt_tokens > deployment.context_tokens).sum())
    if not too_long:
        return ()
    return (
        f"{too_long:,} of {len(requests):,} requests of the trace have prompts above the context of "
        f"{deployment.context_tokens:,} tokens; they are rejected as too_large",
    )
