"""The incidents that are open now, as any reader of the stream can know them.

Fed with the items of the stream in cursor order. Drills are left out: nobody is called for them. An
incident that is not followed any more is not open, and yet nothing says that its GPU recovered: these
are kept apart until something does. Owned by whoever feeds it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from daemon.event import Event, Kind
from daemon.filter import EventFilter
from daemon.incidents.outcome import How, State
from daemon.page import MAX_LIMIT
from daemon.stream import EventStream

INCIDENTS: Final = EventFilter(kinds=frozenset({Kind.INCIDENT, Kind.DRIVER_LOADED}))
"""What has to be fed."""
MOST: Final = 256
"""Open incidents remembered, four times what the daemon follows; beyond, the oldest is let go."""


class OpenIncidents:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Event] = OrderedDict()
        self._given_up: OrderedDict[str, Event] = OrderedDict()

    def __iter__(self) -> Iterator[Event]:
        """The newest revision of each, those that changed last at the end."""
        return iter(tuple(self._open.values()))

    @property
    def given_up(self) -> Sequence[Event]:
        """Those that were closed although nothing says that they are over, the newest last. One ends when
        another incident of its device recovers, and all when the driver is loaded."""
        return tuple(self._given_up.values())

    async def learn(self, stream: EventStream) -> None:
        """Take what the stream has kept: of incidents and loads of the driver the newest 1,000. Raises
        UserError when the journal cannot be read."""
        kept = await stream.page(None, MAX_LIMIT, INCIDENTS)
        self.take(item.event for item in kept.items)

    def take(self, events: Iterable[Event]) -> None:
        """Take events, in order; what says nothing about incidents is skipped."""
        for event in events:
            if event.kind is Kind.INCIDENT:
                self._take_incident(event)
            elif event.kind is Kind.DRIVER_LOADED and event.origin == "kernel" and not event.drill:
                self._given_up.clear()
        for kept in (self._open, self._given_up):
            while len(kept) > MOST:
                kept.popitem(last=False)

    def _take_incident(self, event: Event) -> None:
        self._open.pop(event.id, None)
        self._given_up.pop(event.id, None)
        if event.drill:
            return
        match event.detail.get("state"):
            case State.OPEN:
                self._open[event.id] = event
            case State.CLOSED if _how(event) != How.MERGED:  # the one that took it in goes on
                self._given_up[event.id] = event
            case State.RECOVERED:
                for given_up in self.given_up:
                    if given_up.device == event.device:
                        del self._given_up[given_up.id]


def _how(incident: Event) -> object:
    closing = incident.detail.get("recovered_by")
    return closing.get("how") if isinstance(closing, dict) else None
