"""The shapes of what `analyze_xid_errors` takes and gives."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field

from daemon.event import Action, Blame, Kind, Severity
from mcp_server.wire import Arguments, GpuOut, Gpus, MissedOut, NvSwitchOut, SeverityAtLeast, Shown
from mcp_server.wire_incidents import IncidentBriefOut


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class AnalyzeXidErrors(Arguments):
    """Arguments of analyze_xid_errors."""

    since: Annotated[
        str | None,
        BeforeValidator(_as_text),
        Field(
            description="How far back: a duration (24h, 7d), an ISO time, or a cursor. "
            "Leave out for everything kept."
        ),
    ] = None
    gpu: Gpus = Field(default=[])
    severity: SeverityAtLeast = Severity.WARNING
    include_drills: Annotated[bool, Field(description="Show test events, too.")] = False


class Finding(StrEnum):
    """What the analysis comes to."""

    FAULTS = "faults"
    NO_FAULTS = "no_faults"
    """Nothing of that severity, and everything was heard."""
    NOT_ALL_HEARD = "no_faults_but_not_all_heard"
    """None is known, but some of the time could not be heard."""
    CANNOT_HEAR = "cannot_hear"
    """None is known, and nothing is heard now: no statement about the node."""


class NewestOut(Shown):
    """The event of a group that happened last."""

    event_id: str
    cursor: int
    uri: Annotated[str, Field(description="Resource that holds the event.")]


class GroupOut(Shown):
    """One fault of one device, however often it came."""

    severity: Annotated[Severity, Field(description="The worst of the group.")]
    kind: Kind
    code: int | None
    name: str | None
    summary: str
    blame: Annotated[Blame, Field(description="Whose fault it usually is.")]
    action: Annotated[Action, Field(description="First step to take.")]
    action_text: str
    gpu: GpuOut | None
    nvswitch: NvSwitchOut | None
    events: Annotated[int, Field(description="Number of events.")]
    count: Annotated[int, Field(description="How many times it happened.")]
    first_time: str
    last_time: str
    before_reboot: Annotated[
        bool | None, Field(description="True when it last happened before the node's last boot.")
    ]
    drill: Annotated[bool, Field(description="A test, not a fault.")]
    newest: NewestOut
    incident: Annotated[
        str | None, Field(description="Incident that the newest belongs to: it says what is left to do.")
    ]
    events_uri: Annotated[str | None, Field(description="Resource with all events of this GPU.")]


class ProbeOut(Shown):
    """A source of kernel messages, or a second witness."""

    name: str
    hears: bool
    live: bool
    reason: Annotated[str | None, Field(description="Why it does not hear, or what not.")]
    hint: str | None


class HearingOut(Shown):
    """Whether the answer can be relied on."""

    hears: Annotated[bool, Field(description="Whether at least one live source hears now.")]
    probes: list[ProbeOut]
    gaps: Annotated[int, Field(description="Times kernel records were lost before anyone read them.")]
    lost_records: int | None
    outages: Annotated[int, Field(description="Times a source went down.")]
    last_time: Annotated[str | None, Field(description="When something last went unheard.")]
    forged_lines: Annotated[
        int,
        Field(description="Lines a process wrote in the driver's name since the daemon's start: ignored."),
    ]
    knows_a_driver: Annotated[
        bool, Field(description="Whether the log or /proc named an NVIDIA driver or a GPU on this node.")
    ]
    watching_since: Annotated[str | None, Field(description="Start of this daemon.")]


class AnalysisOut(Shown):
    """What is wrong on this node, from the events kept."""

    node: str
    finding: Finding
    as_of: Annotated[str, Field(description="When it was looked at: now, by the node's clock.")]
    from_time: Annotated[str | None, Field(description="Start of the time looked at; null: unknown.")]
    asked_from_time: Annotated[
        str | None,
        Field(
            description="Start of the time asked for, when what is kept begins only at from_time: "
            "nothing is known of the time between. null: it reaches that far."
        ),
    ]
    complete: Annotated[bool, Field(description="False when there were more events than were looked at.")]
    missed: Annotated[MissedOut | None, Field(description="Cursors that retention deleted before.")]
    incidents: Annotated[
        list[IncidentBriefOut],
        Field(description="Faults that belong together: open before over, then worst first."),
    ]
    incidents_total: int
    open_incidents: Annotated[int, Field(description="How many of them are open, without drills.")]
    open_before: Annotated[
        list[str], Field(description="Ids of open incidents last heard of before the time looked at.")
    ]
    groups: Annotated[
        list[GroupOut], Field(description="All faults by device and code, worst first, in incidents or not.")
    ]
    groups_total: int
    drills_left_out: int
    hearing: HearingOut
    next_cursor: Annotated[int, Field(description="Pass as `since` to wait_for_xid to go on watching.")]
