"""Ray Serve with one replica per data-parallel rank, placed by the scheduler. Needs: pip install sbs-opt 'ray[serve]'

The ranks only sleep here, so that it runs on any machine: put your engine's rank in the place of `Rank`.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig

INSTANCES, RANKS = 2, 4


class Rank:
    """One data-parallel rank of an engine."""

    async def __call__(self, prompt_tokens: int) -> str:
        """Run a prompt and return who ran it."""
        await asyncio.sleep(prompt_tokens * 10e-6)
        return str(serve.get_replica_context().replica_id.unique_id)


def main() -> None:
    """Send 40 requests at once and show how many each rank ran."""
    routing = RequestRouterConfig(
        request_router_class="sbs_opt.adapters.ray_serve.SbsRequestRouter",
        request_router_kwargs={
            "instances": INSTANCES,
            "engines": {"ranks": RANKS, "chunk_tokens": 8192},
            "scheduler": {"policy": "sbs_auto"},
            "prefill_only": True,  # an answer ends with its first token
        },
    )
    deployment = serve.deployment(
        num_replicas=INSTANCES * RANKS,
        max_ongoing_requests=64,
        ray_actor_options={"num_cpus": 0},
        request_router_config=routing,
    )
    ray.init(include_dashboard=False)
    try:
        handle = serve.run(deployment(Rank).bind())
        responses = [handle.remote(prompt_tokens=500 + 311 * number % 4000) for number in range(40)]
        ran = Counter(response.result(timeout_s=30) for response in responses)
        print(f"{sum(ran.values())} of {len(responses)} answered; requests by rank: {sorted(ran.values())}")
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
