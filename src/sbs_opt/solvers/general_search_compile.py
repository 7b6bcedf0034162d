"""How the kernels of the general local search are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

_F = TypeVar("_F", bound=Callable[..., Any])
_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False}


def kernel(function: _F) -> _F:
    """Compile without reference counting.

    These kernels allocate nothing and keep nothing, so there is nothing to count; to count all the same takes ten times
    as long as the search, because every call counts each array of the state up and down.
    """
    compiled: _F = njit(**_OPTIONS)(function)
    return compiled


def inlined(function: _F) -> _F:
    """Compile as `kernel`, into the callers: for what is short and often called, where LLVM would leave the call."""
    compiled: _F = njit(**_OPTIONS, forceinline=True)(function)
    return compiled
