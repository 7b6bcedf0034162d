"""The figures of a study in plain sentences, computed, never written by hand."""

from __future__ import annotations

from collections.abc import Sequence

from sbs_opt.reports.numbers import count, duration, percent
from sbs_opt.reports.ranking import best_of, load_name, mean_ttft, quantile, reference_of
from sbs_opt.simulator.study import Cell


def summary(cells: Sequence[Cell]) -> str:
    """Return what one load shows: who is best among those that answered equally much, and what the barrier costs."""
    name = load_name(cells[0].asked_load)
    where = f"{name[0].upper()}{name[1:]}"
    best, reference = best_of(cells), reference_of(cells)
    if best is None:
        return f"{where}: {_nothing_to_rank(cells)}"
    all_of = best.metrics.answered == best.metrics.requests
    answered = (
        f"all {count(best.metrics.requests)} requests"
        if all_of
        else (f"{count(best.metrics.answered)} of {count(best.metrics.requests)} requests")
    )
    said = f"{where}: of the policies that answered {answered}, {best.policy} gives the first token soonest"
    if best is reference:
        return f"{said}: {_times(best)}. {_runner_up(cells, best)} {_barrier(best, None)}"
    if best.metrics.answered != reference.metrics.answered:
        other = f"{reference.policy} answered {count(reference.metrics.answered)} and cannot be compared"
        return f"{said}: {_times(best)}; {other}. {_barrier(best, None)}"
    ours, theirs = _mean_and_p99(best), _mean_and_p99(reference)
    less = f" ({percent(1 - ours[0] / theirs[0])} less)" if theirs[0] else ""
    return (
        f"{said}: {duration(ours[0])} in the mean against {duration(theirs[0])} under {reference.policy}{less}, "
        f"{duration(ours[1])} against {duration(theirs[1])} at p99. {_barrier(best, reference)}"
    )


def _mean_and_p99(cell: Cell) -> tuple[float, float]:
    mean, p99 = mean_ttft(cell), quantile(cell.metrics.ttft_s, 99)
    assert mean is not None
    assert p99 is not None
    return mean, p99


def _times(cell: Cell) -> str:
    mean, p99 = _mean_and_p99(cell)
    return f"{duration(mean)} in the mean, {duration(p99)} at p99"


def _runner_up(cells: Sequence[Cell], best: Cell) -> str:
    second = best_of([cell for cell in cells if cell is not best])
    return f"Next is {second.policy} with {_times(second)}." if second is not None else ""


def _barrier(best: Cell, reference: Cell | None) -> str:
    idle = percent(best.metrics.barrier_idle_prefill)
    said = f"Waiting for the slowest unit takes {idle} of its units' time between barriers"
    if reference is None:
        return f"{said}."
    ours, theirs = best.metrics.cache_hit_share, reference.metrics.cache_hit_share
    # Hits leave less to run, so passes are shorter and idle more: without them the idle shares would mislead.
    hits = f"; it finds {percent(ours)} of the prompt tokens in prefix caches, against {percent(theirs)}"
    idle = percent(reference.metrics.barrier_idle_prefill)
    return f"{said}, against {idle} under {reference.policy}{hits if ours or theirs else ''}."


def _nothing_to_rank(cells: Sequence[Cell]) -> str:
    if len(cells) == 1:
        cell = cells[0]
        said = f"{cell.policy} answered {count(cell.metrics.answered)} of {count(cell.metrics.requests)} requests"
        return f"{said}, TTFT {_times(cell)}." if len(cell.metrics.ttft_s) else f"{said}."
    return "no two policies answered equally many requests, so none is called best."
