"""The HTTP server: uvicorn, without its timer, and with an end that does not hang.

* **Idle is idle.** uvicorn's main loop wakes ten times a second to see whether it should exit and
  to refresh its Date header. Here it waits for an event, and `guard` writes the Date.
* **SIGTERM, SIGINT and SIGHUP end the process with code 0.** uvicorn raises the signal again once it has
  stopped, which ends as 143 or in a KeyboardInterrupt. A second one cuts what is still open; once nothing is,
  it changes nothing: the rest of the process closes in order.
* **Nothing outlives a second.** `on_stop` closes the event stream, which ends every reader, every
  waiting tool and (in `app`) every MCP session; connections that are still open after 0.6 s,
  because their client does not read, are cut.
* **Half a request is not waited for.** uvicorn would for ever; see `connection`.
* **Nobody takes every connection, nor every turn.** They are shared by address, and those that only wait make
  room (see `room`); no more than a few are accepted before the readers of events have their turn again.
* **HTTPS where it is asked for** (see `tls`).
* **Connections never take every descriptor** (see `descriptors` and `acceptor`).
* **A stalled client is cut.** Nothing above TCP bounds a write to a client that stopped reading,
  so the kernel does: accepted sockets inherit TCP_USER_TIMEOUT (5 s) from the listening one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import uvicorn
from starlette.types import ASGIApp

from daemon.config import Address
from mcp_server import signals
from mcp_server.acceptor import Acceptor
from mcp_server.connection import Entrances
from mcp_server.descriptors import for_http, open_files
from mcp_server.room import Room
from mcp_server.sse_watcher import no_watcher
from probes.errors import UserError

if TYPE_CHECKING:
    from mcp_server.tls import Tls

log = logging.getLogger(__name__)

STALLED_CLIENT_MS: Final = 5_000
CUT_AFTER_S: Final = 0.6
"""How long a connection may take to end by itself once the server stops."""
MAX_CONNECTIONS: Final = 8_192
"""Room for connections, shared by address; one that finds none is closed at once."""
CONNECTIONS_ALWAYS: Final = 64
"""Connections of an address that also find room when all is full: health checks come from elsewhere."""
MAX_WAITING_CONNECTIONS: Final = 1_024
"""Connections that have not brought a whole request. In a TLS handshake each holds some 80 KB."""
KEPT_S: Final = 5
"""How long a connection is kept for another request."""
ACCEPTED_AT_ONCE: Final = 16
"""Connections that are accepted in one turn of the event loop, before others have theirs."""
KEPT_BY_KERNEL: Final = 1_024
"""Connections that wait to be accepted."""
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
        bound.listen(KEPT_BY_KERNEL)
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


class Listener(uvicorn.Server):
    """One HTTP server on a bound socket. Belongs to the event loop that runs it."""

    def __init__(
        self,
        app: ASGIApp,
        bound: socket.socket,
        *,
        on_stop: Callable[[], None],
        tls: Tls | None = None,
    ) -> None:
        """`tls`: None for plain HTTP."""
        self.room = Room(
            for_http(open_files(), MAX_CONNECTIONS),
            always=CONNECTIONS_ALWAYS,
            waiting=MAX_WAITING_CONNECTIONS,
        )
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=Entrances(self.room, tls).new,  # type: ignore[arg-type]  # it only calls it
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="error",  # a warning is what a client sent that is no HTTP: as many as it likes
                backlog=ACCEPTED_AT_ONCE,
                timeout_keep_alive=KEPT_S,
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
        """Serve until `stop` or a signal (when run in the main thread), then end every stream."""
        # The imports leave half a million objects behind. Out of the collector's sight they no
        # longer cost a tool call tens of milliseconds when a full collection falls into it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        with no_watcher():
            await self.serve(sockets=[self._bound])

    def stop(self) -> None:
        """Begin to stop. From the event loop's thread; asking twice cuts open connections at once."""
        if self.should_exit:
            # Not uvicorn's `force_exit`: that leaves the application without its own end.
            self.room.end_all()
        self.should_exit = True
        self._stopping.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup([])
        # uvicorn closes what it finds here and asks nothing else of it.
        self.servers = [Acceptor(self._bound, self._new_connection, at_once=self.config.backlog)]  # type: ignore[list-item]  # it is closed like one

    def _new_connection(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn does
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

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
        self.room.end_all()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let the signals stop the server while the block runs, and do nothing after it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        ending = signals.ending()
        for number in ending:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in ending:
                loop.add_signal_handler(number, _is_ending)


def _is_ending() -> None:
    """Asked to end by one more signal while the end is under way."""
