"""Incidents as rows of JSON text, and back: what a restart finds again.

An incident that is followed has a row of its own and one for each member: a fault that happens again changes
one member of many, and only its row is written anew.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
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
MEMBER = f"{PREFIX}member/"
"""A member of one: the incident's id, a slash, and the event's."""
SEEN = f"{PREFIX}seen/"
"""What is remembered of a device, by its PCI address."""
UNREAD = f"{PREFIX}unread/"
"""A boot that is over and whose log has not been read to its end, by boot id. `daemon.last_boot` writes
and deletes these; here they are only left alone."""

Part = tuple[Member, Because | None]
"""What the row of a member holds: the member, and what explains it."""

_AS_THEY_ARE = (
    "id",
    "boot_id",
    "drill",
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


class Written:
    """Which rows of the incidents are written down, so that only what has changed since is written again."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[str, Part]] = {}

    def note(self, incident: Incident) -> None:
        """All rows of the incident are written down as it is now."""
        self._parts[incident.id] = _parts(incident)

    def changes(self, incident: Incident) -> tuple[dict[str, str], set[str]]:
        """Rows to write and keys to delete since the last call or `note`; its own row is always written."""
        before = self._parts.get(incident.id, {})
        self.note(incident)
        parts = self._parts[incident.id]
        news = {event: part for event, part in parts.items() if not _is_same(before.get(event), part)}
        return _rows(incident, news), {_key(incident.id, event) for event in before.keys() - parts.keys()}

    def forget(self, incident: str) -> set[str]:
        """The keys to delete of an incident that is followed no more."""
        return {OPEN + incident, *(_key(incident, event) for event in self._parts.pop(incident, {}))}


def dump(incident: Incident) -> dict[str, str]:
    """All rows of an incident, each as one line of JSON."""
    return _rows(incident, _parts(incident))


def load(rows: Mapping[str, str]) -> tuple[list[Incident], list[str]]:
    """The incidents of dumped rows, in their order, and the keys of those rows that cannot be read. Rows of
    other kinds are left alone."""
    incidents, bad, used = [], [], set()
    for key, text in rows.items():
        if not key.startswith(OPEN):
            continue
        try:
            data = json.loads(text)
            if any(isinstance(each, dict) for each in data["members"]):
                incidents.append(_incident(data, _parts_within(data)))
                continue
            keys = [_key(data["id"], event) for event in data["members"]]
            incidents.append(_incident(data, [_load_part(rows[each]) for each in keys]))
            used.update(keys)
        except (ValueError, TypeError, KeyError, AttributeError):
            bad.append(key)
    return incidents, bad + [key for key in rows if key.startswith(MEMBER) and key not in used]


def mark_unproved(rows: Mapping[str, str], events: Collection[str]) -> dict[str, str]:
    """The rows of the incidents and of what is remembered, with the members of these ids said to be of
    unknown origin."""
    return {
        key: _marked(text) if key.startswith(MEMBER) and key.rpartition("/")[2] in events else text
        for key, text in rows.items()
        if key.startswith((OPEN, MEMBER, SEEN))
    }


def _key(incident: str, event: str) -> str:
    return f"{MEMBER}{incident}/{event}"


def _parts(incident: Incident) -> dict[str, Part]:
    return {member.id: (member, incident.because.get(member.id)) for member in incident.members}


def _is_same(before: Part | None, now: Part) -> bool:
    return before is not None and before[0] is now[0] and before[1] == now[1]


def _rows(incident: Incident, parts: Mapping[str, Part]) -> dict[str, str]:
    state = {name: getattr(incident, name) for name in _AS_THEY_ARE} | {
        "members": [member.id for member in incident.members],
        "processes": list(incident.processes.items()),
        "escalations": [asdict(each) for each in incident.escalations],
        "closing": asdict(incident.closing) if incident.closing is not None else None,
    }
    rows = {OPEN + incident.id: json.dumps(state)}
    return rows | {_key(incident.id, event): _dump_part(*part) for event, part in parts.items()}


def _incident(data: Mapping[str, Any], parts: Sequence[Part]) -> Incident:
    """Raises KeyError, TypeError or ValueError when the data are none."""
    members = [member for member, _ in parts]
    if not members:
        raise ValueError("an incident without members")
    incident = Incident(
        **{name: data[name] for name in _AS_THEY_ARE},
        members=members,
        because={member.id: because for member, because in parts if because is not None},
        boots=list(dict.fromkeys(member.event.boot_id for member in members)),
        processes=dict(data["processes"]),
        escalations=[load_escalation(each) for each in data["escalations"]],
        closing=load_closing(data["closing"]),
    )
    incident.judge()
    return incident


def _dump_part(member: Member, because: Because | None) -> str:
    return json.dumps({**member.to_dict(), "because": because})


def _parts_within(data: Mapping[str, Any]) -> list[Part]:
    """The members of a row of schema 1, as a disk that cannot be written still has it."""
    because = {event: Because(*value) for event, value in data["because"].items()}
    return [(Member.load(each), because.get(each["event"]["id"])) for each in data["members"]]


def _load_part(text: str) -> Part:
    data = json.loads(text)
    because = data["because"]
    return Member.load(data), None if because is None else Because(*because)


def _marked(text: str) -> str:
    member, because = _load_part(text)
    return _dump_part(replace(member, event=replace(member.event, origin=Origin.UNKNOWN)), because)
