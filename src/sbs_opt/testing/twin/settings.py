"""What the twin is told: the settings of a scheduler, the three decisions of each late-binding policy, and requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sbs_opt.models.requests import Requests


class Settings(Protocol):
    """The settings that change a simulated run; `sbs_opt.scheduler.config.SchedulerConfig` has them all."""

    @property
    def policy(self) -> str:
        """Name of the policy."""
        ...

    @property
    def seed(self) -> int:
        """Of the policies that draw."""
        ...

    @property
    def notification_ns(self) -> int:
        """How long news from an engine takes to the scheduler."""
        ...

    @property
    def lead_ns(self) -> int:
        """How long before the expected end of a pass the next batch is committed."""
        ...

    @property
    def hold_limit_ns(self) -> int:
        """Longest time that the interval may hold a request back."""
        ...

    @property
    def hold_limit_windows(self) -> int:
        """Windows left out of, beyond which the tier grows no older."""
        ...

    @property
    def mean_passes(self) -> int:
        """Passes in a moving mean."""
        ...

    @property
    def bypass_utilisation(self) -> float:
        """Share of the chunk budget below which the interval is bypassed."""
        ...

    @property
    def watchdog(self) -> float:
        """Multiple of the expected pass after which its end is taken as missed."""
        ...

    @property
    def decision_base_ns(self) -> int:
        """Time of every decision."""
        ...

    @property
    def decision_step_ns(self) -> int:
        """Time of every step of a decision."""
        ...


@dataclass(frozen=True, slots=True)
class LateBinding:
    """The decisions of a late-binding policy."""

    interval: bool
    admission: str
    by_time: bool
    longest_first: bool
    cache: bool


LATE_BINDING = {
    "central_greedy": LateBinding(
        interval=False, admission="in_order", by_time=False, longest_first=False, cache=False
    ),
    "sbs": LateBinding(interval=True, admission="all", by_time=False, longest_first=False, cache=True),
    "sbs_auto": LateBinding(interval=False, admission="by_age", by_time=True, longest_first=True, cache=True),
}


@dataclass(frozen=True, slots=True)
class Offered:
    """One request of the trace. Tokens of a prefix block are those of the whole trace, 0 = no prefix information."""

    id: int
    arrival_ns: int
    prompt: int
    output: int
    blocks: tuple[int, ...]
    block_tokens: int

    @property
    def full_blocks(self) -> tuple[int, ...]:
        """The blocks that a unit holds once it has computed the prompt."""
        return self.blocks[: self.prompt // self.block_tokens] if self.block_tokens else ()

    @property
    def usable_blocks(self) -> tuple[int, ...]:
        """The blocks that may be taken from a cache: at least the last token of the prompt is computed."""
        return self.blocks[: max(0, self.prompt - 1) // self.block_tokens] if self.block_tokens else ()


def offered(requests: Requests) -> list[Offered]:
    """Return the requests of a trace one by one."""
    offset, blocks = requests.block_offset.tolist(), requests.block_id.tolist()
    tokens = zip(requests.prompt_tokens.tolist(), requests.output_tokens.tolist(), strict=True)
    return [
        Offered(k, arrival, prompt, output, tuple(blocks[offset[k] : offset[k + 1]]), requests.block_tokens)
        for k, (arrival, (prompt, output)) in enumerate(zip(requests.arrival_ns.tolist(), tokens, strict=True))
    ]
