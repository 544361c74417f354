"""An MCP session over a byte stream: JSON-RPC, one message a line, as on stdio.

It lasts until the client closes its end. A line that is no message is answered with the protocol's
error; so is one that is too long. A line that is begun and not ended in time ends the session.
"""

from __future__ import annotations

from typing import Protocol

import mcp_types as types

from mcp_server.hello import Era
from mcp_server.lines import LINE_LIMIT, LineReader, LineTooLongError, LineTooSlowError
from mcp_server.mcp_session import serve_session
from mcp_server.quota import Quota
from mcp_server.rpc import BadMessageError, Message, error_message, parse_message, to_json
from mcp_server.server import McpServer


class LineWriter(Protocol):
    """Where lines go; an `asyncio.StreamWriter` is one."""

    def write(self, data: bytes, /) -> None:
        """Take a line, whole."""

    async def drain(self) -> None:
        """Return when there is room for the next one. OSError when nobody reads any more."""


async def serve_mcp(
    server: McpServer,
    lines: LineReader,
    writer: LineWriter,
    *,
    room: Quota,
    first: bytes | None = None,
    era: Era = Era.AUTO,
) -> None:
    """One session. `first` is a line that was already read; `room` see `serve_session`."""
    begun = first

    async def receive() -> tuple[Message, int] | None:
        nonlocal begun
        line, begun = begun, None
        while line is None or line.isspace():
            line = await _line(lines)
        return (parse_message(line), len(line)) if line else None

    async def send(message: Message) -> None:
        writer.write(to_json(message).encode() + b"\n")
        await writer.drain()

    try:
        await serve_session(server, receive, send, room=room, era=era)
    except* LineTooSlowError:
        await send(error_message(types.PARSE_ERROR, "Parse error: the message was not completed in time"))


async def _line(lines: LineReader) -> bytes:
    try:
        return await lines.next()
    except LineTooLongError as error:
        text = f"Invalid request: longer than {LINE_LIMIT} bytes"
        raise BadMessageError(types.INVALID_REQUEST, text, error.request_id) from None
