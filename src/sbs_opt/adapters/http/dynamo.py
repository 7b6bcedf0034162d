"""Which workers stand behind a Dynamo front end, by HTTP alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import aiohttp

from sbs_opt.adapters.http.errors import UPSTREAM_ERRORS, Look, look_of

_ENDPOINT = "generate"
"""What workers that answer completions serve; the others of the list serve caches and controls."""

_IDS = 1 << 64


class DynamoError(Exception):
    """A front end that cannot be reached, or that tells nothing of its workers that can be read.

    Parameters
    ----------
    message
        What happened.
    look
        What that says of the front end.
    """

    def __init__(self, message: str, look: Look = "ill") -> None:
        super().__init__(message)
        self.look = look


async def instance_ids(
    session: aiohttp.ClientSession, url: str, *, any_component: bool = False, timeout_s: float = 5.0
) -> list[int]:
    """Return the instance ids of the workers that a front end knows, ascending; none where it knows no worker.

    Parameters
    ----------
    session
        For the request.
    url
        The front end, without a path.
    any_component
        Take the workers of all components together: for one who knows an id, and asks whether it is there.
    timeout_s
        For the whole answer.

    Raises
    ------
    DynamoError
        Not reached, no answer to read, or workers of more than one component, among which only the configuration
        can tell: the prefill and the decode side, or two models.

    Notes
    -----
    It reads `GET /health`. A worker draws its id when it starts; one that was killed stays listed until its lease
    ends (about ten seconds), one that was told to stop is gone at once.
    """
    try:
        async with session.get(f"{url}/health", timeout=aiohttp.ClientTimeout(total=timeout_s)) as answer:
            status, body = answer.status, await answer.read()
    except UPSTREAM_ERRORS as error:
        raise DynamoError(f"{url}/health: {type(error).__name__}", look_of(error)) from error
    if status >= 400:
        raise DynamoError(f"{url}/health: status {status}")
    try:
        return _ids(body, any_component)
    except DynamoError as error:
        raise DynamoError(f"{url}/health: {error}") from error


def reassigned(held: Sequence[int | None], listed: Sequence[int]) -> list[int | None]:
    """Return who stands at each place now: whoever is still listed stays, newcomers fill the gaps in order.

    Parameters
    ----------
    held
        Instance id of each place as it was; None = nobody.
    listed
        Ids that are there now.

    Notes
    -----
    A worker that restarts comes back under another id. Taking the k-th of the ids that are listed would then move the
    workers that stayed, and with them the load that is booked on them.
    """
    there = set(listed)
    places = [one if one in there else None for one in held]
    newcomers = iter(sorted(there.difference(places)))
    return [next(newcomers, None) if one is None else one for one in places]


def _ids(body: bytes, any_component: bool) -> list[int]:
    try:
        health = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DynamoError("the answer is no JSON") from error
    instances = health.get("instances") if isinstance(health, dict) else None
    if not isinstance(instances, list):
        raise DynamoError("the answer has no list of instances")
    found: dict[int, tuple[Any, Any]] = {}
    for k, one in enumerate(instances):
        if not isinstance(one, dict):
            raise DynamoError(f"instances[{k}] is no object")
        if one.get("endpoint") == _ENDPOINT:
            number = one.get("instance_id")
            if type(number) is not int or not 0 <= number < _IDS:
                raise DynamoError(f"instances[{k}].instance_id is no whole number of 64 bits")
            found[number] = (one.get("namespace"), one.get("component"))
    components = {f"{namespace}.{component}" for namespace, component in found.values()}
    if len(components) > 1 and not any_component:
        raise DynamoError(f"workers of {', '.join(sorted(components))}: name the instance_id of each upstream")
    return sorted(found)
