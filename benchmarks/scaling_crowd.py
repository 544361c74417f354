"""Thousands of clients with an open stream each, in one thread, and when each of them has an event.

Plain sockets from eight addresses of this machine, since the daemon shares its room out by address. What
they are told is thrown away but for a marker, so that the client costs little beside the server.
"""

from __future__ import annotations

import resource
import select
import socket
import time
from collections.abc import Callable, Sequence

from benchmarks.figure import Unavailable

ADDRESSES = 8
PAUSE_S = 0.25
"""Between two events, so that each meets a server at rest."""
DEADLINE_S = 30.0
_FILES = 256
"""Descriptors beside the streams'."""
_CHUNK = 1 << 16


def dial(port: int, number: int) -> socket.socket:
    """A connection to a server of this machine from the address of client `number`."""
    connection = socket.socket()
    connection.settimeout(DEADLINE_S)
    connection.bind((f"127.0.0.{1 + number % ADDRESSES}", 0))
    connection.connect(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def exchanged(connection: socket.socket, request: bytes, until: bytes) -> bytes:
    """Send it; what has come when `until` is there. Raises Unavailable when it does not come."""
    connection.sendall(request)
    answer = b""
    while until not in answer:
        data = connection.recv(_CHUNK)
        if not data:
            raise Unavailable(f"the server closed a connection after {answer[:200]!r}")
        answer += data
    return answer


def subscribed(port: int, number: int) -> socket.socket:
    """A subscriber of /events whose stream has begun."""
    connection = dial(port, number)
    exchanged(connection, f"GET /events HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode(), b"event: hello")
    return connection


class Crowd:
    """Open streams that grow in number; `close` ends them."""

    def __init__(self, port: int, join: Callable[[int, int], socket.socket] = subscribed) -> None:
        """`join` opens the stream of client `number` at a port."""
        self._port, self._join = port, join
        self._streams: dict[int, socket.socket] = {}
        self._poller = select.epoll()

    @property
    def size(self) -> int:
        """Open streams."""
        return len(self._streams)

    def close(self) -> None:
        """Leave, all of them."""
        self._poller.close()
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def grow_to(self, count: int) -> None:
        """Open streams until there are so many. Raises Unavailable."""
        raise_open_files(count + _FILES)
        for number in range(len(self._streams), count):
            try:
                stream = self._join(self._port, number)
            except OSError as error:
                raise Unavailable(f"client {number + 1:,} of {count:,} was refused: {error}") from error
            self._streams[stream.fileno()] = stream
            self._poller.register(stream.fileno(), select.EPOLLIN)

    def latencies_ms(self, cause: Callable[[], bytes]) -> Sequence[float]:
        """ms from one event to each of the clients; `cause` makes it happen and returns its marker."""
        time.sleep(PAUSE_S)
        self._drain()
        began = time.perf_counter()
        marker = cause()
        waiting = set(self._streams)
        latencies: list[float] = []
        while waiting:
            ready = self._poller.poll(DEADLINE_S)
            if not ready:
                raise Unavailable(f"{len(waiting):,} of {len(self._streams):,} clients never had the event")
            for number, _ in ready:
                if marker in self._received(number) and number in waiting:
                    waiting.discard(number)
                    latencies.append((time.perf_counter() - began) * 1000)
        return latencies

    def _drain(self) -> None:
        while ready := self._poller.poll(0):
            for number, _ in ready:
                self._received(number)

    def _received(self, number: int) -> bytes:
        data = self._streams[number].recv(_CHUNK)
        if not data:
            raise Unavailable("the server ended a stream")
        return data


def raise_open_files(wanted: int) -> None:
    """Let this process open so many files. Raises Unavailable."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Unavailable(f"only {hard:,} files may be open, and {wanted:,} are needed")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
