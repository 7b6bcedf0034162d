"""The twin simulator: the laws of docs/simulator.md in plain Python, slow, to check `sbs_opt.simulator` against."""

from __future__ import annotations

from sbs_opt.testing.twin.run import Twin, TwinRun
from sbs_opt.testing.twin.settings import Settings

__all__ = ["Settings", "Twin", "TwinRun"]
