"""How many new events a device may cause: at most 20 in 10 s.

A device that never matched a real GPU has no allowance of its own: all such devices share one, so
that garbage addresses cannot multiply events. Drills are counted apart from real faults.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

NEW_EVENTS = 20
WINDOW_US = 10_000_000


class Allowance:
    """Sliding windows of the times at which new events were granted. Owned by the coalescer."""

    def __init__(self) -> None:
        self._granted: dict[Hashable, deque[int]] = {}

    def has_room(self, owner: Hashable, now_us: int) -> bool:
        """True when `owner` may cause one more new event at `now_us` (kernel time)."""
        times = self._granted.get(owner)
        return times is None or len(times) < NEW_EVENTS or abs(now_us - times[0]) >= WINDOW_US

    def take(self, owner: Hashable, now_us: int) -> bool:
        """Count one new event if there is room for it; False when there is none."""
        if not self.has_room(owner, now_us):
            return False
        self._granted.setdefault(owner, deque(maxlen=NEW_EVENTS)).append(now_us)
        return True
