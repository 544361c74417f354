"""Incidents as tools and prompts tell them: in what order, which devices they concern, in short.

An incident that was merged into another is not told: the other one holds its events. What an
incident says of itself stands in its `detail`, see `daemon.incidents.report`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from daemon.catalog import lookup
from daemon.event import Event, Item, Kind, rfc3339
from daemon.explanation import LABELS
from daemon.incidents.outcome import How, State
from daemon.incidents.patterns import SURVIVED_REBOOT
from daemon.text import clean
from mcp_server.addresses import uri_of_incident
from mcp_server.quote import quoted, span

MOST_PROCESSES: Final = 3
"""Named in a text; the structured content has more."""
SUMMARY_CHARS: Final = 400
MOST_MEANINGS: Final = 3
"""Further codes of an incident that a text explains."""
CLEAN_UP: Final = frozenset({43, 45, 154})
"""Xids that say nothing beside the fault they followed: what became of it is told in other words."""


def is_open(event: Event) -> bool:
    """Whether nothing has closed the incident yet."""
    return bool(event.detail["state"] == State.OPEN)


def is_merged(event: Event) -> bool:
    """Whether another incident holds its events now."""
    closing = event.detail["recovered_by"]
    return bool(closing and closing["how"] == How.MERGED)


def in_order(items: Iterable[Item]) -> list[Item]:
    """The incidents to tell: real ones before drills, open ones first, then worst, then newest."""

    def key(item: Item) -> tuple[bool, bool, int, int]:
        event = item.event
        return (event.drill, not is_open(event), -event.severity.rank, -event.last_time_us)

    return sorted((item for item in items if not is_merged(item.event)), key=key)


def concerns(event: Event, devices: Collection[int | str]) -> bool:
    """Whether the incident reached one of these PCI addresses; an incident may span several GPUs."""
    reach = event.detail["blast_radius"]
    return any(pci in devices for pci in (*reach["gpus"], *reach["nvswitches"]))


def brief(item: Item, boot_id: str | None) -> dict[str, Any]:
    """The incident for programs, without members and reasons (`wire_incidents.IncidentBriefOut`).

    `boot_id` is the boot that runs now; None: not known.
    """
    event, detail = item.event, item.event.detail
    return {
        "id": event.id,
        "uri": uri_of_incident(event.id),
        "cursor": item.cursor,
        "state": detail["state"],
        "severity": event.severity,
        "code": event.code,
        "name": event.name,
        "summary": event.summary,
        "blame": event.blame,
        "action": event.action,
        "action_text": event.action_text,
        "first_time": rfc3339(event.time_us),
        "last_time": rfc3339(event.last_time_us),
        "gpus": detail["blast_radius"]["gpus"],
        "nvswitches": detail["blast_radius"]["nvswitches"],
        "waiting_for": detail["waiting_for"],
        "before_reboot": was_before_reboot(event, boot_id),
        "drill": event.drill,
    }


def was_before_reboot(event: Event, boot_id: str | None) -> bool | None:
    """Whether the node was rebooted after the incident, and it has not been heard of since; None when
    this boot is not known."""
    if boot_id is None:
        return None
    went_on = any(each["rule"] == SURVIVED_REBOOT for each in event.detail["escalations"])
    return event.boot_id != boot_id and not went_on


def paragraph(item: Item, *, times: int, is_minimum: bool) -> str:
    """An open incident in a few lines: what it is, what to do, what it waits for.

    `times`: how often its cause was counted; `is_minimum`: there were more events than were counted.
    """
    event = item.event
    parts = [f"- {head(event)}: {clean(event.summary, SUMMARY_CHARS)}."]
    parts += [f"{_label(event)}: {'at least ' * is_minimum}{times} times."] if times > 1 else []
    parts += [*reach(event.detail), f"Blame: {event.blame}. Action: {event.action}. {event.action_text}"]
    meanings = list(_meanings(event))
    return "\n  ".join(
        [
            " ".join(parts),
            *([f"In words: {'; '.join(meanings)}."] if meanings else []),
            f"{uri_of_incident(event.id)} cursor {item.cursor}; open until: {event.detail['waiting_for']}",
        ]
    )


def _label(event: Event) -> str:
    kind = event.detail["primary"]["kind"]
    return LABELS.get(kind, kind) if event.code is None else f"{LABELS.get(kind, kind)} {event.code}"


def _meanings(event: Event) -> Iterator[str]:
    """What the other codes of the incident mean, which its summary names by number."""
    told = {(event.detail["primary"]["kind"], event.code)}
    for member in event.detail["members"]:
        what = (member["kind"], member["code"])
        is_clean_up = what[0] == Kind.XID and what[1] in CLEAN_UP
        if what in told or is_clean_up or what[1] is None or what[0] not in LABELS:
            continue
        told.add(what)
        entry = lookup(Kind(what[0]), what[1], event.driver_version)
        if entry is not None:
            yield f"{LABELS[entry.kind]} {entry.code}: {entry.summary}"
        if len(told) > MOST_MEANINGS:
            break


def line(item: Item) -> str:
    """An incident that is over, in one line."""
    event = item.event
    return (
        f"- {head(event)}: {clean(event.summary, SUMMARY_CHARS)}. Blame: {event.blame}. Action now: "
        f"{event.action}. {uri_of_incident(event.id)}"
    )


def head(event: Event) -> str:
    """`OPEN incident [fatal], 2026-… to 2026-…`, marked when it is a drill."""
    drill = "DRILL, not a real fault: " if event.drill else ""
    state = str(event.detail["state"])
    shown = state.upper() if is_open(event) else state
    return f"{drill}{shown} incident [{event.severity}], {span(event.time_us, event.last_time_us)}"


def reach(detail: Mapping[str, Any]) -> Iterator[str]:
    """Whom it hit, in sentences; process names are quoted as what they are, log text."""
    radius = detail["blast_radius"]
    devices = [*radius["gpus"], *radius["nvswitches"]]
    if len(devices) > 1:
        yield f"{len(devices)} devices: {', '.join(devices[:4])}{', …' if len(devices) > 4 else ''}."
    processes = radius["processes"]
    if processes:
        named = [_process(each) for each in processes[:MOST_PROCESSES]]
        more = ", and more" if len(processes) > MOST_PROCESSES or radius["processes_is_minimum"] else ""
        yield f"Processes: {', '.join(named)}{more}."


def _process(process: Mapping[str, Any]) -> str:
    return f"pid {process['pid']}" + (f" named {quoted(process['name'])}" if process["name"] else "")
