"""Chunk utilisation and barrier idle as small multiples: a panel per figure and load, a bar per policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from sbs_opt.reports.html.svg import colour, element, line, picture, text
from sbs_opt.reports.numbers import percent
from sbs_opt.reports.ranking import load_name, policies_of
from sbs_opt.simulator.study import Cell, Study

_WIDTH, _ROW, _HEAD, _FOOT, _NAMES, _BETWEEN, _VALUE = 1140.0, 20.0, 30.0, 22.0, 150.0, 26.0, 52.0

SHARES: tuple[tuple[str, str, Callable[[Cell], float | None]], ...] = (
    (
        "Chunk utilisation",
        "tokens run, of the token budget of all prefill passes",
        lambda cell: cell.metrics.chunk_utilisation,
    ),
    (
        "Barrier idle in prefill",
        "share of the compute time between barriers that units wait for the slowest one",
        lambda cell: cell.metrics.barrier_idle_prefill,
    ),
    ("Barrier idle in decode", "the same in decode steps", lambda cell: cell.metrics.barrier_idle_decode),
)


def shares_chart(study: Study, name: str, value: Callable[[Cell], float | None]) -> str | None:
    """Return the panels of one figure, one per load, on one scale; None where no cell has it."""
    known = [v for cell in study.cells if (v := value(cell)) is not None]
    if not known:
        return None
    loads, policies = study.loads(), policies_of(study)
    panel = (_WIDTH - _NAMES - _BETWEEN * (len(loads) - 1)) / len(loads)
    height = _HEAD + _ROW * len(policies) + _FOOT
    top = next(t for t in (0.1, 0.2, 0.5, 1.0, max(1.0, *known)) if max(known) <= t)
    parts = [
        text(_NAMES - 10, _HEAD + _ROW * (k + 0.5) + 4, policy, text_anchor="end", class_="label")
        for k, policy in enumerate(policies)
    ]
    for k, load in enumerate(loads):
        left = _NAMES + k * (panel + _BETWEEN)
        parts.append(_panel(study.at(load), policies, value, left, panel - _VALUE, top))
    said = "; ".join(
        f"{load_name(load)}: " + ", ".join(f"{cell.policy} {percent(value(cell))}" for cell in study.at(load))
        for load in loads
    )
    return picture(_WIDTH, height, name, said, "".join(parts))


def _panel(
    cells: Sequence[Cell],
    policies: Sequence[str],
    value: Callable[[Cell], float | None],
    left: float,
    width: float,
    top: float,
) -> str:
    bottom = _HEAD + _ROW * len(policies)
    parts = [text(left, 16, load_name(cells[0].asked_load), class_="panel-name")]
    for share in (0.0, top / 2, top):
        at = left + width * share / top
        parts.append(line(at, _HEAD - 4, at, bottom, "grid" if share else "axis"))
        anchor = "middle" if share else "start"
        parts.append(text(at, bottom + 16, f"{100 * share:g} %", text_anchor=anchor, class_="tick"))
    for cell in cells:
        k, figure = policies.index(cell.policy), value(cell)
        if figure is not None:
            y, length = _HEAD + _ROW * k, width * figure / top
            title = element("title", escape(f"{cell.policy}, {load_name(cell.asked_load)}: {percent(figure)}"))
            size = {"width": max(length, 0.5), "height": _ROW - 8}
            parts.append(element("rect", title, x=left, y=y + 4, **size, class_=f"bar {colour(k)}"))
            parts.append(text(left + length + 6, y + _ROW / 2 + 4, percent(figure), class_="value"))
    return "".join(parts)
