"""`/sse` and `/messages/`: the HTTP+SSE transport of 2024-11-05, for clients that know no other.

`GET /sse` is the session: a stream whose first frame, `endpoint`, says where to post messages to;
everything the server says comes as `message` frames. `POST /messages/?session_id=…` is a message
of the client: 202 once the session has it, 400 with the protocol's error when it is none, 404
when there is no such session, or it is somebody else's. A session lasts as long as its stream.

When the event stream closes, waiting tools answer; a moment later the input of every session ends,
and with it, in order, the session and its stream.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from sse_starlette import EventSourceResponse
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mcp_server.admission import Admission, BodyTooLargeError, NoRoomError, answer_to
from mcp_server.client import CLIENT, address_of
from mcp_server.ending import LAST_WORDS_S, closed
from mcp_server.identity import IDENTITY
from mcp_server.mcp_session import serve_session
from mcp_server.quota import OverQuotaError, Quota
from mcp_server.refused import Reason, Refusals
from mcp_server.replies import refusal
from mcp_server.rpc import (
    TOO_MANY,
    BadMessageError,
    Message,
    http_error,
    in_flight_room,
    parse_message,
    to_json,
)
from mcp_server.server import McpServer
from mcp_server.services import Services, Transport
from probes.errors import UserError

MAX_SESSIONS: Final = 1_024
"""Room for sessions, shared by address. Clients behind a proxy, or on the node itself, have one share."""
SESSIONS_ALWAYS: Final = 8
HANDOVER_S: Final = 10.0
"""How long a message may wait for a session whose client does not read its answers."""
MESSAGES_PATH: Final = "/messages/"
"""Where the client is told to post to."""


@dataclass(frozen=True, slots=True)
class _Session:
    posted: MemoryObjectSendStream[tuple[Message, int]]
    owner: str
    """`Identity.key` of the client whose stream it is."""


class SseEndpoint:
    """`GET /sse`, and the sessions. `messages` is the endpoint they are posted to."""

    def __init__(self, server: McpServer, services: Services, admission: Admission) -> None:
        self._server = server
        self._services = services
        self._sessions: dict[str, _Session] = {}
        self._by_address = Quota(MAX_SESSIONS, always=SESSIONS_ALWAYS)
        self._in_flight = in_flight_room()
        self.messages = MessagesEndpoint(self._sessions, admission, services.access.refusals)
        """`POST /messages/`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One session, for as long as its stream lasts."""
        address = address_of(scope)
        CLIENT.set(address)
        try:
            with self._by_address.taken_by(address):
                await self._answer(scope)(scope, receive, send)
        except OverQuotaError:
            await http_error(503, TOO_MANY, "Too many sessions")(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | _Stream:
        if scope["method"] != "GET":
            return Response(status_code=405, headers={"allow": "GET"})
        if self._services.stream.closed:
            return refusal(UserError("xidwatch is shutting down", hint="ask again when it is back"), 503)
        return _Stream(self._server, self._services, self._sessions, self._in_flight)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the block runs, or until the event stream closes."""
        ending = asyncio.create_task(self._end_sessions(), name="sse sessions")
        try:
            yield
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)

    async def _end_sessions(self) -> None:
        await closed(self._services.stream)
        await asyncio.sleep(LAST_WORDS_S)
        for session in self._sessions.values():
            session.posted.close()


class _Stream:
    """The answer to `GET /sse`."""

    def __init__(
        self, server: McpServer, services: Services, sessions: dict[str, _Session], in_flight: Quota
    ) -> None:
        self._in_flight = in_flight
        self._server = server
        self._services = services
        self._sessions = sessions
        self._id = secrets.token_hex(16)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        to_session, posted = anyio.create_memory_object_stream[tuple[Message, int]](0)
        to_client, frames = anyio.create_memory_object_stream[bytes](0)

        async def converse() -> None:
            async with to_client:
                place = f"{scope.get('root_path', '')}{MESSAGES_PATH}?session_id={self._id}"
                await to_client.send(f"event: endpoint\r\ndata: {place}\r\n\r\n".encode())
                await self._converse(posted, to_client)

        self._sessions[self._id] = _Session(to_session, IDENTITY.get().key)
        try:
            with self._services.clients.present(Transport.SSE):
                async with to_session, posted, to_client, frames:
                    response = EventSourceResponse(frames, data_sender_callable=converse)
                    await response(scope, receive, send)
        finally:
            del self._sessions[self._id]

    async def _converse(
        self, posted: MemoryObjectReceiveStream[tuple[Message, int]], to_client: MemoryObjectSendStream[bytes]
    ) -> None:
        async def receive() -> tuple[Message, int] | None:
            try:
                return await posted.receive()
            except anyio.EndOfStream:
                return None

        async def send(message: Message) -> None:
            try:
                await to_client.send(f"event: message\r\ndata: {to_json(message)}\r\n\r\n".encode())
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                raise ConnectionResetError from None

        await serve_session(self._server, receive, send, room=self._in_flight)


class MessagesEndpoint:
    """`POST /messages/`: hands messages to their session."""

    def __init__(self, sessions: dict[str, _Session], admission: Admission, refusals: Refusals) -> None:
        self._sessions = sessions
        self._admission = admission
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One message. Whom it is for is looked up before its body is read."""
        request = Request(scope)
        session = self._sessions.get(request.query_params.get("session_id", ""))
        if session is not None and session.owner != IDENTITY.get().key:
            what = "a message to a session that somebody else opened"
            self._refusals.note(Reason.SESSION, address_of(scope), what)
            session = None
        if request.method != "POST":
            response = Response(status_code=405, headers={"allow": "POST"})
        elif session is None:
            response = http_error(404, types.INVALID_REQUEST, "Session not found")
        else:
            try:
                async with self._admission.admitted(scope, receive) as body:
                    response = await _hand_over(body, session)
            except ClientDisconnect:
                return  # in the middle of its message; nobody is left to answer
            except (BodyTooLargeError, NoRoomError, OverQuotaError) as error:
                response = answer_to(error)
        await response(scope, receive, send)


async def _hand_over(body: bytes, session: _Session) -> Response:
    try:
        message = parse_message(body)
    except BadMessageError as bad:
        return Response(to_json(bad.answer), 400, media_type="application/json")
    try:
        with anyio.fail_after(HANDOVER_S):
            await session.posted.send((message, len(body)))
    except TimeoutError:
        return http_error(503, TOO_MANY, "The session is busy: read its stream")
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return http_error(404, types.INVALID_REQUEST, "Session not found")
    return Response("Accepted", 202)
