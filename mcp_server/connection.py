"""One HTTP connection, from the moment it is accepted.

`Entrance` gives it a place in the room, or closes it before it costs anything, and puts TLS in between where
that is asked for. `HttpConnection` is uvicorn's, with bounds on how long a request may take to arrive. All
deadlines belong to connections that wait for something; there is none while nobody is connected.

Over TLS the scope of a request holds the ASGI TLS extension, with the name of the client's certificate:
`scope["extensions"]["tls"]["client_cert_name"]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from mcp_server.client import share_of
from mcp_server.room import Room, Seat

if TYPE_CHECKING:
    from mcp_server.tls import Tls

HEAD_S: Final = 10.0
"""How long the head of a request may take to arrive, from the connection or the answer before it."""
BODY_S: Final = 30.0
"""How long its body may take, from the end of its head."""


class HttpConnection(H11Protocol):
    """uvicorn's connection. `seat` is to be set before it is connected."""

    seat: Seat
    _deadline: asyncio.TimerHandle | None = None
    _awaited: object = None
    """The state of the request that the deadline is for."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """It is connected, and encrypted where it is to be."""
        super().connection_made(transport)
        encrypted = transport.get_extra_info("ssl_object")
        if isinstance(encrypted, ssl.SSLObject):
            self.app = _with_extension(self.app, _tls_extension(encrypted))
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Some of a request came."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """A request is answered; another one may follow."""
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP: say so where an answer may still be given, and close. A request that it came
        with gets no other one. (In uvicorn each of the two attempts would end in a traceback.)"""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        with contextlib.suppress(h11.LocalProtocolError):  # an answer has begun; one to HEAD holds no text
            super().send_400_response(msg)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._unwatch()
        self.seat.leave()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Begin to count when a request, or the rest of it, begins to be awaited."""
        state = self.conn.their_state
        if self.transport.is_closing() or state is self._awaited:
            return
        self._unwatch()
        self._awaited = state
        if state in (h11.IDLE, h11.SEND_BODY):
            self.seat.waits()
            limit = HEAD_S if state is h11.IDLE else BODY_S
            self._deadline = self.loop.call_later(limit, self.transport.abort)
        else:
            self.seat.answered()

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Entrances:
    """Makes the entrances of one listener, and holds what they share."""

    def __init__(self, room: Room, tls: Tls | None) -> None:
        self.room = room
        self.tls = tls
        self.shaking_hands: set[asyncio.Task[None]] = set()

    def new(self, **uvicorns: Any) -> Entrance:
        """The first protocol of a new connection; what uvicorn gives goes to the second one."""
        return Entrance(self, lambda: HttpConnection(**uvicorns))


class Entrance(asyncio.Protocol):
    """The protocol of a connection that was accepted a moment ago."""

    def __init__(self, shared: Entrances, make_http: Callable[[], HttpConnection]) -> None:
        self._shared = shared
        self._make_http = make_http

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Hand it on, when there is a place."""
        peer = transport.get_extra_info("peername")
        seat = self._shared.room.enter(share_of(str(peer[0])) if peer else "", transport.abort)
        if seat is None:
            transport.abort()
            return
        http = self._make_http()
        http.seat = seat
        if self._shared.tls is None:
            transport.set_protocol(http)
            http.connection_made(transport)
        else:
            self._secure(transport, http, self._shared.tls)

    def _secure(self, transport: asyncio.Transport, http: HttpConnection, tls: Tls) -> None:
        def failed() -> None:
            tls.failed_handshakes += 1
            http.seat.leave()

        from mcp_server.tls_layer import TlsLayer  # noqa: PLC0415  # only where HTTPS is asked for

        layer = TlsLayer(transport, http, on_failure=failed)
        transport.set_protocol(layer)

        async def shake_hands() -> None:
            layer.begin(await tls.context())

        task = asyncio.get_running_loop().create_task(shake_hands(), name="tls handshake")
        self._shared.shaking_hands.add(task)
        task.add_done_callback(self._shared.shaking_hands.discard)


def _tls_extension(encrypted: ssl.SSLObject) -> dict[str, object]:
    from mcp_server.certificate import of_peer  # noqa: PLC0415  # only where HTTPS is asked for

    found = encrypted.getpeercert()
    client = of_peer(found) if found else None
    cipher = encrypted.cipher()
    return {
        "client_cert_name": client and (client.subject or ", ".join(client.names)),
        "client_cert_names": list(client.names) if client else [],
        "tls_version": encrypted.version(),
        "cipher": cipher and cipher[0],
    }


def _with_extension(app: Callable[..., Any], extension: dict[str, object]) -> ASGIApp:
    async def with_extension(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"] = {**scope.get("extensions", {}), "tls": extension}
        await app(scope, receive, send)

    return with_extension
