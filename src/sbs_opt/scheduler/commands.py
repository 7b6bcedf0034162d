"""What a scheduler asks its driver to do: frozen, columnar commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sbs_opt.models.checks import IntArray

RETRY_AFTER_NS = 1_000_000_000
"""Asked of clients while no instance takes requests."""

Reason = Literal["too_large", "deadline", "overload", "shutdown"]


@dataclass(frozen=True, slots=True, eq=False)
class Dispatch:
    """Send requests to the units of one instance.

    Parameters
    ----------
    window_id
        Counts the decisions of a scheduler from 0.
    instance
        Index among the instances of the phase.
    ids, units
        int64[k], in dispatch order; units are numbered within the instance.
    pass_budget_ns
        Length to run the next pass to, where the engine takes one; else None.
    expected_pass_ns
        Predicted length of the pass that runs them, 0 when unknown.
    decision_ns
        Time that the decision took, modelled from its steps: a driver with a virtual clock acts that much later.
    """

    window_id: int
    instance: int
    ids: IntArray
    units: IntArray
    pass_budget_ns: int | None
    expected_pass_ns: int
    decision_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class Withdraw:
    """Take back requests that have not started, where the engine can give them back."""

    ids: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Reject:
    """Answer these requests with a refusal; `retry_after_ns` is None when a retry is pointless."""

    ids: IntArray
    reason: Reason
    retry_after_ns: int | None


Command = Dispatch | Withdraw | Reject
