"""The cost model against its data: errors, plots, anchors, where a pass goes, speed.

::

    python benchmarks/cost_model.py errors|plots|anchors|budget|speed CALIBRATION_DIR [--out docs/cost-model]
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sbs_opt.calibration.anchors import (
    DECODE_ANCHORS,
    PREFILL_ANCHORS,
    left_out_errors,
    predict_decode,
    predict_prefill,
)
from sbs_opt.calibration.fit import fit_hardware
from sbs_opt.models.cost import DecodeCost, PrefillCost, load_cost_model, load_hardware, load_model
from sbs_opt.models.cost.named import DECODE_IMBALANCE
from sbs_opt.models.cost.uniform import predict_pass
from sbs_opt.reports.bench_chart import standalone
from sbs_opt.reports.fit_chart import fit_chart, residual_chart

MODEL = load_model("deepseek-v3")


def errors(folder: Path, out: Path) -> None:
    """Print the errors of every fit as rows of a Markdown table; h200 holds those of all tables."""
    print("| table | rows | mean error | largest | bias | left out |\n|---|---|---|---|---|---|")
    for row in fit_hardware(folder, "h200").quality:
        left_out = f"{row.left_out:.1%}" if row.left_out == row.left_out else "–"
        print(f"| {row.table} | {row.rows} | {row.mean_abs:.1%} | {row.max_abs:.1%} | {row.bias:+.1%} | {left_out} |")


def plots(folder: Path, out: Path) -> None:
    """Write data against fit, and the residuals, of every table as SVG files."""
    out.mkdir(parents=True, exist_ok=True)
    drawn = {(points.title, points.table): points for points in fit_hardware(folder, "h200").points}
    for (title, table), points in drawn.items():
        source = "h200-probe" if "probe" in table else Path(table.split(",")[0]).parent.name.replace("_", "-")
        name = "-".join(f"{title} {source}".lower().replace(",", "").split())
        if "grouped_gemm" in table:
            name += "-decode" if "decode" in table else "-prefill"
        for kind, chart in (("", fit_chart), ("-residuals", residual_chart)):
            # The tables are not ours to hand on: a plot shows their dots, not their figures.
            picture = re.sub(r"<title>[^<]*measured [0-9][^<]*</title>", "", standalone(chart(points)))
            (out / f"{name}{kind}.svg").write_text(picture, encoding="utf-8")
        print(f"{table}: {out / name}.svg")


def anchors(folder: Path, out: Path) -> None:
    """Print measured and predicted passes and steps; prefill also predicted by a fit without that anchor."""
    hardware = fit_hardware(folder, "h100").profile
    left_out = dict(left_out_errors(hardware, MODEL))
    print("| anchor | measured | model | error | left out |\n|---|---|---|---|---|")
    for anchor in PREFILL_ANCHORS:
        seconds = predict_prefill(hardware, MODEL, anchor) / 1e9
        error = seconds / anchor.seconds - 1
        without = left_out[anchor.name]
        print(f"| {anchor.name} | {anchor.seconds:.3f} s | {seconds:.3f} s | {error:+.1%} | {without:+.1%} |")
    for step in DECODE_ANCHORS:
        millis = predict_decode(hardware, MODEL, step) / 1e6
        error = millis / 1e3 / step.seconds - 1
        print(f"| {step.name} | {1e3 * step.seconds:.1f} ms | {millis:.1f} ms | {error:+.1%} | – |")


def budget(folder: Path, out: Path) -> None:
    """Print where the GPU-seconds of a pass go: EP32, 16,384 tokens a unit, prompts of 4,096; floors; decode steps."""
    del folder
    found, nothing = {}, np.zeros(32, np.int64)
    for name, overlap in (("overlap", True), ("no overlap", False)):
        cost = load_cost_model(
            "h800", "deepseek-v3", prefill_units=32, decode_units=72, chunk_tokens=16384, overlap=overlap
        ).prefill
        assert isinstance(cost, PrefillCost)
        one = predict_pass(cost, prompt_tokens=4096, tokens_per_unit=16384)
        found[name] = one.budget
        floor = cost.pass_ns(nothing, nothing, nothing) / 1e6
        print(f"{name}: {8 * one.tokens_per_s_per_gpu:,.0f} tok/s/node, empty pass {floor:.0f} ms, {one.layer}")
    print(f"| part | {' | '.join(f'{name}, GPU-s' for name in found)} |\n|---|{'---|' * len(found)}")
    for part in (*type(found["overlap"]).__slots__, "total"):
        print(f"| {part} | {' | '.join(f'{32 * getattr(one, part) / 1e9:.1f}' for one in found.values())} |")
    for name, overlap in (("no overlap", False), ("overlap", True)):
        decode = DecodeCost(
            load_hardware("h800"), MODEL, units=72, overlap=overlap, expert_imbalance=DECODE_IMBALANCE
        )  # fmt: skip
        counts = (0, 32, 64, 128, 256)
        steps = [decode.step_ns(np.full(72, 2048 * count), np.full(72, count)) / 1e6 for count in counts]
        print(f"decode {name}, {counts} sequences: {', '.join(f'{step:.1f}' for step in steps)} ms")


def speed(folder: Path, out: Path) -> None:
    """Print the time of the calls on the hot path, medians over fresh arguments."""
    del folder
    units = 320
    model = load_cost_model("h800", "deepseek-v3", prefill_units=units, decode_units=units, chunk_tokens=16384)
    draw = np.random.default_rng(0)
    new, cached = draw.integers(1, 8192, (200, 1000, 1)), draw.integers(0, 8192, (20, 1000, units))
    pairs, tokens = draw.integers(1, 10**8, (200, units)), draw.integers(1, 16384, (200, units))
    cases: dict[str, Callable[[int], object]] = {
        "request_ns, 1,000 requests": lambda k: model.prefill.request_ns(new[k, :, 0], cached[k % 20, :, 0]),
        "request_ns, 1,000 requests × 320 units": lambda k: model.prefill.request_ns(new[k], cached[k % 20]),
        "pass_ns, 320 units": lambda k: model.prefill.pass_ns(pairs[k], tokens[k], tokens[k]),
        "step_ns, 320 units": lambda k: model.decode.step_ns(pairs[k], tokens[k] % 128),
    }
    for name, call in cases.items():
        call(0)
        took = []
        for k in range(200):
            began = time.perf_counter()
            call(k)
            took.append(time.perf_counter() - began)
        print(f"{name}: {1e6 * float(np.median(took)):.1f} µs")


PARTS = {part.__name__: part for part in (errors, plots, anchors, budget, speed)}


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("directory", type=Path, help="folder of the calibration tables")
    parser.add_argument("--out", type=Path, default=Path("docs/cost-model"), help="where plots go")
    given = parser.parse_args()
    PARTS[given.part](given.directory, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
