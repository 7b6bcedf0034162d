"""Everything a user can set of a scheduler: one frozen dataclass, readable from TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from sbs_opt.models.errors import InputError

Timing = Literal["when_free", "interval"]
Admission = Literal["all", "by_age", "in_order"]
Balance = Literal["tokens", "time"]

MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Decisions:
    """The three decisions of a late-binding policy, and whether placement looks at the prefix cache.

    Parameters
    ----------
    timing
        "when_free": as soon as an instance can take a batch; "interval": staggered.
    admission
        "all": everything while there is room, carried-over requests first, then longest first; "by_age": the oldest
        until the room is used; "in_order": everything while there is room, in arrival order.
    balance
        Whether units are balanced by "tokens" or by "time".
    solver
        Registered name of the solver that places.
    cache
        Whether prefix hits count as savings in the placement.
    """

    timing: Timing
    admission: Admission
    balance: Balance
    solver: str
    cache: bool


LATE_BINDING: dict[str, Decisions] = {
    "central_greedy": Decisions("when_free", "in_order", "tokens", "least_loaded", cache=False),
    "sbs": Decisions("interval", "all", "tokens", "least_loaded", cache=True),
    "sbs_auto": Decisions("when_free", "by_age", "time", "lpt", cache=True),
}


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Settings of one scheduler.

    Parameters
    ----------
    policy
        Name in the policy table.
    seed
        For the policies that draw.
    timing, admission, balance, solver, cache
        Override single decisions of a late-binding policy (`Decisions`); None keeps the policy's own. Immediate
        policies have none.
    block_tokens
        Tokens per prefix block of the request stream; 0 = requests carry no prefix blocks.
    notification_ns
        How long after the end of a pass the scheduler hears of it.
    lead_ns
        How long before the predicted end of a pass the batch for the next one is committed.
    hold_limit_ns
        Longest time that a request waits for an interval while an instance could take it.
    hold_limit_windows
        Windows that a request may be left out of before it outranks every younger one.
    mean_passes
        Passes in the moving mean that sets the interval.
    bypass_utilisation
        The interval is bypassed while the moving mean of chunk utilisation is below this share.
    watchdog
        Multiple of the predicted pass after which a missing `PassEnded` is taken as lost.
    decision_base_ns, decision_step_ns
        Model of the decision time: base + step × steps of the solver.
    """

    policy: str = "sbs_auto"
    seed: int = 0
    timing: Timing | None = None
    admission: Admission | None = None
    balance: Balance | None = None
    solver: str | None = None
    cache: bool | None = None
    block_tokens: int = 0
    notification_ns: int = 2 * MS
    lead_ns: int = 4 * MS
    hold_limit_ns: int = 2000 * MS
    hold_limit_windows: int = 8
    mean_passes: int = 16
    bypass_utilisation: float = 0.02
    watchdog: float = 3.0
    decision_base_ns: int = 2_000
    decision_step_ns: int = 1

    def __post_init__(self) -> None:
        for name, legal in (
            ("timing", ("when_free", "interval")),
            ("admission", ("all", "by_age", "in_order")),
            ("balance", ("tokens", "time")),
        ):
            if getattr(self, name) not in (None, *legal):
                raise InputError(f"{name} = {getattr(self, name)!r}: must be one of {', '.join(legal)}")
        least = {
            "seed": 0, "block_tokens": 0, "notification_ns": 0, "lead_ns": 0, "hold_limit_ns": 0, "decision_base_ns": 0,
            "decision_step_ns": 0, "hold_limit_windows": 1, "mean_passes": 1,
        }  # fmt: skip
        for name, minimum in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value < 2**63:
                raise InputError(f"{name} = {value!r}: must be a whole number of at least {minimum}")
        for name, above in (("bypass_utilisation", 0.0), ("watchdog", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not above <= value < float("inf"):
                raise InputError(f"{name} = {value!r}: must be a finite number of at least {above:g}")
        if self.watchdog == 1:
            raise InputError(f"watchdog = {self.watchdog}: must exceed 1, it multiplies the predicted pass")
        if self.policy not in LATE_BINDING and any(value is not None for value in self._overrides().values()):
            raise InputError(
                f"policy = {self.policy!r}: binds at once and has no timing, admission, balance, solver or cache"
            )

    def decisions(self) -> Decisions:
        """Return the policy's decisions with the overrides applied.

        Raises
        ------
        InputError
            When the policy does not bind late.
        """
        if self.policy not in LATE_BINDING:
            raise InputError(f"policy = {self.policy!r}: does not bind late; those that do: {', '.join(LATE_BINDING)}")
        given = {name: value for name, value in self._overrides().items() if value is not None}
        return replace(LATE_BINDING[self.policy], **given)

    def _overrides(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(Decisions)}


def config_from_dict(data: Mapping[str, Any]) -> SchedulerConfig:
    """Build a configuration from parsed TOML; an unknown key is an error that lists the known ones."""
    known = [f.name for f in fields(SchedulerConfig)]
    for key in data:
        if key not in known:
            raise InputError(f"scheduler: unknown key {key!r}; known keys: {', '.join(known)}")
    return SchedulerConfig(**data)
