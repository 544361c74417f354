"""Many clients of every kind in one thread, that note when each of them was told of each fault."""

from __future__ import annotations

import json
import re
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tests.clients.curl import modern, notification, request
from tests.delivery.readers import CLIENT, EVENTS, JSON_HEADERS
from tests.support.daemon import Daemon
from tests.support.waiting import DEADLINE_S

_PID = re.compile(rb'"pid":\s?(\d+),')
_TAIL = 32
"""Longer than any match."""


class Kind(StrEnum):
    """Streams that a client can hold open."""

    EVENTS = "/events"
    LISTEN = "subscriptions/listen"
    SESSION = "GET of a /mcp session"
    SSE = "/sse session"
    SOCKET_EVENTS = "events on the unix socket"
    SOCKET_MCP = "MCP session on the unix socket"


@dataclass
class Stream:
    """One client's open stream."""

    kind: Kind
    connection: socket.socket
    tail: bytes = b""
    told: dict[int, float] = field(default_factory=dict)
    """When it was told of the fault of each process first, monotonic seconds."""

    def read(self) -> None:
        """Take what is there."""
        data = self.connection.recv(1 << 18)
        assert data, f"{self.kind} was cut off"
        now, text = time.monotonic(), self.tail + data
        for found in _PID.finditer(text):
            self.told.setdefault(int(found[1]), now)
        self.tail = text[-_TAIL:]


class Crowd:
    """Streams that are read."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self._selector = selectors.DefaultSelector()

    def add(self, stream: Stream) -> None:
        """One more."""
        stream.connection.setblocking(False)
        self._selector.register(stream.connection, selectors.EVENT_READ, stream)
        self.streams.append(stream)

    def read(self, timeout_s: float) -> None:
        """Let those that have something read, and return after this time at the latest."""
        for key, _ in self._selector.select(max(0.0, timeout_s)):
            stream = key.data
            assert isinstance(stream, Stream)
            stream.read()

    def close(self) -> None:
        """Leave."""
        self._selector.close()
        for stream in self.streams:
            stream.connection.close()


def open_stream(kind: Kind, daemon: Daemon, *, receive_buffer: int | None = None) -> Stream:
    """A client whose stream is open: what happens from now on, it is told."""
    return Stream(kind, _OPENERS[kind](daemon, receive_buffer))


def tcp(daemon: Daemon, receive_buffer: int | None) -> socket.socket:
    """A connection to the daemon, with a receive buffer of this size if one is given."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(DEADLINE_S)
    connection.connect(("127.0.0.1", daemon.port))
    return connection


def ask(
    connection: socket.socket, method: str, path: str, headers: Mapping[str, str], body: object = None
) -> None:
    """Send one HTTP request."""
    data = b"" if body is None else json.dumps(body).encode()
    fields = {"Host": "127.0.0.1", **headers} | ({"Content-Length": str(len(data))} if data else {})
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    connection.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)


def _until(connection: socket.socket, text: bytes) -> bytes:
    """Read until this text has come; everything read so far."""
    seen = b""
    while text not in seen:
        data = connection.recv(4096)
        assert data, seen
        seen += data
    return seen


def _events(daemon: Daemon, receive_buffer: int | None) -> socket.socket:
    connection = tcp(daemon, receive_buffer)
    ask(connection, "GET", "/events", {})
    _until(connection, b"event: hello")
    return connection


def _listen(daemon: Daemon, receive_buffer: int | None) -> socket.socket:
    connection = tcp(daemon, receive_buffer)
    body, *headers = modern("subscriptions/listen", notifications={"resourceSubscriptions": [EVENTS]})
    ask(connection, "POST", "/mcp", JSON_HEADERS | dict(h.split(": ", 1) for h in headers), body)
    _until(connection, b"notifications/subscriptions/acknowledged")
    return connection


def _session(daemon: Daemon, receive_buffer: int | None) -> socket.socket:
    with tcp(daemon, None) as talk:
        ask(talk, "POST", "/mcp", JSON_HEADERS, request("initialize", **CLIENT))
        found = re.search(rb"mcp-session-id: (\S+)", _until(talk, b"serverInfo"), re.IGNORECASE)
        assert found is not None
    headers = {"Mcp-Session-Id": found[1].decode(), "MCP-Protocol-Version": "2025-11-25"}
    with tcp(daemon, None) as talk:
        ask(talk, "POST", "/mcp", JSON_HEADERS | headers, notification("notifications/initialized"))
        _until(talk, b"\r\n\r\n")
    connection = tcp(daemon, receive_buffer)
    ask(connection, "GET", "/mcp", {"Accept": "text/event-stream"} | headers)
    _until(connection, b"\r\n\r\n")
    return connection


def _sse(daemon: Daemon, receive_buffer: int | None) -> socket.socket:
    connection = tcp(daemon, receive_buffer)
    ask(connection, "GET", "/sse", {"Accept": "text/event-stream"})
    found = re.search(rb"data: (/\S+)", _until(connection, b"session_id="))
    assert found is not None
    for body in (request("initialize", **CLIENT), notification("notifications/initialized")):
        with tcp(daemon, None) as talk:
            ask(talk, "POST", found[1].decode(), JSON_HEADERS, body)
            _until(talk, b"\r\n\r\n")
    _until(connection, b"serverInfo")
    return connection


def _unix(daemon: Daemon, hello: object) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(DEADLINE_S)
    connection.connect(str(daemon.socket))
    _say(connection, {"xidwatch": hello})
    return connection


def _say(connection: socket.socket, message: object) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _socket_events(daemon: Daemon, receive_buffer: int | None) -> socket.socket:
    newest = max((item["cursor"] for item in daemon.events("limit=1")), default=0)
    return _unix(daemon, {"want": "events", "follow": True, "since": newest})


def _socket_mcp(daemon: Daemon, receive_buffer: int | None) -> socket.socket:
    connection = _unix(daemon, {"want": "mcp"})
    _say(connection, request("initialize", **CLIENT))
    _until(connection, b"\n")
    _say(connection, notification("notifications/initialized"))
    _say(connection, request("ping"))
    _until(connection, b"\n")
    return connection


_OPENERS: Mapping[Kind, Callable[[Daemon, int | None], socket.socket]] = {
    Kind.EVENTS: _events,
    Kind.LISTEN: _listen,
    Kind.SESSION: _session,
    Kind.SSE: _sse,
    Kind.SOCKET_EVENTS: _socket_events,
    Kind.SOCKET_MCP: _socket_mcp,
}
