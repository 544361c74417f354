"""Which requests with a body are let in, at `/mcp` and `/messages/`: bounded in number and in bytes.

A body is read whole before anybody looks at it, and counts until its exchange is over. A request of a
session may outlive the exchange that brought it: it goes on counting there (see `rpc.InFlight`),
since what was parsed from it lives as long, and may be many times its size.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import mcp_types as types
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope

from mcp_server.client import address_of
from mcp_server.quota import OverQuotaError, Quota
from mcp_server.rpc import TOO_MANY, http_error

BODY_LIMIT: Final = 256 * 1024
"""Bytes of a request's body. The longest a client has reason to send is a pasted piece of a log."""
SWALLOWED: Final = 16 * 1024 * 1024
"""Bytes of a refused body that are still read."""
SWALLOW_S: Final = 2.0
SMALL_BYTES: Final = 4 * 1024
"""What every body may have without being counted."""
MAX_REQUESTS: Final = 4_096
"""Room for open requests, shared by address."""
REQUESTS_ALWAYS: Final = 16
MAX_BYTES: Final = 4 * 1024 * 1024
"""Room for the bodies of open requests, shared by address. A usual one has a few hundred bytes."""
BYTES_ALWAYS: Final = 64 * 1024


class BodyTooLargeError(Exception):
    """The body is larger than `BODY_LIMIT`."""


class NoRoomError(Exception):
    """The bodies of open requests use up what they may."""


class Admission:
    """The open requests. Belongs to the event loop."""

    def __init__(self) -> None:
        self._requests = Quota(MAX_REQUESTS, always=REQUESTS_ALWAYS)
        self._bytes = Quota(MAX_BYTES, always=BYTES_ALWAYS)

    @asynccontextmanager
    async def admitted(self, scope: Scope, receive: Receive) -> AsyncIterator[bytes]:
        """The body of this request, which is open for as long as the block runs.

        Raises BodyTooLargeError, OverQuotaError and NoRoomError (see `answer_to`), and ClientDisconnect
        when the client left in the middle.
        """
        address = address_of(scope)
        with self._requests.taken_by(address):
            body = await self._read(address, receive)
            try:
                yield body
            finally:
                self._bytes.give_back(address, _counted(len(body)))

    async def _read(self, address: str, receive: Receive) -> bytes:
        """The whole body, which is counted from then on."""
        body, more = bytearray(), True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                more = bool(message.get("more_body"))
                part = message.get("body", b"")
                if len(body) + len(part) > BODY_LIMIT:
                    raise BodyTooLargeError
                self._bytes.take(address, _counted(len(body) + len(part)) - _counted(len(body)))
                body += part
        except BaseException as error:
            self._bytes.give_back(address, _counted(len(body)))
            body.clear()
            if more and isinstance(error, BodyTooLargeError | OverQuotaError):
                await swallow(receive)
            if isinstance(error, OverQuotaError):
                raise NoRoomError from None
            raise
        return bytes(body)


def _counted(size: int) -> int:
    """What a body of this size counts: small ones are bounded by their number."""
    return max(0, size - SMALL_BYTES)


def answer_to(error: BodyTooLargeError | NoRoomError | OverQuotaError) -> Response:
    """What a client is told whose request is not let in."""
    match error:
        case BodyTooLargeError():
            text = f"Invalid request: the body is longer than {BODY_LIMIT} bytes"
            return http_error(413, types.INVALID_REQUEST, text)
        case NoRoomError():
            return http_error(503, TOO_MANY, "Too much is being read at the moment: try again")
        case OverQuotaError():
            return http_error(429, TOO_MANY, "Too many requests at once")


async def swallow(receive: Receive) -> None:
    """Read the rest of a body that is refused: a client that is cut off while it sends does not see why."""
    left = SWALLOWED
    with suppress(TimeoutError):
        async with asyncio.timeout(SWALLOW_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return
