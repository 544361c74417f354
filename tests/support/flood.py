"""Connections that want nothing: opened as fast as the kernel lets, and fed a byte now and then."""

from __future__ import annotations

import errno
import resource
import selectors
import socket

HALF_OF_HTTP = b"GET /events HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
HALF_OF_TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The first bytes of a record with a ClientHello of 508 bytes."""
FILES = 12_000
"""Open files that ten thousand connections need."""


def has_files(wanted: int = FILES) -> bool:
    """Whether this process may open so many; raises its soft limit to that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        return False
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return True


class Flood:
    """Connections from several addresses of 127.0.0.0/8, all in one thread."""

    def __init__(self, port: int, start: bytes, addresses: int) -> None:
        """`start` is what each one sends first; they come from 127.0.0.2 and so on."""
        self._port = port
        self._start = start
        self._addresses = addresses
        self._selector = selectors.DefaultSelector()
        self._open: set[socket.socket] = set()
        self.attempts = 0
        self.connected = 0
        """Attempts that became connections, cut or not."""
        self.cut = 0
        """Connections that the other side ended."""

    @property
    def open(self) -> int:
        """Those that are neither cut nor refused."""
        return len(self._open)

    def add(self, count: int) -> None:
        """Try to open so many more."""
        for _ in range(count):
            connection = socket.socket()
            connection.setblocking(False)
            # Only the address is chosen: the port is left to connect, which finds one for each destination.
            connection.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            connection.bind((f"127.0.0.{2 + self.attempts % self._addresses}", 0))
            self.attempts += 1
            code = connection.connect_ex(("127.0.0.1", self._port))
            assert code in (0, errno.EINPROGRESS), errno.errorcode[code]
            self._open.add(connection)
            self._selector.register(connection, selectors.EVENT_WRITE)
        self.pump()

    def pump(self, wait_s: float = 0.0) -> None:
        """Greet what has been connected, and notice what was cut."""
        while ready := self._selector.select(wait_s):
            wait_s = 0.0
            for key, events in ready:
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if events & selectors.EVENT_WRITE:
                    self._selector.modify(connection, selectors.EVENT_READ)
                    self.connected += 1
                    self._send(connection, self._start)
                else:
                    self._read(connection)

    def drip(self) -> None:
        """Send one byte on each."""
        for connection in list(self._open):
            self._send(connection, b"x")
        self.pump()

    def close(self) -> None:
        """End them all."""
        for connection in list(self._open):
            self._end(connection)
        self._selector.close()

    def _send(self, connection: socket.socket, data: bytes) -> None:
        try:
            connection.send(data)
        except BlockingIOError:
            pass
        except OSError:
            self.cut += 1
            self._end(connection)

    def _read(self, connection: socket.socket) -> None:
        try:
            if connection.recv(4096):
                return
        except OSError:
            pass
        self.cut += 1
        self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        self._open.discard(connection)
        self._selector.unregister(connection)
        connection.close()


_IP_BIND_ADDRESS_NO_PORT = 24
"""linux/in.h, since 4.2; the socket module has it from Python 3.12 on."""
