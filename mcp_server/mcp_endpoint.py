"""`/mcp`: Streamable HTTP, with the sessions of the 2025 eras and the single exchanges of 2026-07-28.

What the SDK leaves open is bounded here: how many sessions there are, how long an idle one is kept,
how many requests one client and one session may have open, and that no two requests of a session
share an id. The stream for pushes goes to whoever asked last: after a network failure the old one
may look alive for long.

The end of the daemon is described in `ending`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Final
from weakref import WeakValueDictionary

import mcp_types as types
from mcp.server.streamable_http import LAST_EVENT_ID_HEADER, MCP_SESSION_ID_HEADER, EventStore
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import RequestBodyLimitMiddleware, TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from mcp_server.ending import LAST_WORDS_S, closed
from mcp_server.guard import BODY_LIMIT
from mcp_server.kept_messages import PUSHES
from mcp_server.mcp_session_state import PushStream, SessionState
from mcp_server.quota import OverQuotaError, Quota
from mcp_server.replies import refusal
from mcp_server.rpc import TOO_MANY, BadMessageError, http_error, request_id_of, to_json
from mcp_server.server import McpServer
from mcp_server.services import Services, Transport
from probes.errors import UserError

MAX_SESSIONS: Final = 1_024
"""A session of the 2025 eras holds about 110 KB until it was idle for long."""
IDLE_S: Final = 30 * 60.0
"""A session without a request or an open stream is forgotten after this time."""
RETRY_MS: Final = 1_000
"""How soon a client whose stream was cut should come back for the rest."""
MAX_REQUESTS: Final = 2_048
"""Requests that one address may have open."""
MAX_SESSION_REQUESTS: Final = 160
"""Requests that one session may have open: `MAX_IN_FLIGHT` calls, and streams beside them."""

_admitted: ContextVar[list[SessionState] | None] = ContextVar("_admitted", default=None)


class _Sessions(StreamableHTTPSessionManager):
    """The SDK's manager, which reads `event_store` once for each session it opens."""

    @property  # an attribute in the base class; a test watches that each session gets its own
    def event_store(self) -> EventStore:
        state = SessionState()
        admitted = _admitted.get()
        if admitted is not None:
            admitted.append(state)
        return state

    @event_store.setter
    def event_store(self, value: EventStore | None) -> None:
        assert value is None


class McpEndpoint:
    """The endpoint; answers only while `running`."""

    def __init__(self, server: McpServer, services: Services) -> None:
        self._services = services
        self._sessions = _Sessions(
            server,
            max_sessions=MAX_SESSIONS,
            session_idle_timeout=IDLE_S,
            retry_interval=RETRY_MS,
            max_request_body_size=BODY_LIMIT,
            # Host and Origin are checked once, for every path, in `guard`, which knows more
            # than the patterns of this setting can say.
            security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        self._bounded = RequestBodyLimitMiddleware(self._serve, BODY_LIMIT)
        # A session's state lives as long as the SDK's transport, which holds it.
        self._states: WeakValueDictionary[str, SessionState] = WeakValueDictionary()
        self._by_address = Quota(MAX_REQUESTS)
        self._by_session = Quota(MAX_SESSION_REQUESTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, for as long as its answer or stream lasts."""
        if self._services.stream.closed:
            error = UserError("xidwatch is shutting down", hint="ask again when it is back")
            await refusal(error, 503)(scope, receive, send)
            return
        address = scope["client"][0] if scope.get("client") else ""
        session = Headers(scope=scope).get(MCP_SESSION_ID_HEADER)
        try:
            with self._by_address.taken_by(address), self._services.clients.present(Transport.MCP):
                if session is None or session not in self._states:
                    await self._bounded(scope, receive, send)
                else:
                    with self._by_session.taken_by(session):
                        await self._bounded(scope, receive, send)
        except OverQuotaError:
            await http_error(429, TOO_MANY, "Too many requests at once")(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request whose body has been read."""
        body = await receive()
        if body["type"] == "http.disconnect" or body.get("more_body"):
            return  # the client left in the middle of its message
        headers = Headers(scope=scope)
        session = headers.get(MCP_SESSION_ID_HEADER)
        state = self._states.get(session) if session is not None else None
        receive = _replayed(body, receive)
        if session is None or state is None:
            await self._open(scope, receive, send)
        elif scope["method"] == "GET":
            await self._stream(state, scope, receive, send)
        elif scope["method"] == "DELETE":
            await self._sessions.handle_request(scope, receive, send)
            state.close()
        else:
            await self._exchange(state, body.get("body", b""), scope, receive, send)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request without a session, which may become one."""
        admitted: list[SessionState] = []
        _admitted.set(admitted)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and admitted:
                session = Headers(raw=message["headers"]).get(MCP_SESSION_ID_HEADER)
                if session is not None:
                    self._states[session] = admitted[0]
            await send(message)

        await self._sessions.handle_request(scope, receive, watched)

    async def _exchange(
        self, state: SessionState, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """A message to a session. The request in it is under way until the session has answered it."""
        request_id = _request_id(body)
        if request_id is None:
            await self._sessions.handle_request(scope, receive, send)
            return
        try:
            state.in_flight.begin(request_id)
        except BadMessageError as bad:
            status = 429 if bad.answer.error.code == TOO_MANY else 400
            await Response(to_json(bad.answer), status, media_type="application/json")(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                state.in_flight.end(request_id)  # refused before the session saw it
            await send(message)

        await self._sessions.handle_request(scope, receive, watched)

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
            for state in list(self._states.values()):
                state.close()


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


def _replayed(body: Message, receive: Receive) -> Receive:
    """`receive`, with the body that was already taken from it in front."""
    left = [body]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


def _request_id(body: bytes) -> types.RequestId | None:
    """The id of the request in a body; None when there is none, or nothing that can be read."""
    with suppress(ValueError, RecursionError):
        return request_id_of(json.loads(body))
    return None
