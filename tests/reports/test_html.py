"""The report: one file, well formed, offline, and its numbers are the study's."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.reports import html_report
from sbs_opt.reports.columns import LATENCY, WORK, texts
from sbs_opt.reports.html.passes import Span, idle_share, passes_chart, shown_span
from sbs_opt.reports.html.svg import apart, log_scale
from sbs_opt.reports.sentences import summary
from sbs_opt.simulator.prefill_engine import Pass
from sbs_opt.simulator.study import Study
from tests.reports.conftest import small_fleet, with_metrics

VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Checks that every element is closed in order; collects what the tests ask for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.svgs_in: dict[str, int] = {}
        self.tables: list[list[list[str]]] = []
        self.texts: list[str] = []
        self._section = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "id" in given:
            self.ids.append(str(given["id"]))
        if "aria-labelledby" in given:
            self.labels.append(str(given["aria-labelledby"]))
        if tag == "section":
            self._section = str(given["aria-labelledby"])
        if tag == "svg":
            assert given["role"] == "img"
            assert given["aria-label"]
            self.svgs_in[self._section] = self.svgs_in.get(self._section, 0) + 1
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def page(study: Study) -> str:
    return html_report(study)


def test_page_is_well_formed_and_every_label_has_its_heading(page: str) -> None:
    read = Reader(page)
    assert len(set(read.ids)) == len(read.ids)
    assert set(read.labels) <= set(read.ids)


def test_page_needs_nothing_from_elsewhere(page: str) -> None:
    assert set(re.findall(r"https?://[^\"'<> ]*", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|img|iframe|object|embed)\b|\bsrc=|@import|url\(|fetch\(|import\(", page)
    assert len(page.encode()) < 3_000_000


def test_every_section_on_figures_has_pictures(page: str) -> None:
    assert Reader(page).svgs_in == {"sweep": 2, "distribution": 2, "shares": 3, "passes": 2 * 4}


def test_numbers_of_the_tables_are_those_of_the_study(study: Study, page: str) -> None:
    tables = Reader(page).tables
    assert len(tables) == len(study.loads())
    for table, load in zip(tables, study.loads(), strict=True):
        cells = study.at(load)
        columns = [texts(column, cells) for column in (*LATENCY, *WORK)]
        for k, cell in enumerate(cells):
            assert table[k + 1] == [cell.policy, *(shown + "★" * best for shown, best in (c[k] for c in columns))]
    first = study.at(study.loads()[0])[0]
    assert float(tables[0][1][1].rstrip("★")) == pytest.approx(float(first.metrics.ttft_s.mean()), rel=5e-3)


def test_sentences_are_on_the_page(study: Study, page: str) -> None:
    said = " ".join("".join(Reader(page).texts).split())
    for load in study.loads():
        assert summary(study.at(load)) in said


def test_names_from_outside_are_escaped(page: str) -> None:
    assert "made &lt;up&gt; &amp; small" in page
    assert "<up>" not in page
    assert "&lt;prefill&gt;-0" in page
    assert "<prefill>" not in page
    assert "a note with &lt;angles&gt;" in page


def test_same_study_gives_the_same_page(study: Study, page: str) -> None:
    assert html_report(study) == page


def test_both_colour_schemes_and_every_policy_colour_are_there(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    used = set(re.findall(r'class="[^"]*\bp(\d+)\b', page))
    assert used == {"0", "1", "2", "3"}
    for k in used:
        assert f".p{k} {{ --c: var(--c{k}); }}" in page


def test_studies_with_little_to_show_still_give_a_page(study: Study) -> None:
    """One policy, one load as captured, nothing answered, no passes: nothing to draw is no error."""
    cell = replace(with_metrics(study.cells[0], ttft_s=np.zeros(0), tpot_s=np.zeros(0), answered=0), asked_load=None,
                   shown_passes=())  # fmt: skip
    read = Reader(html_report(replace(study, cells=(cell,))))
    assert set(read.svgs_in) == {"shares"}
    alone = Reader(html_report(replace(study, cells=study.cells[:1])))
    assert alone.svgs_in == {"sweep": 2, "distribution": 1, "shares": 3, "passes": 1}


def test_many_policies_keep_within_the_colours(study: Study) -> None:
    """The thirteenth policy had no colour: its lines were drawn black, and vanished in the dark scheme."""
    cells = tuple(replace(study.cells[0], policy=f"policy_{k}") for k in range(15))
    page = html_report(replace(study, cells=cells))
    assert max(int(k) for k in re.findall(r'class="[^"]*\bp(\d+)\b', page)) <= 11


# -- passes ------------------------------------------------------------------------------------------------------


def made_pass(instance: int, start: int, duration: int, unit_ns: list[int]) -> Pass:
    own = np.array(unit_ns)
    return Pass(instance, 0, start, duration, own, own, np.zeros(0, np.int64), own, own)


def test_bubble_and_common_time_are_drawn_to_scale(study: Study) -> None:
    """Own time 0 to 500 of 1,000 ns: half the box is common to all, the idle unit's row is all bubble before that."""
    one, last = made_pass(0, 0, 1000, [500, 250, 0, 500]), made_pass(1, 1000, 1000, [1, 1, 1, 1])
    cell = replace(study.cells[0], shown_passes=(one, last))
    span = shown_span(replace(cell, shown_passes=(one, one, last)))
    assert span == Span(0, 1000)
    chart = passes_chart(cell, small_fleet().of_phase("prefill"), span)
    bubble = re.search(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="[\d.]+" class="bubble">', chart)
    common = re.search(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="[\d.]+" class="common">', chart)
    assert bubble is not None
    assert common is not None
    assert float(bubble[2]) == float(common[2]) == pytest.approx(246, abs=0.1)
    assert float(common[1]) == pytest.approx(float(bubble[1]) + float(bubble[2]))
    own = [float(length) for length in re.findall(r"h([\d.]+)", re.search(r'<path d="([^"]+)"', chart)[1])]  # type: ignore[index]
    assert own == pytest.approx([246, 123, 246], abs=0.1)
    assert idle_share([one]) == 1 - 1250 / 4 / 500


def test_span_starts_once_every_instance_is_seen() -> None:
    passes = tuple(made_pass(k % 2, start, 100, [1]) for k, start in enumerate((0, 40, 100, 140)))

    class Kept:
        shown_passes = passes

    assert shown_span(Kept()) == Span(40, 140)  # type: ignore[arg-type]


def test_instance_seen_late_does_not_empty_the_picture() -> None:
    passes = (*(made_pass(0, 100 * k, 100, [1]) for k in range(9)), made_pass(1, 900, 100, [1]))

    class Kept:
        shown_passes = passes

    assert shown_span(Kept()) == Span(0, 900)  # type: ignore[arg-type]


# -- pieces ------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 300), min_size=1, max_size=18))
def test_labels_keep_their_gap_their_order_and_the_frame(wanted: list[float]) -> None:
    at = apart(wanted, 15, 0, 300)
    assert all(-1e-6 <= y <= 300 + 1e-6 for y in at)
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    assert all(at[b] - at[a] >= 15 - 1e-6 for a, b in pairwise(order))


@given(st.lists(st.floats(1e-5, 1e5), min_size=1, max_size=20))
def test_log_scale_maps_into_its_range_in_order(values: list[float]) -> None:
    scale, ticks = log_scale(values, 300, 0)
    at = [scale(value) for value in sorted(values)]
    assert all(0 <= y <= 300 for y in at)
    assert at == sorted(at, reverse=True)
    assert all(0 <= scale(tick) <= 300 for tick in ticks)
