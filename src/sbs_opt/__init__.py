"""Which waiting LLM request goes to which data-parallel attention unit, and when.

Names are resolved on first use, so that `import sbs_opt` loads no compiler and no solver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sbs_opt._version import __version__

if TYPE_CHECKING:
    from sbs_opt.models.deployment import Deployment
    from sbs_opt.models.errors import InputError, InternalError, PlacementError, TraceError, UnsupportedError
    from sbs_opt.models.objective import Objective
    from sbs_opt.models.placement import Placement
    from sbs_opt.models.requests import Requests
    from sbs_opt.models.verify import verify
    from sbs_opt.models.window import UNLIMITED, Savings, Window
    from sbs_opt.scheduler.batch import BatchScheduler
    from sbs_opt.solvers.protocol import SolverInfo
    from sbs_opt.solvers.registry import list_solvers
    from sbs_opt.solvers.result import Result
    from sbs_opt.solvers.solve import solve
    from sbs_opt.solvers.warm_up import warm_up

_MODULE_OF = {
    "BatchScheduler": "sbs_opt.scheduler.batch",
    "Deployment": "sbs_opt.models.deployment",
    "InputError": "sbs_opt.models.errors",
    "InternalError": "sbs_opt.models.errors",
    "Objective": "sbs_opt.models.objective",
    "Placement": "sbs_opt.models.placement",
    "PlacementError": "sbs_opt.models.errors",
    "Requests": "sbs_opt.models.requests",
    "Result": "sbs_opt.solvers.result",
    "Savings": "sbs_opt.models.window",
    "SolverInfo": "sbs_opt.solvers.protocol",
    "TraceError": "sbs_opt.models.errors",
    "UNLIMITED": "sbs_opt.models.window",
    "UnsupportedError": "sbs_opt.models.errors",
    "Window": "sbs_opt.models.window",
    "list_solvers": "sbs_opt.solvers.registry",
    "solve": "sbs_opt.solvers.solve",
    "verify": "sbs_opt.models.verify",
    "warm_up": "sbs_opt.solvers.warm_up",
}

__all__ = [
    "UNLIMITED",
    "BatchScheduler",
    "Deployment",
    "InputError",
    "InternalError",
    "Objective",
    "Placement",
    "PlacementError",
    "Requests",
    "Result",
    "Savings",
    "SolverInfo",
    "TraceError",
    "UnsupportedError",
    "Window",
    "__version__",
    "list_solvers",
    "solve",
    "verify",
    "warm_up",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sbs_opt' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value  # resolved once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
