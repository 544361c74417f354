"""MCP spoken by hand over HTTP, for what a well-made client would never do."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from tests.support.waiting import DEADLINE_S

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "by hand", "version": "1"},
    },
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
READY = {"jsonrpc": "2.0", "id": "ready", "method": "ping"}
"""Asked behind INITIALIZED: once it is answered, what is published is pushed to the session."""
MODERN = "2026-07-28"
MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}


def call(number: object, tool: str, **arguments: object) -> dict[str, Any]:
    """A tools/call request."""
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


class Exchange:
    """One HTTP request that has been sent, and its answer as it comes."""

    def __init__(
        self,
        port: int,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        receive_buffer: int | None = None,
        source: str = "127.0.0.1",
    ) -> None:
        """`source` is the address that the server sees the client at, one of 127.0.0.0/8."""
        self.socket = socket.socket()
        self.socket.settimeout(DEADLINE_S)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))
        sent = {
            "Host": "localhost",
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **(headers or {}),
        }
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
        self.socket.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self._lines = self.socket.makefile("rb")
        self.status = 0
        self.headers: dict[str, str] = {}

    def __enter__(self) -> Exchange:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self.socket.close()

    def head(self) -> Exchange:
        """Read status and headers."""
        if not self.status:
            self.status = int(self._lines.readline().split()[1])
            while (line := self._lines.readline().decode().strip()) != "":
                name, _, value = line.partition(":")
                self.headers[name.lower()] = value.strip()
        return self

    def body(self) -> bytes:
        """The whole body; chunks are put together."""
        self.head()
        if self.headers.get("transfer-encoding") == "chunked":
            return b"".join(self._chunks())
        return self._lines.read()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body())

    def frames(self) -> Iterator[dict[str, str]]:
        """The frames of an event stream, until it ends; comments are left out."""
        self.head()
        pending = b""
        for chunk in self._chunks():
            pending += chunk.replace(b"\r\n", b"\n")
            *whole, pending = pending.split(b"\n\n")
            for text in whole:
                fields = dict(line.split(": ", 1) for line in text.decode().split("\n") if ": " in line[1:])
                if fields:
                    yield fields

    def messages(self) -> Iterator[dict[str, Any]]:
        """The JSON-RPC messages of an event stream."""
        for frame in self.frames():
            if frame.get("event") == "message":
                yield json.loads(frame["data"])

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._lines.readline() or b"0", 16):
            chunk = self._lines.read(size)
            self._lines.readline()
            yield chunk


class Session:
    """A session of the 2025 eras on /mcp."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.port = port
        self.source = source
        with self._send("POST", INITIALIZE) as answer:
            self.id = answer.head().headers["mcp-session-id"]
            self.answer = next(answer.messages())
        with self.post(INITIALIZED) as answer:
            assert answer.head().status == 202
        with self.post(READY) as answer:
            assert next(answer.messages())["id"] == "ready"

    def post(self, message: object, **options: Any) -> Exchange:
        """A message of this session, sent."""
        return self._send("POST", message, **options)

    def listen(self, last_event_id: str | None = None, **options: Any) -> Exchange:
        """The stream of pushes, or one taken up again after this event; its headers have come."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id is not None else {}
        return self._send("GET", None, headers=headers, **options).head()

    def delete(self) -> int:
        """End the session; the status of the answer."""
        with self._send("DELETE", None) as answer:
            return answer.head().status

    def _send(
        self, method: str, message: object, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> Exchange:
        body = b"" if message is None else json.dumps(message).encode()
        mine = (
            {"Mcp-Session-Id": self.id, "MCP-Protocol-Version": "2025-11-25"} if hasattr(self, "id") else {}
        )
        sent = {**mine, **(headers or {})}
        return Exchange(self.port, method, "/mcp", body, sent, source=self.source, **options)


class SseSession:
    """A session of the older transport."""

    def __init__(self, port: int, **options: Any) -> None:
        self.port = port
        self.stream = Exchange(port, "GET", "/sse", **options)
        self._frames = self.stream.frames()
        self.place = next(self._frames)["data"]

    def post(self, message: object) -> Exchange:
        """A message of this session, sent."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return Exchange(self.port, "POST", self.place, body)

    def tell(self, message: object) -> None:
        """Post a message that is taken."""
        with self.post(message) as answer:
            assert answer.head().status == 202

    def message(self) -> dict[str, Any]:
        """The next message of the server."""
        message: dict[str, Any] = json.loads(next(self._frames)["data"])
        return message

    def shake_hands(self) -> None:
        """The handshake."""
        self.tell(INITIALIZE)
        assert self.message()["result"]["serverInfo"]["name"] == "xidwatch"
        self.tell(INITIALIZED)
        self.tell(READY)
        assert self.message()["id"] == "ready"


def modern(port: int, message: dict[str, Any], **options: Any) -> Exchange:
    """A request of 2026-07-28, sent."""
    params = {**message.get("params", {}), "_meta": MODERN_META}
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": message["method"]}
    if "name" in params:
        headers["Mcp-Name"] = params["name"]
    body = json.dumps({**message, "params": params}).encode()
    return Exchange(port, "POST", "/mcp", body, headers, **options)


@contextmanager
def sse_session(port: int, **options: Any) -> Iterator[SseSession]:
    """A session of the older transport, past its handshake."""
    session = SseSession(port, **options)
    with session.stream:
        session.shake_hands()
        yield session
