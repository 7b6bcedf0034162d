"""Ranking: only at equal answered, against the right reference."""

from __future__ import annotations

import numpy as np

from sbs_opt.reports.columns import LATENCY, texts
from sbs_opt.reports.ranking import best_of, comparable, mean_ttft, ratio_to, reference_of
from sbs_opt.reports.sentences import summary
from sbs_opt.simulator.study import Study
from tests.reports.conftest import with_metrics


def test_best_has_the_least_mean(study: Study) -> None:
    cells = study.at(0.8)
    best = best_of(cells)
    assert best is not None
    assert mean_ttft(best) == min(float(cell.metrics.ttft_s.mean()) for cell in cells)


def test_rejecting_never_makes_a_policy_best(study: Study) -> None:
    """A policy that turns requests away has short queues: it must not win by that."""
    honest = study.at(0.8)
    picky = with_metrics(honest[0], answered=honest[0].metrics.answered - 1, rejected=1, ttft_s=np.array([1e-3]))
    cells = (picky, *honest[1:])
    assert best_of(cells) is not picky
    assert picky not in comparable(cells)
    assert ratio_to(reference_of(cells), picky) is None
    assert f"all {honest[0].metrics.requests:,} requests" in summary(cells)
    assert all(not texts(column, cells)[0][1] for column in LATENCY)


def test_nothing_is_best_where_no_two_can_be_compared(study: Study) -> None:
    a, b = study.at(0.8)[:2]
    cells = (a, with_metrics(b, answered=b.metrics.answered - 1, unfinished=1))
    assert best_of(cells) is None
    assert "none is called best" in summary(cells)
    assert best_of((a,)) is None
    assert summary((a,)).startswith(f"Load 0.8: {a.policy} answered")


def test_reference_is_phase_aware_else_the_first(study: Study) -> None:
    cells = study.at(0.4)
    assert reference_of(cells).policy == "phase_aware"
    assert reference_of([cells[2], cells[3]]) is cells[2]


def test_sentence_gives_the_figures_of_best_and_reference(study: Study) -> None:
    cells = study.at(0.8)
    template = {cell.policy: cell for cell in cells}
    best = with_metrics(template["sbs"], ttft_s=np.full(9, 0.5), barrier_idle_prefill=0.25)
    slow = with_metrics(template["phase_aware"], ttft_s=np.full(9, 2.0), barrier_idle_prefill=0.5)
    assert summary((slow, best)) == (
        f"Load 0.8: of the policies that answered all {best.metrics.requests} requests, sbs gives the first token "
        "soonest: 0.500 s in the mean against 2.00 s under phase_aware (75.0 % less), 0.500 s against 2.00 s at p99. "
        "Waiting for the slowest unit takes 25.0 % of its units' time between barriers, against 50.0 % under "
        "phase_aware."
    )
    hits = summary((with_metrics(slow, cache_hit_share=0.125), with_metrics(best, cache_hit_share=0.5)))
    assert hits.endswith("under phase_aware; it finds 50.0 % of the prompt tokens in prefix caches, against 12.5 %.")
    assert "Next is sbs" in summary((with_metrics(slow, ttft_s=np.full(9, 0.1)), best, template["random"]))


def test_nobody_is_marked_where_all_read_the_same(study: Study) -> None:
    """Marks on figures that a reader cannot tell apart claimed a difference that was not there."""
    cells = [with_metrics(cell, tpot_s=np.array([0.028 + k * 1e-9])) for k, cell in enumerate(study.at(0.4))]
    column = next(c for c in LATENCY if c.head[0] == "TPOT mean")
    assert texts(column, cells) == [("28.0", False)] * len(cells)


def test_all_that_read_like_the_best_are_marked(study: Study) -> None:
    seconds = (0.0280, 0.0280 + 1e-9, 0.0280 - 1e-9, 0.0290)
    cells = [with_metrics(cell, tpot_s=np.array([s])) for cell, s in zip(study.at(0.4), seconds, strict=True)]
    column = next(c for c in LATENCY if c.head[0] == "TPOT mean")
    assert [best for _, best in texts(column, cells)] == [True, True, True, False]


def test_no_answer_leaves_no_figure(study: Study) -> None:
    cells = [with_metrics(cell, ttft_s=np.zeros(0), tpot_s=np.zeros(0), answered=0) for cell in study.at(0.4)]
    assert best_of(cells) is None
    assert texts(LATENCY[0], cells)[0] == ("–", False)
