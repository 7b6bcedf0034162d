"""`sbs-opt serve`: the router."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sbs_opt.models.errors import InputError

if TYPE_CHECKING:
    from sbs_opt.adapters.capture import CaptureWriter
    from sbs_opt.adapters.serve_config import ServeConfig

_ROTATE_BYTES, _KEEP = 256 * 2**20, 8
"""A capture is at most so many files of so many bytes."""


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "serve",
        help="run an OpenAI-compatible router in front of data-parallel engines",
        description="Place every request on a data-parallel rank of the engines behind this router.",
    )
    parser.add_argument("--config", required=True, metavar="TOML", help="see docs/serve.md")
    parser.add_argument("--capture", metavar="FILE", help="write a trace of the traffic: lengths and times, no text")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    from sbs_opt.adapters.serve_config import load_serve_config

    config = load_serve_config(given.config)
    capture = _capture(given.capture, config.scheduler.block_tokens)
    try:
        import aiohttp  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise InputError(f"serve needs {error.name}: pip install 'sbs-opt[serve]'") from error

    import asyncio

    try:
        import uvloop
    except ImportError:  # not on every platform
        asyncio.run(_serve(config, capture))
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, capture))


def _capture(path: str | None, block_tokens: int) -> CaptureWriter | None:
    """Open the capture that is asked for."""
    from sbs_opt.adapters.capture import CaptureWriter

    if path is None:
        return None
    try:
        return CaptureWriter(path, rotate_bytes=_ROTATE_BYTES, keep=_KEEP, block_tokens=block_tokens)
    except OSError as error:
        raise InputError(f"--capture: {path}: cannot be written: {error.strerror}") from error


async def _serve(config: ServeConfig, capture: CaptureWriter | None) -> None:
    import asyncio
    import signal

    from aiohttp import web

    from sbs_opt.adapters.http.proxy import Proxy

    proxy = Proxy(config, *([capture] if capture else []))
    # A client that goes away cancels its handler: its upstream is cancelled and its load released.
    runner = web.AppRunner(proxy.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port)
        try:
            await site.start()
        except OSError as error:
            raise InputError(f"{config.host}:{config.port}: cannot listen: {error.strerror}") from error
        address = runner.addresses[0]
        print(f"serving {len(config.upstreams)} upstreams on http://{address[0]}:{address[1]}", flush=True)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()
        await proxy.drain()
    finally:
        await runner.cleanup()
        if capture is not None:
            capture.close()
