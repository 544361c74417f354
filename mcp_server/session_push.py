"""Push to sessions of the 2025 eras: a loop that lives exactly as long as the session.

It runs as the handler of `notifications/initialized`, which the SDK keeps in the session's own task
group. From then on it sends every event as `notifications/message` (as the session's log level
allows), as `resources/updated` for each subscribed resource that it concerns, and to hosts that
take channels as `claude/channel`. Items go out as they come, every revision. What cannot be
delivered is told as missed.

A session holds a cursor, nothing more: a client that does not read holds up only its own loop.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import mcp_types as types
from mcp.server.session import ServerSession

from daemon.event import Item
from daemon.filter import EVERYTHING
from daemon.page import Missed
from daemon.stream import EventStream
from mcp_server.channel import Channel
from mcp_server.reading import follow_pages
from mcp_server.sessions import Sessions, Wishes
from mcp_server.tools import Context
from mcp_server.updates import (
    EVENT_KEY,
    LOG_LEVELS,
    MISSED_KEY,
    MISSED_LEVEL,
    event_object,
    log_message,
    missed_object,
    resource_updated,
)
from probes.errors import UserError

log = logging.getLogger(__name__)


class SessionPush:
    """The handler of `notifications/initialized`."""

    def __init__(self, stream: EventStream, sessions: Sessions, *, channel: bool) -> None:
        self._stream = stream
        self._sessions = sessions
        self._channel = channel

    async def serve(self, context: Context, params: types.NotificationParams) -> None:
        """Push to this session until it ends, or the stream closes. A second notification does nothing."""
        wishes = self._sessions.of(context)
        if wishes is None or wishes.is_served:
            return
        wishes.is_served = True
        try:
            listeners = [Channel(context.session)] if self._channel else []
            await _Loop(self._stream, context.session, wishes, listeners).run()
        finally:
            wishes.is_served = False


class _Loop:
    """The loop of one session."""

    def __init__(
        self, stream: EventStream, session: ServerSession, wishes: Wishes, channels: Sequence[Channel]
    ) -> None:
        self._stream = stream
        self._session = session
        self._wishes = wishes
        self._channels = channels
        self._cursor = stream.newest

    async def run(self) -> None:
        while not self._stream.closed:
            try:
                await self._follow()
            except UserError as error:
                # The session has fallen behind what is in memory, and the journal cannot be read.
                log.warning("a session is set to the newest event: %s", error.message)
                skipped = Missed(self._cursor + 1, self._stream.newest)
                self._cursor = skipped.last
                await self._send_missed(skipped)

    async def _follow(self) -> None:
        async for page in follow_pages(self._stream, self._cursor, EVERYTHING):
            if page.missed is not None:
                await self._send_missed(page.missed)
            for item in page.items:
                await self._send(item)
                self._cursor = item.cursor
            self._cursor = page.next_cursor

    async def _send(self, item: Item) -> None:
        event, level = event_object(item), LOG_LEVELS[item.event.severity]
        if self._wishes.wants_message(level):
            await self._session.send_notification(log_message(level, event))
        for uri, address in [*self._wishes.resources.items()]:
            if address.is_concerned_by(item.event):
                await self._session.send_notification(resource_updated(uri, {EVENT_KEY: event}))
        for channel in self._channels:
            await channel.send(item)

    async def _send_missed(self, missed: Missed) -> None:
        """The stretch may concern any resource."""
        what = missed_object(missed)
        if self._wishes.wants_message(MISSED_LEVEL):
            await self._session.send_notification(log_message(MISSED_LEVEL, {"missed": what}))
        for uri in [*self._wishes.resources]:
            await self._session.send_notification(resource_updated(uri, {MISSED_KEY: what}))
        for channel in self._channels:
            await channel.send_missed(missed)
