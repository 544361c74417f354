"""MCP as bytes on each transport, where an answer is told from silence: for messages that nobody should send.

Each wire delivers one message and gives what it was answered with: JSON-RPC messages, none for what wants no
answer. That nothing comes is known from a `ping` behind the message that is answered.
"""

from __future__ import annotations

import itertools
import json
import socket
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from tests.mcp_server.speaking import (
    INITIALIZE,
    INITIALIZED,
    MODERN,
    Exchange,
    Session,
    SseSession,
    sse_session,
)
from tests.support.daemon import Daemon
from tests.support.waiting import DEADLINE_S

Json = dict[str, Any]
_marks = itertools.count(1)


class Wire(ABC):
    """One client on one transport. It goes on after every message, whatever that was."""

    @abstractmethod
    def exchange(self, message: bytes, *, wants_answer: bool) -> list[Json]:
        """Deliver a message; every message with which it is answered."""

    @abstractmethod
    def close(self) -> None:
        """Leave."""


class SocketWire(Wire):
    """A session on the unix socket."""

    def __init__(self, daemon: Daemon) -> None:
        self._late = LateAnswers()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE_S)
        self._socket.connect(str(daemon.socket))
        self._lines = self._socket.makefile("rb")
        self._send(json.dumps(INITIALIZE).encode())
        assert "result" in self._next()
        self._send(json.dumps(INITIALIZED).encode())

    def exchange(self, message: bytes, *, wants_answer: bool) -> list[Json]:
        self._send(message)
        answers = answers_before_a_ping(self._send, self._next, wants_answer=wants_answer)
        return self._late.left_out(message, answers)

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def _send(self, message: bytes) -> None:
        self._socket.sendall(message + b"\n")

    def _next(self) -> Json:
        line = self._lines.readline()
        assert line, "the daemon ended the session"
        answer: Json = json.loads(line)
        return answer


class SseWire(Wire):
    """A session of the older HTTP+SSE transport."""

    def __init__(self, daemon: Daemon) -> None:
        self._late = LateAnswers()
        self._stack = ExitStack()
        self._session: SseSession = self._stack.enter_context(sse_session(daemon.port))

    def exchange(self, message: bytes, *, wants_answer: bool) -> list[Json]:
        with self._session.post(message) as posted:
            if posted.head().status != 202:
                return [posted.json()]
        answers = answers_before_a_ping(self._session.tell, self._session.message, wants_answer=wants_answer)
        return self._late.left_out(message, answers)

    def close(self) -> None:
        self._stack.close()


class SessionWire(Wire):
    """A session of the 2025 eras on /mcp."""

    def __init__(self, daemon: Daemon) -> None:
        self._session = Session(daemon.port)

    def exchange(self, message: bytes, *, wants_answer: bool) -> list[Json]:
        headers = {"Mcp-Session-Id": self._session.id, "MCP-Protocol-Version": "2025-11-25"}
        with Exchange(self._session.port, "POST", "/mcp", message, headers) as answer:
            return read_answer(answer)

    def close(self) -> None:
        self._session.delete()


class ModernWire(Wire):
    """Single exchanges of 2026-07-28. What the protocol wants repeated in headers is repeated."""

    def __init__(self, daemon: Daemon) -> None:
        self._port = daemon.port

    def exchange(self, message: bytes, *, wants_answer: bool) -> list[Json]:
        with Exchange(self._port, "POST", "/mcp", message, modern_headers(message)) as answer:
            return read_answer(answer)

    def close(self) -> None:
        """There is nothing to leave."""


class LateAnswers:
    """Answers to earlier messages. What is no request by the book and taken for one all the same is not
    waited for, so that its answer may come behind that to the ping."""

    def __init__(self) -> None:
        self._unanswered: Counter[str] = Counter()

    def left_out(self, message: bytes, answers: list[Json]) -> list[Json]:
        """The answers without those that an earlier message was still owed."""
        own = _id_of(message)
        kept: list[Json] = []
        for answer in answers:
            to = json.dumps(answer.get("id"))
            if self._unanswered[to] and (to != own or kept):
                self._unanswered[to] -= 1
            else:
                kept.append(answer)
        if own is not None and not kept:
            self._unanswered[own] += 1
        return kept


def _id_of(message: bytes) -> str | None:
    try:
        read = json.loads(message)
    except (ValueError, RecursionError):
        return None
    return json.dumps(read.get("id")) if isinstance(read, dict) and "id" in read else None


WIRES: Mapping[str, Callable[[Daemon], Wire]] = {
    "unix socket": SocketWire,
    "/sse": SseWire,
    "/mcp session": SessionWire,
    "/mcp 2026-07-28": ModernWire,
}
"""Every wire by its name."""


def answers_before_a_ping(
    send: Callable[[Any], None], receive: Callable[[], Json], *, wants_answer: bool
) -> list[Json]:
    """What comes up to the answer to a ping that is sent now, and at least one answer where one is wanted."""
    mark = f"mark {next(_marks)}"
    ping = {"jsonrpc": "2.0", "id": mark, "method": "ping"}
    send(json.dumps(ping).encode() if send.__name__ == "_send" else ping)
    answers: list[Json] = []
    is_marked = False
    while not is_marked or (wants_answer and not answers):
        message = receive()
        if message.get("id") == mark:
            is_marked = True
        elif "method" not in message:  # no push
            answers.append(message)
    return answers


def read_answer(answer: Exchange) -> list[Json]:
    """The JSON-RPC messages of an HTTP answer, and that its status belongs to them."""
    status = answer.head().status
    assert status < 500, status
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        return [message for message in answer.messages() if "method" not in message]
    body = answer.body()
    if status == 202:
        assert body in (b"", b"null"), body
        return []
    message: Json = json.loads(body)
    assert ("error" in message) == (status >= 400) or status == 200, (status, message)
    return [message]


def modern_headers(message: bytes) -> dict[str, str]:
    """The headers that 2026-07-28 wants beside this message, as far as they can be written."""
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "ping"}
    try:
        read = json.loads(message)
    except (ValueError, RecursionError):
        return headers
    if not isinstance(read, dict):
        return headers
    params = read.get("params")
    params = params if isinstance(params, dict) else {}
    named = {"Mcp-Method": read.get("method"), "Mcp-Name": params.get("name", params.get("uri"))}
    return headers | {
        name: value
        for name, value in named.items()
        if isinstance(value, str) and value.isascii() and value.isprintable() and value == value.strip() != ""
    }
