"""The bundled trace: `python -m sbs_opt.instances.sample` writes it anew, byte for byte the same."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from sbs_opt.instances.formats.plain import write_trace
from sbs_opt.instances.generator import GeneratorConfig, generate
from sbs_opt.models.requests import Requests

CONFIG = GeneratorConfig(requests=4_000)
SEED = 20_251_216

NOTES = (
    f"generated data, no capture: sbs_opt.instances.generator with its default configuration, "
    f"{CONFIG.requests} requests, seed {SEED}, arrivals cut to whole microseconds",
)

_MICROSECOND_NS = 1_000


def sample_requests() -> Requests:
    """Return the requests of the bundled trace, generated anew."""
    requests = generate(CONFIG, seed=SEED)
    return replace(requests, arrival_ns=requests.arrival_ns // np.int64(_MICROSECOND_NS) * _MICROSECOND_NS)


def main() -> None:
    """Write the file that `read_trace("sample")` reads."""
    path = Path(__file__).parent / "data" / "sample.jsonl.gz"
    path.parent.mkdir(exist_ok=True)
    write_trace(path, sample_requests(), NOTES)
    sys.stdout.write(f"{path.stat().st_size} bytes written to {path.name}\n")


if __name__ == "__main__":
    main()
