"""Print every forward-pass message of Dynamo's event plane, a line of hexadecimal digits each, until told to stop.

A process of its own: Dynamo's runtime takes threads and signals of the process that it runs in.
"""

from __future__ import annotations

import asyncio
import importlib

ENDPOINT = "dynamo.backend.generate"


async def main() -> None:
    core = importlib.import_module("dynamo._core")
    runtime = core.DistributedRuntime(asyncio.get_running_loop(), "file", "tcp")
    subscriber = core.FpmEventSubscriber(runtime.endpoint(ENDPOINT))

    def listen() -> None:
        while (message := subscriber.recv()) is not None:
            print(message.hex(), flush=True)

    await asyncio.to_thread(listen)


if __name__ == "__main__":
    asyncio.run(main())
