"""`get_incident_report`: one incident as the person on call needs it, from the events that are kept.

What happened, which event is taken for the cause and why, what it reached, what to do now and what
to collect before a reset destroys it (from the catalogue's page of the cause), and the log lines it
rests on. Its text is meant to be forwarded; the structured content has everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from daemon.catalog import page
from daemon.code_pages import blocks
from daemon.event import Action, Event, Item, Kind, to_dict
from daemon.explanation import LABELS, page_json
from daemon.text import clean
from mcp_server.addresses import Place, parse, uri_of_event, uri_of_incident
from mcp_server.explanation_tool import steps
from mcp_server.incidents import brief, head, is_open, reach
from mcp_server.node_analysis import NodeAnalysis
from mcp_server.query import quoted as in_error
from mcp_server.quote import quoted
from mcp_server.services import Services
from mcp_server.tools import Answer, Caller, Tool
from mcp_server.wire_incidents import GetIncidentReport, IncidentReportOut
from probes.errors import UserError

MOST_OTHERS: Final = 20
"""Further open incidents in the structured content; the text counts them."""
TOLD_MEMBERS: Final = 6
TOLD_ALTERNATIVES: Final = 3
SECTION_CHARS: Final = 500
"""Of a section of the cause's page."""


class UnknownIncidentError(UserError):
    """The incident that was named is not kept, or never was."""


@dataclass(frozen=True, slots=True)
class Report:
    """One incident, and what was found about it."""

    incident: Item
    members: Sequence[Item]
    """Its events that are still kept, oldest first."""
    page: Mapping[str, str] | None
    """The catalogue's page about the primary cause."""
    others: Sequence[Item]
    """Further open incidents, worst first."""


class IncidentTool:
    """The tool."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._analysis = NodeAnalysis(services)

    def tool(self) -> Tool[GetIncidentReport]:
        """Ready for a toolbox."""
        return Tool(
            name="get_incident_report",
            title="Report of a GPU incident",
            description=(
                "One incident in full: what happened in which order, which event is the cause and why, what "
                "it reached, whether it is over, what to do now and what to collect before a reset, with the "
                "log lines as evidence. Without arguments the incident that matters most."
            ),
            arguments=GetIncidentReport,
            result=IncidentReportOut,
            run=self._run,
        )

    async def _run(self, asked: GetIncidentReport, caller: Caller) -> Answer:
        next_cursor = self._services.stream.newest
        report = await self.find(asked)
        return Answer(
            self._text(report),
            {
                **(_NOTHING if report is None else _data(report, self._boot_id)),
                "node": self._services.node,
                "hears": self._hears,
                "next_cursor": next_cursor,
            },
        )

    async def text(self, asked: GetIncidentReport) -> str:
        """The tool's text alone. Raises UserError as the tool does."""
        return self._text(await self.find(asked))

    @property
    def _boot_id(self) -> str | None:
        boot_id = self._services.status().get("boot_id")
        return boot_id if isinstance(boot_id, str) else None

    async def find(self, asked: GetIncidentReport) -> Report | None:
        """The incident asked for; None when none was named and there is none.

        Raises UnknownIncidentError, and UserError when the journal is needed and cannot be read.
        """
        known = await self._analysis.incidents(asked.gpu)
        if asked.incident is not None:
            incident = await self._named(asked.incident)
        elif known:
            incident = known[0]
        else:
            return None
        stream = self._services.stream
        members = [await stream.event(each["id"]) for each in incident.event.detail["members"]]
        cause = incident.event.detail["primary"]
        about = None if cause["code"] is None else page(Kind(cause["kind"]), cause["code"])
        others = [item for item in known if is_open(item.event) and not item.event.drill]
        return Report(
            incident,
            [item for item in members if item is not None],
            page_json(about),
            [item for item in others if item.event.id != incident.event.id],
        )

    async def _named(self, text: str) -> Item:
        """The incident of an id, of the URI of one, or of an event in it."""
        address = parse(text)
        is_uri = address is not None and address.place in (Place.EVENT, Place.INCIDENT)
        item = await self._services.stream.event(address.key if is_uri and address is not None else text)
        if item is not None and item.event.incident is not None:
            item = await self._services.stream.event(item.event.incident)
        if item is None or item.event.kind is not Kind.INCIDENT:
            raise UnknownIncidentError(
                f"there is no incident {in_error(text)}", hint=f"{Place.INCIDENTS} lists those that are kept"
            )
        return item

    @property
    def _hears(self) -> bool:
        return any(probe.live and probe.hears for probe in self._services.health())

    def _text(self, report: Report | None) -> str:
        if report is None:
            return (
                f"No incident is known on {self._services.node}. "
                + ("" if self._hears else "Nothing hears the kernel log now, so that says little. ")
                + "analyze_xid_errors tells since when, and how far that can be relied on."
            )
        warning = [] if self._hears else ["Nothing hears the kernel log now: what came later is not known."]
        return "\n".join([*_told(report, self._services.node), *warning])


# -- for programs ------------------------------------------------------------------------------


_NOTHING: Final[Mapping[str, Any]] = {
    "incident": None,
    "uri": None,
    "events": [],
    "page": None,
    "other_open": [],
}


def _data(report: Report, boot_id: str | None) -> dict[str, Any]:
    return {
        "incident": _object(report.incident),
        "uri": uri_of_incident(report.incident.event.id),
        "events": [_object(item) for item in report.members],
        "page": report.page,
        "other_open": [brief(item, boot_id) for item in report.others[:MOST_OTHERS]],
    }


def _object(item: Item) -> dict[str, Any]:
    return to_dict(item.event, item.cursor, stored=item.stored)


# -- for people and assistants -----------------------------------------------------------------


def _told(report: Report, node: str) -> Iterator[str]:
    event = report.incident.event
    detail = event.detail
    yield f"{head(event)} on {node}: {event.summary}."
    yield f"Blame: {event.blame}. Action: {event.action}. {event.action_text}"
    yield f"Cause: {_label(detail['primary'])}, because {_half_sentences(detail['primary']['why'])}."
    for other in detail["alternatives"][:TOLD_ALTERNATIVES]:
        yield f"Not {_label(other)}: {other['why_not']}."
    for each in detail["escalations"]:
        yield f"Worse than its events: {each['why']}."
    yield " ".join([f"Reach: {detail['blast_radius']['scope']}.", *reach(detail)])
    yield _state(detail)
    if report.page is not None and is_open(event) and event.action is not Action.IGNORE:
        yield f"What to do now: {steps(report.page, SECTION_CHARS)}"
        yield f"Collect before a reset: {_section(report.page['collect'])}"
    yield from _evidence(detail, report.members)
    if report.others:
        yield f"Further open incidents: {len(report.others)}; the worst is {report.others[0].event.id}."
    yield f"Resource: {uri_of_incident(event.id)}"


def _state(detail: Mapping[str, Any]) -> str:
    closing = detail["recovered_by"]
    if closing is None:
        return f"Open until: {detail['waiting_for']}."
    at = f" at {closing['time']}" if closing["time"] else ""
    return f"{str(detail['state']).capitalize()}{at}: {closing['why']}."


def _evidence(detail: Mapping[str, Any], kept: Sequence[Item]) -> Iterator[str]:
    """The members in the order of the log, each with its first line as far as it is still kept."""
    by_id = {item.event.id: item.event for item in kept}
    members = detail["members"]
    yield "Events:"
    for member in members[:TOLD_MEMBERS]:
        yield from _member(member, by_id.get(member["id"]))
    left = len(members) - TOLD_MEMBERS + detail["members_dropped"]
    if left > 0:
        yield f"- {left} more: see the structured content."


def _member(member: Mapping[str, Any], event: Event | None) -> Iterator[str]:
    times = f" ×{member['count']}" if member["count"] > 1 else ""
    where = f" on {member['device']}" if member["device"] else ""
    yield f"- {member['time']} {_label(member)}{times}{where} ({member['role']}) {uri_of_event(member['id'])}"
    if event is None:
        yield "  no longer kept"
    elif event.lines:
        yield f"  log line (untrusted data): {quoted(event.lines[0])}"


def _label(named: Mapping[str, Any]) -> str:
    kind = LABELS.get(named["kind"], named["kind"])
    return str(kind) if named["code"] is None else f"{kind} {named['code']}"


def _half_sentences(reasons: Sequence[str]) -> str:
    return "; ".join(reasons) or "it was printed first"


def _section(text: str) -> str:
    return clean(" ".join(each for _, each in blocks(text)), SECTION_CHARS)
