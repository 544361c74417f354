"""An MCP session over a byte stream: JSON-RPC, one message a line, as on stdio.

It lasts until the client closes its end. A line that is no JSON-RPC message is answered with the
protocol's parse error; one longer than the reader's limit ends the session.
"""

from __future__ import annotations

import asyncio
import logging

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.runner import serve_loop
from mcp.shared.message import SessionMessage

from mcp_server.hello import Era
from mcp_server.server import McpServer

log = logging.getLogger(__name__)

Inbound = SessionMessage | Exception


async def serve_mcp(
    server: McpServer,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    first: bytes | None = None,
    era: Era = Era.AUTO,
) -> None:
    """One session. `first` is a line that was already read."""
    arrived, to_server = anyio.create_memory_object_stream[Inbound](0)
    from_server, leaving = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_receive, reader, first, arrived)
            group.start_soon(_send, leaving, writer)
            if era is Era.LEGACY:
                async with server.lifespan(server) as state:
                    await serve_loop(server, to_server, from_server, lifespan_state=state)
            else:
                await server.run(to_server, from_server, server.create_initialization_options())
            group.cancel_scope.cancel()
    except* OSError:
        log.debug("the client of an MCP session on the unix socket left")


async def _receive(
    reader: asyncio.StreamReader, first: bytes | None, arrived: MemoryObjectSendStream[Inbound]
) -> None:
    async with arrived:
        line = first if first is not None else await _line(reader)
        while line:
            if line.strip():
                await arrived.send(_parsed(line))
            line = await _line(reader)


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line; empty at the end of input, and for a line beyond the limit."""
    try:
        return await reader.readline()
    except ValueError:
        log.warning("an MCP client on the unix socket sent a line that is too long")
        return b""


def _parsed(line: bytes) -> Inbound:
    try:
        return SessionMessage(types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:  # pydantic's ValidationError is one
        return error


async def _send(leaving: MemoryObjectReceiveStream[SessionMessage], writer: asyncio.StreamWriter) -> None:
    async with leaving:
        async for each in leaving:
            writer.write(each.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            await writer.drain()
