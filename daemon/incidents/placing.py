"""Whether an event belongs to an incident that is open, and how much ties it there."""

from __future__ import annotations

from daemon.incidents import patterns
from daemon.incidents.incident import Incident
from daemon.incidents.member import Member
from daemon.incidents.outcome import RECOVERIES
from daemon.incidents.rules import RULES, reaches_beyond_its_device

_SAME_FAULT = -1
_SAME_PATTERN = next(rank for rank, rule in enumerate(RULES) if not rule.opens)
"""A program's error while a pattern of such errors is open: behind the rules for one process."""
_ADVICE = len(RULES)


def rank_in(incident: Incident, member: Member) -> int | None:
    """How much ties an event to an open incident: the lower, the more; None: nothing.

    Before all rules comes the same fault over again; then the table in its order; behind everything
    comes the driver's advice for a GPU, which belongs to whatever is open there.
    """
    is_here = member.device in incident.devices
    if incident.boot_id != member.event.boot_id:
        returns = incident.quiet_in == member.event.boot_id and is_here and member.is_serious
        return _SAME_FAULT if returns else None
    if incident.repeats(member) or _is_one_more_gpu(incident, member):
        return _SAME_FAULT
    if not is_here and not reaches_beyond_its_device(member):
        return None
    found = incident.best_tie(member)
    in_pattern = is_here and incident.pattern in patterns.OF_PROGRAMS and member.is_application_error
    ranks = [found.rank] if found is not None else []
    ranks += [_SAME_PATTERN] if in_pattern else []
    ranks += [_ADVICE] if is_here and member.asks_for_recovery and not incident.is_lasting else []
    return min(ranks, default=None)


def _is_one_more_gpu(incident: Incident, member: Member) -> bool:
    """The fault of an incident of several GPUs, on one more."""
    if incident.pattern != patterns.MANY_GPUS or member.what != incident.primary.what:
        return False
    latest = max(each.first_us for each in incident.members if each.what == member.what)
    return abs(member.first_us - latest) <= patterns.AT_ONCE_US


def went_on(incident: Incident, known: Member, member: Member) -> bool:
    """True when a fault of an incident that seemed over has happened again since."""
    closing = incident.closing
    return (
        closing is not None
        and closing.how in RECOVERIES
        and member.event.count > known.event.count
        and (closing.kernel_us is None or member.last_us > closing.kernel_us)
    )
