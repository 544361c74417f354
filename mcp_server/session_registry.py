"""Which sessions of `/mcp` are open, whose they are, and which one makes room for another.

A session without an open request may be ended at any time: its owner gets 404 and begins a new one,
as the protocol says. This happens when it was idle for long, and when there is no room: then the
address with the most sessions gives one up, first one that nothing was ever asked in, and among
those alike the one that was idle longest. So a client that opens sessions without end
ends its own. A session with an open stream or call is never ended for another.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from mcp_server.mcp_session_state import SessionState
from mcp_server.quota import OverQuotaError


@dataclass(slots=True, eq=False)
class OpenSession:
    """One session of the 2025 eras."""

    session_id: str
    address: str
    """Of the client that opened it."""
    state: SessionState
    idle_since: float
    """When its last request ended, in seconds of the event loop's clock."""
    open_requests: int = 0
    was_used: bool = False
    """True once anything was asked in it beyond `initialize`."""


class SessionRegistry:
    """The open sessions. Belongs to the event loop."""

    def __init__(
        self,
        end: Callable[[str], Awaitable[None]],
        *,
        most: int,
        most_of_address: int,
        most_requests: int,
        idle_s: float,
    ) -> None:
        """`end` ends the session of this id; `most_requests` may be open in one session."""
        self._end = end
        self._most = most
        self._most_of_address = most_of_address
        self._most_requests = most_requests
        self._idle_s = idle_s
        self._sessions: dict[str, OpenSession] = {}
        self._opening: Counter[str] = Counter()
        self._expiry: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[OpenSession]:
        return iter([*self._sessions.values()])

    def get(self, session_id: str | None) -> OpenSession | None:
        """The open session with this id."""
        return self._sessions.get(session_id) if session_id is not None else None

    @asynccontextmanager
    async def place_for(self, address: str) -> AsyncIterator[None]:
        """Room for one more session of this address, which may open while the block runs.

        Raises OverQuotaError when none can be had.
        """
        while (crowded := self._crowded(address)) is not None:
            candidates = [session for session in self if not session.open_requests and crowded(session)]
            if not candidates:
                raise OverQuotaError
            of_address = Counter(session.address for session in self)
            await self._drop(
                min(candidates, key=lambda each: (-of_address[each.address], each.was_used, each.idle_since))
            )
        self._opening[address] += 1
        try:
            yield
        finally:
            self._opening[address] -= 1

    def opened(self, session_id: str, address: str, state: SessionState) -> OpenSession:
        """A session came to be."""
        session = OpenSession(session_id, address, state, idle_since=asyncio.get_running_loop().time())
        self._sessions[session_id] = session
        self._arm(self._idle_s)
        return session

    @contextmanager
    def serving(self, session: OpenSession) -> Iterator[None]:
        """One more request of this session, for as long as the block runs. Raises OverQuotaError."""
        if session.open_requests >= self._most_requests:
            raise OverQuotaError
        session.open_requests += 1
        try:
            yield
        finally:
            session.open_requests -= 1
            session.idle_since = asyncio.get_running_loop().time()

    def forget(self, session: OpenSession) -> None:
        """The session has ended."""
        self._sessions.pop(session.session_id, None)
        session.state.close()

    async def close(self) -> None:
        """Forget every session, and end nothing more."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        for session in self:
            self.forget(session)
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _crowded(self, address: str) -> Callable[[OpenSession], bool] | None:
        """Which sessions one has to be taken from before this address may open another; None: it may."""
        own = sum(session.address == address for session in self) + self._opening[address]
        if own >= self._most_of_address:
            return lambda session: session.address == address
        if len(self._sessions) + self._opening.total() >= self._most:
            return lambda session: True
        return None

    async def _drop(self, session: OpenSession) -> None:
        self.forget(session)
        await self._end(session.session_id)

    # -- idle sessions ---------------------------------------------------------------------------

    def _arm(self, after_s: float) -> None:
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(after_s, self._expire)

    def _expire(self) -> None:
        """End what was idle for too long, and come back when the next one may have been."""
        self._expiry = None
        now = asyncio.get_running_loop().time()
        idle = [session for session in self if not session.open_requests]
        for session in idle:
            if session.idle_since + self._idle_s <= now:
                task = asyncio.ensure_future(self._drop(session))
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
        if self._sessions:
            due = min((s.idle_since for s in idle if s.idle_since + self._idle_s > now), default=now)
            self._arm(due + self._idle_s - now)
