"""The errors of a fit on a terminal: a line per table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sbs_opt.reports.numbers import count, percent, significant

if TYPE_CHECKING:
    from rich.table import Table


def fit_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the rows of `sbs-opt calibrate`: errors in sample and left out; of passes also scale and floor."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="dim", padding=(0, 1, 0, 0))
    passes = "scale" in rows[0]
    for name in ("table", "rows", "mean error", "largest", "left out", *(("scale", "floor, ms") if passes else ())):
        table.add_column(name, justify="left" if name == "table" else "right", overflow="fold")
    for row in rows:
        texts = [count(row["rows"]), percent(row["mean_abs"]), percent(row["max_abs"]), percent(row["left_out"])]
        texts += [significant(row["scale"]), significant(row["floor_ms"])] if passes else []
        table.add_row(row["table"], *texts)
    return table
