"""A reader of the event stream that takes it item by item, as a client sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from daemon.event import Item
from daemon.filter import EVERYTHING, EventFilter
from daemon.page import Missed
from daemon.stream import EventStream
from mcp_server.reading import follow_pages


def follow(
    stream: EventStream, since: int | None, match: EventFilter = EVERYTHING
) -> AsyncIterator[Item | Missed]:
    """Every matching item beyond `since` (None: only new ones), and every stretch that was missed."""
    return _items(stream, stream.newest if since is None else since, match)


async def _items(stream: EventStream, since: int, match: EventFilter) -> AsyncIterator[Item | Missed]:
    async for page in follow_pages(stream, since, match):
        if page.missed is not None:
            yield page.missed
        for item in page.items:
            yield item
