"""An incident as one line of JSON, and back: what a restart finds again, row by row."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

from daemon.incidents.incident import Because, Incident
from daemon.incidents.member import Member
from daemon.incidents.outcome import load_closing, load_escalation
from probes.line import Origin

PREFIX = "incidents/"
"""How the keys of all rows begin."""
OPEN = f"{PREFIX}open/"
"""An incident that is followed, by its id."""
SEEN = f"{PREFIX}seen/"
"""What is remembered of a device, by its PCI address."""
UNREAD = f"{PREFIX}unread/"
"""A boot that is over and whose log has not been read to its end, by boot id. `daemon.last_boot` writes
and deletes these; here they are only left alone."""

_AS_THEY_ARE = (
    "id",
    "boot_id",
    "drill",
    "because",
    "members_dropped",
    "devices",
    "recovered_us",
    "has_more_processes",
    "pattern",
    "recovery",
    "last_time_us",
    "heard_us",
    "quiet_until_us",
    "quiet_in",
    "revision",
    "changed",
    "published_us",
)


def dump(incident: Incident) -> str:
    """The state of an incident as one line of JSON."""
    state = json.dumps(
        {name: getattr(incident, name) for name in _AS_THEY_ARE}
        | {
            "processes": list(incident.processes.items()),
            "escalations": [asdict(each) for each in incident.escalations],
            "closing": asdict(incident.closing) if incident.closing is not None else None,
        }
    )
    members = ", ".join(member.dump() for member in incident.members)
    return f'{state[:-1]}, "members": [{members}]}}'


def load(text: str) -> Incident:
    """The incident of a dumped state. Raises KeyError, TypeError or ValueError on anything else."""
    data: Mapping[str, Any] = json.loads(text)
    members = [Member.load(each) for each in data["members"]]
    if not members:
        raise ValueError("an incident without members")
    state = {name: data[name] for name in _AS_THEY_ARE}
    state["because"] = {key: Because(*value) for key, value in data["because"].items()}
    incident = Incident(
        **state,
        members=members,
        boots=list(dict.fromkeys(member.event.boot_id for member in members)),
        processes=dict(data["processes"]),
        escalations=[load_escalation(each) for each in data["escalations"]],
        closing=load_closing(data["closing"]),
    )
    incident.judge()
    return incident


def mark_unproved(rows: Mapping[str, str], events: Collection[str]) -> dict[str, str]:
    """The rows of the open incidents, with the members of these ids said to be of unknown origin."""
    return {key: _marked(text, events) for key, text in rows.items() if key.startswith(OPEN)} | {
        key: text for key, text in rows.items() if key.startswith(SEEN)
    }


def _marked(text: str, events: Collection[str]) -> str:
    incident = load(text)
    for at, member in enumerate(incident.members):
        if member.id in events:
            event = replace(member.event, origin=Origin.UNKNOWN)
            incident.members[at] = replace(member, event=event)
    return dump(incident)
