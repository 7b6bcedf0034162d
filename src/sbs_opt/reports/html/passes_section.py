"""The section on passes: two policies side by side, any two of them to choose."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sbs_opt.reports.html.passes import Span, idle_share, passes_chart, shown_span
from sbs_opt.reports.html.svg import colour, element
from sbs_opt.reports.numbers import percent
from sbs_opt.reports.ranking import best_of, load_name, policies_of, reference_of
from sbs_opt.simulator.study import Cell, Study

PREFERRED = "sbs_auto"
"""The policy shown beside the reference, where it was run."""

_LEAD = (
    "Consecutive prefill passes from the middle of each run, on one time scale per load. Each row is a unit; each box "
    "is a pass, which ends for all units of an instance at once. Orange is time lost to imbalance; where one long "
    "prompt makes it, no placement can avoid it. Times are sums over a pass: in truth the units meet at two barriers "
    "in every layer with experts. Point at a pass to read it."
)

_KEYS = (
    ("busy", "the unit's own compute (attention, dense layers)"),
    ("bubble", "bubble: waiting for the slowest unit"),
    ("common", "common to all units: all-to-all, experts, fixed costs"),
    ("free", "no pass running, or one launched before the picture begins"),
)


def passes_section(study: Study) -> str:
    """Return the section, empty where no run kept enough passes."""
    blocks = "".join(_block(study, study.at(load)) for load in study.loads())
    if not blocks:
        return ""
    keys = "".join(element("li", element("span", "", class_=f"swatch {name}") + escape(said)) for name, said in _KEYS)
    legend = element("ul", keys, class_="legend", aria_label="Colours of the passes")
    head = element("h2", "Inside the passes", id="passes") + element("p", escape(_LEAD), class_="lead")
    return element("section", head + legend + blocks, aria_labelledby="passes")


def _block(study: Study, cells: Sequence[Cell]) -> str:
    """Return one load: every policy's figure, of which the script shows two."""
    spans = {cell.policy: span for cell in cells if (span := shown_span(cell)) is not None}
    if not spans:
        return ""
    length = min(span.end - span.start for span in spans.values())
    shown = [cell for cell in cells if cell.policy in spans]
    left, right = _pair(shown)
    figures = "".join(
        _figure(study, cell, Span(spans[cell.policy].start, spans[cell.policy].start + length)) for cell in shown
    )
    choices = "".join(
        element("label", f"{side} " + _select([cell.policy for cell in shown], chosen.policy))
        for side, chosen in (("Left", left), ("Right", right))
    )
    name = element("h3", escape(load_name(cells[0].asked_load).capitalize()))
    bar = element("div", name + element("div", choices, class_="choices", hidden="hidden"), class_="bar-head")
    return element("div", bar + element("div", figures, class_="charts pair"), class_="passes")


def _pair(cells: Sequence[Cell]) -> tuple[Cell, Cell]:
    """Return the two cells shown at first: the reference, and the preferred, best or last other one."""
    left = reference_of(cells)
    others = [cell for cell in cells if cell is not left] or [left]
    best = best_of(others) or others[-1]
    return left, next((cell for cell in others if cell.policy == PREFERRED), best)


def _select(policies: Sequence[str], chosen: str) -> str:
    options = "".join(
        element("option", escape(name), value=name, selected="selected" if name == chosen else None)
        for name in policies
    )
    return element("select", options)


def _figure(study: Study, cell: Cell, span: Span) -> str:
    seen = [p for p in cell.shown_passes if p.start_ns < span.end and p.start_ns + p.duration_ns > span.start]
    k = policies_of(study).index(cell.policy)
    said = (
        element("span", escape(cell.policy), class_=f"policy {colour(k)}")
        + f" barrier idle {percent(idle_share(seen))} in these {len(seen)} passes "
        + f"({percent(cell.metrics.barrier_idle_prefill)} in the run)"
    )
    chart = passes_chart(cell, study.deployment.of_phase("prefill"), span)
    return element("figure", element("figcaption", said) + chart, data_policy=cell.policy)
