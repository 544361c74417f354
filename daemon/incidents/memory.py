"""What failed where before, over weeks and restarts: bounded, and by wall clock.

A board that was exchanged starts with a clean sheet. Drills are never remembered.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from daemon.event import Event, Kind

SIGHTINGS_OF_A_SORT = 48
"""Of each sort of place on a device: a storm at one must not push out what is remembered of another."""
DEVICES = 64


class Sighting(NamedTuple):
    """Something failed at a place."""

    place: str
    """`sm 1/4/0` (GPC, TPC, SM), `row 0x…`, `link 6`, `program`, `recovered Xid 48`."""
    time_us: int
    """Wall clock of the event, µs since the Unix epoch."""
    event: str
    """Id of the event, or of the incident that recovered."""
    pid: int | None = None
    process: str | None = None

    @property
    def sort(self) -> str:
        """The kind of place: its first word."""
        return self.place.partition(" ")[0]


@dataclass(slots=True)
class _Device:
    """What is remembered of one device."""

    uuid: str | None
    sightings: list[Sighting]


class Memory:
    """Sightings by PCI address, oldest first. Owned by the register."""

    def __init__(self) -> None:
        self._devices: OrderedDict[str, _Device] = OrderedDict()
        self.touched: set[str] = set()
        """Devices whose saved sightings are out of date."""
        self.forgotten: set[str] = set()
        """Devices that have been forgotten since this was last looked at."""

    def of(self, device: str) -> Sequence[Sighting]:
        """Everything remembered of a device."""
        known = self._devices.get(device)
        return known.sightings if known is not None else ()

    def note(self, device: str, sighting: Sighting, *, uuid: str | None = None) -> bool:
        """Remember; True when it was new. A later revision of an event may still bring its pid.

        A GPU of another UUID is another board: what was remembered of the one before is dropped.
        """
        known = self._devices.get(device)
        if known is None or (uuid is not None and known.uuid not in (None, uuid)):
            known = self._devices[device] = _Device(uuid, [])
        known.uuid = uuid or known.uuid
        if not _put(known.sightings, sighting):
            return False
        self._devices.move_to_end(device)
        self.touched.add(device)
        self.forgotten.discard(device)
        if len(self._devices) > DEVICES:
            oldest, _ = self._devices.popitem(last=False)
            self.touched.discard(oldest)
            self.forgotten.add(oldest)
        return True

    # -- saved state ---------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        """The devices remembered, the one noted last at the end."""
        return iter(self._devices)

    def dump(self, device: str) -> str:
        """What is remembered of one device, as one line of JSON."""
        known = self._devices[device]
        return json.dumps({"uuid": known.uuid, "sightings": known.sightings})

    def load(self, device: str, text: str) -> None:
        """Take up a dumped device. Raises ValueError, TypeError or KeyError when it is none."""
        data = json.loads(text)
        known = self._devices[device] = _Device(data["uuid"], [])
        for each in data["sightings"]:
            _put(known.sightings, _sighting(each))

    def add(self, device: str, text: str) -> None:
        """Remember a dumped device besides what is known, unless it is another board. Raises as `load`."""
        data = json.loads(text)
        known = self._devices.get(device)
        if known is None or data["uuid"] in (None, known.uuid) or known.uuid is None:
            for each in data["sightings"]:
                self.note(device, _sighting(each), uuid=data["uuid"])


def _put(sightings: list[Sighting], new: Sighting) -> bool:
    """Add a sighting, or the pid that one lacked; False when it says nothing new."""
    for at, known in enumerate(sightings):
        if (known.place, known.event) == (new.place, new.event):
            if new.pid is None or known.pid == new.pid:
                return False
            sightings[at] = new
            return True
    sightings.append(new)
    alike = [at for at, known in enumerate(sightings) if known.sort == new.sort]
    if len(alike) > SIGHTINGS_OF_A_SORT:
        del sightings[alike[0]]
    return True


def _sighting(fields: Sequence[Any]) -> Sighting:
    place, time_us, event, pid, process = fields
    return Sighting(str(place), int(time_us), str(event), pid, process)


def places(event: Event) -> Iterator[str]:
    """The places that an event names, as far as its line tells."""
    detail = event.detail
    if event.kind is not Kind.XID:
        return
    if "gpc" in detail and "tpc" in detail and "sm" in detail:
        yield f"sm {detail['gpc']}/{detail['tpc']}/{detail['sm']}"
    for sort, name in _ADDRESSES:
        if isinstance(detail.get(name), str):
            yield f"{sort} {detail[name]}"
    link = detail.get("link")
    if isinstance(link, int) and link >= 0:
        yield f"link {link}"


_ADDRESSES = (("row", "row_address"), ("page", "page_address"), ("address", "physical_address"))
"""Addresses in the GPU's own memory. The virtual address of a 31 is the program's, not the GPU's."""
