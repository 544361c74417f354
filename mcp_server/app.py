"""The HTTP application: every path of DESIGN "HTTP" that this version has, behind the guard."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_server.admission import Admission
from mcp_server.door import Door
from mcp_server.event_stream import IDLE_S, EventStreamEndpoint
from mcp_server.event_tally import EventTally
from mcp_server.guard import Guard, Hosts
from mcp_server.health import HealthEndpoints
from mcp_server.mcp_endpoint import McpEndpoint
from mcp_server.metrics import Metrics
from mcp_server.pages import EventPages
from mcp_server.query import quoted
from mcp_server.replies import refusal
from mcp_server.server import McpServer, build_server
from mcp_server.services import Services
from mcp_server.sse_endpoint import MESSAGES_PATH, SseEndpoint
from probes.errors import UserError

log = logging.getLogger(__name__)


def build_app(services: Services, server: McpServer | None = None, *, idle_s: float = IDLE_S) -> Starlette:
    """The application. `server` is shared with the unix socket; left out, it is made here. After
    `idle_s` quiet seconds a reader of /events is sent a comment.

    Its lifespan owns the MCP sessions and the reader that counts events for `/metrics`: what came
    into the stream before this call is not counted, so make it before the probes start.
    """
    server = server or build_server(services)
    admission = Admission()
    mcp, sse = McpEndpoint(server, services, admission), SseEndpoint(server, services, admission)
    tally = EventTally(services.stream)
    health = HealthEndpoints(services)
    access = services.access
    hosts = Hosts(services.listen_host, {services.node, *access.hosts}, access.origins)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        counting = asyncio.create_task(tally.run(), name="event tally")
        counting.add_done_callback(_report_failure)
        try:
            async with mcp.running(), sse.running():
                yield
        finally:
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)

    return Starlette(
        routes=[
            Route("/mcp", mcp),
            Route("/sse", sse),
            Route(MESSAGES_PATH, sse.messages),
            Route("/events", EventStreamEndpoint(services, idle_s=idle_s).__call__, methods=["GET"]),
            Route("/events.json", EventPages(services.stream).__call__, methods=["GET"]),
            Route("/healthz", health.alive, methods=["GET"]),
            Route("/readyz", health.ready, methods=["GET"]),
            Route("/version", health.version, methods=["GET"]),
            Route("/metrics", Metrics(services, tally).__call__, methods=["GET"]),
            *(access.oauth.routes() if access.oauth is not None else ()),
        ],
        middleware=[
            Middleware(Guard, hosts=hosts, refusals=access.refusals),
            *_pages_from_elsewhere(access.origins),
            Middleware(Door, access=access),
        ],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )


def _pages_from_elsewhere(origins: frozenset[str]) -> Sequence[Middleware]:
    """What lets browsers hand answers to the pages of these origins; without it they may ask and not read."""
    if not origins:
        return ()
    headers = ("authorization", "content-type", "last-event-id", "mcp-session-id", "mcp-protocol-version")
    return (
        Middleware(
            CORSMiddleware,
            allow_origins=sorted(origins),
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=(*headers, "mcp-method", "mcp-name"),
            expose_headers=("mcp-session-id", "www-authenticate", "retry-after"),
        ),
    )


def _report_failure(counting: asyncio.Task[None]) -> None:
    if not counting.cancelled() and (error := counting.exception()) is not None:
        log.error("events are no longer counted for /metrics", exc_info=error)


async def _http_error(request: Request, error: Exception) -> Response:
    """A path or method that does not exist, in the shape of every other error."""
    assert isinstance(error, HTTPException)
    hint = "see /events, /events.json, /mcp, /sse, /metrics, /healthz, /readyz, /version"
    found = UserError(f"{request.method} {quoted(request.url.path)}: {error.detail}", hint=hint)
    reply = refusal(found, error.status_code)
    reply.headers.update(error.headers or {})
    return reply
