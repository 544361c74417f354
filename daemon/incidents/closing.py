"""What closes an incident, and how long silence has to last to mean something."""

from __future__ import annotations

from daemon.event import Action, Blame
from daemon.incidents.incident import Incident
from daemon.incidents.member import MILD_ACTIONS
from daemon.incidents.outcome import How
from daemon.incidents.rules import ENDED_BY

QUIET_US = 5 * 60 * 1_000_000
"""Silence after which a fault of a program alone is over: its processes are gone."""

DAY_US = 24 * 3600 * 1_000_000
"""Silence after which a fault that needs no reset is no longer followed."""

MONTH_US = 30 * DAY_US
"""Silence after which even a fault that needs a reset is no longer followed."""

REBOOT_QUIET_US = 10 * 60 * 1_000_000
"""How long a device must report nothing serious after a reboot for the reboot to count as the cure:
GPUs that fail at start do so while the driver loads and the first jobs begin."""

LINGER_US = 60 * 1_000_000
"""How long a closed incident stays in memory: should one of its faults go on, it opens again. Longer
than the coalescer keeps a silent fault."""

READING_US = 60 * 1_000_000
"""How long after a start, or after a probe hears again, silence says nothing yet: what was printed
meanwhile is still being read."""

LATE_US = 10 * 1_000_000
"""Time is told so much later than it was asked for only to a process that was stopped meanwhile: it has
the log of that time yet to read."""

NEEDS_NO_RESET = frozenset(
    {
        Action.RUN_DIAGNOSTICS,
        Action.CONTACT_SUPPORT,
        Action.UPDATE_SOFTWARE,
        Action.CHECK_UVM,
        Action.CHECK_MECHANICAL,
    }
)


def is_over_when_quiet(incident: Incident) -> bool:
    """True when silence means recovery: nothing but programs has to be restarted, or it is a drill.
    Hardware that failed is not repaired by silence, even if work can go on."""
    has_failed = incident.worst.is_serious and incident.worst.event.blame is Blame.HARDWARE
    is_mild = incident.action in MILD_ACTIONS and not incident.is_lasting
    return incident.drill or (is_mild and not has_failed)


def needs_no_reset(incident: Incident) -> bool:
    """True when nothing that it asks for would be heard of."""
    return not incident.is_lasting and (incident.action in NEEDS_NO_RESET or incident.action in MILD_ACTIONS)


def silence_us(incident: Incident) -> int:
    """Silence, in arrival time, after which an open incident ends by itself."""
    if is_over_when_quiet(incident):
        return QUIET_US
    return DAY_US if needs_no_reset(incident) else MONTH_US


def ends_at_us(incident: Incident) -> int:
    """Arrival time at which silence ends an open incident, or memory forgets a closed one."""
    if not incident.is_open:
        return incident.heard_us + LINGER_US
    if incident.quiet_until_us is not None:
        return incident.quiet_until_us
    return incident.heard_us + silence_us(incident)


def end_by_silence(incident: Incident) -> tuple[How, str]:
    """How an incident ends whose time of silence has passed, and the half-sentence for it."""
    if incident.quiet_until_us is not None:
        return How.REBOOT, "the node was rebooted, and nothing serious was heard of it for 10 minutes"
    if is_over_when_quiet(incident):
        return How.QUIET, "nothing more was heard of it for 5 minutes"
    days = "24 hours" if needs_no_reset(incident) else "30 days"
    return How.NOT_HEARD_AGAIN, f"not heard again for {days}; nothing says that it was repaired"


def waiting_for(incident: Incident) -> str | None:
    """What would close an open incident; None for one that is not open."""
    if not incident.is_open:
        return None
    if incident.quiet_until_us is not None:
        return "10 minutes without a serious fault of these devices after the reboot"
    if is_over_when_quiet(incident):
        return "5 minutes of quiet"
    if incident.is_lasting:
        ends = next((code for code, ended in ENDED_BY.items() if ended == incident.primary.xid), None)
        return f"Xid {ends}, a reload of the driver, or a reboot"
    signs = ["Xid 154 to None"] if any(incident.devices.values()) else []  # a switch never says it
    signs += ["a reload of the driver", "a reboot"]
    signs += ["24 hours of quiet"] if needs_no_reset(incident) else []
    return ", ".join(signs[:-1]) + ", or " + signs[-1]
