"""As much of a Kubernetes API server as kubectl needs to list pods and to run a command in one.

`exec` is the real protocol (WebSocket, `v5.channel.k8s.io`), and the command is a real process of this
machine: what kubectl sends reaches it, what it writes reaches kubectl, its exit code too.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.daemon import ROOT, clean_environment

PROTOCOL = "v5.channel.k8s.io"
STDIN, STDOUT, STDERR, ERROR, CLOSE = 0, 1, 2, 3, 255
_BINARY, _CLOSE_FRAME, _PING, _PONG = 2, 8, 9, 10
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455
_KIND = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list"]}

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Exec:
    """A command that somebody had run in a pod."""

    namespace: str
    pod: str
    container: str
    command: list[str]
    stdin: bool
    tty: bool


@dataclass(slots=True)
class Cluster:
    """What the server shows, and what was asked of it."""

    pods: list[Object] = field(default_factory=list)
    execs: list[Exec] = field(default_factory=list)
    socket: Path | None = None
    """The socket of the daemon that each pod's `xidwatch` finds."""
    forbids_whole_cluster: bool = False
    """List requests are answered for a single namespace only."""
    port: int = 0

    def pods_at(self, path: str, query: dict[str, list[str]]) -> list[Object]:
        """Those that a list request names."""
        namespace = path.split("/")[4] if "/namespaces/" in path else None
        labels = dict(each.split("=") for each in query.get("labelSelector", [""])[0].split(",") if each)
        fields = dict(each.split("=") for each in query.get("fieldSelector", [""])[0].split(",") if each)
        return [
            pod
            for pod in self.pods
            if labels.items() <= pod["metadata"]["labels"].items()
            and namespace in (None, pod["metadata"]["namespace"])
            and fields.get("spec.nodeName", pod["spec"]["nodeName"]) == pod["spec"]["nodeName"]
        ]

    def kubeconfig(self, directory: Path) -> Path:
        """A file that leads kubectl here."""
        file = directory / "kubeconfig"
        server = {"server": f"http://127.0.0.1:{self.port}"}
        config = {
            **{"apiVersion": "v1", "kind": "Config", "current-context": "test"},
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        file.write_text(json.dumps(config), encoding="utf-8")
        return file


@contextmanager
def api_server(cluster: Cluster) -> Iterator[Cluster]:
    """The server, while the block runs."""

    class Handler(_Handler):
        pass

    Handler.cluster = cluster
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        cluster.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield cluster
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = parts.path.rstrip("/"), parse_qs(parts.query, keep_blank_values=True)
        if path == "/api":
            self._answer({"kind": "APIVersions", "versions": ["v1"]})
        elif path == "/apis":
            self._answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
        elif path == "/api/v1":
            self._answer({"kind": "APIResourceList", "groupVersion": "v1", "resources": [_KIND]})
        elif path.endswith("/exec"):
            self._exec(path, query)
        elif path.endswith("/pods"):
            self._list(path, query)
        else:
            self._one(path)

    def _list(self, path: str, query: dict[str, list[str]]) -> None:
        if self.cluster.forbids_whole_cluster and "/namespaces/" not in path:
            self._refuse(403, "pods is forbidden: cannot list pods at the cluster scope")
            return
        pods = self.cluster.pods_at(path, query)
        self._answer({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods})

    def _one(self, path: str) -> None:
        *_, namespace, _, name = path.split("/")
        for pod in self.cluster.pods:
            if (pod["metadata"]["namespace"], pod["metadata"]["name"]) == (namespace, name):
                self._answer(pod)
                return
        self._refuse(404, f'pods "{name}" not found')

    def _answer(self, body: Object, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, code: int, message: str) -> None:
        self._answer(
            {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code},
            code,
        )

    def _exec(self, path: str, query: dict[str, list[str]]) -> None:
        *_, namespace, _, pod, _ = path.split("/")
        asked = Exec(
            namespace,
            pod,
            query["container"][0],
            query["command"],
            query.get("stdin") == ["true"],
            query.get("tty") == ["true"],
        )
        self.cluster.execs.append(asked)
        self._upgrade()
        Session(self, _in_the_pod(asked.command, self.cluster.socket), with_stdin=asked.stdin).run()
        self.close_connection = True

    def _upgrade(self) -> None:
        digest = hashlib.sha1((self.headers["Sec-WebSocket-Key"] + _MAGIC).encode()).digest()  # noqa: S324 (RFC 6455)
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(digest).decode())
        self.send_header("Sec-WebSocket-Protocol", PROTOCOL)
        self.end_headers()


def _in_the_pod(command: Sequence[str], socket: Path | None) -> list[str]:
    """The command as it runs here: the pod's default socket is that of a test's daemon."""
    program, name, *rest = command
    assert program == "xidwatch"
    return [sys.executable, "-m", "xidwatch", name, *(["--socket", str(socket)] if socket else []), *rest]


class Session:
    """One command, and the connection that its streams go over."""

    def __init__(self, handler: BaseHTTPRequestHandler, command: Sequence[str], *, with_stdin: bool) -> None:
        self._in, self._out = handler.rfile, handler.wfile
        self._writing = threading.Lock()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if with_stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=clean_environment(),
        )

    def run(self) -> None:
        """Until the command has ended and all its words are sent."""
        threading.Thread(target=self._feed, daemon=True).start()
        streams = [(STDOUT, self._process.stdout), (STDERR, self._process.stderr)]
        readers = [threading.Thread(target=self._drain, args=each) for each in streams]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        code = self._process.wait()
        status: Object = {"metadata": {}, "status": "Success"}
        if code:
            cause = {"reason": "ExitCode", "message": str(code)}
            status |= {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [cause]}}
        self._send(_BINARY, bytes([ERROR]) + json.dumps(status).encode())
        self._send(_CLOSE_FRAME, struct.pack(">H", 1000))

    def _feed(self) -> None:
        """What comes for stdin; the end of the connection is the end of the command."""
        stdin = self._process.stdin
        try:
            for kind, data in iter(self._frame, None):
                if kind == _PING:
                    self._send(_PONG, data)
                elif kind == _BINARY and stdin is not None and data[:1] == bytes([STDIN]):
                    stdin.write(data[1:])
                    stdin.flush()
                elif kind == _BINARY and stdin is not None and data == bytes([CLOSE, STDIN]):
                    stdin.close()
                elif kind == _CLOSE_FRAME:
                    break
        except (OSError, ValueError):  # the command is gone, or the connection
            pass
        self._process.kill()

    def _drain(self, channel: int, stream: Any) -> None:
        while chunk := stream.read1(65_536):
            self._send(_BINARY, bytes([channel]) + chunk)

    def _frame(self) -> tuple[int, bytes] | None:
        """Kind and content of the next frame; clients mask theirs."""
        head = self._in.read(2)
        if len(head) < 2:
            return None
        length = head[1] & 0x7F
        if length >= 126:
            wide = self._in.read(2 if length == 126 else 8)
            length = int.from_bytes(wide, "big")
        mask = self._in.read(4)
        data = self._in.read(length)
        return head[0] & 0x0F, bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))

    def _send(self, kind: int, data: bytes) -> None:
        length = len(data)
        if length < 126:
            size = bytes([length])
        elif length < 65_536:
            size = struct.pack(">BH", 126, length)
        else:
            size = struct.pack(">BQ", 127, length)
        with self._writing, contextlib.suppress(OSError):
            self._out.write(bytes([0x80 | kind]) + size + data)
            self._out.flush()
