"""A few consecutive prefill passes, unit by unit, so that one sees who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sbs_opt.models.deployment import Instance
from sbs_opt.reports.html.svg import Scale, element, line, number, picture, text
from sbs_opt.reports.numbers import count, duration, percent
from sbs_opt.reports.ranking import load_name
from sbs_opt.simulator.prefill_engine import Pass
from sbs_opt.simulator.study import Cell

_WIDTH, _LEFT, _TOP, _AXIS, _BETWEEN = 560.0, 62.0, 8.0, 34.0, 9.0
_ALL_ROWS = 300.0
"""Height that the rows of all units share."""


@dataclass(frozen=True, slots=True)
class Span:
    """The part of the virtual clock that a picture shows, nanoseconds."""

    start: int
    end: int


def shown_span(cell: Cell) -> Span | None:
    """Return the span in which the passes kept are all that ran, None where fewer than two were kept.

    It begins when every instance that is seen at all has launched once, unless that is late: what ran at the first
    launch was not kept. It ends at the last launch: what was launched after it was not kept either.
    """
    passes = cell.shown_passes
    if len(passes) < 2:
        return None
    first: dict[int, int] = {}
    for one in passes:
        first.setdefault(one.instance, one.start_ns)
    start, end = passes[0].start_ns, passes[-1].start_ns
    complete = max(first.values())
    start = complete if complete - start <= (end - start) // 2 else start
    return Span(start, end) if end > start else Span(start, start + max(p.duration_ns for p in passes))


def idle_share(passes: Sequence[Pass]) -> float:
    """Return the barrier idle share of some passes: 1 − Σ mean / Σ max of the units' own time."""
    longest = sum(int(one.unit_ns.max()) for one in passes)
    return 1 - sum(float(one.unit_ns.mean()) for one in passes) / longest if longest else 0.0


def passes_chart(cell: Cell, instances: Sequence[Instance], span: Span) -> str:
    """Return the picture of one policy's passes from `span.start` on, over the length of `span`."""
    units = instances[0].num_units
    row = max(1.5, min(14.0, _ALL_ROWS / (units * len(instances))))
    block = row * units
    bottom = _TOP + len(instances) * (block + _BETWEEN) - _BETWEEN
    x = Scale(span.start, span.end, _LEFT, _WIDTH - 6)
    parts = [
        element("rect", x=_LEFT, y=_top_of(k, block), width=_WIDTH - 6 - _LEFT, height=block, class_="free")
        for k in range(len(instances))
    ]
    seen = [p for p in cell.shown_passes if p.start_ns < span.end and p.start_ns + p.duration_ns > span.start]
    parts += [_one_pass(p, x, _top_of(p.instance, block), row, span) for p in seen]
    for k, instance in enumerate(instances):
        middle = _top_of(k, block) + block / 2
        parts.append(text(_LEFT - 8, middle, instance.name, text_anchor="end", class_="label"))
        parts.append(text(_LEFT - 8, middle + 13, f"{units} units", text_anchor="end", class_="tick"))
    parts.append(_time_axis(x, bottom))
    said = f"{len(seen)} passes, barrier idle {percent(idle_share(seen))}" if seen else "no pass in this span"
    name = f"Prefill passes under {cell.policy}, {load_name(cell.asked_load)}"
    return picture(_WIDTH, bottom + _AXIS, name, said, "".join(parts))


def _top_of(instance: int, block: float) -> float:
    return _TOP + instance * (block + _BETWEEN)


def _one_pass(one: Pass, x: Scale, top: float, row: float, span: Span) -> str:
    """Return one pass: each unit's own time, the bubble behind it, then the time common to all units."""

    def at(ns: float) -> float:
        return x(min(max(ns, span.start), span.end))

    longest = int(one.unit_ns.max())
    left, barrier, right = at(one.start_ns), at(one.start_ns + longest), at(one.start_ns + one.duration_ns)
    height = row * len(one.unit_ns)
    fill = "".join(
        f"M{number(left)} {number(top + row * (u + 0.5))}h{number(at(one.start_ns + own) - left)}"
        for u, own in enumerate(one.unit_ns.tolist())
        if at(one.start_ns + own) - left >= 0.05
    )
    said = (
        f"pass {one.number}: {duration(one.duration_ns / 1e9)}, of which "
        f"{duration((one.duration_ns - longest) / 1e9)} common to all units; "
        f"{count(int(one.tokens.sum()))} tokens; barrier idle {percent(idle_share([one]))}"
    )
    parts = [
        element("title", escape(said)),
        element("rect", x=left, y=top, width=barrier - left, height=height, class_="bubble"),
        element("path", d=fill, stroke_width=number(row * 0.94 if row >= 3 else row), class_="busy") if fill else "",
        element("rect", x=barrier, y=top, width=right - barrier, height=height, class_="common"),
        line(right, top, right, top + height, "barrier"),
    ]
    return element("g", "".join(parts), class_="pass")


def _time_axis(x: Scale, bottom: float) -> str:
    name, unit = ("s", 1e9) if x.high - x.low >= 2e9 else ("ms", 1e6)
    length = (x.high - x.low) / unit
    step = next(s * 10.0**power for power in range(-6, 7) for s in (1, 2, 5) if length / (s * 10.0**power) <= 7)
    parts = [line(_LEFT, bottom + 4, x(x.high), bottom + 4, "axis")]
    for k in range(int(length / step) + 1):
        at = x(x.low + k * step * unit)
        parts.append(line(at, bottom + 4, at, bottom + 8, "axis"))
        parts.append(text(at, bottom + 21, f"{k * step:g} {name}" if k else "0", text_anchor="middle", class_="tick"))
    return "".join(parts)
