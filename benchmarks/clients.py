"""Clients that cost next to nothing, so that what they measure is the server.

Plain sockets, just enough HTTP/1.1 to find where an answer ends.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.daemon import ROOT, clean_environment

TIMEOUT_S = 20.0
_CHUNK = 1 << 18


class Subscriber:
    """One reader of `/events`: frames as they come."""

    def __init__(self, port: int, path: str = "/events", *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
        self._raw = b""
        self._body = b""
        self._in_body = False

    def fileno(self) -> int:
        """For a poller."""
        return self.socket.fileno()

    def close(self) -> None:
        """Leave."""
        self.socket.close()

    def wait_for_hello(self) -> None:
        """Return when the stream has begun: from here on every event comes."""
        while b"event: hello" not in self._body:
            self.receive()
        self.frames()

    def receive(self) -> bytes:
        """Whatever is there next, unparsed; it is kept for `frames` too. Raises OSError at the end."""
        data = self.socket.recv(_CHUNK)
        if not data:
            raise ConnectionResetError("the server ended the stream")
        self._raw += data
        if not self._in_body:
            head, separator, rest = self._raw.partition(b"\r\n\r\n")
            if not separator:
                return data
            if b" 200 " not in head.split(b"\r\n", 1)[0]:
                raise ConnectionError(head.decode("latin-1"))
            self._in_body, self._raw = True, rest
        while (size_end := self._raw.find(b"\r\n")) >= 0:
            size = int(self._raw[:size_end], 16)
            end = size_end + 2 + size
            if len(self._raw) < end + 2:
                break
            self._body += self._raw[size_end + 2 : end]
            self._raw = self._raw[end + 2 :]
        return data

    def frames(self) -> list[dict[str, Any]]:
        """The data of the complete frames received since the last call; comments are left out."""
        whole, separator, rest = self._body.replace(b"\r\n", b"\n").rpartition(b"\n\n")
        if not separator:
            return []
        self._body = rest
        lines = (line for line in whole.split(b"\n") if line.startswith(b"data: "))
        return [json.loads(line[6:]) for line in lines]


class HttpCaller:
    """MCP calls over one kept-alive HTTP connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def request(self, message: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
        """The bytes of one POST to /mcp."""
        body = json.dumps(message).encode()
        fields = {
            "Host": f"localhost:{self._port}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Content-Length": str(len(body)),
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body

    def exchange(self, request: bytes) -> bytes:
        """Send it; the whole answer, head and body as they came."""
        self._socket.sendall(request)
        answer = b""
        while not _is_whole(answer):
            data = self._socket.recv(_CHUNK)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            answer += data
        return answer


class LineCaller:
    """JSON-RPC, one message a line, over a unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect(str(path))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def send(self, line: bytes) -> None:
        """Send one message that gets no answer."""
        self._socket.sendall(line + b"\n")

    def exchange(self, line: bytes) -> bytes:
        """Send one message; the line that answers it."""
        self.send(line)
        answer = b""
        while not answer.endswith(b"\n"):
            data = self._socket.recv(_CHUNK)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            answer += data
        return answer


class StdioCaller:
    """JSON-RPC, one message a line, with a process on its stdin and stdout."""

    def __init__(self, words: Sequence[str]) -> None:
        """`words`: the server's command, started in the project's folder without settings of xidwatch."""
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=clean_environment(),
        )

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def close(self) -> None:
        """End its stdin, and wait until it ends."""
        self._process.communicate(timeout=TIMEOUT_S)

    def send(self, line: bytes) -> None:
        """Send one message that gets no answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def exchange(self, line: bytes) -> bytes:
        """Send one message; the line that answers it."""
        self.send(line)
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise ConnectionResetError("the server ended")
        return answer


def status(path: Path) -> dict[str, Any]:
    """The daemon's status object, from its unix socket."""
    caller = LineCaller(path)
    try:
        answer: dict[str, Any] = json.loads(caller.exchange(b'{"xidwatch": {"want": "status"}}'))
    finally:
        caller.close()
    return answer


def _is_whole(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        return False
    for field in head.lower().split(b"\r\n")[1:]:
        name, _, value = field.partition(b":")
        if name == b"content-length":
            return len(body) >= int(value)
        if name == b"transfer-encoding":
            return body.endswith(b"0\r\n\r\n")
    return True
