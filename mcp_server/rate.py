"""How often a client may ask: one bucket a client, for a bounded number of clients.

A client that is asked for after many others were is forgotten, and has its whole burst again: more clients
than are remembered are bounded by what they share (see `quota`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from daemon.access import Rate

MOST_CLIENTS: Final = 4_096
"""Remembered at a time, under a MiB; the one not seen for longest is forgotten first."""


class RateLimit:
    """The buckets. Belongs to the event loop."""

    def __init__(
        self, rate: Rate, *, most: int = MOST_CLIENTS, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._gap_s = 1 / rate.per_second
        self._burst_s = rate.burst * self._gap_s
        self._most = most
        self._now = now
        self._due: OrderedDict[str, float] = OrderedDict()
        """By client the time at which its bucket is full again."""

    def __len__(self) -> int:
        return len(self._due)

    def take(self, client: str) -> float | None:
        """Count one request. None when it may be served, else after how many seconds one may come again."""
        now = self._now()
        due = max(self._due.get(client, now), now) + self._gap_s
        wait_s = due - now - self._burst_s
        if wait_s > 1e-9:  # a whole burst at once adds up with rounding errors
            self._due.move_to_end(client)
            return wait_s
        self._due[client] = due
        self._due.move_to_end(client)
        while len(self._due) > self._most:
            self._due.popitem(last=False)
        return None
