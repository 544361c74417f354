"""Which revisions of an event a person must hear of.

The stream tells every revision of an event. An alarm is told when an event first matches, and again when
it got worse, when its incident was closed or opened again, when its advice changed, or when it turned out
to be a drill: what else is learned of it can be looked up. So each sink remembers what it last told of
the newest `REMEMBERED` events; of an older one the next revision may be told again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from daemon.event import Event, Item, Kind
from daemon.filter import EventFilter
from daemon.sinks import wording

REMEMBERED: Final = 1_024
"""Events. At the fastest pace of a sink that is more than a minute and a half of new ones."""


class Updates(StrEnum):
    """Which later revisions of an event that was told are told, too."""

    NONE = "none"
    IMPORTANT = "important"
    ALL = "all"


class Memory(Protocol):
    """What a sink knows of what it told; saved with its cursor."""

    @property
    def reads(self) -> EventFilter:
        """What of the stream it has to see."""

    def select(self, items: Sequence[Item], match: EventFilter) -> list[Item]:
        """Those that have to be sent, in their order. `match`: the sink's filter as of now."""

    def note(self, items: Iterable[Item]) -> None:
        """These were sent."""

    def pass_over(self, items: Iterable[Item]) -> None:
        """These happened before the sink was set up: they are not sent."""

    def dump(self) -> dict[str, Any]:
        """As JSON."""

    def load(self, data: dict[str, Any]) -> None:
        """Take up what `dump` gave. Raises KeyError, TypeError or ValueError on anything else."""


@dataclass(frozen=True, slots=True)
class Told:
    """What was last told of an event."""

    revision: int
    rank: int
    state: str | None
    action: str | None
    """First step to take; None for what is no incident: there it follows from the code."""
    drill: bool
    until_us: int | None = None
    """Set for what happened before the sink was set up: it is news only when it goes on after this time,
    µs since the Unix epoch."""

    @classmethod
    def of(cls, event: Event, *, until_us: int | None = None) -> Told:
        """As it is told now."""
        action = event.action.value if event.kind is Kind.INCIDENT else None
        return cls(event.revision, event.severity.rank, wording.state(event), action, event.drill, until_us)

    def to_list(self) -> list[Any]:
        """As JSON. Written out, as `dataclasses` takes milliseconds for all that are remembered."""
        return [self.revision, self.rank, self.state, self.action, self.drill, self.until_us]


class News:
    """See the module's docstring. Belongs to one sink."""

    def __init__(self, reads: EventFilter, updates: Updates, *, drills: bool) -> None:
        self._reads = reads
        self._updates = updates
        self._drills = drills
        self._told: OrderedDict[str, Told] = OrderedDict()

    @property
    def reads(self) -> EventFilter:
        """What matches is all that it has to see."""
        return self._reads

    def select(self, items: Sequence[Item], match: EventFilter) -> list[Item]:
        """Those that are news."""
        return [item for item in items if match.matches(item.event) and self._is_news(item.event)]

    def note(self, items: Iterable[Item]) -> None:
        """Remember them as told."""
        for item in items:
            self._remember(item.event.id, Told.of(item.event))

    def pass_over(self, items: Iterable[Item]) -> None:
        """Remember them as of before."""
        for item in items:
            self._remember(item.event.id, Told.of(item.event, until_us=item.event.last_time_us))

    def _is_news(self, event: Event) -> bool:
        told = self._told.get(event.id)
        if told is None:
            return self._drills or not event.drill
        if told.until_us is not None:
            return event.last_time_us > told.until_us and (self._drills or not event.drill)
        match self._updates:
            case Updates.NONE:
                return False
            case Updates.ALL:
                return event.revision > told.revision
            case Updates.IMPORTANT:
                now = Told.of(event)
                same = (now.state, now.action, now.drill) == (told.state, told.action, told.drill)
                return now.rank > told.rank or not same

    def _remember(self, event_id: str, told: Told) -> None:
        self._told[event_id] = told
        self._told.move_to_end(event_id)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)

    def dump(self) -> dict[str, Any]:
        """`{"told": {id: …}}`."""
        return {"told": {event_id: told.to_list() for event_id, told in self._told.items()}}

    def load(self, data: dict[str, Any]) -> None:
        """See `Memory`."""
        told = {str(event_id): Told(*each) for event_id, each in data["told"].items()}
        for event_id, each in told.items():
            self._remember(event_id, each)
