"""The daemon's protocols spoken by hand, so that a client costs little and can do what a good one never does.

Every HTTP request shows the token of the place. An answer that is an error raises RefusedError.
"""

from __future__ import annotations

import http.client
import itertools
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

from tests.soak.place import Place
from tests.support.relay import Relay

TIMEOUT_S: Final = 60.0
OLD: Final = "2025-11-25"
MODERN: Final = "2026-07-28"
Message = dict[str, Any]
_CLIENT: Final = {"name": "soak", "version": "1"}
_HELLO: Final = {"protocolVersion": OLD, "capabilities": {}, "clientInfo": _CLIENT}
_META: Final = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": _CLIENT,
}
_ids = itertools.count(1)


class RefusedError(Exception):
    """A status that is no success, or a JSON-RPC error."""


class Stream:
    """An HTTP answer that goes on: the frames of an event stream."""

    def __init__(self, connection: socket.socket, answer: http.client.HTTPResponse) -> None:
        self.session = answer.getheader("mcp-session-id")
        """Id of the session of 2025 that the answer opened or belongs to."""
        self._socket = connection
        self._answer = answer

    def hang_up(self) -> None:
        """End it from another thread than the one that reads."""
        with suppress(OSError):  # it may have ended by itself
            self._socket.shutdown(socket.SHUT_RDWR)

    def wait_at_most(self, seconds: float) -> None:
        """For what comes next; then TimeoutError is raised, and nothing more can be read."""
        self._socket.settimeout(seconds)

    def body(self) -> bytes:
        """All of it."""
        return self._answer.read()

    def frames(self) -> Iterator[dict[str, str]]:
        """Each frame's fields, until the end; comments come as {}."""
        frame: dict[str, str] = {}
        while line := self._answer.readline():
            name, found, value = line.decode().rstrip("\r\n").partition(":")
            if name:
                frame[name] = value.removeprefix(" ")
            elif not found:
                yield frame
                frame = {}
            else:
                yield {}

    def messages(self) -> Iterator[Message]:
        """JSON-RPC messages, be it one body or a stream of events."""
        if "event-stream" not in (self._answer.getheader("content-type") or ""):
            text = self._answer.read()
            if text:
                yield json.loads(text)
            return
        for frame in self.frames():
            if frame.get("data") and frame.get("event", "message") == "message":
                yield json.loads(frame["data"])

    def close(self) -> None:
        """Hang up."""
        self._answer.close()
        self._socket.close()


def request(
    place: Place, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
) -> Stream:
    """One HTTP request on a connection of its own; its answer has begun. Raises OSError, RefusedError."""
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=TIMEOUT_S)
    given = {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "Authorization": f"Bearer {place.token}",
        "Connection": "close",
        **(headers or {}),
    }
    try:
        connection.request(method, path, body=None if body is None else json.dumps(body), headers=given)
        opened = connection.sock
        assert isinstance(opened, socket.socket)
        answer = connection.getresponse()
        if answer.status >= 400:
            raise RefusedError(f"{method} {path}: {answer.status} {answer.read()[:300]!r}")
    except BaseException:
        connection.close()
        raise
    return Stream(opened, answer)


def get(place: Place, path: str) -> bytes:
    """The body of one GET."""
    stream = request(place, "GET", path)
    try:
        return stream.body()
    finally:
        stream.close()


class Conversation(Protocol):
    """One client of MCP, past its handshake."""

    def ask(self, method: str, **params: object) -> Message:
        """The result of a request. Raises RefusedError for a JSON-RPC error, OSError."""

    def leave(self) -> None:
        """End as a good client does."""

    def vanish(self) -> None:
        """End without a word."""


def call(client: Conversation, tool: str, **arguments: object) -> Message:
    """The structured content of a tool's answer. Raises RefusedError when the tool says no."""
    result = client.ask("tools/call", name=tool, arguments=arguments)
    if result.get("isError"):
        raise RefusedError(f"{tool} {arguments}: {result['content']}")
    content: Message = result["structuredContent"]
    return content


def _request(method: str, params: Mapping[str, object]) -> Message:
    return {"jsonrpc": "2.0", "id": next(_ids), "method": method, "params": dict(params)}


def _notice(method: str) -> Message:
    return {"jsonrpc": "2.0", "method": method}


def _answer(messages: Iterator[Message], number: int) -> Message:
    """The result with this id; what is pushed before it is read over."""
    for message in messages:
        if message.get("id") == number:
            if "error" in message:
                raise RefusedError(str(message["error"]))
            result: Message = message["result"]
            return result
    raise ConnectionResetError("the stream ended without an answer")


class HttpSession:
    """A session of 2025 on /mcp; `stream` is the one it is pushed to."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._headers = {"MCP-Protocol-Version": OLD}
        self.stream: Stream | None = None
        hello = _request("initialize", _HELLO)
        answer = request(place, "POST", "/mcp", hello, self._headers)
        try:
            self.id = answer.session or ""
            _answer(answer.messages(), hello["id"])
        finally:
            answer.close()
        self._headers["Mcp-Session-Id"] = self.id
        request(place, "POST", "/mcp", _notice("notifications/initialized"), self._headers).close()

    def listen(self) -> Stream:
        """Open the stream of pushes."""
        self.stream = request(self._place, "GET", "/mcp", headers=self._headers)
        return self.stream

    def ask(self, method: str, **params: object) -> Message:
        """See `Conversation`."""
        message = _request(method, params)
        answer = request(self._place, "POST", "/mcp", message, self._headers)
        try:
            return _answer(answer.messages(), message["id"])
        finally:
            answer.close()

    def begin(self, method: str, **params: object) -> Stream:
        """Ask, and do not wait for the answer."""
        return request(self._place, "POST", "/mcp", _request(method, params), self._headers)

    def leave(self) -> None:
        """End the session."""
        self.vanish()
        request(self._place, "DELETE", "/mcp", headers=self._headers).close()

    def vanish(self) -> None:
        """Hang up; the session stays until it was idle for long."""
        if self.stream is not None:
            self.stream.close()


class Modern:
    """A client of 2026-07-28: no session, every request says who it is."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def ask(self, method: str, **params: object) -> Message:
        """See `Conversation`."""
        answer = self.begin(method, **params)
        try:
            for told in answer.messages():
                if "error" in told:
                    raise RefusedError(str(told["error"]))
                if "result" in told:
                    result: Message = told["result"]
                    return result
        finally:
            answer.close()
        raise ConnectionResetError("the stream ended without an answer")

    def begin(self, method: str, **params: object) -> Stream:
        """Ask, and let the answer come."""
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
        if isinstance(name := params.get("name") or params.get("uri"), str):
            headers["Mcp-Name"] = name
        return request(self._place, "POST", "/mcp", _request(method, {**params, "_meta": _META}), headers)

    def leave(self) -> None:
        """Nothing was kept."""

    def vanish(self) -> None:
        """Nothing was kept."""


class SseSession:
    """A session of the older transport: GET /sse, and POST where it says."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._stream = request(place, "GET", "/sse")
        frames = self._stream.frames()
        self._path = next(frame["data"] for frame in frames if frame.get("event") == "endpoint")
        self._messages = self._stream.messages()
        self.ask("initialize", **_HELLO)
        self._post(_notice("notifications/initialized"))

    def _post(self, message: Message) -> None:
        request(self._place, "POST", self._path, message).close()

    def ask(self, method: str, **params: object) -> Message:
        """See `Conversation`."""
        message = _request(method, params)
        self._post(message)
        return _answer(self._messages, message["id"])

    def leave(self) -> None:
        """Hang up, which ends it."""
        self._stream.close()

    vanish = leave


class SocketSession:
    """MCP on the unix socket, of either era, one message a line."""

    def __init__(self, place: Place, *, modern: bool) -> None:
        self._modern = modern
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.connect(str(place.socket))
        self._lines = self._socket.makefile("rb")
        if not modern:
            self.ask("initialize", **_HELLO)
            self._tell(_notice("notifications/initialized"))

    def ask(self, method: str, **params: object) -> Message:
        """See `Conversation`."""
        message = _request(method, {**params, "_meta": _META} if self._modern else params)
        self._tell(message)
        return _answer((json.loads(line) for line in self._lines), message["id"])

    def _tell(self, message: Message) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def leave(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()

    vanish = leave


class RelaySession:
    """`xidwatch stdio` as a host starts it."""

    def __init__(self, place: Place) -> None:
        self._relay = Relay("--socket", str(place.socket))
        self._relay.shake_hands()

    def ask(self, method: str, **params: object) -> Message:
        """See `Conversation`."""
        message = _request(method, params)
        self._relay.tell(message)
        try:
            answer = self._relay.answer_to(message["id"])
        except AssertionError as error:
            raise TimeoutError(str(error)) from None
        if answer is None:
            raise ConnectionResetError("the relay ended")
        return _answer(iter((answer,)), message["id"])

    def leave(self) -> None:
        """Close its stdin and wait for its end."""
        self._relay.hang_up()
        self._relay.end()

    def vanish(self) -> None:
        """kill -9."""
        self._relay.__exit__(None, None, None)


@contextmanager
def closing(client: Conversation) -> Iterator[Conversation]:
    """Leaves at the end; hangs up when something fails."""
    try:
        yield client
    except BaseException:
        client.vanish()
        raise
    client.leave()
