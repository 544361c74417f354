"""What an incident says is to be done, and whose fault it is."""

from __future__ import annotations

from daemon.event import Action, Blame
from daemon.incidents.incident import Incident
from daemon.incidents.outcome import Escalation, How
from daemon.incidents.signs import ADVICE

DONE_BY_A_REBOOT = frozenset(
    {
        Action.RESTART_APP,
        Action.RESTART_VM,
        Action.RESET_GPU,
        Action.RESET_FABRIC,
        Action.DRAIN_AND_RESET,
        Action.REBOOT_NODE,
    }
)


def action(incident: Incident) -> Action:
    """The first step, as long as there is one to take."""
    if _is_done_by_the_reboot(incident):
        return Action.IGNORE
    is_done = incident.closing is not None and incident.closing.how not in (
        How.NOT_HEARD_AGAIN,
        How.CROWDED_OUT,
    )
    return Action.IGNORE if is_done else incident.action


def action_text(incident: Incident) -> str:
    """What to do; of an incident that is over, what it called for."""
    closing = incident.closing
    if _is_done_by_the_reboot(incident):
        return (
            "Nothing to do while it stays quiet: the node was rebooted since. It called for: "
            f"{_called_for(incident)}"
        )
    if closing is None or closing.how in (How.NOT_HEARD_AGAIN, How.CROWDED_OUT):
        return _called_for(incident)
    if closing.how is How.MERGED:
        return f"Nothing to do for this one: {closing.why}."
    return f"Nothing more to do now: {closing.why}. It called for: {_called_for(incident)}"


def _is_done_by_the_reboot(incident: Incident) -> bool:
    """The node was rebooted, nothing was heard of it since, and a reboot is as much as it called for."""
    return incident.is_open and incident.quiet_until_us is not None and incident.action in DONE_BY_A_REBOOT


def _called_for(incident: Incident) -> str:
    """What the deciding member asks for, and what the newest escalation adds to it or puts in its place."""
    deciding, cause = incident.deciding.event, incident.primary.event
    if incident.deciding.xid in ADVICE and cause.action is deciding.action:
        deciding = cause  # the driver's advice is the same, but does not know the fault
    told = next((each for each in reversed(incident.escalations) if each.action_text is not None), None)
    if told is None or told.action_text is None:
        return deciding.action_text
    is_replaced = told.action is not None and incident.action is told.action
    return told.action_text if is_replaced else f"{deciding.action_text} {told.action_text}"


def blame(incident: Incident) -> Blame:
    """Whom it points to: the escalation that tells most, else the primary cause."""
    told = telling(incident)
    return told.blame if told is not None and told.blame is not None else incident.primary.event.blame


def telling(incident: Incident) -> Escalation | None:
    """The escalation that the incident's own pattern gave; else the newest."""
    own = [each for each in incident.escalations if each.rule == incident.pattern]
    told = own or incident.escalations
    return told[-1] if told else None
