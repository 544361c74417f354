"""A real web server that takes what sinks send, and answers as a test wants: well, badly, or never."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.support.waiting import DEADLINE_S, wait_for


@dataclass(frozen=True, slots=True)
class Received:
    """One POST."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a webhook's body."""
        events: list[dict[str, Any]] = self.json["events"]
        return events

    @property
    def ids(self) -> list[str]:
        """Their ids."""
        return [event["id"] for event in self.events]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server does with a POST."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    closes: bool = False
    """Close the connection without an answer."""
    hangs: bool = False
    """Give no answer until the test ends."""


class Receiver:
    """The server, on a port of its own; `answer` may be changed while it runs."""

    def __init__(self, answer: Callable[[Received], Answer] | None = None) -> None:
        self.answer: Callable[[Received], Answer] = answer or (lambda received: Answer())
        self.received: list[Received] = []
        """Every POST, also those that were refused."""
        self.taken: list[Received] = []
        """Those answered with a 2xx."""
        self.ended = threading.Event()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.stop()

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, at the same port as ever."""
        self._server = _Server(("127.0.0.1", self.port), self)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and close those that are open."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    @property
    def taken_ids(self) -> list[str]:
        """Ids of the events that were taken, in the order of their coming."""
        return [event_id for each in self.taken for event_id in each.ids]

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Until it is true."""
        wait_for(lambda: bool(condition()), what)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], receiver: Receiver) -> None:
        self.receiver = receiver
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._open):
            self.shutdown_request(connection)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        receiver = self.server.receiver
        body = self.rfile.read(int(self.headers["content-length"]))
        received = Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        receiver.received.append(received)
        answer = receiver.answer(received)
        if answer.hangs:
            receiver.ended.wait(DEADLINE_S)
        if answer.hangs or answer.closes:
            self.close_connection = True
            return
        if 200 <= answer.status < 300:
            receiver.taken.append(received)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Silence."""
