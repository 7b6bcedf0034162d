"""`sbs-opt serve`: the router."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from sbs_opt.models.errors import InputError

if TYPE_CHECKING:
    import asyncio

    from sbs_opt.adapters.capture import CaptureWriter
    from sbs_opt.adapters.http.proxy import Proxy
    from sbs_opt.adapters.serve_config import ServeConfig
    from sbs_opt.reports.shadow import ShadowRecorder

_ROTATE_BYTES, _KEEP = 256 * 2**20, 8
"""A capture is at most so many files of so many bytes."""

_SHUTDOWN_S = 2.0
"""For connections to close once all answers are over."""

_BACKLOG = 4096
"""Connections that wait to be accepted: a burst of clients is not turned away while a batch is placed."""


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "serve",
        help="run an OpenAI-compatible router in front of data-parallel engines",
        description="Place every request on a data-parallel rank of the engines behind this router.",
    )
    parser.add_argument("--config", required=True, metavar="TOML", help="see docs/serve.md")
    parser.add_argument("--capture", metavar="FILE", help="write a trace of the traffic: lengths and times, no text")
    parser.add_argument(
        "--shadow", metavar="FILE", help="place nothing: record what this scheduler would have done, see docs/shadow.md"
    )
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    from sbs_opt.adapters.serve_config import load_serve_config

    config = load_serve_config(given.config)
    if (config.shadow is None) != (given.shadow is None):
        raise InputError("--shadow FILE and a [shadow] table in the configuration belong together: give both or none")
    try:
        import aiohttp  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise InputError(f"serve needs {error.name}: pip install 'sbs-opt[serve]'") from error

    import asyncio

    recorders = _recorders(config, given.capture, given.shadow)
    try:
        import uvloop
    except ImportError:  # not on every platform
        asyncio.run(_serve(config, given.config, recorders))
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, given.config, recorders))


def _recorders(config: ServeConfig, capture: str | None, shadow: str | None) -> list[CaptureWriter | ShadowRecorder]:
    """Open what requests that are over are told to."""
    from sbs_opt.adapters.capture import CaptureWriter
    from sbs_opt.reports.shadow import ShadowRecorder

    recorders: list[CaptureWriter | ShadowRecorder] = []
    option, path = "--capture", capture
    try:
        if path is not None:
            blocks = config.scheduler.block_tokens
            recorders.append(CaptureWriter(path, rotate_bytes=_ROTATE_BYTES, keep=_KEEP, block_tokens=blocks))
        option, path = "--shadow", shadow
        if path is not None:
            assert config.shadow is not None
            recorders.append(
                ShadowRecorder(
                    path, config.deployment, config.cost_model(), config.scheduler, baseline=config.shadow.baseline,
                    stretch_s=config.shadow.stretch_s,
                )
            )  # fmt: skip
    except OSError as error:
        raise InputError(f"{option}: {path}: cannot be written: {error.strerror}") from error
    return recorders


async def _serve(config: ServeConfig, path: str, recorders: Sequence[CaptureWriter | ShadowRecorder]) -> None:
    import asyncio
    import signal

    from aiohttp import web

    from sbs_opt.adapters.http.proxy import Proxy

    stop, again = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, again.set)
    proxy = Proxy(config, *recorders)
    # A client that goes away cancels its handler: its upstream is cancelled and its load released.
    runner = web.AppRunner(proxy.app(), handler_cancellation=True, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    try:
        if await _stopped_during(runner.setup(), stop):
            return
        site = web.TCPSite(runner, config.host, config.port, backlog=_BACKLOG)
        try:
            await site.start()
        except OSError as error:
            raise InputError(f"{config.host}:{config.port}: cannot listen: {error.strerror}") from error
        address = runner.addresses[0]
        print(f"serving {len(config.upstreams)} upstreams on http://{address[0]}:{address[1]}", flush=True)
        # What has been loaded by now stays: the garbage collector need not go through it while requests wait.
        gc.collect()
        gc.freeze()
        reloading = asyncio.create_task(_reload(proxy, path, again))
        await stop.wait()
        reloading.cancel()
        await proxy.drain()
    finally:
        await runner.cleanup()
        for recorder in recorders:
            recorder.close()


async def _stopped_during(start: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Start, which takes as long as engines take to settle; return whether it was told to stop meanwhile."""
    import asyncio

    starting, stopping = asyncio.create_task(start), asyncio.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return True
    starting.result()
    return False


async def _reload(proxy: Proxy, path: str, again: asyncio.Event) -> None:
    """Take up the configuration anew whenever `again` is set; one with a mistake changes nothing."""
    from sbs_opt.adapters.serve_config import load_serve_config

    while True:
        await again.wait()
        again.clear()
        try:
            await proxy.reload(load_serve_config(path))
        except Exception as error:  # an error that nobody thought of must not end this loop
            proxy.metrics.reloaded(taken=False)
            said = str(error) if isinstance(error, InputError) else f"an error of ours, {error!r}"
            print(f"the configuration stays as it was: {said}", file=sys.stderr, flush=True)
        else:
            proxy.metrics.reloaded(taken=True)
            print("the configuration was read again", flush=True)
