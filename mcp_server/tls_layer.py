"""TLS between a socket and the protocol that speaks through it.

asyncio has a layer of its own. It keeps 256 KiB for every connection from its first byte on (3.11 to 3.14),
drops the alert that tells a client what was wrong with its certificate, and is out of reach until the
handshake is over. Here a connection in its handshake costs what OpenSSL needs, a refused client hears why,
and whoever made the layer can end it at any time.

The layer is the socket's protocol and, to the protocol above, a transport. What is written is encrypted at
once, so the socket's write buffer is the only one, and its limits are the protocol's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final

HANDSHAKE_S: Final = 10.0
"""How long a handshake may take, from the connection on."""
LINGER_S: Final = 1.0
"""How long a refused client has to read why. Closed at once, with bytes of its own on the way, the connection
would be reset, and the alert with it."""
NOT_TLS: Final = b"""HTTP/1.1 400 Bad Request\r
Content-Type: text/plain; charset=utf-8\r
Connection: close\r
\r
this port speaks HTTPS: write https:// in front of the address
"""
_RECORD_BYTES: Final = 16 * 1024
"""The most that one TLS record carries (RFC 8446, 5.1)."""


class TlsLayer(asyncio.Protocol, asyncio.Transport):
    """One connection. It reads nothing until `begin`; the protocol above is connected after the handshake."""

    def __init__(
        self, socket: asyncio.Transport, above: asyncio.Protocol, *, on_failure: Callable[[], None]
    ) -> None:
        """`on_failure` is called when the connection has ended before `above` was connected."""
        asyncio.Transport.__init__(self)
        self._loop = asyncio.get_running_loop()
        self._socket = socket
        self._above: asyncio.BaseProtocol = above
        self._on_failure = on_failure
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._connected = False
        self._closing = False
        self._paused = False
        self._deadline = self._loop.call_later(HANDSHAKE_S, self.abort)
        socket.pause_reading()

    def begin(self, context: ssl.SSLContext) -> None:
        """Shake hands."""
        if self._socket.is_closing():
            return
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._socket.resume_reading()

    # As the socket's protocol.

    def data_received(self, data: bytes) -> None:
        """Encrypted bytes came."""
        if self._closing:
            return
        self._incoming.write(data)
        if self._connected or self._shake_hands():
            self._pass_on()

    def eof_received(self) -> None:
        """The other side will send no more."""
        if self._connected and not self._closing and isinstance(self._above, asyncio.Protocol):
            self._above.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._deadline.cancel()
        self._closing = True
        if self._connected:
            self._above.connection_lost(exc)
        else:
            self._on_failure()

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        if self._connected:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        """It has room again."""
        if self._connected:
            self._above.resume_writing()

    def _shake_hands(self) -> bool:
        """One step; True when that was the last one."""
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            self._refuse(error)
            return False
        self._flush()
        self._deadline.cancel()
        self._connected = True
        self._above.connection_made(self)
        return True

    def _refuse(self, error: ssl.SSLError) -> None:
        """Say why, and wait a little for the client to have read it."""
        self._closing = True
        self._deadline.cancel()
        if error.reason == "HTTP_REQUEST":
            self._socket.write(NOT_TLS)
        else:
            self._flush()  # the alert
        if not self._socket.is_closing():
            self._socket.write_eof()
            self._deadline = self._loop.call_later(LINGER_S, self.abort)

    def _pass_on(self) -> None:
        """Give the protocol above what has been decrypted, unless it wants no more for now."""
        assert self._tls is not None
        assert isinstance(self._above, asyncio.Protocol)
        while not (self._paused or self._closing or self._socket.is_closing()):
            try:
                data = self._tls.read(_RECORD_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError:
                self.abort()
                return
            if not data:  # the other side has said that it is done
                self._above.eof_received()
                self.close()
                return
            self._above.data_received(data)
        self._flush()

    def _flush(self) -> None:
        if (data := self._outgoing.read()) and not self._socket.is_closing():
            self._socket.write(data)

    # As the transport of the protocol above.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._closing or not data:
            return
        assert self._tls is not None
        try:
            self._tls.write(data)
        except ssl.SSLError:
            self.abort()
        else:
            self._flush()

    def close(self) -> None:
        """Send what is buffered, say that it was all, and close; the other side's word is not waited for."""
        if self._closing:
            return
        self._closing = True
        if self._tls is not None:
            with contextlib.suppress(ssl.SSLError):  # it asks for the other side's word
                self._tls.unwrap()
            self._flush()
        self._socket.close()

    def abort(self) -> None:
        """Close at once."""
        self._socket.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing or self._socket.is_closing()

    def pause_reading(self) -> None:
        """Pass nothing on for now."""
        self._paused = True
        self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Pass on what came meanwhile, and what comes."""
        if self._paused:
            self._paused = False
            self._socket.resume_reading()
            self._loop.call_soon(self._pass_on)

    def is_reading(self) -> bool:
        """Whether it passes on what comes."""
        return self._socket.is_reading()

    def can_write_eof(self) -> bool:
        """False: in TLS one side cannot be closed alone."""
        return False

    def get_write_buffer_size(self) -> int:
        """Encrypted bytes that the kernel has not taken yet."""
        return self._socket.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Low and high mark of the socket's buffer."""
        return self._socket.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set them."""
        self._socket.set_write_buffer_limits(high, low)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol above."""
        return self._above

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give its place to another one."""
        self._above = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object`, `sslcontext`, `peercert`, `cipher` once connected; the socket's own else."""
        if self._tls is None or not self._connected:
            return self._socket.get_extra_info(name, default)
        match name:
            case "ssl_object":
                return self._tls
            case "sslcontext":
                return self._tls.context
            case "peercert":
                return self._tls.getpeercert()
            case "cipher":
                return self._tls.cipher()
        return self._socket.get_extra_info(name, default)
