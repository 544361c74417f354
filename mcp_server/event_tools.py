"""`get_xid_events` and `wait_for_xid`: the loss-free path for assistants, in every protocol era.

A cursor is all the state there is. An assistant that passes the `next_cursor` of one answer as
the `since` of the next call gets every event's last revision, however long it was away.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Final

from daemon.filter import EventFilter
from daemon.page import DEFAULT_LIMIT, Page, clamp_limit
from daemon.stream import EventStream
from mcp_server.quote import page_text
from mcp_server.reading import wait_beyond
from mcp_server.tools import Answer, Caller, Tool
from mcp_server.wire import GetXidEvents, PageOut, WaitForXid, WaitOut
from probes.errors import UserError

COLLECT_S: Final = 0.05
"""How long a woken wait goes on to collect: the lines of one fault, and its neighbours, come together."""
PROGRESS_S: Final = 5.0
"""Time between progress notifications: well below the 60 s after which clients give up on a call."""


class EventTools:
    """The two tools, on one stream."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream

    def tools(self) -> tuple[Tool[GetXidEvents], Tool[WaitForXid]]:
        """Both, ready for a toolbox."""
        return (
            Tool(
                name="get_xid_events",
                title="Get GPU fault events",
                description=(
                    "NVIDIA Xid/SXid and other GPU fault events of this node, with meaning, severity, whose "
                    "fault it usually is and what to do. Without `since`: the newest ones. With `since`: "
                    "everything beyond that cursor, oldest first; pass the answer's next_cursor to read on."
                ),
                arguments=GetXidEvents,
                result=PageOut,
                run=self._get,
            ),
            Tool(
                name="wait_for_xid",
                title="Wait for a GPU fault",
                description=(
                    "Waits until a matching GPU fault event arrives and returns it at once, or returns with "
                    "timed_out after timeout_s. Call it again with since=next_cursor to go on watching "
                    "without missing anything in between. Without `since` any event that is new to the "
                    "journal ends the wait: just after the daemon's start also an older fault that it reads "
                    "from the kernel log (see the event's time)."
                ),
                arguments=WaitForXid,
                result=WaitOut,
                run=self._wait,
            ),
        )

    async def _get(self, asked: GetXidEvents, caller: Caller) -> Answer:
        match = asked.filter()
        page = await self._stream.page(asked.since, clamp_limit(asked.limit), match)
        return Answer("\n".join([*self._numbered(match, page), page_text(page)]), page.to_dict())

    async def _wait(self, asked: WaitForXid, caller: Caller) -> Answer:
        page, timed_out = await self._first_page(asked, caller)
        text = "\n".join([*self._numbered(asked.filter(), page), page_text(page)])
        if timed_out:
            text = f"Nothing matching within {asked.timeout_s:g} s.\n{text}"
        return Answer(text, {**page.to_dict(), "timed_out": timed_out})

    def _numbered(self, match: EventFilter, page: Page) -> Iterator[str]:
        """What to know of the indices that were asked for, where the events of the page show others."""
        shown = {item.event.gpu.index for item in page.items if item.event.gpu is not None}
        if not match.indices or shown <= match.indices:
            return
        for index in sorted(match.indices):
            (device,) = self._stream.resolved(EventFilter(gpus=frozenset({index}))).gpus
            yield (
                f"Index {index} is GPU {device} now; its events name the index of their time."
                if isinstance(device, str)
                else f"No GPU is known to have index {index} now: events that named it at their time."
            )

    async def _first_page(self, asked: WaitForXid, caller: Caller) -> tuple[Page, bool]:
        """The first page that holds something, and False; or an empty one, and True."""
        stream, match = self._stream, asked.filter()
        limit = 1 if asked.first_only else DEFAULT_LIMIT
        since = stream.newest if asked.since is None else asked.since
        now = asyncio.get_running_loop().time
        started = now()
        next_report = started if caller.wants_progress else math.inf
        while True:
            page = await stream.page(since, limit, match)
            if page.items or page.missed:
                break
            if stream.closed:
                raise UserError("the daemon is stopping", hint=f"call again with since={page.next_cursor}")
            left = started + asked.timeout_s - now()
            if left <= 0:
                return page, True
            if now() >= next_report:
                await caller.report_progress(now() - started, asked.timeout_s, "waiting for a GPU fault")
                next_report = now() + PROGRESS_S
            since = page.next_cursor
            await wait_beyond(stream, since, min(left, next_report - now()))
        if not asked.first_only:
            await asyncio.sleep(COLLECT_S)
            page = await stream.page(since, limit, match)
        return page, False
