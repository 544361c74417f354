"""A server in the main thread of a process of its own, for tests of signals.

Prints its port, then serves until SIGTERM or SIGINT.
"""

from __future__ import annotations

import asyncio
import sys

from daemon.ring import Ring
from daemon.stream import EventStream
from mcp_server.app import build_app
from mcp_server.listener import Listener, bind
from mcp_server.services import Services


async def main() -> None:
    stream = EventStream(Ring(16), first_cursor=1)
    services = Services(
        node="gpu-17",
        version="0.0.test",
        listen_host="127.0.0.1",
        stream=stream,
        status=dict,
        health=tuple,
    )
    bound = bind("127.0.0.1", 0)
    sys.stdout.write(f"{bound.getsockname()[1]}\n")
    sys.stdout.flush()
    await Listener(build_app(services), bound, on_stop=stream.close).run_until_stopped()


if __name__ == "__main__":
    asyncio.run(main())
