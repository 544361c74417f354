"""Which sessions of `/mcp` are open, whose they are, and which one makes room for another.

A session in which nothing is under way may be ended at any time: its owner gets 404, and the protocol
tells it to begin a new one. This happens when it was idle for long, and when its address may have no
more: then first one goes that nothing was ever asked in, else the one that was idle longest. So a client
that opens sessions without end ends its own. What an address may have is said in `quota`; sessions of
others are ended only when everything is full. One with an open stream or call is never ended for another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from mcp_server.mcp_session_state import SessionState
from mcp_server.quota import OverQuotaError, Quota


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
    owner: str = ""
    """`Identity.key` of the client that opened it."""
    user: object | None = None
    """What the SDK knows that client by; None where nobody has to show a token."""

    @property
    def is_idle(self) -> bool:
        """True when nothing is under way: no open stream, and no call, though nobody may wait for it."""
        return not self.open_requests and not len(self.state.in_flight)


@dataclass(slots=True, eq=False)
class Place:
    """Room for one session, which may open."""

    address: str
    is_taken: bool = False


class SessionRegistry:
    """The open sessions. Belongs to the event loop."""

    def __init__(
        self,
        end: Callable[[OpenSession], Awaitable[None]],
        knows: Callable[[str], bool],
        *,
        room: Quota,
        most_requests: int,
        idle_s: float,
    ) -> None:
        """`end` ends a session, `knows` says whether it has not ended by itself;
        `most_requests` may be open in one session."""
        self._end = end
        self._knows = knows
        self._room = room
        self._most_requests = most_requests
        self._idle_s = idle_s
        self._sessions: dict[str, OpenSession] = {}
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
    async def place_for(self, address: str) -> AsyncIterator[Place]:
        """Room for one more session of this address, which may open while the block runs.

        Raises OverQuotaError when none can be had.
        """
        given_up = None
        if not self._room.allows(address):
            # One for one, whatever the address may have by now: its other sessions stay.
            given_up = self._to_give_up(address)
            self.forget(given_up)
        self._room.put(address)
        place = Place(address)
        try:
            if given_up is not None:
                await self._end(given_up)
            yield place
        finally:
            if not place.is_taken:
                self._room.give_back(address)

    def _to_give_up(self, address: str) -> OpenSession:
        """The session that makes room for one of this address. Raises OverQuotaError when there is none."""
        anybody = self._room.is_overfull() and not self._room.of(address)
        candidates = [each for each in self if each.is_idle and (anybody or each.address == address)]
        if not candidates:
            raise OverQuotaError
        return min(candidates, key=lambda each: (each.was_used, each.idle_since))

    def opened(self, session_id: str, place: Place, state: SessionState) -> OpenSession:
        """A session came to be."""
        session = OpenSession(session_id, place.address, state, asyncio.get_running_loop().time())
        place.is_taken = True
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
        if self._sessions.pop(session.session_id, None) is not None:
            self._room.give_back(session.address)
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

    # -- idle sessions ---------------------------------------------------------------------------

    def _arm(self, after_s: float) -> None:
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(after_s, self._expire)

    def _expire(self) -> None:
        """End what was idle for too long, and come back when the next one may have been."""
        self._expiry = None
        now = asyncio.get_running_loop().time()
        for session in self:
            if not session.open_requests and not self._knows(session.session_id):
                self.forget(session)
        idle = [session for session in self if session.is_idle]
        for session in idle:
            if session.idle_since + self._idle_s <= now:
                self.forget(session)  # at once: a request that comes now is told that it has ended
                task = asyncio.ensure_future(self._end(session))
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
        if self._sessions:
            since = (session.idle_since for session in idle if session.idle_since + self._idle_s > now)
            self._arm(min(since, default=now) + self._idle_s - now)
