"""The resource URIs of this server: what each one names, and which events concern it.

A URI is compared as the client wrote it, but for a GPU's UUID: some clients lower-case the part
after `gpu://`, so the case of its letters does not count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from daemon.event import Event, Kind
from daemon.filter import EventFilter, uuid_key
from daemon.gpu.expected import FALLEN_OFF_THE_BUS


class Place(StrEnum):
    """The kinds of resource; the value is the URI, or its template."""

    EVENTS = "xid://events"
    """The newest events, as a page."""
    EVENT = "xid://events/{id}"
    """One event, as its newest revision."""
    INCIDENTS = "xid://incidents"
    """The newest incidents, as a page."""
    INCIDENT = "xid://incidents/{id}"
    """One incident, as its newest revision."""
    CODE = "xid://catalog/{code}"
    """What an Xid or SXid number means. It never changes while the daemon runs."""
    GPU_EVENTS = "gpu://{uuid}/events"
    """The newest events of one GPU, as a page."""
    INVENTORY = "gpu://inventory"
    """The GPUs of this node, lost ones included."""
    GPU_HEALTH = "gpu://{uuid}/health"
    """One GPU's verdict with its reasons and every reading, taken when it is read."""
    STATUS = "node://status"
    """What hears, what is kept, what is not available."""


STATUS_KINDS: Final = frozenset({Kind.GAP, Kind.PROBE, Kind.DRIVER_LOADED})
"""Events that say that `node://status` has changed in a way that matters."""

INVENTORY_KINDS: Final = frozenset({Kind.XID, Kind.GPU_LOST, Kind.DRIVER_LOADED})
"""Kinds of event of which some say that `gpu://inventory` has changed."""

INCIDENTS_ONLY: Final = EventFilter(kinds=frozenset({Kind.INCIDENT}))

_OF_A_GPU: Final = frozenset({Place.GPU_EVENTS, Place.GPU_HEALTH})
_VARIABLE = re.compile(r"\{([a-z]+)\}")
_KEY = "([0-9A-Za-z_-]{1,80})"


@dataclass(frozen=True, slots=True)
class Address:
    """One resource. That its URI has the right form does not mean that it exists."""

    place: Place
    key: str = ""
    """Id of an event or incident, code in decimal digits, or `uuid_key` of a GPU; "" for the others."""

    @property
    def changes(self) -> bool:
        """True when events concern it, so that it can be subscribed to."""
        return self.place is not Place.CODE

    def is_concerned_by(self, event: Event) -> bool:
        """True when what the resource holds is another because of this event."""
        match self.place:
            case Place.EVENTS | Place.EVENT:
                return self.key in ("", event.id)
            case Place.INCIDENTS | Place.INCIDENT:
                return event.kind is Kind.INCIDENT and self.key in ("", event.id)
            case Place.GPU_EVENTS | Place.GPU_HEALTH:
                is_its_own = event.gpu is not None and uuid_key(event.gpu.uuid) == self.key
                is_new_driver = self.place is Place.GPU_HEALTH and event.kind is Kind.DRIVER_LOADED
                return is_its_own or is_new_driver
            case Place.INVENTORY:
                is_off_the_bus = event.kind is Kind.XID and event.code == FALLEN_OFF_THE_BUS
                changes_it = event.kind in (Kind.GPU_LOST, Kind.DRIVER_LOADED) or is_off_the_bus
                return changes_it and not event.drill
            case Place.STATUS:
                return event.kind in STATUS_KINDS
            case Place.CODE:
                return False

    def filter(self) -> EventFilter:
        """A filter that lets through at least the events that concern it."""
        if self.place is Place.GPU_EVENTS:
            return EventFilter(gpus=frozenset({self.key}))
        if self.place in (Place.INCIDENTS, Place.INCIDENT):
            return INCIDENTS_ONLY
        if self.place is Place.INVENTORY:
            return EventFilter(kinds=INVENTORY_KINDS)
        if self.place is Place.STATUS:
            return EventFilter(kinds=STATUS_KINDS)
        return EventFilter()


def parse(uri: str) -> Address | None:
    """The resource that a URI names; None when it has none of the forms."""
    for place, pattern in _PATTERNS.items():
        if found := pattern.fullmatch(uri):
            key = found[1] if pattern.groups else ""
            return Address(place, (uuid_key(key) or "") if place in _OF_A_GPU else key)
    return None


def variable(place: Place) -> str | None:
    """Name of the variable in a place's template; None when it has none."""
    found = _VARIABLE.search(place)
    return found and found[1]


def uri_of_event(event_id: str) -> str:
    """`xid://events/ev_…`."""
    return Place.EVENT.replace("{id}", event_id)


def uri_of_incident(incident_id: str) -> str:
    """`xid://incidents/inc_…`."""
    return Place.INCIDENT.replace("{id}", incident_id)


def uri_of_gpu_events(uuid: str) -> str:
    """`gpu://GPU-…/events`."""
    return Place.GPU_EVENTS.replace("{uuid}", uuid)


def uri_of_gpu_health(uuid: str) -> str:
    """`gpu://GPU-…/health`."""
    return Place.GPU_HEALTH.replace("{uuid}", uuid)


def uri_of_code(code: int) -> str:
    """`xid://catalog/79`."""
    return Place.CODE.replace("{code}", str(code))


def _pattern(place: Place) -> re.Pattern[str]:
    # Split at the variable, the pieces are literal text, variable, literal text.
    before, *variables = _VARIABLE.split(place)
    literal = re.escape(before)
    return re.compile(literal + _KEY + re.escape(variables[1]) if variables else literal)


_PATTERNS: Final = {place: _pattern(place) for place in Place}
