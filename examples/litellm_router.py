"""LiteLLM in front of two data-parallel engines, placed by the scheduler. Needs: pip install 'sbs-opt[serve]' litellm

The engines are fakes here, so that it runs anywhere: put your own vLLM servers in the place of `engine.url`.
"""

from __future__ import annotations

import asyncio
import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else LiteLLM fetches prices when it is imported

import litellm

from sbs_opt.adapters.litellm import RANK_HEADER, install
from sbs_opt.adapters.serve_config import Engines
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.testing.engines import EngineConfig, FakeEngine

RANKS = 8


def deployment(url: str, rank: int) -> dict[str, object]:
    """Return LiteLLM's entry for one data-parallel rank."""
    params = {"model": "openai/fake", "api_base": f"{url}/v1", "api_key": "none"}
    return {"model_name": "fake", "litellm_params": {**params, "extra_headers": {RANK_HEADER: str(rank)}}}


async def ask(router: litellm.Router, number: int) -> str:
    """Return one streamed answer."""
    messages = [{"role": "user", "content": "word " * (100 + 331 * number % 4000)}]
    stream = await router.acompletion(model="fake", messages=messages, max_tokens=8, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def main() -> None:
    """Send 40 requests at once and show how much each rank ran."""
    config = EngineConfig("vllm", RANKS, speed=4.0)
    async with FakeEngine(config) as one, FakeEngine(config) as two:
        engines = (one, two)
        router = litellm.Router([deployment(engine.url, rank) for engine in engines for rank in range(RANKS)])
        strategy = install(router, Engines(ranks=RANKS, chunk_tokens=8192), SchedulerConfig(policy="sbs_auto"))
        try:
            answers = await asyncio.gather(*(ask(router, number) for number in range(40)))
        finally:
            await strategy.aclose()
        print(f"{sum(map(bool, answers))} of {len(answers)} answered")
        for number, engine in enumerate(engines):
            print(f"engine {number}: prompt tokens by rank", [load.prefilled_tokens for load in engine.loads()])


asyncio.run(main())
