"""Events as lines of JSON over a byte stream: what `xidwatch tail` reads.

One event a line; a stretch that retention deleted before the reader came is
`{"missed": {"first": n, "last": n}}`.
"""

from __future__ import annotations

import asyncio
import json

from daemon.page import DEFAULT_LIMIT, Page
from daemon.stream import EventStream
from mcp_server.hello import WantEvents
from mcp_server.reading import follow_pages, kept_pages


async def send_events(
    stream: EventStream, want: WantEvents, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send what is wanted; with `follow` until the client closes its end or the stream closes.

    Raises UserError for a filter or cursor that makes no sense.
    """
    want.check()
    if want.since_time_us is not None:
        since = await stream.cursor_before(want.since_time_us)
        want = want.model_copy(update={"since": since, "since_time_us": None})
    if not want.follow:
        await _send_kept(stream, want, writer)
        return
    sending = asyncio.create_task(_send_on(stream, want, writer))
    leaving = asyncio.create_task(_end_of_input(reader))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    finally:
        sending.cancel()
        leaving.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)


async def _send_kept(stream: EventStream, want: WantEvents, writer: asyncio.StreamWriter) -> None:
    """What is kept now: beyond `since`, or the newest `limit`."""
    match, limit = want.filter(), want.clamped_limit()
    if limit is not None or want.since is None:
        await _send_page(writer, await stream.page(want.since, limit or DEFAULT_LIMIT, match))
        return
    async for page in kept_pages(stream, want.since, match):
        await _send_page(writer, page)


async def _send_on(stream: EventStream, want: WantEvents, writer: asyncio.StreamWriter) -> None:
    """Everything beyond `since`, or beyond the newest `limit` items (none without a limit), for ever."""
    match, limit, since = want.filter(), want.clamped_limit(), want.since
    if since is None:
        since = stream.newest
        if limit is not None:
            page = await stream.page(None, limit, match)
            await _send_page(writer, page)
            since = page.next_cursor
    async for page in follow_pages(stream, since, match):
        await _send_page(writer, page)


async def _send_page(writer: asyncio.StreamWriter, page: Page) -> None:
    lines = [item.json for item in page.items]
    if page.missed is not None:
        lines.insert(0, json.dumps({"missed": {"first": page.missed.first, "last": page.missed.last}}))
    writer.write("".join(f"{line}\n" for line in lines).encode())
    await writer.drain()


async def _end_of_input(reader: asyncio.StreamReader) -> None:
    while await reader.read(4096):
        pass
