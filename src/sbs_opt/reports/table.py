"""The comparison on a terminal: a block per load, in one table where it fits, else in two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sbs_opt.reports.columns import LATENCY, WORK, Column, texts
from sbs_opt.reports.numbers import count, significant
from sbs_opt.reports.ranking import best_of, load_name, reference_of
from sbs_opt.simulator.study import Cell, Study

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_WIDE = 140
"""Characters from which all columns stand side by side."""


def comparison_tables(study: Study, width: int) -> Iterator[RenderableType]:
    """Yield what to print for a study: title and tables of each load, then the notes.

    Parameters
    ----------
    width
        Characters of the terminal; from 80 on no figure is cut.
    """
    from rich.text import Text

    for load in study.loads():
        cells = study.at(load)
        yield Text(f"\n{block_title(cells)}", style="bold")
        groups = [(*LATENCY, *WORK)] if width >= _WIDE else [LATENCY, WORK]
        for columns in groups:
            yield _table(cells, columns)
    yield Text(f"\n{_legend(study)}", style="dim")
    for note in footnotes(study):
        yield _item(note)


def block_title(cells: Sequence[Cell]) -> str:
    """Return the heading of one load: what was asked for, what was offered, over how long."""
    cell = cells[0]
    decode = "" if cell.decode_load is None else f", decode {significant(cell.decode_load)}"
    return (
        f"{load_name(cell.asked_load)}: offered {significant(cell.load)}{decode}; "
        f"{count(cell.metrics.requests)} requests in {significant(cell.span_s)} s"
    )


def footnotes(study: Study) -> tuple[str, ...]:
    """Return the notes of a study with what holds for every run of it."""
    fleet = f"{study.trace} on {study.deployment.name}, decode policy {study.cells[0].decode_policy}, seed {study.seed}"
    latency = f"engines are heard {study.notification_ns / 1e6:g} ms after the fact (notification latency)"
    window = "times are of requests that arrive in the middle 80 % of the span"
    return (fleet, *study.notes, f"simulated; {latency}; {window}")


def _item(note: str) -> Table:
    """Return a note behind a dot, with its further lines indented."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(Text("·", style="dim"), Text(note, style="dim"))
    return grid


def _legend(study: Study) -> str:
    cells = study.at(study.loads()[0])
    ranked = any(best_of(study.at(load)) is not None for load in study.loads())
    best = " * best of the policies that answered equally many requests." if ranked else ""
    return f"ratio: mean TTFT over that of {reference_of(cells).policy}, at equal answered.{best}"


def _table(cells: Sequence[Cell], columns: Sequence[Column]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=0, header_style="dim")
    table.add_column("policy", overflow="fold", min_width=10, vertical="bottom")
    for column in columns:
        first, second = column.head
        pad = " " * column.ranked  # stands above the mark
        head = "\n".join(f"{line}{pad}" for line in (*first.split(" "), second))
        table.add_column(head, justify="right", no_wrap=True, vertical="bottom")
    by_column = [texts(column, cells) for column in columns]
    leader = best_of(cells)
    for k, cell in enumerate(cells):
        row = [
            Text(shown + "*" * best + " " * (column.ranked and not best), style="bold green" if best else "")
            for column, (shown, best) in zip(columns, (one[k] for one in by_column), strict=True)
        ]
        table.add_row(Text(cell.policy, style="bold" if cell is leader else ""), *row)
    return table
