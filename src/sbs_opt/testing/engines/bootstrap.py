"""How SGLang's legs of a request meet: the prefill leg holds a room, the decode leg asks there for its KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from sbs_opt.testing.engines.config import EngineConfig
from sbs_opt.testing.engines.requests import RequestError, whole_number

ROOMS_PATH = "/bootstrap/rooms"
FAKE_HOST = "2.2.2.2"
"""As `bootstrap_host`: no transfer takes place, and none is awaited."""

_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class CacheSource:
    """Where a decode leg gets its KV cache; `room` is on both legs, `url` tells of its end."""

    room: int
    url: URL

    async def ready(self) -> None:
        """Wait until the prefill leg has ended.

        Raises
        ------
        RequestError
            500 when that leg failed, did not come, or cannot be reached.
        """
        # A connection for each wait: it closes with the client that leaves, and none outlives the engine.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        try:
            async with aiohttp.request("GET", self.url, timeout=timeout) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failed(type(error).__name__) from error
        if status != 200:
            raise self._failed(f"status {status}")

    def _failed(self, reason: str) -> RequestError:
        message = f"KV transfer failed: bootstrap_room {self.room} at {self.url}: {reason}"
        return RequestError(500, message, "internal_server_error")


def held_room(fields: dict[str, Any], config: EngineConfig) -> int | None:
    """Return the room that a request holds here as a prefill leg, or None where nobody will ask for it.

    Raises
    ------
    RequestError
        400 on a field of the wrong type.
    """
    if config.kind != "sglang" or config.mode != "prefill" or _host(fields) == FAKE_HOST:
        return None
    return whole_number(fields, "bootstrap_room")


def cache_source(fields: dict[str, Any], config: EngineConfig) -> CacheSource | None:
    """Return what a request waits for here as a decode leg, or None where its cache counts as come.

    Raises
    ------
    RequestError
        400 on a field of the wrong type, or a host without port or room.
    """
    host = _host(fields)
    if config.kind != "sglang" or config.mode != "decode" or host is None or host == FAKE_HOST:
        return None
    port, room = whole_number(fields, "bootstrap_port"), whole_number(fields, "bootstrap_room")
    if port is None or not 0 < port < 65_536:
        raise RequestError(400, f"bootstrap_port = {port!r} must be the port of the prefill engine at bootstrap_host")
    if room is None:
        raise RequestError(400, "bootstrap_room = None must be that of the prefill leg at bootstrap_host")
    try:
        return CacheSource(room, URL.build(scheme="http", host=host, port=port, path=f"{ROOMS_PATH}/{room}"))
    except ValueError as error:
        raise RequestError(400, f"bootstrap_host = {host!r}: {error}") from None


def _host(fields: dict[str, Any]) -> str | None:
    host = fields.get("bootstrap_host")
    if host is not None and not (isinstance(host, str) and host):
        raise RequestError(400, f"bootstrap_host = {host!r} must be a name or an address")
    return host
