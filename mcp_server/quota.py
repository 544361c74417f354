"""What one client may have of room that all share.

A client may have as much as is still free, and a little always. So whoever comes first never uses the
room up: the first can have half of it, the next a quarter, and a newcomer always finds some.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class OverQuotaError(Exception):
    """The client has as much as it may."""


class Quota:
    """Room of a certain size, and who has how much of it. Belongs to the event loop."""

    def __init__(self, room: int, *, always: int) -> None:
        """`always` is what a client may have also when the room is full; it ends at twice the room."""
        self._room = room
        self._always = always
        self._taken: Counter[str] = Counter()
        self.total = 0
        """What all clients have."""

    def of(self, client: str) -> int:
        """What this client has."""
        return self._taken[client]

    def is_overfull(self) -> bool:
        """True when nobody gets anything any more, not even a little."""
        return self.total >= 2 * self._room

    def allows(self, client: str, amount: int = 1) -> bool:
        """Whether this client may have so much more."""
        own = self._taken[client] + amount
        if not amount:
            return True
        return own <= max(self._always, self._room - self.total) and self.total + amount <= 2 * self._room

    def take(self, client: str, amount: int = 1) -> None:
        """Give this client so much more. Raises OverQuotaError."""
        if not self.allows(client, amount):
            raise OverQuotaError
        self.put(client, amount)

    def put(self, client: str, amount: int = 1) -> None:
        """Give this client so much more, whatever it may have: in exchange for what was given up."""
        self._taken[client] += amount
        self.total += amount

    def give_back(self, client: str, amount: int = 1) -> None:
        """This client has so much less."""
        assert self._taken[client] >= amount
        self._taken[client] -= amount
        self.total -= amount
        if not self._taken[client]:
            del self._taken[client]

    @contextmanager
    def taken_by(self, client: str, amount: int = 1) -> Iterator[None]:
        """So much more of this client's for as long as the block runs. Raises OverQuotaError."""
        self.take(client, amount)
        try:
            yield
        finally:
            self.give_back(client, amount)
