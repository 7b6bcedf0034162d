"""Faults on command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from sbs_opt.models.errors import InputError

FaultKind = Literal[
    "refuse", "reset_before_first", "reset_after_first", "stall_before_first", "stall_after_first", "slow",
    "malformed_loads", "stale_loads", "wrong_rank_loads",
]  # fmt: skip

LOAD_FAULTS = frozenset[FaultKind]({"malformed_loads", "stale_loads", "wrong_rank_loads"})


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with the next requests.

    Parameters
    ----------
    kind
        `refuse`
            503 at once.
        `reset_before_first`, `reset_after_first`
            The connection is reset before any byte, or after the first token.
        `stall_before_first`, `stall_after_first`
            Nothing is sent, or nothing after the first token, until the client leaves or the fault is released. The
            engine itself goes on: only the answer is withheld.
        `slow`
            `delay_ms` before everything that is sent.
        `malformed_loads`, `stale_loads`, `wrong_rank_loads`
            The report of loads is cut short, is that of the moment of injection, or names ranks that do not exist.
    count
        Requests that are hit: reports of loads in the last three kinds, generations in the others.
    after_ms
        Wall time before it takes effect.
    delay_ms
        Wall time that `slow` adds.
    """

    kind: FaultKind
    count: int = 1
    after_ms: float = 0.0
    delay_ms: float = 100.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise InputError(f"kind = {self.kind!r}: must be one of {', '.join(get_args(FaultKind))}")
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise InputError(f"count = {self.count!r}: must be a whole number of at least 1")
        for name, value in (("after_ms", self.after_ms), ("delay_ms", self.delay_ms)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise InputError(f"{name} = {value!r}: must be a number of at least 0")


@dataclass(slots=True)
class _Armed:
    fault: Fault
    left: int
    from_s: float
    report: bytes


class FaultBox:
    """Faults that are still to come, in the order of injection."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []

    def add(self, fault: Fault, now_s: float, report: bytes = b"") -> None:
        """Arm a fault; `report` is what a stale report of loads shows."""
        self._armed.append(_Armed(fault, fault.count, now_s + fault.after_ms / 1e3, report))

    def take_for_request(self, now_s: float) -> Fault | None:
        """Return the fault that hits a generation arriving now."""
        taken = self._take(now_s, of_loads=False)
        return taken.fault if taken else None

    def take_for_report(self, now_s: float) -> tuple[Fault | None, bytes]:
        """Return the fault that hits a report of loads asked for now, and what a stale one shows."""
        taken = self._take(now_s, of_loads=True)
        return (taken.fault, taken.report) if taken else (None, b"")

    def clear(self) -> None:
        """Forget all."""
        self._armed.clear()

    def _take(self, now_s: float, of_loads: bool) -> _Armed | None:
        for position, armed in enumerate(self._armed):
            if (armed.fault.kind in LOAD_FAULTS) == of_loads and armed.from_s <= now_s:
                armed.left -= 1
                if not armed.left:
                    del self._armed[position]
                return armed
        return None
