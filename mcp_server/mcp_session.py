"""An MCP session over a stream of messages: the unix socket, stdin and stdout, `/sse`.

The transport brings two functions and keeps what they promise:

* `receive` gives the next message with its size, None at the end of input; BadMessageError for what could
  not be read, which is answered, and the session goes on.
* `send` delivers one message whole, may be called by several tasks, and returns when there is room
  for the next one. OSError when the client has gone.

The session lasts until its input ends, and a second longer if requests are still being answered: what
is piped in gets its answers. It serves a bounded number of requests at once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.runner import serve_loop
from mcp.shared.message import SessionMessage

from mcp_server.hello import Era
from mcp_server.quota import Quota
from mcp_server.rpc import BadMessageError, InFlight, Message
from mcp_server.server import McpServer

LAST_ANSWERS_S: Final = 1.0
"""How long requests may go on after the end of input; a host that quits does not wait for longer."""

log = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[tuple[Message, int] | None]]
Send = Callable[[Message], Awaitable[None]]
Inbound = SessionMessage | Exception


async def serve_session(
    server: McpServer, receive: Receive, send: Send, *, room: Quota, era: Era = Era.AUTO
) -> None:
    """One session, from its first message to the end of its input. `room` is what all sessions of the
    transport share for their requests in flight."""
    arrived, to_server = anyio.create_memory_object_stream[Inbound](0)
    from_server, leaving = anyio.create_memory_object_stream[SessionMessage](0)
    in_flight = InFlight(room)
    try:
        async with arrived, to_server, from_server, leaving, anyio.create_task_group() as group:
            group.start_soon(_send_out, leaving, send, in_flight)
            async with anyio.create_task_group() as receiving:
                receiving.start_soon(_take_in, receive, send, arrived, in_flight)
                await _run(server, to_server, from_server, era)
                receiving.cancel_scope.cancel()
    except* OSError:
        log.debug("the client of an MCP session left")
    finally:
        in_flight.close()


async def _run(
    server: McpServer,
    to_server: MemoryObjectReceiveStream[Inbound],
    from_server: MemoryObjectSendStream[SessionMessage],
    era: Era,
) -> None:
    """The SDK's side. It closes both streams."""
    if era is Era.LEGACY:
        async with server.lifespan(server) as state:
            await serve_loop(server, to_server, from_server, lifespan_state=state)
    else:
        await server.run(to_server, from_server, server.create_initialization_options())


async def _take_in(
    receive: Receive, send: Send, arrived: MemoryObjectSendStream[Inbound], in_flight: InFlight
) -> None:
    async with arrived:
        while True:
            try:
                received = await receive()
                if received is None:
                    with anyio.move_on_after(LAST_ANSWERS_S):
                        await in_flight.settled()
                    return
                message, size = received
                in_flight.admit(message, size)
            except BadMessageError as bad:
                await send(bad.answer)
            else:
                await arrived.send(SessionMessage(message))


async def _send_out(
    leaving: MemoryObjectReceiveStream[SessionMessage], send: Send, in_flight: InFlight
) -> None:
    # Closed with this task, so that what is still to be said at a cut ends at once.
    async with leaving:
        async for each in leaving:
            in_flight.answered(each.message)
            await send(each.message)
