"""The additive surrogate ranks placements as the exact pass does, on windows of captured traces.

What it leaves out: experts take their time by the tokens of all units together, so that a prefix missed on any unit
makes the pass longer, but the bottleneck only where it is the busiest unit's. The objective's next part, what prefixes
save, tells such placements apart.

``python -m tests.models.cost.ranking TRACES`` prints the table of docs/cost-model.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from sys import argv

import numpy as np
from scipy.stats import kendalltau

from sbs_opt.instances import read_trace
from sbs_opt.models.checks import IntArray
from sbs_opt.models.cost import PrefillCost, request_work
from sbs_opt.models.deployment import Unit
from sbs_opt.models.placement import Placement
from sbs_opt.models.requests import Requests
from sbs_opt.models.translate import PrefillState, prefill_window
from sbs_opt.models.verify import verify
from tests.models.cost.cases import prefill

UNITS, REQUESTS, PLACEMENTS = 32, 500, 80
PASS_TOKENS = 16384
AZURE, MOONCAKE = "azure2023_conv_0-1800s.csv", "mooncake_conversation_1800s-end.jsonl"
ENOUGH = Unit(kv_tokens=10**12, chunk_tokens=10**12)
NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Waiting:
    """Prompts of int64[n] tokens, of which int64[n, m] are cached on each unit."""

    prompt: IntArray
    cached: IntArray


def waiting_of(requests: Requests, hits: bool) -> Waiting:
    """Return requests of at most one pass; earlier ones were served in turn and left their prefixes where they ran."""
    fit = np.flatnonzero(requests.prompt_tokens <= PASS_TOKENS)[:REQUESTS]
    cached = np.zeros((len(fit), UNITS), np.int64)
    holders: dict[int, set[int]] = {}
    for row, i in enumerate(fit.tolist() if hits else []):
        blocks = requests.block_id[requests.block_offset[i] : requests.block_offset[i + 1]].tolist()
        units = set(range(UNITS))
        for length, block in enumerate(blocks, start=1):
            units &= holders.get(block, set())
            cached[row, list(units)] = min(length * requests.block_tokens, int(requests.prompt_tokens[i]) - 1)
            holders.setdefault(block, set()).add(row % UNITS)
    return Waiting(requests.prompt_tokens[fit], cached)


def windows_of(waiting: Waiting, generator: np.random.Generator) -> Iterator[Waiting]:
    """Yield windows of 64 to 160 requests, in order of arrival."""
    first = 0
    while first + (size := int(generator.integers(64, 161))) <= len(waiting.prompt):
        rows = slice(first, first + size)
        yield Waiting(waiting.prompt[rows], waiting.cached[rows])
        first += size


def placements_of(kind: str, window: Waiting, cost: PrefillCost, generator: np.random.Generator) -> Iterator[IntArray]:
    """Yield random placements, or longest-first ones with up to 16 requests moved at random."""
    n = len(window.prompt)
    compute, _ = cost.request_ns(window.prompt[:, None] - window.cached, window.cached)
    load, longest_first = np.zeros(UNITS, np.int64), np.zeros(n, np.int64)
    for i in np.argsort(-compute.max(axis=1), kind="stable"):
        longest_first[i] = unit = int((load + compute[i]).argmin())
        load[unit] += compute[i, unit]
    for _ in range(PLACEMENTS):
        place = generator.integers(UNITS, size=n) if kind == "random" else longest_first.copy()
        moved = generator.integers(n, size=int(generator.integers(17)))
        place[moved] = generator.integers(UNITS, size=len(moved))
        yield place


def loads_of(window: Waiting, place: IntArray, cost: PrefillCost) -> tuple[list[IntArray], list[IntArray]]:
    """Return each unit's surrogate (compute, all-to-all), and its work in the pass that runs all requests there."""
    cached = window.cached[np.arange(len(place)), place]
    new = window.prompt - cached
    pairs, context = request_work(new, cached, PASS_TOKENS)
    totals = []
    for part in (*cost.request_ns(new, cached), pairs, new, context):
        totals.append(np.zeros(UNITS, np.int64))
        np.add.at(totals[-1], place, part)
    return totals[:2], totals[2:]


def rank_correlations(waiting: Waiting, kind: str, *, overlap: bool, saved: bool) -> list[float]:
    """Return Kendall's τ-b of each window, between its objective and the exact pass."""
    cost = prefill(UNITS, overlap=overlap, chunk=PASS_TOKENS)
    generator = np.random.default_rng(5)
    found = []
    for window in windows_of(waiting, generator):
        item, unit = np.nonzero(window.cached)
        tier, kv = np.zeros(len(window.prompt), np.int64), np.zeros(UNITS, np.int64)
        state = PrefillState(
            window.prompt, tier, NONE, NONE, NONE, kv, item, unit, window.cached[item, unit], ENOUGH
        )  # fmt: skip
        problem = prefill_window(state, cost, "time")
        places = list(placements_of(kind, window, cost, generator))
        values = [verify(problem, Placement(place)) for place in places]
        keys = [(value.bottleneck, -value.saved if saved else 0) for value in values]
        rank = {key: at for at, key in enumerate(sorted(set(keys)))}
        passes = [cost.pass_ns(*loads_of(window, place, cost)[1]) for place in places]
        found.append(float(kendalltau([rank[key] for key in keys], passes).statistic))
    assert len(found) >= 3
    return found


def main(folder: Path) -> None:
    """Print mean and worst τ by trace and kind of placement."""
    cases = (
        ("Azure conversations", AZURE, False, False),
        ("Azure code", "azure2023_code_0-1800s.csv", False, False),
        ("Mooncake synthetic, with hits", "mooncake_synthetic.jsonl", True, False),
        ("same, by bottleneck and `saved`", "mooncake_synthetic.jsonl", True, True),
        ("Mooncake conversations, with hits", MOONCAKE, True, False),
    )
    for label, name, hits, saved in cases:
        waiting = waiting_of(read_trace(folder / name).requests, hits)
        cells = []
        for kind in ("random", "longest first"):
            for overlap in (False, True):
                found = rank_correlations(waiting, kind, overlap=overlap, saved=saved)
                cells.append(f"{np.mean(found):.4f} / {min(found):.4f}")
        print(f"| {label} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(Path(argv[1]))
