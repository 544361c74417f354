"""The real server on real sockets, in a thread of its own, and simple clients for it.

Events are put straight into the stream, whose ring is real. A server with a `state_dir` has the
real store, with a small ring in front of its journal.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from daemon.event import Event, Gpu, Item
from daemon.gpu.off import OffSource
from daemon.gpu.source import GpuSource
from daemon.gpu.watch import GpuWatch
from daemon.outlet import OutletHealth
from daemon.ring import Ring
from daemon.store import Store
from daemon.stream import EventStream
from mcp_server.access import Access
from mcp_server.app import build_app
from mcp_server.hello import Channel
from mcp_server.listener import Listener, bind
from mcp_server.server import build_server
from mcp_server.services import Counters, Services
from mcp_server.tls import Tls
from mcp_server.tls_files import TlsFiles
from mcp_server.unix_socket import LetGo, unix_socket
from probes.health import ProbeHealth
from tests.mcp_server.samples import STATUS
from tests.support.waiting import DEADLINE_S

FIRST_CURSOR = 1_000
SMALL_RING = 64
HEARING = ProbeHealth("kmsg", hears=True, live=True, counters={"records": 7, "lost": 3})


class Served:
    """A running server. `health`, `gpus` and `outlets` may be changed while it runs."""

    def __init__(
        self,
        *,
        socket_path: Path | None = None,
        listen_host: str = "127.0.0.1",
        idle_s: float = 15.0,
        state_dir: Path | None = None,
        gpus_of: GpuSource | None = None,
        let_go_of_driver: LetGo | None = None,
        access: Access | None = None,
        port: int = 0,
        tls: TlsFiles | None = None,
    ) -> None:
        """`gpus_of` reads the GPUs; without it nobody looks at any."""
        self.health: Sequence[ProbeHealth] = (HEARING,)
        self.gpus: Sequence[Gpu] = ()
        self.outlets: Sequence[OutletHealth] = ()
        self.socket_path = socket_path
        self._listen_host = listen_host
        self._idle_s = idle_s
        self._state_dir = state_dir
        self._gpus_of = gpus_of or OffSource("no test asked for GPUs")
        self._let_go_of_driver = let_go_of_driver
        self._access = access or Access()
        self._wanted_port = port
        self._tls_files = tls
        self._store: Store | None = None
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="server")
        self.failure: BaseException | None = None
        self.stop_listening: Callable[[], None] | None = None

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._up.wait(DEADLINE_S), "the server did not come up"
        if self.failure is not None:
            self._thread.join()
            raise self.failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server and wait until it has."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.listener.stop)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the server did not stop"

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        if self._state_dir is None:
            self.stream = EventStream(Ring(4096), first_cursor=FIRST_CURSOR)
        else:
            self._store = Store.open(self._state_dir, ring_size=SMALL_RING)
            self.stream = self._store.stream
        self.tls = Tls(self._tls_files) if self._tls_files else None
        self.services = Services(
            node="gpu-17",
            version="0.0.test",
            listen_host=self._listen_host,
            stream=self.stream,
            status=lambda: STATUS,
            health=lambda: self.health,
            counters=lambda: Counters(forged_lines=2),
            access=self._access,
            gpus=lambda: self.gpus,
            outlets=lambda: self.outlets,
            tls=lambda: None if self.tls is None else self.tls.report(),
            watch=GpuWatch(
                self._gpus_of, recent_events=self._recent_events, wall_us=lambda: time.time_ns() // 1000
            ),
        )
        try:
            async with AsyncExitStack() as stack:
                if self._store is not None:
                    stack.push_async_callback(self._store.close)
                server = build_server(self.services)
                app = self.app = build_app(self.services, server, idle_s=self._idle_s)
                if self.socket_path is not None:
                    servers = {None: server, Channel.CLAUDE: build_server(self.services, channel=True)}
                    serving = unix_socket(
                        self.socket_path,
                        self.services,
                        servers.__getitem__,
                        let_go_of_driver=self._let_go_of_driver,
                    )
                    self.stop_listening = await stack.enter_async_context(serving)
                bound = bind("127.0.0.1", self._wanted_port)
                self.port: int = bound.getsockname()[1]
                self.listener = Listener(app, bound, on_stop=self.stream.close, tls=self.tls)
                self.loop.call_soon(self._up.set)
                await self.listener.run_until_stopped()
        except BaseException as failure:
            self.failure = failure
            self._up.set()

    async def _recent_events(self) -> Sequence[Event]:
        return [item.event for item in (await self.stream.page(None, 1000)).items]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def publish(self, *events: Event, stored: bool = True) -> int:
        """Put events into the stream; returns the newest cursor afterwards (0 with a store: it is still
        committing)."""

        async def put() -> int:
            self.services.watch.heard(events)
            if self._store is not None:
                self._store.put(events)
                return 0
            first = max(self.stream.newest + 1, FIRST_CURSOR)
            self.stream.publish(
                [Item.of(cursor, event, stored=stored) for cursor, event in enumerate(events, first)]
            )
            return self.stream.newest

        return asyncio.run_coroutine_threadsafe(put(), self.loop).result(DEADLINE_S)

    def get(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        body: bytes | None = None,
    ) -> Reply:
        """One request, answered in full."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    @contextmanager
    def events(self, query: str = "", headers: Mapping[str, str] | None = None) -> Iterator[SseReader]:
        """A reader of /events, past its hello."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S) as connection:
            lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
            request = f"GET /events{query} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{lines}\r\n"
            connection.sendall(request.encode())
            yield SseReader(connection)


class Reply:
    """An answered request."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class SseReader:
    """Frames of a stream, as dicts of their fields; reads no further than it is asked to."""

    def __init__(self, connection: socket.socket) -> None:
        self._lines = connection.makefile("rb")
        self.status = int(self._lines.readline().split()[1])
        while self._lines.readline() not in (b"\r\n", b""):
            pass
        self.hello = self.frame()

    def frame(self) -> dict[str, str]:
        """The next frame; {} at the end of the stream."""
        frame: dict[str, str] = {}
        while line := self._line():
            if line == "\n":
                if frame:
                    return frame
                continue
            name, _, value = line.rstrip("\n").partition(": ")
            frame[name or "comment"] = value
        return {}

    def _line(self) -> str:
        """A line of the body; chunk sizes are skipped."""
        while True:
            line = self._lines.readline()
            if line.endswith(b"\r\n"):
                if line != b"\r\n" and int(line, 16) == 0:
                    return ""
                continue
            return line.decode()
