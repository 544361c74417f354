"""A decoded line, ready to be joined with others: what it means, when it was printed, whose it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from daemon.catalog import Meaning
from daemon.decoded import Part
from daemon.event import Event, Process, Witness
from daemon.fault import OpenFault, Slot, Sufferer, Trust


@dataclass(frozen=True, slots=True)
class Heard:
    """See the module's docstring."""

    slot: Slot
    sufferer: Sufferer
    part: Part
    meaning: Meaning
    process: Process | None
    detail: Callable[[], Mapping[str, Any]]
    """Makes the decoded fields, cleaned; most repeats never need them."""
    text: str
    """The log line as it may leave the program: cleaned and cut."""
    at_us: int
    """Kernel time, or arrival time where the source has none."""
    wall_us: int
    arrival_us: int
    probe: str
    event: Callable[[], Event]
    """Makes the event (revision 0, count 1) whose first record this line is."""
    seq: int | None = None
    """kmsg sequence number, where the probe has one."""


def opened_by(heard: Heard) -> OpenFault:
    """The fault that the line opens."""
    event = heard.event()
    return OpenFault(
        slot=heard.slot,
        sufferer=heard.sufferer,
        event=event,
        count=1,
        began_us=heard.at_us,
        last_us=heard.at_us,
        last_time_us=heard.wall_us,
        last_arrival_us=heard.arrival_us,
        lines=[heard.text],
        process=heard.process,
        detail=dict(event.detail),
        witnesses=(Witness(heard.probe, 0),),
        unproved=_unproved(heard),
    )


def _unproved(heard: Heard) -> int:
    return int(heard.slot.trust is Trust.UNPROVED)


def add(fault: OpenFault, heard: Heard) -> None:
    """Add the line to a fault."""
    fault.add_line(heard.text)
    fault.unproved += _unproved(heard)
    if heard.meaning.severity.rank > fault.event.severity.rank:
        fault.take_meaning(heard.meaning)
    fault.heard(at_us=heard.at_us, wall_us=heard.wall_us, arrival_us=heard.arrival_us)
