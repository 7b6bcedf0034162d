"""The whole report: sentences, pictures, and every number in a table beside them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sbs_opt.reports.columns import LATENCY, WORK, texts
from sbs_opt.reports.html.frame import asset, frame, header, lead, section
from sbs_opt.reports.html.latency import distribution_chart, sweep_charts
from sbs_opt.reports.html.passes_section import passes_section
from sbs_opt.reports.html.shares import SHARES, shares_chart
from sbs_opt.reports.html.svg import colour, element
from sbs_opt.reports.numbers import significant
from sbs_opt.reports.ranking import best_of, load_name, policies_of, reference_of
from sbs_opt.reports.sentences import summary
from sbs_opt.reports.table import block_title, footnotes
from sbs_opt.simulator.study import Cell, Study


def html_report(study: Study) -> str:
    """Return the report of a study as one HTML page that needs no other file, no network and no plotting library.

    Parameters
    ----------
    study
        At least one cell.

    Returns
    -------
    str
        The same text for the same study: it holds no date.
    """
    title = f"{study.trace} on {study.deployment.name}"
    body = "".join(
        (
            _header(study, title),
            _in_short(study),
            _sweep(study),
            _distributions(study),
            _shares(study),
            passes_section(study),
            _tables(study),
            _notes(study),
        )
    )
    return frame(f"{title}: which policy, at which load", body, script=f"<script>{asset('report.js')}</script>")


def _section(name: str, words: str, content: str, anchor: str) -> str:
    return section(name, (lead(words) if words else "") + content, anchor)


def _figure(chart: str, caption: str) -> str:
    return element("figure", element("figcaption", escape(caption)) + chart)


def _header(study: Study, title: str) -> str:
    cell = study.cells[0]
    fleet = "; ".join(
        f"{len(instances)} × {instances[0].num_units} units {phase}"
        for phase in ("prefill", "decode")
        if (instances := study.deployment.of_phase(phase))
    )
    facts = (
        ("Trace", study.trace),
        ("Deployment", study.deployment.name),
        ("Fleet", fleet),
        ("Model, hardware", f"{study.deployment.model}, {study.deployment.hardware}"),
        ("Loads", ", ".join(load_name(load).removeprefix("load ") for load in study.loads())),
        ("Decode policy", cell.decode_policy),
        ("Seed", str(study.seed)),
        ("Notification latency", f"{study.notification_ns / 1e6:g} ms"),
    )
    return header("Simulated comparison of scheduling policies", title, facts)


def _in_short(study: Study) -> str:
    sentences = "".join(element("li", _with_swatches(study, summary(study.at(load)))) for load in study.loads())
    return _section("In short", "", element("ul", sentences, class_="summary"), "in-short")


def _with_swatches(study: Study, sentence: str) -> str:
    """Return a sentence with every name of a policy in its colour."""
    marked = escape(sentence)
    policies = policies_of(study)
    words = marked.split(" ")
    for k, word in enumerate(words):
        name = word.rstrip(",.;:")
        if name in policies:
            words[k] = _policy(policies, name) + word[len(name) :]
    return " ".join(words)


def _policy(policies: Sequence[str], name: str) -> str:
    return element("span", escape(name), class_=f"policy {colour(policies.index(name))}")


def _legend(study: Study) -> str:
    late = {cell.policy: cell.solver is not None for cell in study.cells}
    items = "".join(
        element("li", element("span", "", class_=f"key {colour(k)}{'' if late[name] else ' dashed'}") + escape(name))
        for k, name in enumerate(policies_of(study))
    )
    return element("ul", items, class_="legend", aria_label="Policies")


_LINES = (
    "Solid lines are policies that bind late: requests wait centrally until an instance can take a batch. "
    "Dashed lines bind at arrival."
)


def _sweep(study: Study) -> str:
    charts = sweep_charts(study)
    if not charts:
        return ""
    figures = "".join(_figure(chart, name) for chart, name in zip(charts, ("Mean TTFT", "p99 TTFT"), strict=True))
    words = (
        "Time to the first token against the offered load ρ: the share of what the prefill units could do if every "
        f"pass were full and perfectly balanced. The time axis is logarithmic. {_LINES}"
    )
    return _section("TTFT against load", words, _legend(study) + _div(figures), "sweep")


def _distributions(study: Study) -> str:
    figures = [
        _figure(chart, load_name(load).capitalize())
        for load in study.loads()
        if (chart := distribution_chart(study, study.at(load))) is not None
    ]
    words = (
        "How long which share of the requests waits: at p99, one request in a hundred waits longer than the line says. "
        "Each further nine of the percentile takes the same width, so that the tail can be seen. Lower is better."
    )
    grid = _div("".join(figures), "charts thirds" if len(figures) == 3 else "charts")
    return _section("TTFT distribution", words, grid, "distribution") if figures else ""


def _div(content: str, class_: str = "charts") -> str:
    return element("div", content, class_=class_)


def _shares(study: Study) -> str:
    figures = []
    for name, meaning, value in SHARES:
        chart = shares_chart(study, name, value)
        if chart is not None:
            figures.append(_figure(chart, f"{name}: {meaning}"))
    words = (
        "A pass lasts as long as its slowest unit, so units that finish their part early stand idle. High chunk "
        "utilisation with low barrier idle means that the passes are full and level. Neither is a goal in itself: who "
        "finds more in the prefix caches, or launches shorter passes, runs fewer tokens per pass and may idle more, "
        "yet answer sooner."
    )
    return _section("Work and waiting", words, _div("".join(figures), "stack"), "shares")


def _tables(study: Study) -> str:
    tables = "".join(_table(study, study.at(load)) for load in study.loads())
    reference = reference_of(study.at(study.loads()[0])).policy
    words = (
        f"Ratios are mean TTFT over that of {reference}. A ★ marks the best of the policies that answered equally many "
        "requests; with others nothing is compared."
    )
    return _section("All numbers", words, tables, "numbers")


def _table(study: Study, cells: Sequence[Cell]) -> str:
    columns = (*LATENCY, *WORK)
    policies = policies_of(study)
    head = "".join(
        element("th", escape(c.head[0]) + "<br>" + escape(c.head[1]), title=c.meaning, scope="col") for c in columns
    )
    by_column = [texts(column, cells) for column in columns]
    leader = best_of(cells)
    rows = []
    for k, cell in enumerate(cells):
        name = element("th", _policy(policies, cell.policy), scope="row")
        figures = "".join(
            element("td", escape(column[k][0]) + (_mark(column[k][1]) if of.ranked else ""))
            for of, column in zip(columns, by_column, strict=True)
        )
        rows.append(element("tr", name + figures, class_="leader-row" if cell is leader else None))
    caption = element("caption", escape(block_title(cells).capitalize()))
    top = element("thead", element("tr", element("th", "policy", scope="col") + head))
    table = element("table", caption + top + element("tbody", "".join(rows)))
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=block_title(cells))


def _mark(best: bool) -> str:
    """Return the mark of the best, or the room that it takes, so that figures stay aligned."""
    return '<span class="star" title="best">★</span>' if best else '<span class="star" aria-hidden="true"></span>'


def _joined(head: tuple[str, str]) -> str:
    first, second = head
    return f"{first[:-1]}{second}" if first.endswith("-") else f"{first} {second}".strip()


def _notes(study: Study) -> str:
    notes = "".join(element("li", escape(note)) for note in footnotes(study))
    meanings = "".join(
        element("div", element("dt", escape(_joined(c.head))) + element("dd", escape(c.meaning)))
        for c in (*LATENCY, *WORK)
    )
    offered = ", ".join(f"{load_name(load)}: {significant(study.at(load)[0].load)}" for load in study.loads())
    said = element("ul", notes + element("li", escape(f"offered prefill load reached: {offered}")), class_="notes")
    return _section("Notes", "", said + element("dl", meanings, class_="glossary"), "notes")
