"""The HTTP server: uvicorn, without its timer, and with an end that does not hang.

* **Idle is idle.** uvicorn's main loop wakes ten times a second to see whether it should exit and
  to refresh its Date header. Here it waits for an event, and `guard` writes the Date.
* **SIGTERM and SIGINT end the process with code 0.** uvicorn raises the signal again once it has
  stopped, which ends as 143 or in a KeyboardInterrupt.
* **Nothing outlives a second.** `on_stop` closes the event stream, which ends every reader, every
  waiting tool and (in `app`) every MCP session; connections that are still open after 0.6 s,
  because their client does not read, are cut.
* **Half a request is not waited for.** uvicorn would for ever; here a request has to be complete
  within 30 s of the connection or of its first byte.
* **Nobody takes every connection.** They are shared by address (see `quota`).
* **A stalled client is cut.** Nothing above TCP bounds a write to a client that stopped reading,
  so the kernel does: accepted sockets inherit TCP_USER_TIMEOUT (5 s) from the listening one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import ClassVar, Final

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from daemon.config import Address
from mcp_server.client import share_of
from mcp_server.quota import OverQuotaError, Quota
from mcp_server.sse_watcher import no_watcher
from probes.errors import UserError

log = logging.getLogger(__name__)

STALLED_CLIENT_MS: Final = 5_000
CUT_AFTER_S: Final = 0.6
"""How long a connection may take to end by itself once the server stops."""
REQUEST_S: Final = 30.0
"""How long a request may take to arrive, body included."""
MAX_CONNECTIONS: Final = 8_192
"""Room for connections, shared by address; one that finds none is closed at once."""
CONNECTIONS_ALWAYS: Final = 64
"""Connections of an address that also find room when all is full: health checks come from elsewhere."""
OPEN_FILES: Final = 16_384
"""Soft limit of open files to ask for: the usual 1,024 would be used up by as many subscribers."""

OTHER_FILES: Final = 2_048
"""Open files that are no HTTP connections: the unix socket's, the journal's, the probes'."""

GC_THRESHOLDS: Final = (10_000, 20, 100)
"""With Python's own (700, 10, 10) a full collection falls into the service every few seconds, and with
1,000 subscribers it takes 0.2 s, in which no event goes out. What has to be collected dies young."""


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises UserError when that cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UserError(
            f"cannot listen on {Address(host, port)}: {error.strerror}", hint="give --listen as ADDRESS:PORT"
        ) from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_CLIENT_MS)
        bound.bind(address)
        # Not left to uvicorn: of two sockets bound with SO_REUSEADDR the second learns only here
        # that the port is taken.
        bound.listen(1024)
    except OSError as error:
        bound.close()
        raise _cannot_listen(host, port, error) from error
    bound.setblocking(False)
    return bound


def _cannot_listen(host: str, port: int, error: OSError) -> UserError:
    hint = {
        errno.EADDRINUSE: "another process has it: see `ss -ltnp`, or choose another with --listen",
        errno.EACCES: "ports below 1024 need root: choose another with --listen",
        errno.EADDRNOTAVAIL: "this machine has no such address: see `ip addr`",
    }.get(error.errno or 0, "choose another with --listen")
    return UserError(f"cannot listen on {Address(host, port)}: {error.strerror}", hint=hint)


class _Protocol(H11Protocol):
    """uvicorn's connection, with a bound on how long a request may take to arrive."""

    room: ClassVar[Quota]
    """What the connections of a listener share."""
    _deadline: asyncio.TimerHandle | None = None
    _address: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        address = share_of(str(peer[0])) if peer else ""
        try:
            self.room.take(address)
        except OverQuotaError:
            transport.abort()
            return
        self._address = address
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        if self._address is not None:
            self.room.give_back(self._address)
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Begin to count while a request is incomplete. (Between requests uvicorn itself counts.)"""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_S, self.transport.abort)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Listener(uvicorn.Server):
    """One HTTP server on a bound socket. Belongs to the event loop that runs it."""

    def __init__(self, app: ASGIApp, bound: socket.socket, *, on_stop: Callable[[], None]) -> None:
        class Protocol(_Protocol):
            room = Quota(_connections_for(_open_files()), always=CONNECTIONS_ALWAYS)

        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=Protocol,
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                # A backstop: CUT_AFTER_S ends everything that can be ended from outside.
                timeout_graceful_shutdown=1,
            )
        )
        self._bound = bound
        self._on_stop = on_stop
        self._stopping = asyncio.Event()

    async def run_until_stopped(self) -> None:
        """Serve until `stop`, SIGTERM or SIGINT (when run in the main thread), then end every stream."""
        # The imports leave half a million objects behind. Out of the collector's sight they no
        # longer cost a tool call tens of milliseconds when a full collection falls into it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        with no_watcher():
            await self.serve(sockets=[self._bound])

    def stop(self) -> None:
        """Begin to stop. From the event loop's thread; asking twice cuts open connections at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        """Wait until asked to stop (uvicorn: look ten times a second)."""
        await self.on_tick(0)
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End every stream, then every connection."""
        self._on_stop()
        cut = asyncio.get_running_loop().call_later(CUT_AFTER_S, self._cut)
        try:
            await super().shutdown(sockets)
        finally:
            cut.cancel()

    def _cut(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT stop the server while the block runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


def _open_files() -> int:
    """Raise the soft limit of open files as far as is wanted and allowed; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return OPEN_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _connections_for(open_files: int) -> int:
    """Room for connections, of which there can be twice as many, beside what else is open."""
    return max(CONNECTIONS_ALWAYS, min(MAX_CONNECTIONS, (open_files - OTHER_FILES) // 2))
