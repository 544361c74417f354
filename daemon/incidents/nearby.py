"""What else is open when an event comes: the faults it could be tied to.

They are the coalescer's: for as long as it keeps a fault, an event that belongs to no incident can
still join one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

from daemon.event import Severity
from daemon.fault import OpenFault
from daemon.incidents import patterns
from daemon.incidents.member import RECOVERED, Member, can_belong
from daemon.incidents.rules import reaches_beyond_its_device
from daemon.incidents.signs import ADVICE, NVLINK

Part = tuple[Member, OpenFault]
"""A member, or what may become one, and the fault that speaks for it."""


def loose(faults: Iterable[OpenFault], member: Member) -> Iterator[Part]:
    """Events that are in no incident, and that could be tied to this one."""
    reaches = reaches_beyond_its_device(member)
    mine = member.event
    for fault in list(faults):
        event = fault.event
        if event.incident is not None or event.revision == 0 or event.id == mine.id:
            continue
        if (event.boot_id, event.drill) != (mine.boot_id, mine.drill) or not can_belong(event):
            continue
        other = Member.of(fault, event)
        is_near = reaches or other.device == mine.device or reaches_beyond_its_device(other)
        if is_near and other.recovery_to != RECOVERED:
            yield other, fault


def errors_like(faults: Iterable[OpenFault], member: Member) -> list[Part]:
    """Programs' errors on the same GPU a little earlier that are in no incident yet."""
    return [
        (other, fault)
        for other, fault in loose(faults, member)
        if other.device == member.device
        and other.is_application_error
        and member.is_application_error
        and member.first_us - other.last_us <= patterns.PROGRAMS_US
    ]


def same_on_many_gpus(
    faults: Iterable[OpenFault], member: Member, fault: OpenFault, known_gpus: int
) -> Sequence[OpenFault]:
    """The same fault on so many GPUs at once that it is a matter of the node, this one among them,
    earliest first; empty when it is none. `known_gpus`: how many the node has, 0 when not known."""
    event = member.event
    if event.gpu is None or member.xid in ADVICE or event.severity is Severity.INFO:
        return ()
    peers = {fault.slot.device: fault}
    for other in faults:
        is_same = other.slot[:4] == fault.slot[:4] and other.event.revision > 0
        if is_same and abs(other.began_us - fault.began_us) <= patterns.AT_ONCE_US:
            peers.setdefault(other.slot.device, other)
    known = 0 if event.drill else known_gpus  # a drill names GPUs that the node need not have
    if len(peers) < patterns.gpus_needed(known, is_of_link=member.sign in NVLINK):
        return ()
    return sorted(peers.values(), key=attrgetter("began_us"))
