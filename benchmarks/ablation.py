"""What each part of staggered batch scheduling is worth: mean TTFT as a ratio to `phase_aware`, part by part.

Run: python benchmarks/ablation.py TRACE|sample --load .3,.7,.85 [--span SECONDS] [--seed N] [--linear]

`--linear` replaces the cost model by the assumption of earlier studies: 80 ms per pass plus the busiest unit's own work
(113 µs per token and 8 ns per pair, which makes a full pass of 4K prompts last about as long as under the cost model).
"""

from __future__ import annotations

import argparse

from sbs_opt.instances import cut, read_trace, scale_to_load
from sbs_opt.models.catalogue import DEFAULT_DEPLOYMENT, cost_model_of, load_deployment
from sbs_opt.models.cost import CostModel
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.simulator.metrics import measure
from sbs_opt.simulator.replay import simulate
from sbs_opt.testing.costs import LinearPrefill

PARTS = {
    "phase_aware (immediate)": SchedulerConfig(policy="phase_aware"),
    "late binding alone": SchedulerConfig(policy="central_greedy"),
    "+ interval alone": SchedulerConfig(policy="central_greedy", timing="interval"),
    "+ longest first (PBAA) alone": SchedulerConfig(policy="central_greedy", admission="all"),
    "+ longest first and interval: sbs without cache": SchedulerConfig(policy="sbs", cache=False),
    "sbs": SchedulerConfig(policy="sbs"),
    "sbs balancing time by LPT": SchedulerConfig(policy="sbs", balance="time", solver="lpt"),
    "by age, LPT by tokens, no cache": SchedulerConfig(policy="sbs_auto", balance="tokens", cache=False),
    "by age, LPT by time, no cache": SchedulerConfig(policy="sbs_auto", cache=False),
    "sbs_auto (by age, LPT by time, cache)": SchedulerConfig(policy="sbs_auto"),
    "sbs_auto with the interval": SchedulerConfig(policy="sbs_auto", timing="interval"),
}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace")
    parser.add_argument("--load", default="0.3,0.7,0.85")
    parser.add_argument("--span", type=float, default=600.0, help="seconds of arrivals")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--linear", action="store_true", help="80 ms per pass plus the busiest unit's work")
    given = parser.parse_args()
    fleet = load_deployment(DEFAULT_DEPLOYMENT)
    cost = cost_model_of(fleet)
    if given.linear:
        chunk = fleet.of_phase("prefill")[0].unit.chunk_tokens
        cost = CostModel(LinearPrefill(80_000_000, 113_000, 8, chunk_tokens=chunk), cost.decode)
    trace = read_trace(given.trace, seed=given.seed).requests
    columns: list[dict[str, float]] = []
    loads = [float(load) for load in given.load.split(",")]
    for load in loads:
        requests = cut(scale_to_load(trace, load, cost, fleet, seed=given.seed), int(given.span * 1e9))
        mean = {}
        for name, config in PARTS.items():
            mean[name] = float(measure(simulate(requests, fleet, cost, config), fleet).ttft_s.mean())
        columns.append(mean)
    print("| | " + " | ".join(f"{load:g}" for load in loads) + " |")
    print("|---" * (len(loads) + 1) + "|")
    for name in PARTS:
        ratios = (f"{column[name] / column['phase_aware (immediate)']:.2f}" for column in columns)
        print(f"| {name} | " + " | ".join(ratios) + " |")


if __name__ == "__main__":
    main()
