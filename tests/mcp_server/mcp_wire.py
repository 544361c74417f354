"""MCP over HTTP without a client library: what goes over the wire, message by message."""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.mcp_server.serving import Served
from tests.support.waiting import DEADLINE_S

ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
_ids = itertools.count(1)


class RefusedError(Exception):
    """The answer was a JSON-RPC error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.message: str = error["message"]


class Messages:
    """The JSON-RPC messages of one HTTP response, which stays open as long as the server wants."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status

    def next(self) -> dict[str, Any]:
        """The next message; {} at the end."""
        if "event-stream" not in (self._response.getheader("content-type") or ""):
            body = self._response.read()
            return json.loads(body) if body else {}
        while line := self._response.readline():
            if line.startswith(b"data: ") and line.strip() != b"data:":
                message: dict[str, Any] = json.loads(line[6:])
                return message
        return {}

    def close(self) -> None:
        self._connection.close()


def send(served: Served, method: str, body: object | None, headers: dict[str, str]) -> Messages:
    """One request to /mcp."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=DEADLINE_S)
    given = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json", **headers}
    connection.request(method, "/mcp", body=None if body is None else json.dumps(body), headers=given)
    return Messages(connection, connection.getresponse())


class OldSession:
    """A session of the 2025 eras."""

    def __init__(self, served: Served, version: str = "2025-11-25", *, ready: bool = True) -> None:
        self._served = served
        self._headers = {"MCP-Protocol-Version": version}
        params = {
            "protocolVersion": version,
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        }
        body = {"jsonrpc": "2.0", "id": next(_ids), "method": "initialize", "params": params}
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=DEADLINE_S)
        headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        connection.request("POST", "/mcp", body=json.dumps(body), headers=headers)
        response = connection.getresponse()
        self._headers["Mcp-Session-Id"] = response.getheader("mcp-session-id") or ""
        self.welcome: dict[str, Any] = Messages(connection, response).next()["result"]
        connection.close()
        self.stream: Messages | None = None
        if ready:
            self.get_ready()

    def get_ready(self) -> None:
        """Open the GET stream, on which the server pushes, and end the handshake. From here on it does."""
        self.stream = send(self._served, "GET", None, self._headers)
        self.notify("notifications/initialized")
        self.ask("ping")  # answered after the notification was taken

    def notify(self, method: str, params: dict[str, Any] | None = None) -> None:
        send(
            self._served, "POST", {"jsonrpc": "2.0", "method": method, "params": params or {}}, self._headers
        ).close()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a request. Raises RefusedError."""
        body = {"jsonrpc": "2.0", "id": next(_ids), "method": method, "params": params}
        answer = send(self._served, "POST", body, self._headers)
        message = answer.next()
        answer.close()
        return _result(message)

    def pushed(self) -> dict[str, Any]:
        """The next message that the server pushes; {} at the end."""
        assert self.stream is not None
        return self.stream.next()

    def end(self) -> None:
        """End the session."""
        send(self._served, "DELETE", None, self._headers).close()
        self.hang_up()

    def hang_up(self) -> None:
        if self.stream is not None:
            self.stream.close()


@contextmanager
def old_session(served: Served, version: str = "2025-11-25") -> Iterator[OldSession]:
    """A session that is ended at the end."""
    session = OldSession(served, version)
    try:
        yield session
    finally:
        session.hang_up()


def modern(served: Served, method: str, meta: dict[str, Any] | None = None, **params: Any) -> Messages:
    """A request of 2026-07-28."""
    body = {
        "jsonrpc": "2.0",
        "id": f"r{next(_ids)}",
        "method": method,
        "params": {**params, "_meta": {**ENVELOPE, **(meta or {})}},
    }
    headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method}
    if isinstance(name := params.get("name") or params.get("uri"), str):
        headers["Mcp-Name"] = name
    return send(served, "POST", body, headers)


def ask_modern(served: Served, method: str, **params: Any) -> dict[str, Any]:
    """The result of a request of 2026-07-28. Raises RefusedError."""
    answer = modern(served, method, **params)
    message = answer.next()
    answer.close()
    return _result(message)


def _result(message: dict[str, Any]) -> dict[str, Any]:
    if "error" in message:
        raise RefusedError(message["error"])
    result: dict[str, Any] = message["result"]
    return result


class Listener:
    """A `subscriptions/listen` stream, past its acknowledgement."""

    def __init__(self, served: Served, *uris: str, **meta: Any) -> None:
        wanted = {"resourceSubscriptions": [*uris], "toolsListChanged": True}
        keyed = {f"xidwatch/{name}": value for name, value in meta.items()}
        self._messages = modern(served, "subscriptions/listen", keyed, notifications=wanted)
        first = self._messages.next()
        if "error" in first:
            raise RefusedError(first["error"])
        assert first["method"] == "notifications/subscriptions/acknowledged"
        self.acknowledged: dict[str, Any] = first["params"]
        self.id = self.acknowledged["_meta"][SUBSCRIPTION_ID]

    def next(self) -> dict[str, Any]:
        """The next message; {} at the end."""
        return self._messages.next()

    def update(self) -> tuple[str, dict[str, Any]]:
        """URI and `_meta` of the next update."""
        message = self.next()
        assert message["method"] == "notifications/resources/updated", message
        params = message["params"]
        assert params["_meta"][SUBSCRIPTION_ID] == self.id
        return params["uri"], params["_meta"]

    def events(self, number: int) -> list[dict[str, Any]]:
        """The events of the next updates."""
        return [self.update()[1]["xidwatch/event"] for _ in range(number)]

    def close(self) -> None:
        self._messages.close()
