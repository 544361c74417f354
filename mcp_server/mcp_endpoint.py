"""`/mcp`: Streamable HTTP, with the sessions of the 2025 eras and the single exchanges of 2026-07-28.

What the SDK leaves open is bounded here and in `admission` and `session_registry`: how many sessions
there are and of whom, how long an idle one is kept, how many requests one client and one session may
have open, and that no two requests of a session share an id. A session belongs to whoever opened it, with
the rights that they had: to everybody else there is no such session. The stream for pushes goes to whoever
asked last: after a network failure the old one may look alive for long.

The end of the daemon is described in `ending`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Final

import anyio
import mcp_types as types
from mcp.server.streamable_http import LAST_EVENT_ID_HEADER, MCP_SESSION_ID_HEADER, EventStore
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from daemon.operator.who import Way
from mcp_server.admission import BODY_LIMIT, Admission, BodyTooLargeError, NoRoomError, answer_to
from mcp_server.client import CLIENT, address_of
from mcp_server.ending import LAST_WORDS_S, closed
from mcp_server.identity import IDENTITY
from mcp_server.identity import Scope as Permission
from mcp_server.kept_messages import PUSHES, Shelf
from mcp_server.mcp_session_state import PushStream, SessionState
from mcp_server.quota import OverQuotaError, Quota
from mcp_server.refused import Reason, RefusedError
from mcp_server.replies import refusal
from mcp_server.rpc import (
    TOO_MANY,
    BadIdError,
    BadMessageError,
    http_error,
    in_flight_room,
    parse_message,
    request_id_of,
    to_json,
)
from mcp_server.server import McpServer
from mcp_server.services import Services, Transport
from mcp_server.session_registry import OpenSession, Place, SessionRegistry
from probes.errors import UserError

MAX_SESSIONS: Final = 1_024
"""Room for sessions of the 2025 eras, shared by address. Clients behind a proxy, or on the node itself, have
one share. A session holds about 110 KB until it was idle for long."""
SESSIONS_ALWAYS: Final = 8
IDLE_S: Final = 30 * 60.0
"""A session without a request or an open stream is forgotten after this time."""
RETRY_MS: Final = 1_000
"""How soon a client whose stream was cut should come back for the rest."""
MAX_SESSION_REQUESTS: Final = 160
"""Requests that one session may have open: `MAX_IN_FLIGHT` calls, and streams beside them."""

FORGOTTEN_AFTER_S: Final = 2 * IDLE_S
"""When the SDK ends an idle session, should the registry ever not know of it."""

_admitted: ContextVar[list[SessionState] | None] = ContextVar("_admitted", default=None)


class _Sessions(StreamableHTTPSessionManager):
    """The SDK's manager, which reads `event_store` once for each session it opens."""

    shelf: Shelf
    room: Quota

    def know(self, session_id: str) -> bool:
        """Whether this session has not ended."""
        return session_id in self._server_instances

    @property  # an attribute in the base class; a test watches that each session gets its own
    def event_store(self) -> EventStore:
        state = SessionState(self.shelf, self.room)
        admitted = _admitted.get()
        if admitted is not None:
            admitted.append(state)
        return state

    @event_store.setter
    def event_store(self, value: EventStore | None) -> None:
        assert value is None


class McpEndpoint:
    """The endpoint; answers only while `running`."""

    def __init__(self, server: McpServer, services: Services, admission: Admission) -> None:
        self._services = services
        self._admission = admission
        self._toolbox = server.toolbox
        self._sessions = _Sessions(
            server,
            max_sessions=None,  # bounded by the registry, which knows whose they are
            session_idle_timeout=FORGOTTEN_AFTER_S,  # likewise: a backstop
            retry_interval=RETRY_MS,
            max_request_body_size=BODY_LIMIT,
            # Host and Origin are checked once, for every path, in `guard`, which knows more
            # than the patterns of this setting can say.
            security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        self._sessions.shelf = Shelf()
        self._sessions.room = in_flight_room()
        self._registry = SessionRegistry(
            self._end_session,
            self._sessions.know,
            room=Quota(MAX_SESSIONS, always=SESSIONS_ALWAYS),
            most_requests=MAX_SESSION_REQUESTS,
            idle_s=IDLE_S,
        )
        _SDK_LOG.addFilter(_is_no_parting)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, for as long as its answer or stream lasts."""
        if self._services.stream.closed:
            error = UserError("xidwatch is shutting down", hint="ask again when it is back")
            await refusal(error, 503)(scope, receive, send)
            return
        CLIENT.set(address_of(scope))
        try:
            with self._services.clients.present(Transport.MCP):
                async with self._admission.admitted(scope, receive) as body:
                    await self._serve(body, scope, _replayed(body, receive), send)
        except ClientDisconnect:
            return  # in the middle of its message; nobody is left to answer
        except (BodyTooLargeError, NoRoomError, OverQuotaError) as error:
            await answer_to(error)(scope, receive, send)

    async def _serve(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """One request whose body has been read. Raises RefusedError."""
        self._ask_for_more(body)
        headers = Headers(scope=scope)
        version, session_id = headers.get(MCP_PROTOCOL_VERSION_HEADER), headers.get(MCP_SESSION_ID_HEADER)
        if version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            await self._sessions.handle_request(scope, receive, send)  # of no session, whatever it names
            return
        session = self._registry.get(session_id)
        if session is not None and session.owner != IDENTITY.get().key:
            # As if there were no such session: whether a guessed id exists is nobody else's business.
            what = "a request for a session that somebody else opened"
            self._services.access.refusals.note(Reason.SESSION, address_of(scope), what)
            await http_error(404, types.INVALID_REQUEST, "Session not found")(scope, receive, send)
        elif session is not None:
            try:
                with self._registry.serving(session):
                    await self._serve_session(session, body, scope, receive, send)
            finally:
                if not self._sessions.know(session.session_id):
                    self._registry.forget(session)
        elif session_id is None and _method(body) == "initialize":
            try:
                async with self._registry.place_for(address_of(scope)) as place:
                    await self._open(place, scope, receive, send)
            except OverQuotaError:
                error = http_error(503, TOO_MANY, "Too many open sessions", request_id_of(_message(body)))
                await error(scope, receive, send)
        else:
            await self._sessions.handle_request(scope, receive, send)

    def _ask_for_more(self, body: bytes) -> None:
        """Have an OAuth client come back with the scope that a tool needs: 403 sends it to the issuer, where
        the tool's own refusal would be the end. Raises RefusedError."""
        identity = IDENTITY.get()
        if identity.who.way is not Way.OAUTH or identity.may(Permission.OPERATE) or self._toolbox is None:
            return
        message = _message(body)
        asked = message if isinstance(message, dict) and message.get("method") == "tools/call" else {}
        params = asked.get("params")
        gate = self._toolbox.gate_of(params.get("name")) if isinstance(params, dict) else None
        if gate is not None and not gate.lets_in():
            error = gate.refuse(None)
            raise RefusedError(403, Reason.SCOPE, error.message, error.hint, needs=Permission.OPERATE)

    async def _serve_session(
        self, session: OpenSession, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        session.was_used = True
        if scope["method"] == "GET":
            await self._stream(session.state, scope, receive, send)
        elif scope["method"] == "POST":
            await self._exchange(session.state, body, scope, receive, send)
        else:
            await self._sessions.handle_request(scope, receive, send)

    async def _open(self, place: Place, scope: Scope, receive: Receive, send: Send) -> None:
        """A request that may open a session."""
        admitted: list[SessionState] = []
        _admitted.set(admitted)
        opened: list[OpenSession] = []

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400 and admitted:
                session_id = Headers(raw=message["headers"]).get(MCP_SESSION_ID_HEADER)
                if session_id is not None:
                    session = self._registry.opened(session_id, place, admitted[0])
                    session.owner, session.user = IDENTITY.get().key, scope.get("user")
                    opened.append(session)
                    opened[0].open_requests += 1
            await send(message)

        try:
            await self._sessions.handle_request(scope, receive, watched)
        finally:
            for session in opened:
                session.open_requests -= 1
                if not self._sessions.know(session.session_id):
                    self._registry.forget(session)

    async def _exchange(
        self, state: SessionState, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """A message to a session. The request in it is under way until the session has answered it."""
        try:
            request_id = _request_id(body)
            if request_id is not None:
                state.in_flight.begin(request_id, len(body))
        except BadMessageError as bad:
            status = 429 if bad.answer.error.code == TOO_MANY else 400
            await Response(to_json(bad.answer), status, media_type="application/json")(scope, receive, send)
            return
        if request_id is None:
            await self._sessions.handle_request(scope, receive, send)
            return
        taken = False

        async def watched(message: Message) -> None:
            nonlocal taken
            if message["type"] == "http.response.start" and message["status"] == 200:
                taken = True
            await send(message)

        try:
            await self._sessions.handle_request(scope, receive, watched)
        finally:
            if not taken:
                state.in_flight.end(request_id)  # refused or failed before the session saw it

    async def _stream(self, state: SessionState, scope: Scope, receive: Receive, send: Send) -> None:
        """The stream of pushes, or a stream that is taken up again."""
        last_event_id = Headers(scope=scope).get(LAST_EVENT_ID_HEADER)
        place = state.find(last_event_id) if last_event_id is not None else None
        if last_event_id is not None and place is None:
            text = "Event id is not of this session, or too old: open a new stream, read on with your cursor"
            await http_error(400, types.INVALID_REQUEST, text)(scope, receive, send)
            return
        if place is not None and place.stream != PUSHES:
            await self._sessions.handle_request(scope, receive, send)
            return
        while (before := state.push_stream) is not None:
            before.scope.cancel()
            await before.ended.wait()
        mine = state.push_stream = PushStream()
        open_answer = _OpenAnswer(send)
        try:
            with mine.scope:
                await self._sessions.handle_request(scope, receive, open_answer.send)
            if mine.scope.cancelled_caught:
                await open_answer.end()
        finally:
            state.push_stream = None
            mine.ended.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve sessions while the block runs, or until the event stream closes."""
        up = asyncio.Event()
        serving = asyncio.create_task(self._serve_sessions(up), name="mcp sessions")
        serving.add_done_callback(lambda _: up.set())
        try:
            await up.wait()
            if serving.done():
                serving.result()
            yield
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def _serve_sessions(self, up: asyncio.Event) -> None:
        async with self._sessions.run():
            up.set()
            await closed(self._services.stream)
            await asyncio.sleep(LAST_WORDS_S)
            await self._registry.close()

    async def _end_session(self, session: OpenSession) -> None:
        """End a session as its client would."""
        scope: Scope = {
            "type": "http",
            "method": "DELETE",
            "path": "/mcp",
            "query_string": b"",
            "headers": [(MCP_SESSION_ID_HEADER.encode(), session.session_id.encode())],
        }
        if session.user is not None:
            scope["user"] = session.user  # the SDK, too, looks whose session it is
        await self._sessions.handle_request(scope, _replayed(b"", _nothing_more), _to_nobody)


class _OpenAnswer:
    """An answer that can be ended in order from outside."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._open = False

    async def send(self, message: Message) -> None:
        """Pass on one message of the answer."""
        self._open = message["type"] == "http.response.start" or bool(message.get("more_body"))
        await self._send(message)

    async def end(self) -> None:
        """End what was begun."""
        if self._open:
            with suppress(OSError):
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})


_SDK_LOG: Final = logging.getLogger("mcp.server.streamable_http")


_PARTINGS = ("SSE response error", "Error in SSE writer", "Error handling POST request")


def _is_no_parting(record: logging.LogRecord) -> bool:
    """False for what the SDK logs as errors, with tracebacks, when a session ends while it answers."""
    error = record.exc_info[1] if record.exc_info is not None else None
    return error is None or not record.getMessage().startswith(_PARTINGS) or not _is_closed(error)


def _is_closed(error: BaseException) -> bool:
    """True for an error that says nothing but that a stream is closed."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_closed, error.exceptions))
    return isinstance(error, anyio.ClosedResourceError | anyio.BrokenResourceError)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive`, with the body that was already taken from it in front."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}


async def _to_nobody(message: Message) -> None:
    """Drop a message of an answer."""


def _message(body: bytes) -> object:
    """The JSON of a body; None when it is none."""
    with suppress(ValueError, RecursionError):
        return json.loads(body)
    return None


def _request_id(body: bytes) -> types.RequestId | None:
    """The id of what the SDK takes for a request; None for everything else. Raises BadIdError for what was
    meant as one."""
    try:
        message = parse_message(body)
    except BadIdError:
        raise
    except BadMessageError:
        return None
    return message.id if isinstance(message, types.JSONRPCRequest) else None


def _method(body: bytes) -> object:
    """The method that a body asks for; None when nothing can be read."""
    message = _message(body)
    return message.get("method") if isinstance(message, dict) else None
