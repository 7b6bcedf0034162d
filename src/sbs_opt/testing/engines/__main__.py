"""Run a fake engine until SIGTERM or SIGINT: `python -m sbs_opt.testing.engines --help`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from typing import get_args

from sbs_opt.models.errors import ExtrapolationWarning, InputError
from sbs_opt.testing.engines.config import EngineConfig, Kind, Mode


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the URL, one line, and serve; return the exit status."""
    default = {field.name: field.default for field in fields(EngineConfig)}
    parser = argparse.ArgumentParser(prog="python -m sbs_opt.testing.engines", description="A fake engine over HTTP.")
    parser.add_argument("--kind", choices=get_args(Kind), default=default["kind"])
    parser.add_argument("--mode", choices=get_args(Mode), default=default["mode"])
    parser.add_argument("--ranks", type=int, default=default["ranks"], help="data-parallel units behind one barrier")
    parser.add_argument("--chunk-tokens", type=int, default=default["chunk_tokens"], help="per rank and pass")
    parser.add_argument("--slots", type=int, default=default["slots"], help="sequences per rank")
    parser.add_argument("--context-tokens", type=int, default=default["context_tokens"], help="longest prompt")
    parser.add_argument("--model", default=default["model"], help="name of the model served")
    parser.add_argument("--speed", type=float, default=default["speed"], help="modelled seconds per second")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 takes a free one")
    given = vars(parser.parse_args(arguments))
    port = given.pop("port")
    warnings.simplefilter("ignore", ExtrapolationWarning)  # small fleets are far from what was measured
    try:
        asyncio.run(_serve(EngineConfig(**given), port))
    except (InputError, ModuleNotFoundError, OSError, OverflowError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(config: EngineConfig, port: int) -> None:
    from sbs_opt.testing.engines.engine import FakeEngine

    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with FakeEngine(config, port) as engine:
        print(engine.url, flush=True)
        await stopping.wait()


if __name__ == "__main__":
    sys.exit(main())
