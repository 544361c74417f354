"""`GET /events`: the stream as server-sent events, for scripts, dashboards and `curl -N`.

* The first frame is `event: hello`, with the newest cursor and, as its `id`, the cursor the
  reader starts from: whoever is cut off before the first event resumes without a hole.
* Every event is an unnamed frame: `id` is its cursor, `data` its JSON on one line.
* `event: missed` says which cursors retention deleted before the reader came. It has no `id`:
  items of that stretch which were kept still follow.
* After 15 quiet seconds a comment keeps proxies from closing the connection. It carries an `id`
  when the reader has looked past items that its filter rejected: a frame without data raises no
  event in the client, but its next `Last-Event-ID` is that cursor, so that resuming with a rare
  filter does not search the same stretch of the journal again.

`Last-Event-ID` beats `?since=`; without both a reader gets only what is new. A client that stops
reading is cut off by TCP_USER_TIMEOUT (see `listener`); until then it holds one chunk.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Final

from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response

from daemon.event import SCHEMA
from daemon.filter import EVERYTHING
from daemon.page import Page
from daemon.text import clean
from mcp_server import query
from mcp_server.query import Query
from mcp_server.reading import follow_pages
from mcp_server.replies import refusal
from mcp_server.services import Services, Transport
from probes.errors import UserError

IDLE_S = 15.0
CHUNK_BYTES = 16 * 1024
"""Frames are joined up to about this size: few writes in a storm, little held for a slow reader."""
RETRY_MS: Final = (1_000, 5_000)
"""Range of the reconnect delay given to a client, so that a restart is not met by all at once."""


class EventStreamEndpoint:
    """The endpoint; answers 400 before the stream starts when the question makes no sense."""

    def __init__(self, services: Services, *, idle_s: float = IDLE_S) -> None:
        self._services = services
        self._idle_s = idle_s

    async def __call__(self, request: Request) -> Response:
        """The stream, until the client leaves or the daemon stops."""
        stream = self._services.stream
        try:
            asked = query.parse(request.query_params)
            resumed = request.headers.get("last-event-id")
            since = query.parse_cursor(resumed, "Last-Event-ID") if resumed else asked.since
            if since is None:
                since = stream.newest
            else:
                await stream.page(since, 1, EVERYTHING)  # refuses a cursor from the future
        except UserError as error:
            return refusal(error)
        return EventSourceResponse(self._chunks(since, asked), ping=0, sep="\n")

    async def _chunks(self, since: int, asked: Query) -> AsyncIterator[bytes]:
        stream = self._services.stream
        with self._services.clients.present(Transport.EVENTS):
            yield self._hello(since)
            told = since
            try:
                async for page in follow_pages(stream, since, asked.match, idle_s=self._idle_s):
                    if page.items or page.missed:
                        for number, chunk in enumerate(_joined(_frames(page))):
                            if number:
                                # A client that has gone is noticed, and others have their turn.
                                await asyncio.sleep(0)
                            yield chunk
                        told = page.items[-1].cursor if page.items else told
                    else:
                        yield _keepalive(page.next_cursor if page.next_cursor > told else None)
                        told = max(told, page.next_cursor)
            except UserError as error:
                # The status line is long gone. The client comes back with its cursor.
                yield f": {clean(error.message, 200)}\n\n".encode()

    def _hello(self, since: int) -> bytes:
        services = self._services
        data = {
            "newest_cursor": services.stream.newest,
            "oldest_cursor": services.stream.oldest,
            "since": since,
            "node": services.node,
            "version": services.version,
            "schema": SCHEMA,
        }
        retry = random.randint(*RETRY_MS)  # noqa: S311  (spreads load, keeps no secret)
        return f"id: {since}\nevent: hello\nretry: {retry}\ndata: {json.dumps(data)}\n\n".encode()


def _frames(page: Page) -> Iterator[bytes]:
    if page.missed is not None:
        missed = {"first": page.missed.first, "last": page.missed.last}
        yield f"event: missed\ndata: {json.dumps(missed)}\n\n".encode()
    for item in page.items:
        yield f"id: {item.cursor}\ndata: {item.json}\n\n".encode()


def _keepalive(cursor: int | None) -> bytes:
    return b": quiet\n\n" if cursor is None else f": quiet\nid: {cursor}\n\n".encode()


def _joined(frames: Iterator[bytes]) -> Iterator[bytes]:
    chunk = b""
    for frame in frames:
        if chunk and len(chunk) + len(frame) > CHUNK_BYTES:
            yield chunk
            chunk = b""
        chunk += frame
    if chunk:
        yield chunk
