"""A bench as one HTML page: the plot, the table, what to know of them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sbs_opt.models.window import Window
from sbs_opt.reports.bench import NOTES, Summary, columns, frontier, in_short, summaries
from sbs_opt.reports.bench_chart import STYLE, bench_chart
from sbs_opt.reports.html.frame import bullets, frame, header, lead, section
from sbs_opt.reports.html.svg import colour, element
from sbs_opt.reports.numbers import count
from sbs_opt.solvers.bench import Bench

_CHART_LEAD = (
    "Mean gap against median time, both logarithmic: closer is lower, faster is further left. Dots of one solver are "
    "joined in the order of its budgets; the dotted line joins those that nothing beats in both. A hollow dot is a "
    "mean over some of the windows only: the solver does not take the others, or leaves out more there than another."
)


def bench_page(bench: Bench, windows: Sequence[Window], source: str) -> str:
    """Return a bench as a page that needs no other file and no network.

    Parameters
    ----------
    windows
        Those of the bench, for their sizes.
    source
        Where they come from.
    """
    rows = summaries(bench)
    chart = bench_chart(rows)
    plot = element("figure", chart) if chart else element("p", "Nothing was solved, so there is nothing to draw.")
    body = "".join(
        (
            _header(rows, windows, source, bench.seed),
            section("In short", lead(in_short(rows)), "in-short"),
            section("Quality against time", lead(_CHART_LEAD) + plot, "plot"),
            section("Figures", _table(rows) + _glossary(rows), "figures"),
            section("Notes", bullets(NOTES), "notes"),
        )
    )
    return frame(f"{source}: quality against time", body, rules=STYLE)


def _header(rows: Sequence[Summary], windows: Sequence[Window], source: str, seed: int) -> str:
    budgets = [
        f"{1e3 * b:g} ms" if b is not None else "each solver's own" for b in dict.fromkeys(r.budget_s for r in rows)
    ]
    fields = sorted({field.replace("_", " ") for window in windows for field in window.fields_in_use})
    facts = (
        ("Windows", f"{count(len(windows))} of {source}"),
        ("Items", _range([window.num_items for window in windows])),
        ("Units", _range([window.num_units for window in windows])),
        ("Fields in use", ", ".join(fields) or "none"),
        ("Solvers", ", ".join(dict.fromkeys(row.solver for row in rows))),
        ("Budget per window", ", ".join(budgets)),
        ("Seed", str(seed)),
    )
    return header("Solvers side by side", source, facts)


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return count(low) if low == high else f"{count(low)} to {count(high)}"


def _table(rows: Sequence[Summary]) -> str:
    shown, kept = columns(rows), frontier(rows)
    solvers = list(dict.fromkeys(row.solver for row in rows))
    heads = "".join(element("th", "<br>".join(escape(part) for part in c.head if part), scope="col") for c in shown)
    body = ""
    for k, row in enumerate(rows):
        name = element("span", escape(row.solver), class_=f"policy {colour(solvers.index(row.solver))}")
        cells = "".join(element("td", escape(column.texts[k])) for column in shown)
        body += element("tr", element("th", name, scope="row") + cells, class_="leader-row" if row in kept else None)
    head = element("thead", element("tr", element("th", "solver", scope="col") + heads))
    return element("div", element("table", head + element("tbody", body)), class_="scroll")


def _glossary(rows: Sequence[Summary]) -> str:
    entries = "".join(
        element(
            "div", element("dt", escape(" ".join(part for part in c.head if part))) + element("dd", escape(c.meaning))
        )
        for c in columns(rows)
    )
    return element("dl", entries, class_="glossary")
