"""What `/mcp` knows of one session of the 2025 eras: what was said, what is asked, which stream is open.

It is the SDK's `EventStore`, one for each session. The SDK (2.3) takes one store for all sessions,
in which the streams of different sessions have the same names, so that one client could be given
another's answers; and between the end of a replay and the first live message it loses what comes.
Here a resumed stream is served from the store alone, live tail included, and nothing falls between.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

import anyio
import mcp_types as types
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore

from mcp_server.kept_messages import KeptMessages, Position, Shelf
from mcp_server.quota import Quota
from mcp_server.rpc import InFlight


@dataclass(slots=True)
class PushStream:
    """An open request for the stream of pushes."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Cancelled when another request takes the stream over."""
    ended: anyio.Event = field(default_factory=anyio.Event)


class SessionState(EventStore):
    """One session. Belongs to the event loop."""

    def __init__(self, shelf: Shelf, room: Quota) -> None:
        """`shelf` and `room` are those of all sessions, for what is kept and what is asked."""
        self.in_flight: Final = InFlight(room)
        """Requests that have no answer yet, whether or not their client still waits for it."""
        self.push_stream: PushStream | None = None
        """The one that is open; None: no client listens."""
        self._kept = KeptMessages(shelf)
        self._added = asyncio.Event()
        self._tails: dict[str, object] = {}

    async def store_event(self, stream_id: str, message: types.JSONRPCMessage | None) -> str:
        """Keep what the session says; None where a stream begins. The SDK calls this before it sends."""
        if message is not None:
            self.in_flight.answered(message)
        event_id = self._kept.add(stream_id, message)
        self._wake()
        return event_id

    def find(self, event_id: str) -> Position | None:
        """The place after this event; None when no stream can be resumed there."""
        return self._kept.find(event_id)

    def close(self) -> None:
        """Forget what was said and end every resumed stream: the session has ended."""
        self.in_flight.close()
        self._kept.clear()
        self._tails.clear()
        self._wake()

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Serve a resumed stream: what came since, and what comes, until its request is answered, the
        client leaves, or somebody else resumes it. Returns None: the SDK has nothing to add."""
        position = self._kept.find(last_event_id)
        if position is None or position.ends_stream:
            return None
        stream, mine = position.stream, object()
        self._tails[stream] = mine
        self._wake()
        try:
            while self._tails.get(stream) is mine:
                added = self._added
                for kept in self._kept.after(position):
                    if (message := kept.message) is not None:
                        await send_callback(EventMessage(message, self._kept.event_id(kept)))
                    if kept.ends_stream:
                        return None
                    position = Position(stream, kept.number)
                await added.wait()
        finally:
            if self._tails.get(stream) is mine:
                del self._tails[stream]
        return None

    def _wake(self) -> None:
        self._added.set()
        self._added = asyncio.Event()
