"""The terminal's table and the JSON rows."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sbs_opt.reports import compare_json, comparison_tables
from sbs_opt.reports.columns import LATENCY, WORK, texts
from sbs_opt.reports.json_rows import json_text
from sbs_opt.simulator.study import Study
from tests.reports.conftest import with_metrics


def printed(study: Study, width: int) -> str:
    screen = Console(file=io.StringIO(), width=width)
    for part in comparison_tables(study, width):
        screen.print(part)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_every_figure_survives_the_width(study: Study, width: int) -> None:
    renamed = {"sbs": "sglang.total_tokens"}  # the longest name that a policy has today
    wide = replace(study, cells=tuple(
        replace(with_metrics(cell, answered=44_758, requests=44_758), policy=renamed.get(cell.policy, cell.policy))
        for cell in study.cells
    ))  # fmt: skip
    shown = printed(wide, width)
    assert max(map(len, shown.splitlines())) <= width
    for load in wide.loads():
        cells = wide.at(load)
        for column in (*LATENCY, *WORK):
            for text, _ in texts(column, cells):
                assert text in shown
    assert "sglang.total_tokens" in shown
    assert "…" not in shown


def test_notes_stand_under_the_table(study: Study) -> None:
    shown = " ".join(printed(study, 80).split())
    for note in study.notes:
        assert note in shown
    assert "2 ms after the fact (notification latency)" in shown
    assert "* best of the policies that answered equally many requests" in shown


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for part in value.values() for n in numbers_in(part)]
    if isinstance(value, list):
        return [n for part in value for n in numbers_in(part)]
    return [value] if isinstance(value, float) else []


def test_json_holds_the_rows_and_round_trips(study: Study) -> None:
    found = json.loads(json_text(compare_json(study)))
    assert list(found)[:4] == ["schema", "command", "version", "seed"]
    assert list(found)[-1] == "rows"
    assert found["rows"] == [json.loads(json.dumps(cell.row())) for cell in study.cells]
    assert all(math.isfinite(number) for number in numbers_in(found))


def test_json_refuses_nan(study: Study) -> None:
    cell = with_metrics(study.cells[0], chunk_utilisation=math.nan)
    with pytest.raises(ValueError, match="nan"):
        json_text(compare_json(replace(study, cells=(cell,))))


def test_nothing_answered_is_null_not_nan(study: Study) -> None:
    cell = with_metrics(study.cells[0], ttft_s=np.zeros(0), tpot_s=np.zeros(0), end_to_end_s=np.zeros(0), answered=0)
    found = json.loads(json_text(compare_json(replace(study, cells=(cell,)))))
    assert found["rows"][0]["ttft_s"] == {"mean": None, "p50": None, "p90": None, "p99": None}
    assert "–" in printed(replace(study, cells=(cell,)), 80)
