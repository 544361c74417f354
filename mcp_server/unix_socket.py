"""The unix socket: events and status for local tools, MCP for `xidwatch stdio`. See DESIGN "Socket".

The first line says what the client wants (`hello`). Every answer to a hello is lines of JSON:

* `events`: one event a line, a hole as `{"missed": {"first": n, "last": n}}`. Without `follow` the
  connection ends at what was newest when it began; with it, when the client closes its end.
* `status`: one line.
* an error: `{"error": sentence, "hint": sentence}`, then the connection ends.

A client that stops reading is not cut off (a pager may hold `tail --follow` for hours): it holds a
cursor and one buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from mcp_server import socket_file
from mcp_server.hello import WantEvents, WantMcp, WantStatus, parse_hello
from mcp_server.replies import error_json
from mcp_server.server import McpServer
from mcp_server.services import Services, Transport
from mcp_server.socket_events import send_events
from mcp_server.socket_mcp import serve_mcp
from probes.errors import UserError

log = logging.getLogger(__name__)

LINE_LIMIT: Final = 1024 * 1024
LAST_WORDS_S: Final = 0.1
"""How long a connection may take to end by itself once the server stops."""


@contextlib.asynccontextmanager
async def unix_socket(path: Path, services: Services, server: McpServer) -> AsyncIterator[None]:
    """Serve on `path` while the block runs; then end every connection and remove the file.

    Raises UserError when a live server has the path, or it cannot be had.
    """
    file = socket_file.bind(path)
    clients = _Clients(services, server)
    listening = await asyncio.start_unix_server(clients.serve, sock=file.bound, limit=LINE_LIMIT)
    try:
        yield
    finally:
        listening.close()
        await clients.end()
        file.remove()


class _Clients:
    """The open connections. Belongs to the event loop."""

    def __init__(self, services: Services, server: McpServer) -> None:
        self._services = services
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its first line to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with self._services.clients.present(Transport.SOCKET):
                await self._converse(reader, writer)
            writer.close()
            await writer.wait_closed()
        except OSError:
            log.debug("a client on the unix socket left")
        except asyncio.CancelledError:
            # From `end`, and nobody waits for this task: to return is to end. (asyncio before 3.12
            # reports a cancelled connection task as a failure.)
            log.debug("a client on the unix socket was cut off")
        except Exception:  # the boundary: a bug in one conversation must not reach the others
            log.exception("a conversation on the unix socket failed")
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def end(self) -> None:
        """Let every conversation come to its end, then cut off what is still open."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=LAST_WORDS_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await _first_line(reader)
            if first is None:
                return
            want = parse_hello(first)
            match want:
                case WantEvents():
                    await send_events(self._services.stream, want, reader, writer)
                case WantStatus():
                    await _send(writer, json.dumps(self._services.status()))
                case WantMcp():
                    await serve_mcp(self._server, reader, writer, era=want.era)
                case None:
                    await serve_mcp(self._server, reader, writer, first=first)
        except UserError as error:
            await _send(writer, error_json(error))


async def _first_line(reader: asyncio.StreamReader) -> bytes | None:
    """The first line; None when the client left without one. Raises UserError when it has no end."""
    try:
        line = await reader.readline()
    except ValueError:
        raise UserError("the first line is too long", hint=f"at most {LINE_LIMIT} bytes") from None
    return line or None


async def _send(writer: asyncio.StreamWriter, line: str) -> None:
    writer.write(line.encode() + b"\n")
    await writer.drain()
