"""The columns of the comparison, the same on the terminal and in the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sbs_opt.reports import numbers
from sbs_opt.reports.ranking import best_of, comparable, mean, mean_ttft, quantile, ratio_to, reference_of
from sbs_opt.simulator.study import Cell


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of every cell.

    Parameters
    ----------
    head
        The two lines of its header.
    meaning
        One sentence for a reader who does not know it.
    value
        The figure of a cell, None where there is none; the second argument is the cell that ratios refer to.
    shown
        Its text.
    ranked
        Whether the least value is marked as best.
    """

    head: tuple[str, str]
    meaning: str
    value: Callable[[Cell, Cell], float | None]
    shown: Callable[[float | None], str]
    ranked: bool = False


LATENCY: tuple[Column, ...] = (
    Column(
        ("TTFT mean", "s"),
        "mean time from arrival to the first token",
        lambda c, _: mean_ttft(c),
        numbers.significant,
        ranked=True,
    ),
    Column(
        ("p50", "s"),
        "half of the requests wait no longer for their first token",
        lambda c, _: quantile(c.metrics.ttft_s, 50),
        numbers.significant,
        ranked=True,
    ),
    Column(
        ("p99", "s"),
        "99 % of the requests wait no longer for their first token",
        lambda c, _: quantile(c.metrics.ttft_s, 99),
        numbers.significant,
        ranked=True,
    ),
    Column(
        ("ratio", "mean"),
        "mean TTFT as a ratio to the reference policy, at equal answered requests only",
        lambda c, reference: ratio_to(reference, c),
        numbers.significant,
    ),
    Column(
        ("TPOT mean", "ms"),
        "mean time per output token after the first",
        lambda c, _: mean(c.metrics.tpot_s),
        numbers.milliseconds,
        ranked=True,
    ),
    Column(
        ("p99", "ms"),
        "99 % of the requests take no longer per output token",
        lambda c, _: quantile(c.metrics.tpot_s, 99),
        numbers.milliseconds,
        ranked=True,
    ),
    Column(
        ("held", "ms"),
        "mean time from arrival to the dispatch; it is part of the TTFT",
        lambda c, _: c.metrics.holding_s_mean,
        numbers.milliseconds,
    ),
)

WORK: tuple[Column, ...] = (
    Column(
        ("chunk", "used %"),
        "chunk utilisation: tokens run over the token budget of all passes",
        lambda c, _: c.metrics.chunk_utilisation,
        numbers.percentage,
    ),
    Column(
        ("prefill", "idle %"),
        "barrier idle: share of prefill compute time that units wait for the slowest one",
        lambda c, _: c.metrics.barrier_idle_prefill,
        numbers.percentage,
    ),
    Column(
        ("decode", "idle %"),
        "barrier idle of the decode steps",
        lambda c, _: c.metrics.barrier_idle_decode,
        numbers.percentage,
    ),
    Column(
        ("cache", "hits %"),
        "prompt tokens found in a prefix cache, of those of all answered requests",
        lambda c, _: c.metrics.cache_hit_share,
        numbers.percentage,
    ),
    Column(("", "passes"), "prefill passes of all instances", lambda c, _: c.metrics.passes, numbers.count),
    Column(("", "answered"), "requests answered in full", lambda c, _: c.metrics.answered, numbers.count),
    Column(("re-", "jected"), "requests turned away", lambda c, _: c.metrics.rejected, numbers.count),
    Column(
        ("unfin-", "ished"),
        "requests neither answered nor turned away",
        lambda c, _: c.metrics.unfinished,
        numbers.count,
    ),
)


def texts(column: Column, cells: Sequence[Cell]) -> list[tuple[str, bool]]:
    """Return, per cell, the text of a column and whether it is best of those that may be compared.

    A difference that the text does not show is none: cells that read the same are best together, or not at all.
    """
    reference = reference_of(cells)
    shown = [column.shown(column.value(cell, reference)) for cell in cells]
    best = best_of(cells, lambda cell: column.value(cell, reference)) if column.ranked else None
    if best is None:
        return [(text, False) for text in shown]
    least, rivals = shown[cells.index(best)], comparable(cells)
    if all(text == least for cell, text in zip(cells, shown, strict=True) if cell in rivals):
        return [(text, False) for text in shown]
    return [(text, text == least and cell in rivals) for cell, text in zip(cells, shown, strict=True)]
