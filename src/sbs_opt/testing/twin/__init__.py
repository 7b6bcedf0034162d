"""The twin simulator: docs/simulator.md once more, slowly and in plain Python, to check `sbs_opt.simulator` against."""

from __future__ import annotations

from sbs_opt.testing.twin.run import Twin, TwinRun
from sbs_opt.testing.twin.settings import Settings

__all__ = ["Settings", "Twin", "TwinRun"]
