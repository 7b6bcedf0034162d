"""Timing: when an instance may get its next batch."""

from __future__ import annotations

from sbs_opt.models.checks import BoolArray
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.scheduler.load_book import InstanceBelief, LoadBook


def opens_ns(belief: InstanceBelief, lead_ns: int) -> int | None:
    """Return from when on a batch can be committed to an active instance, None until something else happens to it.

    An idle instance is open at once; a busy one opens a lead time before the predicted end of its pass, so that the
    batch is there when it relaunches; each pass takes one batch.
    """
    if belief.committed or belief.pending_ns is not None:
        return None
    return belief.expected_end_ns - lead_ns if belief.running else belief.idle_since_ns


def interval_ns(book: LoadBook, active: BoolArray, config: SchedulerConfig) -> int:
    """Return the staggering interval: (mean pass + notification latency) / active instances.

    [R] reconstruction of the throughput-adaptive interval of staggered batch scheduling (arXiv 2512.16134, 2025).
    """
    taking = [belief for belief, on in zip(book.instances, active.tolist(), strict=True) if on]
    measured = [belief.duration_ns.value for belief in taking if belief.duration_ns.count]
    if not measured:
        return 0
    return (sum(measured) // len(measured) + config.notification_ns) // len(taking)


def lightly_loaded(book: LoadBook, config: SchedulerConfig) -> bool:
    """Return whether the moving mean of chunk utilisation says that holding requests cannot pay [R].

    The busy share does not tell load: passes size themselves, so that instances look busy under any load.
    """
    means = [belief.tokens.value for belief in book.instances if belief.tokens.count]
    capacity = book.budget * book.units_per_instance
    return not means or sum(means) / len(means) < config.bypass_utilisation * capacity
