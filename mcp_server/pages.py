"""`GET /events.json?since=&limit=` and the filters: one page of the stream, see DESIGN "A page"."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daemon.stream import EventStream
from mcp_server import query
from mcp_server.replies import json_reply, refusal
from probes.errors import UserError


class EventPages:
    """The endpoint; answers 400 with a sentence and a hint when the question makes no sense."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream

    async def __call__(self, request: Request) -> Response:
        """One page."""
        try:
            asked = query.parse(request.query_params, extra=("limit",))
            page = await self._stream.page(asked.since, asked.limit, asked.match)
        except UserError as error:
            return refusal(error)
        return json_reply(page.to_json() + "\n")
