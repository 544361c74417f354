"""JSON-RPC messages from outside: reading them, refusing them, and the requests that are under way.

What cannot be read is answered as JSON-RPC 2.0 says: -32700 for what is not JSON, -32600 for JSON
that is no message, with the id of the request where one can be made out and sent back.
"""

from __future__ import annotations

import asyncio
import json
from typing import Final

import mcp_types as types
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from starlette.responses import Response

from mcp_server.client import CLIENT
from mcp_server.query import quoted
from mcp_server.quota import OverQuotaError, Quota

TOO_MANY: Final = -32000
"""Error code, in JSON-RPC's range for servers: a bound was reached; ask again later."""
MAX_IN_FLIGHT: Final = 128
"""Requests of one session that may wait for their answer at the same time."""
MAX_ID_LENGTH: Final = 256
"""Characters of a request's id: it comes back in every answer, and is kept."""
IN_FLIGHT_BYTES: Final = 4 * 1024 * 1024
"""Room for what requests in flight were parsed from, shared by client; in memory it is many times that."""
IN_FLIGHT_ALWAYS: Final = 64 * 1024

Message = types.JSONRPCMessage


class BadMessageError(Exception):
    """What came is no message that can be taken; `answer` says so to whoever sent it."""

    def __init__(self, code: int, message: str, request_id: types.RequestId | None = None) -> None:
        super().__init__(message)
        self.answer = error_message(code, message, request_id)


class BadIdError(BadMessageError):
    """A request whose id is neither a string nor a whole number."""


def error_message(code: int, message: str, request_id: types.RequestId | None = None) -> types.JSONRPCError:
    """A JSON-RPC error; without an id it answers nothing in particular."""
    return types.JSONRPCError(jsonrpc="2.0", id=request_id, error=types.ErrorData(code=code, message=message))


def to_json(message: Message) -> str:
    """The message as it goes over the wire, one line."""
    return message.model_dump_json(by_alias=True, exclude_unset=True)


def parse_message(data: bytes) -> Message:
    """The message in `data`. Raises BadMessageError."""
    try:
        message = types.jsonrpc_message_adapter.validate_json(data, by_name=False)
    except ValueError:  # pydantic's ValidationError is one
        raise _why_not(data) from None
    if isinstance(message, types.JSONRPCNotification) and _wants_an_answer(message, data):
        raise BadIdError(types.INVALID_REQUEST, "Invalid request: an id is a string or a whole number")
    return message


def _wants_an_answer(message: types.JSONRPCNotification, data: bytes) -> bool:
    """True for a request whose id is none: the SDK takes it for a notification, and nobody would ever answer.

    A notification that carries an id, as some clients write `"id": null`, stays one.
    """
    if message.method.startswith("notifications/") or b'"id"' not in data:
        return False
    return "id" in json.loads(data)


def _why_not(data: bytes) -> BadMessageError:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return BadMessageError(types.PARSE_ERROR, "Parse error: not JSON")
    if isinstance(value, list):
        return BadMessageError(types.INVALID_REQUEST, "Invalid request: batches are not supported")
    request_id = request_id_of(value)
    return BadMessageError(types.INVALID_REQUEST, "Invalid request: not a JSON-RPC message", request_id)


def request_id_of(value: object) -> types.RequestId | None:
    """The id of what looks like a request; None for everything else, and for an id that cannot be sent back:
    it is too long, or holds half a surrogate pair, which UTF-8 has no bytes for."""
    if not isinstance(value, dict) or "method" not in value:
        return None
    found = value.get("id")
    if not isinstance(found, int | str) or isinstance(found, bool):
        return None
    text = str(found)
    return found if len(text) <= MAX_ID_LENGTH and text.encode(errors="ignore").decode() == text else None


def http_error(status: int, code: int, message: str, request_id: types.RequestId | None = None) -> Response:
    """A JSON-RPC error as the whole answer to an HTTP request."""
    return Response(to_json(error_message(code, message, request_id)), status, media_type="application/json")


def in_flight_room() -> Quota:
    """Room for the requests in flight of all sessions of a transport."""
    return Quota(IN_FLIGHT_BYTES, always=IN_FLIGHT_ALWAYS)


class InFlight:
    """The requests of one session that wait for their answer, by id. Bounded.

    The SDK bounds neither their number nor keeps two with one id apart: the answer to the first
    would be taken for the answer to the second.
    """

    def __init__(self, room: Quota, most: int = MAX_IN_FLIGHT) -> None:
        """`room` is shared by all sessions of a transport, in bytes."""
        self._room = room
        self._most = most
        self._ids: dict[types.RequestId, tuple[str, int]] = {}
        self._ended = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ids)

    def admit(self, message: Message, size: int) -> None:
        """Take note of what a client sent, `size` bytes. Raises BadMessageError for a request that is not to
        be served."""
        if isinstance(message, types.JSONRPCRequest):
            self.begin(message.id, size)
        elif isinstance(message, types.JSONRPCNotification) and message.method == "notifications/cancelled":
            cancelled = cancelled_request_id_from_params(message.params)
            if cancelled is not None:
                self.end(cancelled)  # it is not answered any more

    def begin(self, request_id: types.RequestId, size: int) -> None:
        """A request of `size` bytes was made. Raises BadMessageError when it is one too many, or its id is in
        use or too long."""
        if len(str(request_id)) > MAX_ID_LENGTH:
            text = f"Invalid request: its id is longer than {MAX_ID_LENGTH} characters"
            raise BadMessageError(types.INVALID_REQUEST, text)
        key = coerce_request_id(request_id)
        if key in self._ids:
            text = f"Invalid request: id {quoted(str(request_id))} is in use"
            raise BadMessageError(types.INVALID_REQUEST, text, request_id)
        if len(self._ids) >= self._most:
            text = f"Too many requests at once: at most {self._most} in a session"
            raise BadMessageError(TOO_MANY, text, request_id)
        client = CLIENT.get()
        try:
            self._room.take(client, size)
        except OverQuotaError:
            text = "Too much is asked at once: wait for an answer"
            raise BadMessageError(TOO_MANY, text, request_id) from None
        self._ids[key] = (client, size)

    def answered(self, message: Message) -> None:
        """Take note of what the server sent."""
        if isinstance(message, types.JSONRPCResponse | types.JSONRPCError) and message.id is not None:
            self.end(message.id)

    def end(self, request_id: types.RequestId) -> None:
        """A request was answered or given up."""
        begun = self._ids.pop(coerce_request_id(request_id), None)
        if begun is not None:
            self._room.give_back(*begun)
        self._ended.set()

    def close(self) -> None:
        """The session has ended, and with it what it asked for."""
        for request_id in [*self._ids]:
            self.end(request_id)

    async def settled(self) -> None:
        """Return when no request waits any more."""
        while self._ids:
            self._ended.clear()
            await self._ended.wait()
