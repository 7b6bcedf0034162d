"""A socket that hears what engines publish of their passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sbs_opt.adapters.telemetry_passes import ForwardPass, parse_forward_pass_metrics
from sbs_opt.adapters.telemetry_records import TelemetryError
from sbs_opt.models.errors import InputError

MAX_DATAGRAM = 4096
"""Bytes; a message takes about 500. Longer ones are not looked at."""


@dataclass(slots=True)
class HeardCounts:
    """What came in.

    Parameters
    ----------
    passes
        Messages told on.
    malformed, oversized
        Datagrams that cannot be read, and those longer than `MAX_DATAGRAM`.
    unknown_senders
        Messages that belong to no instance.
    errors
        Errors of the socket.
    last_error
        One line about the last malformed datagram or error; "" where there was none.
    """

    passes: int = 0
    malformed: int = 0
    oversized: int = 0
    unknown_senders: int = 0
    errors: int = 0
    last_error: str = ""


class PassListener:
    """Hears `ForwardPassMetrics` datagrams and tells them on by instance.

    Datagrams carry no proof of who sent them: listen on an address that only the engines can reach.

    Parameters
    ----------
    told
        Called with the instance and each message, from the event loop.
    workers
        Instance by `worker_id`; asked first.
    hosts
        Instance by the sender's IP address as text, for workers without a name of their own.
    host, port
        Where to listen: loopback unless told otherwise, and any free port.

    Attributes
    ----------
    counts
        What came in, and what was wrong with it.
    """

    def __init__(
        self,
        told: Callable[[int, ForwardPass], None],
        *,
        workers: Mapping[str, int] | None = None,
        hosts: Mapping[str, int] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if not 0 <= port < 2**16:
            raise InputError(f"port = {port}: must be from 0 to 65535")
        if not workers and not hosts:
            raise InputError("workers and hosts: both are empty; name the instance of at least one engine")
        self._told = told
        self._workers = dict(workers or {})
        self._hosts = dict(hosts or {})
        self._place = (host, port)
        self._transport: asyncio.DatagramTransport | None = None
        self.counts = HeardCounts()

    async def start(self) -> tuple[str, int]:
        """Listen, and return the address and port.

        Raises
        ------
        InputError
            The package msgspec is not installed.
        OSError
            The address cannot be bound.
        """
        try:
            import msgspec  # noqa: F401  what reads messages; better missed now than at the first of them
        except ImportError as error:
            raise InputError(
                "passes: needs the package msgspec; install it with: pip install 'sbs-opt[serve]'"
            ) from error
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Endpoint(self), local_addr=self._place)
        host, port = self._transport.get_extra_info("sockname")[:2]
        return host, port

    def attend(self, workers: Mapping[str, int]) -> None:
        """Take another table of instances by `worker_id`."""
        self._workers = dict(workers)

    def close(self) -> None:
        """Listen no more; closing twice does no harm."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def received(self, datagram: bytes, sender: str) -> None:
        """Take in a datagram from an IP address; never raises for what is in it."""
        if len(datagram) > MAX_DATAGRAM:
            self.counts.oversized += 1
            return
        try:
            message = parse_forward_pass_metrics(datagram)
        except TelemetryError as error:
            self.counts.malformed += 1
            self.counts.last_error = str(error)
            return
        instance = self._workers.get(message.worker_id, self._hosts.get(sender))
        if instance is None:
            self.counts.unknown_senders += 1
            return
        self.counts.passes += 1
        self._told(instance, message)

    def failed(self, error: Exception) -> None:
        """Count an error of the socket; it keeps listening."""
        self.counts.errors += 1
        self.counts.last_error = str(error)


class _Endpoint(asyncio.DatagramProtocol):
    def __init__(self, listener: PassListener) -> None:
        self._listener = listener

    def datagram_received(self, data: bytes, addr: tuple[str, int] | tuple[str, int, int, int]) -> None:
        self._listener.received(data, addr[0])

    def error_received(self, exc: Exception) -> None:
        self._listener.failed(exc)
