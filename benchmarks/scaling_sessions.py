"""MCP sessions of the 2025 era: on the daemon's unix socket, where a call is one line, and over HTTP, each
with the stream on which the server speaks by itself."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.scaling_crowd import DEADLINE_S, dial, exchanged

PROTOCOL = "2025-11-25"
_HELLO = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": PROTOCOL,
        "capabilities": {},
        "clientInfo": {"name": "bench", "version": "1"},
    },
}
_READY = {"jsonrpc": "2.0", "method": "notifications/initialized"}


class Session:
    """An initialized session on a unix socket. What the server says by itself in between is thrown away."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE_S)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")
        self._ask(_HELLO)
        self._socket.sendall(json.dumps(_READY).encode() + b"\n")

    def close(self) -> None:
        """End it."""
        self._lines.close()
        self._socket.close()

    def call(self, tool: str, arguments: Mapping[str, Any] | None = None) -> bytes:
        """The line that answers a call of this tool. Raises AssertionError when it was refused."""
        params = {"name": tool, "arguments": dict(arguments or {})}
        answer = self._ask({"jsonrpc": "2.0", "id": 0, "method": "tools/call", "params": params})
        assert b'"structuredContent"' in answer, answer[:500]
        return answer

    def _ask(self, message: Mapping[str, Any]) -> bytes:
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        while line := self._lines.readline():
            if json.loads(line).get("id") == message["id"]:
                return line
        raise ConnectionResetError("the server closed the connection")


def listening(port: int, number: int) -> socket.socket:
    """A session over HTTP whose `GET /mcp` stream is open; it hears of every event."""
    with dial(port, number) as asking:
        answer = exchanged(asking, _post(port, _HELLO), b'"protocolVersion"')
        head = answer.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
        fields = dict(line.split(b": ", 1) for line in head[1:])
        session_id = f"Mcp-Session-Id: {fields[b'mcp-session-id'].decode()}\r\n"
    with dial(port, number) as telling:
        exchanged(telling, _post(port, _READY, session_id), b" 202 ")
    stream = dial(port, number)
    exchanged(
        stream,
        f"GET /mcp HTTP/1.1\r\nHost: localhost:{port}\r\nAccept: text/event-stream\r\n"
        f"MCP-Protocol-Version: {PROTOCOL}\r\n{session_id}\r\n".encode(),
        b" 200 ",
    )
    return stream


def _post(port: int, message: Mapping[str, Any], session_id: str = "") -> bytes:
    body = json.dumps(message).encode()
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json, text/event-stream\r\nContent-Length: {len(body)}\r\n{session_id}\r\n"
    )
    return head.encode() + body
