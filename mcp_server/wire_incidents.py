"""The shapes of what incident tools take and give."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from daemon.event import Action, Blame, Kind, Severity
from daemon.incidents.outcome import State
from mcp_server.wire import Arguments, EventOut, Gpus, Shown

LONGEST_ID = 120
"""Characters of what names an incident: an id, or a URI with one."""


class GetIncidentReport(Arguments):
    """Arguments of get_incident_report."""

    incident: Annotated[
        str | None,
        Field(
            max_length=LONGEST_ID,
            description="Id of an incident (inc_…) or of an event in it (ev_…), or the resource's URI. "
            "Leave out for the one that matters most: open before over, then the worst, then the newest.",
        ),
    ] = None
    gpu: Gpus = Field(default=[])


class IncidentBriefOut(Shown):
    """An incident in short."""

    id: str
    uri: Annotated[str, Field(description="Resource that holds the incident.")]
    cursor: int
    state: Annotated[State, Field(description="open, recovered, or closed (no longer followed).")]
    severity: Annotated[Severity, Field(description="The worst of its events.")]
    code: Annotated[int | None, Field(description="Number of its primary cause.")]
    name: str | None
    summary: str
    blame: Annotated[Blame, Field(description="Whose fault it usually is.")]
    action: Annotated[Action, Field(description="First step to take.")]
    action_text: str
    first_time: str
    last_time: str
    gpus: Annotated[list[str], Field(description="PCI addresses of the GPUs it reached.")]
    nvswitches: list[str]
    waiting_for: Annotated[str | None, Field(description="What would close it; null: it is not open.")]
    before_reboot: Annotated[
        bool | None,
        Field(description="True when the node was rebooted after it, and nothing of it was heard since."),
    ]
    drill: Annotated[bool, Field(description="A test, not a fault.")]


class CauseOut(Shown):
    """The primary cause."""

    id: str
    kind: Kind
    code: int | None
    why: Annotated[list[str], Field(description="Reasons for taking it to be the cause.")]


class AlternativeOut(Shown):
    """Another event that could have been the cause."""

    id: str
    kind: Kind
    code: int | None
    why_not: str


class MemberOut(Shown):
    """An event of the incident."""

    id: str
    kind: Kind
    code: int | None
    name: str | None
    role: Annotated[str, Field(description="cause, consequence, advice, recovery, repeat or related.")]
    why: str | None
    time: str
    count: int
    device: str | None
    pid: int | None


class BlastRadiusOut(Shown):
    """Whom it hit."""

    scope: Annotated[str, Field(description="process, mig, gpu, fabric or node.")]
    gpus: list[str]
    nvswitches: list[str]
    mig: list[dict[str, Any]]
    processes: list[dict[str, Any]]
    processes_is_minimum: bool


class ClosingOut(Shown):
    """What closed it."""

    how: str
    why: str
    time: str | None
    event: str | None


class EscalationOut(Shown):
    """A reason to take it more seriously than its events alone."""

    rule: str
    why: str
    time: str
    related: list[str]


class IncidentDetailOut(Shown):
    """What an incident says of itself."""

    state: State
    primary: CauseOut
    alternatives: list[AlternativeOut]
    members: list[MemberOut]
    members_dropped: Annotated[int, Field(description="Members that are not listed.")]
    blast_radius: BlastRadiusOut
    recovered_by: ClosingOut | None
    waiting_for: str | None
    recovered_gpus: list[str]
    pattern: str | None
    escalations: list[EscalationOut]


class IncidentOut(EventOut):
    """An incident: an event of kind `incident`, with its own detail."""

    detail: IncidentDetailOut  # type: ignore[assignment]  # narrower than an event's, in a model that only describes


class IncidentReportOut(Shown):
    """One incident with its events."""

    node: str
    incident: Annotated[IncidentOut | None, Field(description="null: no incident is known.")]
    uri: str | None
    events: Annotated[list[EventOut], Field(description="Its events that are still kept, oldest first.")]
    page: Annotated[
        dict[str, str] | None, Field(description="What an engineer has to know about the primary cause.")
    ]
    other_open: Annotated[list[IncidentBriefOut], Field(description="Further open incidents, worst first.")]
    hears: Annotated[bool, Field(description="Whether at least one live source hears now.")]
    next_cursor: Annotated[int, Field(description="Pass as `since` to wait_for_xid to go on watching.")]
