"""A bench on a terminal: one table, its frontier, and what to know of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sbs_opt.reports.bench import NOTES, columns, frontier, in_short, summaries
from sbs_opt.solvers.bench import Bench

if TYPE_CHECKING:
    from rich.console import RenderableType


def bench_tables(bench: Bench) -> Iterator[RenderableType]:
    """Yield what to print for a bench: the table, a sentence on the frontier (bold in the table), the notes."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = summaries(bench)
    kept = frontier(rows)
    shown = columns(rows)
    table = Table(box=box.SIMPLE_HEAD, padding=0, header_style="dim")
    table.add_column("solver", overflow="fold", vertical="bottom")
    for column in shown:
        head = "\n".join((*column.head[0].split(" "), column.head[1])).lstrip("\n")
        table.add_column(head, justify="right", no_wrap=True, vertical="bottom")
    for k, row in enumerate(rows):
        texts = (column.texts[k] for column in shown)
        table.add_row(row.solver, *texts, style="bold" if row in kept else "")
    yield table
    yield Text(in_short(rows))
    for note in NOTES:
        yield Text(note, style="dim")
