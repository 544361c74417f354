"""The product's server with the suite's fixtures, in a process of its own.

Prints its port, then serves until SIGTERM.
"""

from __future__ import annotations

import asyncio
import sys

from daemon.ring import Ring
from daemon.stream import EventStream
from mcp_server.app import build_app
from mcp_server.listener import Listener, bind
from mcp_server.server import build_server
from mcp_server.services import Services
from tests.conformance.fixtures import add_fixtures


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
    server = build_server(services)
    add_fixtures(server)
    bound = bind("127.0.0.1", 0)
    sys.stdout.write(f"{bound.getsockname()[1]}\n")
    sys.stdout.flush()
    await Listener(build_app(services, server), bound, on_stop=stream.close).run_until_stopped()


if __name__ == "__main__":
    asyncio.run(main())
