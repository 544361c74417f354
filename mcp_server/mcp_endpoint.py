"""`/mcp`: Streamable HTTP, with the sessions of the 2025 eras and the single exchanges of 2026-07-28.

When the event stream closes, waiting tools answer; a moment later the sessions are ended, and with
them the streams that clients hold open. The connections are then free to close: a server that
waits for them first, as uvicorn does before the end of its lifespan, would wait for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import Receive, Scope, Send

from daemon.stream import EventStream
from mcp_server.guard import BODY_LIMIT
from mcp_server.replies import refusal
from mcp_server.server import McpServer
from mcp_server.services import Services, Transport
from probes.errors import UserError

MAX_SESSIONS: Final = 1_024
"""A session of the 2025 eras holds about 110 KB until 30 minutes after its last request."""
LAST_WORDS_S: Final = 0.1
"""How long tools may take to answer once the stream is closed."""


class McpEndpoint:
    """The endpoint; answers only while `running`."""

    def __init__(self, server: McpServer, services: Services) -> None:
        self._services = services
        self._sessions = StreamableHTTPSessionManager(
            server,
            max_sessions=MAX_SESSIONS,
            max_request_body_size=BODY_LIMIT,
            # Host and Origin are checked once, for every path, in `guard`, which knows more
            # than the patterns of this setting can say.
            security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, for as long as its answer or stream lasts."""
        if self._services.stream.closed:
            error = UserError("xidwatch is shutting down", hint="ask again when it is back")
            await refusal(error, 503)(scope, receive, send)
            return
        with self._services.clients.present(Transport.MCP):
            await self._sessions.handle_request(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve sessions while the block runs, or until the event stream closes."""
        up = asyncio.Event()
        serving = asyncio.create_task(self._serve_sessions(up), name="mcp sessions")
        serving.add_done_callback(lambda _: up.set())
        try:
            await up.wait()
            if serving.done():
                serving.result()
            yield
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def _serve_sessions(self, up: asyncio.Event) -> None:
        async with self._sessions.run():
            up.set()
            await _closed(self._services.stream)
            await asyncio.sleep(LAST_WORDS_S)


async def _closed(stream: EventStream) -> None:
    while not stream.closed:
        await stream.wait_beyond(stream.newest)
