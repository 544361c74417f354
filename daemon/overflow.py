"""What becomes of faults beyond a device's allowance: one event that counts them."""

from __future__ import annotations

from dataclasses import replace

from daemon.event import Kind, event_id
from daemon.fault import MAX_PIDS, OpenFault, Slot, Sufferer


def as_overflow(fault: OpenFault, slot: Slot) -> OpenFault:
    """The overflow event that begins with this fault; `slot` says which faults will fold into it."""
    first = fault.event
    what = f"{first.kind.value.capitalize()} {first.code or first.name or ''}".strip()
    if slot.what is None:
        what = "faults of different kinds"
    where = slot.device or "this node"
    event = replace(
        first,
        id=event_id(first.boot_id, fault.began_us, f"overflow\0{first.id}"),
        revision=0,
        kind=Kind.OVERFLOW,
        code=first.code if slot.what is not None else None,
        name=first.name if slot.what is not None else None,
        summary=f"More {what} on {where} than are listed one by one: counted here",
        gpu=replace(first.gpu, mig=None) if first.gpu is not None and slot.device is not None else None,
        nvswitch=first.nvswitch if slot.device is not None else None,
        process=None,
        detail={},
    )
    overflow = OpenFault(
        slot=slot,
        sufferer=Sufferer(None, None),
        event=event,
        count=0,
        began_us=fault.began_us,
        last_us=fault.last_us,
        last_time_us=fault.last_time_us,
        last_arrival_us=fault.last_arrival_us,
        lines=[],
    )
    fold(overflow, fault)
    return overflow


def fold(overflow: OpenFault, fault: OpenFault) -> None:
    """Count one more fault: its lines and its pid. The event is as severe as its worst fault."""
    overflow.absorb(fault)
    if fault.event.severity.rank > overflow.event.severity.rank:
        worst = fault.event
        overflow.event = replace(
            overflow.event,
            severity=worst.severity,
            blame=worst.blame,
            action=worst.action,
            action_text=worst.action_text,
        )
    overflow.add_pid(fault.sufferer.pid)
    overflow.detail = {
        "lines": len(overflow.lines) + overflow.lines_dropped,
        "distinct_pids": len(overflow.pids),
        "distinct_pids_is_minimum": len(overflow.pids) == MAX_PIDS,
    }
