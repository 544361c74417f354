"""The unix socket: events and status for local tools, MCP for `xidwatch stdio`. See DESIGN "Socket".

The first line says what the client wants (`hello`). Every answer to a hello is lines of JSON:

* `events`: one event a line, a hole as `{"missed": {"first": n, "last": n}}`. Without `follow` the
  connection ends at what was newest when it began; with it, when the client closes its end.
* `status`: one line.
* `release-driver`: one line, when it is done (`daemon.gpu.driver_hold`); for those who may operate (see
  `socket_peer`).
* an error: `{"error": sentence, "hint": sentence}`, then the connection ends.

The first line has to come within `FIRST_LINE_S`; after it a client may be silent. A client that
stops reading is not cut off (a pager may hold `tail --follow` for hours): it holds a cursor and one
buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from mcp_server import socket_file
from mcp_server.acceptor import Acceptor
from mcp_server.client import CLIENT
from mcp_server.descriptors import for_socket, open_files
from mcp_server.hello import Channel, WantEvents, WantMcp, WantReleaseDriver, WantStatus, parse_hello
from mcp_server.identity import IDENTITY, Scope
from mcp_server.lines import LINE_LIMIT, LineReader, LineTooLongError, LineTooSlowError
from mcp_server.quota import OverQuotaError, Quota
from mcp_server.replies import error_json
from mcp_server.rpc import in_flight_room
from mcp_server.server import McpServer
from mcp_server.services import Services, Transport
from mcp_server.socket_events import send_events
from mcp_server.socket_mcp import serve_mcp
from mcp_server.socket_peer import peer_of
from probes.errors import UserError

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 512
"""Room for connections, shared by process; whoever gets none is answered with an error line."""
CONNECTIONS_ALWAYS: Final = 4
ACCEPTED_AT_ONCE: Final = 16
"""Connections that are accepted in one turn of the event loop, before others have theirs."""
FIRST_LINE_S: Final = 10.0
"""A client that has not said by then what it wants is let go."""
BUFFER_BYTES: Final = 64 * 1024
"""What asyncio reads ahead of a conversation that is busy, half of it."""
LAST_WORDS_S: Final = 0.1
"""How long a connection may take to end by itself once the server stops."""

Servers = Callable[[Channel | None], McpServer]
"""The MCP server for sessions that want this channel."""
LetGo = Callable[[], Awaitable[Mapping[str, object]]]
"""Lets go of the driver and says what was let go."""


@contextlib.asynccontextmanager
async def unix_socket(
    path: Path, services: Services, servers: Servers, *, let_go_of_driver: LetGo | None = None
) -> AsyncIterator[Callable[[], None]]:
    """Serve on `path` while the block runs; then end every connection and remove the file.
    `let_go_of_driver`: None where this process never holds it.

    Gives a function that lets nobody new in from then on: a server that stops calls it before it closes
    the stream, so that a follower that is let go does not come straight back.

    Raises UserError when a live server has the path, or it cannot be had.
    """
    file = socket_file.bind(path)
    clients = _Clients(services, servers, let_go_of_driver)
    listening = Acceptor(file.bound, clients.new, at_once=ACCEPTED_AT_ONCE)
    try:
        yield listening.close
    finally:
        listening.close()
        await clients.end()
        file.remove()


class _Clients:
    """The open connections. Belongs to the event loop."""

    def __init__(self, services: Services, servers: Servers, let_go_of_driver: LetGo | None) -> None:
        self._services = services
        self._servers = servers
        self._let_go_of_driver = let_go_of_driver or _holds_nothing
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._by_process = Quota(for_socket(open_files(), MAX_CONNECTIONS), always=CONNECTIONS_ALWAYS)
        self._in_flight = in_flight_room()

    def new(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=BUFFER_BYTES), self.serve)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its first line to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        has_ended = False
        try:
            await self._admit(reader, writer)
            writer.close()
            await writer.wait_closed()
            has_ended = True
        except OSError:
            log.debug("a client on the unix socket left")
        except asyncio.CancelledError:
            # From `end`, and nobody waits for this task: to return is to end. (asyncio before 3.12
            # reports a cancelled connection task as a failure.)
            log.debug("a client on the unix socket was cut off")
        except Exception:  # the boundary: a bug in one conversation must not reach the others
            log.exception("a conversation on the unix socket failed")
        finally:
            del self._open[task]
            if not has_ended:  # abort() raises on one whose last bytes went out after close() (seen in 3.11)
                writer.transport.abort()

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = peer_of(writer)
        process = f"pid {peer.pid}"
        CLIENT.set(process)
        IDENTITY.set(self._services.access.operators.identity(peer))
        try:
            with self._by_process.taken_by(process), self._services.clients.present(Transport.SOCKET):
                await self._converse(reader, writer)
        except OverQuotaError:
            await _send(writer, error_json(_too_many()))

    async def end(self) -> None:
        """Let every conversation come to its end, then cut off what is still open."""
        if not self._open:
            return
        _, late = await asyncio.wait(self._open, timeout=LAST_WORDS_S)
        for task in late:
            # Whoever is waiting for room in a buffer that nobody reads learns now that it is in vain.
            self._open[task].transport.abort()
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = LineReader(reader)
        try:
            first = await _first_line(lines)
            if not first:
                return
            want = parse_hello(first)
            match want:
                case WantEvents():
                    await send_events(self._services.stream, want, reader, writer)
                case WantStatus():
                    await _send(writer, json.dumps(self._services.status()))
                case WantReleaseDriver():
                    _must_operate()
                    await _send(writer, json.dumps(await self._let_go_of_driver()))
                case WantMcp():
                    server = self._servers(want.channel)
                    await serve_mcp(server, lines, writer, room=self._in_flight, era=want.era)
                case None:
                    await serve_mcp(self._servers(None), lines, writer, room=self._in_flight, first=first)
        except UserError as error:
            await _send(writer, error_json(error))


def _must_operate() -> None:
    """Raises UserError when this client may only read: a probe would fall silent."""
    identity = IDENTITY.get()
    if not identity.may(Scope.OPERATE):
        raise UserError(
            f"{identity.who} may not have the driver let go of",
            hint="ask as root or as the daemon's user, or be named in --socket-operators",
        )


async def _holds_nothing() -> Mapping[str, object]:
    return {"reader": None, "events": None, "tracepoint": None}


async def _first_line(lines: LineReader) -> bytes:
    """The first line; empty when the client left without one. Raises UserError when none comes."""
    try:
        return await lines.next(FIRST_LINE_S)
    except LineTooLongError:
        raise UserError("the first line is too long", hint=f"at most {LINE_LIMIT} bytes") from None
    except LineTooSlowError:
        raise UserError("no first line came", hint="say at once what you want; then take your time") from None


async def _send(writer: asyncio.StreamWriter, line: str) -> None:
    writer.write(line.encode() + b"\n")
    await writer.drain()


def _too_many() -> UserError:
    return UserError(
        "too many connections of this process on this socket", hint="end some, or try again later"
    )
