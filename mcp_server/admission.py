"""Which requests with a body are let in, at `/mcp` and `/messages/`: bounded in number and in bytes.

A body is read whole before anybody looks at it. It counts until its request has been answered: what
was parsed from it lives as long, and is many times its size. What all bodies may take together is
bounded, and what those of one address may take, so that one client cannot use up the room of the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope

from mcp_server.client import address_of
from mcp_server.guard import BODY_LIMIT
from mcp_server.quota import OverQuotaError, Quota
from mcp_server.replies import refusal
from mcp_server.rpc import TOO_MANY, http_error
from probes.errors import UserError

MAX_REQUESTS: Final = 2_048
"""Requests that one address may have open."""
MAX_BYTES: Final = 8 * 1024 * 1024
"""What the bodies of all open requests may hold together. A usual one has a few hundred bytes."""
MAX_ADDRESS_BYTES: Final = 4 * 1024 * 1024
"""What those of one address may hold."""


class BodyTooLargeError(Exception):
    """The body is larger than `BODY_LIMIT`."""


class NoRoomError(Exception):
    """The bodies of open requests use up what they may."""


class Admission:
    """The open requests. Belongs to the event loop."""

    def __init__(self) -> None:
        self._requests = Quota(MAX_REQUESTS)
        self._bytes: Counter[str] = Counter()

    @asynccontextmanager
    async def admitted(self, scope: Scope, receive: Receive) -> AsyncIterator[bytes]:
        """The body of this request, which is open for as long as the block runs.

        Raises BodyTooLargeError, OverQuotaError and NoRoomError (see `answer_to`), and ClientDisconnect
        when the client left in the middle.
        """
        address = address_of(scope)
        taken = 0
        with self._requests.taken_by(address):
            try:
                body = bytearray()
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    part = message.get("body", b"")
                    if len(body) + len(part) > BODY_LIMIT:
                        raise BodyTooLargeError
                    self._take(address, len(part))
                    taken += len(part)
                    body += part
                    if not message.get("more_body"):
                        break
                yield bytes(body)
            finally:
                self._give_back(address, taken)

    def _take(self, address: str, size: int) -> None:
        if self._bytes[address] + size > MAX_ADDRESS_BYTES or self._bytes.total() + size > MAX_BYTES:
            raise NoRoomError
        self._bytes[address] += size

    def _give_back(self, address: str, size: int) -> None:
        self._bytes[address] -= size
        if not self._bytes[address]:
            del self._bytes[address]


def answer_to(error: BodyTooLargeError | NoRoomError | OverQuotaError) -> Response:
    """What a client is told whose request is not let in."""
    match error:
        case BodyTooLargeError():
            return refusal(UserError("request body too large", hint=f"at most {BODY_LIMIT} bytes"), 413)
        case NoRoomError():
            return http_error(503, TOO_MANY, "Too much is being read at the moment: try again")
        case OverQuotaError():
            return http_error(429, TOO_MANY, "Too many requests at once")
