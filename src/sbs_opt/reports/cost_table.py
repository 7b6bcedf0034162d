"""A prediction of the cost model on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sbs_opt.reports.numbers import count, percent, significant

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_UNITS = {
    "pass_s": "s", "step_ms": "ms", "layer_ms": "ms", "gpu_s": "GPU-seconds", "microseconds": "µs",
    "kernel_microseconds": "µs in a running pass", "tflops": "TFLOP/s", "gbps": "GB/s", "dispatch_microseconds": "µs",
    "dispatch_gbps": "GB/s", "combine_microseconds": "µs", "combine_gbps": "GB/s",
}  # fmt: skip


def cost_tables(row: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield what to print for a row of `sbs-opt cost`: the figures, and of a pass or step what it is made of."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, value in row.items():
        if not isinstance(value, Mapping):
            grid.add_row(name.replace("_", " "), f"{_shown(value)} {_UNITS.get(name, '')}".rstrip())
    yield grid
    if "budget_ms" in row:
        yield _budget(row)


def _budget(row: Mapping[str, Any]) -> Table:
    """Return the parts of a pass, those of one mixture layer beside them."""
    from rich import box
    from rich.table import Table

    layer, budget = row["per_layer_ms"], row["budget_ms"]
    total = sum(budget.values())
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", padding=(0, 1, 0, 0))
    for name in ("part", "mixture layer, ms", "whole, ms of a unit", "share", "GPU-seconds"):
        table.add_column(name, justify="left" if name == "part" else "right", no_wrap=True)
    for name in (*budget, *(name for name in layer if name not in budget)):
        whole = budget.get(name)
        table.add_row(
            name,
            significant(layer.get(name)),
            significant(whole),
            percent(None if whole is None else whole / total),
            significant(None if whole is None else whole * row["units"] / 1e3),
        )
    table.add_section()
    table.add_row(
        "in all",
        significant(row["layer_ms"]),
        significant(total),
        percent(1.0),
        significant(row["gpu_s"]),
        style="bold",
    )
    return table


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "nothing"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return count(value) if isinstance(value, int) else significant(value)
