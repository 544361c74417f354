"""The incidents that are open now, as any reader of the stream can know them.

Fed with the items of the stream in cursor order. Drills are left out: nobody is called for them.
Owned by whoever feeds it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

from daemon.event import Event, Kind
from daemon.filter import EventFilter
from daemon.incidents.outcome import State
from daemon.page import MAX_LIMIT
from daemon.stream import EventStream

INCIDENTS: Final = EventFilter(kinds=frozenset({Kind.INCIDENT}))
MOST: Final = 256
"""Open incidents remembered, four times what the daemon follows; beyond, the oldest is let go."""


class OpenIncidents:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Event] = OrderedDict()

    def __iter__(self) -> Iterator[Event]:
        """The newest revision of each, those that changed last at the end."""
        return iter(tuple(self._open.values()))

    async def learn(self, stream: EventStream) -> None:
        """Take what the stream has kept: the newest 1,000 incidents. Raises UserError when the journal cannot
        be read."""
        kept = await stream.page(None, MAX_LIMIT, INCIDENTS)
        self.take(item.event for item in kept.items)

    def take(self, events: Iterable[Event]) -> None:
        """Take events, in order; those that are no incidents are skipped."""
        for event in events:
            if event.kind is not Kind.INCIDENT:
                continue
            self._open.pop(event.id, None)
            if event.detail.get("state") == State.OPEN and not event.drill:
                self._open[event.id] = event
        while len(self._open) > MOST:
            self._open.popitem(last=False)
