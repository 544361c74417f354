"""An incident as it goes out: an `Event` of kind `incident`, in words that a person on call can use.

The keys of `detail` are public, part of the event schema, and only ever added to:

* `state`: `open`, `recovered`, or `closed` (no longer followed: merged, or not heard of for long).
* `primary`: `{id, kind, code, why}`: the cause, and the reasons for taking it to be that.
* `alternatives`: `[{id, kind, code, why_not}]`: the other members that could have been the cause.
* `members`: `[{id, kind, code, name, role, why, time, count, device, pid}]` in the order of the log;
  `members_dropped` counts those not listed.
* `blast_radius`: `{scope, gpus, nvswitches, mig, processes, processes_is_minimum}`; `scope` is `process`,
  `mig`, `gpu`, `fabric` or `node`.
* `recovered_by`: `{how, why, time, event}` once it is not open, else null; `waiting_for`: what would
  close it while it is open, else null; `recovered_gpus`: GPUs of several that have already recovered.
* `pattern`: null or its name; `escalations`: `[{rule, why, time, related}]`.

Reasons are words. There are no confidence numbers: nothing here could compute one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from daemon.event import Event, Kind, Severity, rfc3339
from daemon.incidents.advice import action, action_text, blame, telling
from daemon.incidents.closing import waiting_for
from daemon.incidents.incident import Incident
from daemon.incidents.member import Member
from daemon.incidents.patterns import MANY_GPUS, OF_PROGRAMS
from daemon.incidents.signs import ADVICE, CLEAN_UP, xids

MAX_ALTERNATIVES = 8
MAX_FOLLOWERS_NAMED = 4
CLEANED_UP = xids(*CLEAN_UP)
"""Channels taken down on a GPU do not say that anything is wrong with it."""


class Role(StrEnum):
    """What a member is to its incident."""

    CAUSE = "cause"
    CONSEQUENCE = "consequence"
    ADVICE = "advice"
    """The driver's recovery action."""
    RECOVERY = "recovery"
    REPEAT = "repeat"
    """The cause over again, or the same on another GPU."""
    RELATED = "related"
    """It belongs here, but nothing says which came of which."""


def as_event(incident: Incident, node: str) -> Event:
    """The incident's next revision."""
    members = incident.in_order
    primary = incident.primary
    cause = primary.event
    is_of_node = incident.pattern == MANY_GPUS
    return Event(
        id=incident.id,
        revision=incident.revision + 1,
        kind=Kind.INCIDENT,
        code=cause.code,
        name=cause.name,
        summary=_summary(incident, primary, members),
        severity=incident.worst.event.severity,
        blame=blame(incident),
        action=action(incident),
        action_text=action_text(incident),
        time_us=min(member.event.time_us for member in members),
        time_is_estimate=any(member.event.time_is_estimate for member in members),
        last_time_us=incident.last_time_us,
        count=1,
        gpu=None if is_of_node else cause.gpu,
        nvswitch=None if is_of_node else cause.nvswitch,
        process=cause.process if incident.is_application_error and len(incident.processes) <= 1 else None,
        detail=_detail(incident, primary, members),
        lines=(),
        lines_dropped=0,
        origin=cause.origin,
        drill=incident.drill,
        witnesses=(),
        node=node,
        boot_id=cause.boot_id,
        kmsg_seq=None,
        driver_version=cause.driver_version,
    )


# -- words -----------------------------------------------------------------------------------


def _summary(incident: Incident, primary: Member, members: Iterable[Member]) -> str:
    """One sentence: the cause, what followed, and what became of it."""
    cause = primary.event
    where = f" on {cause.device}" if cause.device is not None and incident.pattern != MANY_GPUS else ""
    parts = [f"{cause.summary} ({primary.label}{where})"]
    told = telling(incident)
    parts += [told.why] if told is not None else []
    others = [
        member for member in members if member.label != primary.label and member.id != incident.recovery
    ]
    followed = Counter(member.label for member in others if member.id in incident.because)
    beside = Counter(member.label for member in others if member.id not in incident.because)
    parts += [f"followed by {_listed(followed)}"] if followed else []
    parts += [f"beside it {_listed(beside)}"] if beside else []
    parts += [f"{incident.members_dropped} more events"] if incident.members_dropped else []
    if incident.closing is not None:
        parts.append(f"{incident.state}: {incident.closing.why}")
    return "; ".join(parts)


def _listed(labels: Counter[str]) -> str:
    named = [f"{label} ×{count}" if count > 1 else label for label, count in labels.most_common()]
    if len(named) > MAX_FOLLOWERS_NAMED:
        named[MAX_FOLLOWERS_NAMED:] = [f"{len(named) - MAX_FOLLOWERS_NAMED} more codes"]
    return ", ".join(named[:-1]) + " and " + named[-1] if len(named) > 1 else named[0]


def _why(incident: Incident, primary: Member, members: list[Member]) -> list[str]:
    """The reasons for taking this member for the cause."""
    reasons = []
    if incident.pattern in OF_PROGRAMS:
        reasons.append("it is the first of several errors, each of its own process")
    if primary.xid in ADVICE:
        reasons.append("only the driver's advice was heard, not the fault that led to it")
    elif len(incident.members) == 1:
        reasons.append("it is the only event of this incident")
    effects: dict[str, Counter[str]] = {}
    for member in members:
        because = incident.because.get(member.id)
        if because is not None and because.cause == primary.id:
            effects.setdefault(because.why, Counter())[member.label] += 1
    reasons += [f"{_listed(labels)}: {why}" for why, labels in effects.items()]
    if members[0] is primary and len(incident.members) > 1:
        reasons.append("nothing of this incident was printed before it")
    elif primary.id not in incident.because and len(incident.members) > 1:
        reasons.append("what was printed before it is explained, or is milder and explains nothing of it")
    return reasons


def _alternatives(incident: Incident, primary: Member, members: Iterable[Member]) -> list[dict[str, Any]]:
    """Members that could have been the cause, and why they are not taken for it."""
    found = []
    for member in members:
        is_other = member.id != incident.recovery and member.label != primary.label
        if incident.pattern in OF_PROGRAMS and member.id not in incident.because:
            continue  # an error of its own, not another cause of the same one
        if is_other and member.xid not in ADVICE and member.event.severity.rank >= Severity.WARNING.rank:
            found.append({**_named(member), "why_not": _why_not(incident, primary, member)})
    return found[:MAX_ALTERNATIVES]


def _why_not(incident: Incident, primary: Member, member: Member) -> str:
    because = incident.because.get(member.id)
    if because is not None:
        cause = next((each for each in incident.members if each.id == because.cause), primary)
        return f"follows from {cause.label}: {because.why}"
    seconds = (member.event.time_us - primary.event.time_us) / 1e6
    when = f"{_in_words(abs(seconds))} {'before' if seconds < 0 else 'after'} {primary.label}"
    if primary.is_serious and not member.is_serious:
        return f"printed {when}; it is the milder of the two, and nothing says that it led to the other"
    return f"printed {when}; nothing in the log says which of the two led to the other"


def _in_words(seconds: float) -> str:
    if seconds < 2 * 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.0f} h"


# -- detail ----------------------------------------------------------------------------------


def _detail(incident: Incident, primary: Member, members: list[Member]) -> dict[str, Any]:
    closing = incident.closing
    return {
        "state": incident.state.value,
        "primary": {**_named(primary), "why": _why(incident, primary, members)},
        "alternatives": _alternatives(incident, primary, members),
        "members": [_listed_member(incident, primary, member) for member in members],
        "members_dropped": incident.members_dropped,
        "blast_radius": _blast_radius(incident, members),
        "recovered_by": closing
        and {
            "how": closing.how.value,
            "why": closing.why,
            "time": rfc3339(closing.time_us) if closing.time_us is not None else None,
            "event": closing.event,
        },
        "waiting_for": waiting_for(incident),
        "recovered_gpus": _recovered_gpus(incident, members),
        "pattern": incident.pattern,
        "escalations": [
            {
                "rule": each.rule,
                "why": each.why,
                "time": rfc3339(each.time_us),
                "related": list(each.related),
            }
            for each in incident.escalations
        ],
    }


def _named(member: Member) -> dict[str, Any]:
    return {"id": member.id, "kind": member.event.kind.value, "code": member.event.code}


def _listed_member(incident: Incident, primary: Member, member: Member) -> dict[str, Any]:
    because = incident.because.get(member.id)
    return {
        **_named(member),
        "name": member.event.name,
        "role": _role(incident, primary, member).value,
        "why": because.why if because is not None else None,
        "time": rfc3339(member.event.time_us),
        "count": member.event.count,
        "device": member.device,
        "pid": member.pid,
    }


def _role(incident: Incident, primary: Member, member: Member) -> Role:
    if member.id == incident.recovery:
        return Role.RECOVERY
    if member.id == primary.id:
        return Role.CAUSE
    if member.xid in ADVICE:
        return Role.ADVICE
    if member.label == primary.label:
        return Role.REPEAT
    return Role.CONSEQUENCE if member.id in incident.because else Role.RELATED


def _blast_radius(incident: Incident, members: Iterable[Member]) -> dict[str, Any]:
    switches = sorted(
        {member.device for member in members if member.event.nvswitch is not None and member.device}
    )
    gpus = [device for device in incident.devices if device not in switches]
    mig = {
        (gpu.pci, gpu.mig.gi, gpu.mig.ci)
        for member in members
        if (gpu := member.event.gpu) is not None and gpu.mig is not None
    }
    return {
        "scope": _scope(incident, gpus, switches, len(mig)),
        "gpus": gpus,
        "nvswitches": switches,
        "mig": [{"pci": pci, "gi": gi, "ci": ci} for pci, gi, ci in sorted(mig, key=str)],
        "processes": [{"pid": pid, "name": name} for pid, name in incident.processes.items()],
        "processes_is_minimum": incident.has_more_processes,
    }


def _scope(incident: Incident, gpus: list[str], switches: list[str], instances: int) -> str:
    if incident.pattern == MANY_GPUS or not (gpus or switches):
        return "node"
    failing = {member.device for member in incident.members if member.sign not in CLEANED_UP} - {None}
    if switches or len(failing) > 1:
        return "fabric"
    if incident.is_application_error:
        return "process"
    in_mig = [member.gpu_instance is not None for member in incident.members if member.is_serious]
    return "mig" if instances and in_mig and all(in_mig) else "gpu"


def _recovered_gpus(incident: Incident, members: Iterable[Member]) -> list[str]:
    asked = {member.device for member in members if member.is_serious or member.asks_for_recovery}
    if not any(incident.devices.values()):
        return []
    gpus = {member.device for member in members if member.event.gpu is not None}
    return [pci for pci, sick in incident.devices.items() if not sick and pci in asked and pci in gpus]
