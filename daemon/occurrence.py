"""Which lines, and which faults, belong to one occurrence: by their form, their device and their time."""

from __future__ import annotations

from daemon.decoded import Part
from daemon.event import Kind
from daemon.fault import OpenFault, Slot, Trust
from daemon.grammar import GSP_DUMP
from daemon.heard import Heard

LONGEST_OCCURRENCE_US = 5_000_000
"""An occurrence ends here even if its lines never fall silent: on a slow serial console the driver
needs about 10 ms a line, so a fault of 300 lines is spread over seconds."""

FALLEN_OFF_THE_BUS = 79

Device = tuple[Trust, str, str | None]
"""Trust, boot id and PCI address: lines of one fault have them in common."""

DUMP_CODES = frozenset({119, 120})
"""Xids that the driver follows with a dump of GSP state, in lines that name no device."""


def device_of(slot: Slot) -> Device:
    """What the lines of one fault have in common."""
    return (slot.trust, slot.boot_id, slot.device)


def standing(fault: OpenFault | None) -> OpenFault | None:
    """The fault, or the one into which it was counted."""
    while fault is not None and fault.absorbed_by is not None:
        fault = fault.absorbed_by
    return fault


def is_loss(slot: Slot) -> bool:
    """True when the driver says in one of its two ways that a GPU is gone."""
    return slot.kind is Kind.GPU_LOST or (slot.kind, slot.what) == (Kind.XID, FALLEN_OFF_THE_BUS)


def tells_the_same_loss(slot: Slot, other: Slot) -> bool:
    """True for the two ways of telling one loss; two Xid 79s are compared by pid like any other fault."""
    both_79 = slot.kind is Kind.XID and other.kind is Kind.XID
    return is_loss(slot) and device_of(slot) == device_of(other) and not both_79


def leads_to(slot: Slot, later: Slot) -> bool:
    """True when a fault of `slot` can be the one that a line without a device goes on about."""
    if slot[:2] != later[:2]:  # trust, boot
        return False
    if later.what == GSP_DUMP:
        return slot.kind is Kind.XID and slot.what in DUMP_CODES
    return (slot.kind, slot.what) == (later.kind, later.what)


def belongs(unfinished: OpenFault, heard: Heard) -> bool:
    """True when the line can be the next one of the occurrence in progress."""
    mig, pid = unfinished.sufferer
    return (
        unfinished.slot == heard.slot
        and mig == heard.sufferer.mig
        and (pid is None or heard.sufferer.pid is None or pid == heard.sufferer.pid)
        and heard.part is not Part.WHOLE
        and (heard.part is not Part.OPENING or heard.text not in unfinished.openings)
        and abs(heard.at_us - unfinished.began_us) <= LONGEST_OCCURRENCE_US
    )
