"""A stand-in for the API server of a cluster: HTTPS on a real socket, with a token.

It keeps Events and the conditions of one node, answers as the real one does for the requests that
xidwatch sends (201, 200, 401, 404, 409, 415), and can be told to answer otherwise.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from daemon.node_reports.cluster import Cluster, in_cluster
from tests.support.certificates import Authority
from tests.support.waiting import DEADLINE_S

NODE = "gpu-17"
EVENTS = "/api/v1/namespaces/default/events"


@dataclass(frozen=True, slots=True)
class Request:
    """What came in."""

    method: str
    path: str
    content_type: str | None
    authorization: str | None
    body: Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer out of the ordinary, for one request."""

    status: int
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)


class FakeApiServer:
    """See the module's docstring. `folder` becomes the folder that kubelet would put into a pod."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[Request] = []
        self.events: dict[str, dict[str, Any]] = {}
        self.conditions: dict[str, dict[str, Any]] = {"Ready": {"type": "Ready", "status": "True"}}
        self.refusals: deque[Refusal] = deque()
        """Taken one a request, before anything else."""
        self.refuse: Callable[[Request], Refusal | None] = lambda request: None
        """Asked for each request after that."""
        self.answers = threading.Event()
        """While it is clear, no request is answered."""
        self.answers.set()
        self.set_token("first-token")
        authority = Authority()
        (folder / "ca.crt").write_bytes(authority.pem)
        certificate, key = folder / "server.crt", folder / "server.key"
        authority.server().write(certificate, key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> FakeApiServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()

    def set_token(self, token: str) -> None:
        """As kubelet replaces it."""
        self.token = token
        (self.folder / "token").write_text(f"{token}\n")

    @property
    def environ(self) -> dict[str, str]:
        """The variables that kubelet sets."""
        port = self._server.server_address[1]
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}

    @property
    def cluster(self) -> Cluster:
        """Where it is."""
        return in_cluster(self.environ, self.folder)

    def answer(self, request: Request) -> tuple[int, Any]:
        """As a real one answers."""
        if request.authorization != f"Bearer {self.token}":
            return 401, {"message": "Unauthorized"}
        if request.method == "PATCH" and request.content_type != self._patch_type(request.path):
            return 415, {"message": "the body of the request was in an unknown format"}
        if request.path.startswith(EVENTS):
            return self._event(request)
        return self._node(request)

    def _patch_type(self, path: str) -> str:
        kind = "merge" if path.startswith(EVENTS) else "strategic-merge"
        return f"application/{kind}-patch+json"

    def _event(self, request: Request) -> tuple[int, Any]:
        if (request.method, request.path) == ("POST", EVENTS):
            name = request.body["metadata"]["name"]
            if name in self.events:
                return 409, {"message": f'events "{name}" already exists'}
            self.events[name] = request.body
            return 201, request.body
        name = request.path.removeprefix(f"{EVENTS}/")
        if request.method != "PATCH" or name not in self.events:
            return 404, {"message": f'events "{name}" not found'}
        self.events[name] = self.events[name] | request.body
        return 200, self.events[name]

    def _node(self, request: Request) -> tuple[int, Any]:
        if (request.method, request.path) == ("GET", f"/api/v1/nodes/{NODE}"):
            return 200, {"kind": "Node", "status": {"conditions": list(self.conditions.values())}}
        if (request.method, request.path) == ("PATCH", f"/api/v1/nodes/{NODE}/status"):
            for entry in request.body["status"]["conditions"]:
                self.conditions[entry["type"]] = entry
            return 200, {"kind": "Node"}
        return 404, {"message": "the server could not find the requested resource"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                content = self.rfile.read(int(self.headers.get("content-length", 0)))
                request = Request(
                    self.command,
                    self.path,
                    self.headers.get("content-type"),
                    self.headers.get("authorization"),
                    json.loads(content) if content else None,
                )
                fake.requests.append(request)
                assert fake.answers.wait(DEADLINE_S)
                refusal = fake.refusals.popleft() if fake.refusals else fake.refuse(request)
                if refusal is not None:
                    self._send(refusal.status, {"message": refusal.message}, refusal.headers)
                else:
                    self._send(*fake.answer(request), {})

            def _send(self, status: int, body: Any, headers: dict[str, str]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = _do

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler
