"""Readers of the event stream: a cursor, and nothing else.

`follow_pages` keeps up with the stream until it closes. It yields what lies beyond the cursor as
pages, and an empty page whenever nothing came for a while, whose `next_cursor` tells how far the
reader has looked: with a rare filter that cursor moves on although nothing matched. `kept_pages`
ends at what was newest when it began. Both tell a stretch that was missed once, with the first
page that looks into it. Memory is one page of references to shared items, however far behind the
reader is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from daemon.filter import EventFilter
from daemon.page import Missed, Page
from daemon.stream import EventStream
from probes.errors import UserError

PAGE_ITEMS = 64


async def kept_pages(stream: EventStream, since: int, match: EventFilter) -> AsyncIterator[Page]:
    """Pages of what lies beyond `since` now. Raises UserError as `EventStream.page` does."""
    end = stream.newest
    async for page in _pages(stream, since, match):
        if page.items or page.missed:
            yield page
        if page.next_cursor >= end:
            return


async def follow_pages(
    stream: EventStream, since: int, match: EventFilter, *, idle_s: float | None = None
) -> AsyncIterator[Page]:
    """Pages beyond `since` until the stream closes; empty ones only after `idle_s` seconds without a match.

    Raises UserError when `since` is ahead of the newest cursor, or the journal cannot be read.
    """
    loop = asyncio.get_running_loop()
    quiet_since = loop.time()
    try:
        async for page in _pages(stream, since, match):
            quiet_s = loop.time() - quiet_since
            if page.items or page.missed or (idle_s is not None and quiet_s >= idle_s):
                yield page
                quiet_since, quiet_s = loop.time(), 0.0
            elif stream.closed:
                return
            if page.next_cursor >= stream.newest:
                left = None if idle_s is None else idle_s - quiet_s
                await wait_beyond(stream, page.next_cursor, left)
    except UserError:
        if not stream.closed:
            raise


async def wait_beyond(stream: EventStream, cursor: int, timeout_s: float | None) -> None:
    """Return when the stream holds something beyond `cursor`, was closed, or the time is up."""
    try:
        async with asyncio.timeout(timeout_s):
            await stream.wait_beyond(cursor)
    except TimeoutError:
        return


async def until_closed(stream: EventStream) -> None:
    """Return when the stream is closed."""
    while not stream.closed:
        await stream.wait_beyond(stream.newest)


async def _pages(stream: EventStream, since: int, match: EventFilter) -> AsyncIterator[Page]:
    """One page after the other, for ever, empty ones included."""
    # 0 asks for what is kept: what was deleted before does not count as missed.
    told = stream.gone_through if since == 0 else 0
    while True:
        page = await stream.page(since, PAGE_ITEMS, match)
        if page.missed is not None:
            page = replace(page, missed=_beyond(page.missed, told))
            told = max(told, page.missed.last if page.missed else 0)
        yield page
        since = page.next_cursor


def _beyond(missed: Missed | None, told: int) -> Missed | None:
    """The part of a missed stretch that was not told yet."""
    if missed is None or missed.last <= told:
        return None
    return Missed(max(missed.first, told + 1), missed.last)
