"""Requests simulated per second of one core, prefill and decode together, and peak memory.

Run: python benchmarks/simulator.py TRACE|sample [--load RHO] [--span SECONDS] [--policies a,b]

Figures are CPU seconds of this process, after a warm-up that compiles the kernels; reading and scaling not included.
"""

from __future__ import annotations

import argparse
import resource
import time

from sbs_opt.instances import cut, read_trace, scale_to_load
from sbs_opt.models.catalogue import DEFAULT_DEPLOYMENT, cost_model_of, load_deployment
from sbs_opt.scheduler.config import SchedulerConfig
from sbs_opt.simulator.replay import simulate


def main() -> None:
    """Print one line per policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace")
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--span", type=float, default=300.0, help="seconds of arrivals; 0 takes all")
    parser.add_argument("--policies", default="phase_aware,sbs_auto")
    given = parser.parse_args()
    fleet = load_deployment(DEFAULT_DEPLOYMENT)
    cost = cost_model_of(fleet)
    requests = scale_to_load(read_trace(given.trace).requests, given.load, cost, fleet, seed=0)
    if given.span:
        requests = cut(requests, int(given.span * 1e9))
    for policy in given.policies.split(","):
        config = SchedulerConfig(policy=policy)
        simulate(cut(requests, 5 * 10**9), fleet, cost, config)
        start = time.process_time()
        run = simulate(requests, fleet, cost, config)
        spent = time.process_time() - start
        steps = sum(run.decode.steps) if run.decode else 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{policy}: {len(requests):,} requests, {len(run.passes):,} passes, {steps:,} decode steps "
            f"in {spent:.2f} s: {len(requests) / spent:,.0f} requests/s; peak memory of the process {peak:,.0f} MiB"
        )


if __name__ == "__main__":
    main()
