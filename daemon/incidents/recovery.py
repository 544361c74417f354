"""What an event ends: the signs of recovery in the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.event import Kind
from daemon.incidents.incident import Incident
from daemon.incidents.member import RECOVERED, Member
from daemon.incidents.outcome import How
from daemon.incidents.rules import ENDED_BY


@dataclass(frozen=True, slots=True)
class Ending:
    """Incidents that an event closes."""

    over: Sequence[Incident]
    how: How
    why: str
    partly: Sequence[Incident] = ()
    """Incidents of several GPUs of which this one has recovered."""


def ending(member: Member, incidents: Sequence[Incident]) -> Ending | None:
    """What the event ends among the open incidents; None for an event that tells of no recovery.

    A drill ends drills only, and no drill ends a real incident.
    """
    own = [each for each in incidents if each.is_open and each.drill == member.event.drill]
    here = [each for each in own if member.device in each.devices]
    if member.event.kind is Kind.DRIVER_LOADED:
        over = [each for each in own if each.boot_id == member.event.boot_id]
        why = "the driver was loaded anew; should the fault still be there, it is reported again"
        return Ending(over, How.DRIVER_LOADED, why)
    if member.recovery_to == RECOVERED:
        return _recovered(member, here)
    if member.xid in ENDED_BY:
        lasting = ENDED_BY[member.xid]
        over = [each for each in here if each.primary.xid == lasting]
        return Ending(over, How.ENDED_BY_CODE, f"{member.label} says so")
    return None


def _recovered(member: Member, here: Sequence[Incident]) -> Ending:
    """154 to None. A lasting condition is none of the recovery action's business."""
    reached = [each for each in here if not each.is_lasting]
    partly = [
        each for each in reached if any(sick and pci != member.device for pci, sick in each.devices.items())
    ]
    return Ending(
        over=[each for each in reached if each not in partly],
        how=How.RECOVERY_ACTION_NONE,
        why="the driver asks for no recovery action any more (Xid 154)",
        partly=partly,
    )
