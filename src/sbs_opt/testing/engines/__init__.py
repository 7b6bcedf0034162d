"""Fake data-parallel engines over HTTP, for tests of routers (needs the extra `serve`).

`python -m sbs_opt.testing.engines --kind sglang --ranks 4` runs one on its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sbs_opt.testing.engines.config import EngineConfig
from sbs_opt.testing.engines.faults import Fault
from sbs_opt.testing.engines.records import PassRecord, RankLoad, StepRecord

if TYPE_CHECKING:
    from sbs_opt.testing.engines.engine import FakeEngine

__all__ = ["EngineConfig", "FakeEngine", "Fault", "PassRecord", "RankLoad", "StepRecord"]


def __getattr__(name: str) -> Any:
    if name == "FakeEngine":  # needs aiohttp
        from sbs_opt.testing.engines.engine import FakeEngine

        return FakeEngine
    raise AttributeError(f"module 'sbs_opt.testing.engines' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
