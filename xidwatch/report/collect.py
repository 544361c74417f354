"""The events of a replay, the newest revision of each, within bounds.

A log of years can hold more events than anyone reads. Beyond `MOST_EVENTS` the mildest and oldest are
let go and counted: the worst is what a report is for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from daemon.event import Event, Kind

MOST_EVENTS = 5_000
"""Events kept (some 40 MB)."""


class Collection:
    """Takes events as they are published, gives them back in the order they happened."""

    def __init__(self, most: int = MOST_EVENTS) -> None:
        self._events: dict[str, Event] = {}
        self._most = most
        self.let_go: Counter[str] = Counter()
        """Events let go, by severity."""

    def add(self, events: Iterable[Event]) -> None:
        """Take new events and new revisions."""
        for event in events:
            self._events[event.id] = event
        if len(self._events) > self._most * 5 // 4:
            self._thin_out()

    def faults(self) -> list[Event]:
        """All but the incidents, oldest first."""
        return self._of(incidents=False)

    def incidents(self) -> list[Event]:
        """The incidents, oldest first."""
        return self._of(incidents=True)

    def _of(self, *, incidents: bool) -> list[Event]:
        found = (event for event in self._events.values() if (event.kind is Kind.INCIDENT) is incidents)
        return sorted(found, key=lambda event: event.time_us)

    def _thin_out(self) -> None:
        worst_last = sorted(
            self._events.values(), key=lambda event: (event.severity.rank, event.last_time_us)
        )
        for event in worst_last[: len(worst_last) - self._most]:
            self.let_go[event.severity] += 1
            del self._events[event.id]
