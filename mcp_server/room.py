"""Who is connected, and who has to go when there is no room for another connection.

Each address has its share (see `quota`). Beyond that, connections that *wait* make room: those with which
nothing goes on because they have not brought a whole request yet, be it a handshake that does not end, half a
header, or a connection kept for later. The one that has waited longest goes first. So whoever opens thousands
of silent connections takes them from himself, and a client that asks something gets in; a connection that is
being answered, such as a reader of events, is never cut for another one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from mcp_server.quota import OverQuotaError, Quota

log = logging.getLogger(__name__)

SAID_EVERY_S: Final = 60.0
"""A flood is logged this often at most."""


class Seat:
    """The place of one connection. It waits until `answered` is called."""

    def __init__(self, room: Room, address: str, abort: Callable[[], None]) -> None:
        self._room = room
        self.address = address
        self.abort = abort
        """Ends the connection at once."""

    def waits(self) -> None:
        """A request is awaited, or its rest."""
        self._room.waits(self)

    def answered(self) -> None:
        """A whole request has come and is being answered."""
        self._room.no_longer_waits(self)

    def leave(self) -> None:
        """The connection has ended. Saying so twice changes nothing."""
        self._room.give_back(self)


class Room:
    """Places for connections. Belongs to the event loop."""

    def __init__(self, places: int, *, always: int, waiting: int) -> None:
        """Room for so many connections, of which an address has `always` some (see `Quota`), and for so many
        waiting ones: they cost memory and have given nothing."""
        self._quota = Quota(places, always=always)
        self._most_waiting = waiting
        self._taken: set[Seat] = set()
        # Dicts are sets that remember who came first.
        self._waiting: dict[Seat, None] = {}
        self._waiting_of: dict[str, dict[Seat, None]] = {}
        self.cut = 0
        """Waiting connections that had to make room, since the start."""
        self.refused = 0
        """Connections that found no place, since the start."""
        self._said_at: float | None = None

    @property
    def taken(self) -> int:
        """Connections that have a place."""
        return len(self._taken)

    @property
    def waiting(self) -> int:
        """Those of them that wait."""
        return len(self._waiting)

    def enter(self, address: str, abort: Callable[[], None]) -> Seat | None:
        """A place for a new connection; None when its address has its share and none of it waits."""
        if len(self._waiting) >= self._most_waiting or self._quota.is_overfull():
            self._cut_first_of(self._waiting)
        if not self._quota.allows(address):
            self._cut_first_of(self._waiting_of.get(address, {}))
        try:
            self._quota.take(address)
        except OverQuotaError:
            self.refused += 1
            self._say()
            return None
        seat = Seat(self, address, abort)
        self._taken.add(seat)
        self.waits(seat)
        return seat

    def waits(self, seat: Seat) -> None:
        """Put a connection behind all that wait; one that does so already keeps its place."""
        if seat in self._taken:
            self._waiting.setdefault(seat)
            self._waiting_of.setdefault(seat.address, {}).setdefault(seat)

    def no_longer_waits(self, seat: Seat) -> None:
        """It is being answered, or over."""
        if seat not in self._waiting:
            return
        del self._waiting[seat]
        of_address = self._waiting_of[seat.address]
        del of_address[seat]
        if not of_address:
            del self._waiting_of[seat.address]

    def give_back(self, seat: Seat) -> None:
        """Its place is free again."""
        if seat in self._taken:
            self._taken.remove(seat)
            self.no_longer_waits(seat)
            self._quota.give_back(seat.address)

    def end_all(self) -> None:
        """End every connection at once."""
        for seat in list(self._taken):
            seat.abort()

    def _cut_first_of(self, waiting: dict[Seat, None]) -> None:
        for seat in waiting:
            self.cut += 1
            self.give_back(seat)
            seat.abort()
            self._say()
            return

    def _say(self) -> None:
        now = time.monotonic()
        if self._said_at is None or now - self._said_at >= SAID_EVERY_S:
            self._said_at = now
            log.warning(
                "too many connections: %d; since the start %d silent ones were cut and %d refused",
                self.taken,
                self.cut,
                self.refused,
            )
