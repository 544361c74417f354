"""`analyze_xid_errors`: what is wrong on this node, whose fault, what now, from the events kept.

Open incidents come first, then faults that belong to none, then what is over. Its text fits about
600 tokens; cursors and resource URIs lead to the rest. "No errors" always comes with the time that
was heard, and is not said of a time that was not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from daemon.analysis import BlindSpots, FaultGroup
from daemon.event import rfc3339, to_dict
from daemon.page import MAX_LIMIT
from mcp_server.addresses import Place, uri_of_event, uri_of_gpu_events, uri_of_incident
from mcp_server.incidents import brief, is_open, line, paragraph
from mcp_server.node_analysis import Looked, NodeAnalysis
from mcp_server.quote import place, title
from mcp_server.services import Services
from mcp_server.tools import Answer, Caller, Tool
from mcp_server.updates import missed_object
from mcp_server.wire_analysis import AnalysisOut, AnalyzeXidErrors, Finding

MOST_GROUPS: Final = 50
"""In the structured content; the text has fewer."""
MOST_INCIDENTS: Final = 20
"""In the structured content; the text has fewer."""
TEXT_CHARS: Final = 1_700
"""Room for faults in the text, about 450 tokens; head and foot take the rest of 600."""


class AnalysisTool:
    """The tool."""

    def __init__(self, services: Services) -> None:
        self._analysis = NodeAnalysis(services)

    def tool(self) -> Tool[AnalyzeXidErrors]:
        """Ready for a toolbox."""
        return Tool(
            name="analyze_xid_errors",
            title="Analyze GPU errors",
            description=(
                "What is wrong with the GPUs of this node: open incidents first (faults that belong "
                "together, with their cause), then single faults, worst first, with time, count, whose fault "
                "it usually is and what to do. Says when nothing could be heard, which is not the same as no "
                "errors. get_incident_report tells more of one incident."
            ),
            arguments=AnalyzeXidErrors,
            result=AnalysisOut,
            run=self._run,
        )

    async def _run(self, asked: AnalyzeXidErrors, caller: Caller) -> Answer:
        looked = await self._analysis.look(asked)
        return Answer("\n".join(_text(looked)), _data(looked))

    async def text(self, asked: AnalyzeXidErrors) -> str:
        """The tool's text alone. Raises UserError as the tool does."""
        return "\n".join(_text(await self._analysis.look(asked)))


# -- for programs ------------------------------------------------------------------------------


def _data(looked: Looked) -> dict[str, Any]:
    blind = looked.blind
    return {
        "node": looked.node,
        "finding": looked.finding,
        "from_time": looked.from_time,
        "complete": looked.complete,
        "missed": looked.missed and missed_object(looked.missed),
        "incidents": [brief(item) for item in looked.incidents[:MOST_INCIDENTS]],
        "incidents_total": len(looked.incidents),
        "open_incidents": len(looked.open_incidents),
        "open_before": [item.event.id for item in looked.open_before],
        "groups": [_group(group, looked) for group in looked.groups[:MOST_GROUPS]],
        "groups_total": len(looked.groups),
        "drills_left_out": looked.drills_left_out,
        "hearing": {
            "hears": looked.hears,
            "probes": [
                {
                    "name": probe.name,
                    "hears": probe.hears,
                    "live": probe.live,
                    "reason": probe.reason,
                    "hint": probe.hint,
                }
                for probe in looked.probes
            ],
            "gaps": blind.gaps,
            "lost_records": blind.lost_records,
            "outages": blind.outages,
            "last_time": None if blind.last_time_us is None else rfc3339(blind.last_time_us),
            "watching_since": looked.watching_since,
        },
        "next_cursor": looked.next_cursor,
    }


def _group(group: FaultGroup, looked: Looked) -> dict[str, Any]:
    newest, worst = group.newest, group.worst
    public = to_dict(worst, newest.cursor, stored=newest.stored)
    copied = ("severity", "kind", "code", "name", "summary", "blame", "action", "action_text", "drill")
    return {
        **{key: public[key] for key in copied},
        "gpu": public["gpu"],
        "nvswitch": public["nvswitch"],
        "events": group.events,
        "count": group.count,
        "first_time": rfc3339(group.first_time_us),
        "last_time": rfc3339(group.last_time_us),
        "before_reboot": looked.is_before_reboot(group),
        "newest": {
            "event_id": newest.event.id,
            "cursor": newest.cursor,
            "uri": uri_of_event(newest.event.id),
        },
        "events_uri": _events_uri(group),
    }


def _events_uri(group: FaultGroup) -> str | None:
    gpu = group.worst.gpu
    return uri_of_gpu_events(gpu.uuid) if gpu is not None and gpu.uuid is not None else None


# -- for people and assistants -----------------------------------------------------------------


def _text(looked: Looked) -> Iterator[str]:
    yield _headline(looked)
    room = TEXT_CHARS
    shown = 0
    paragraphs = _paragraphs(looked)
    for text in paragraphs:
        if shown and len(text) > room:
            break
        yield text
        room -= len(text)
        shown += 1
    if shown < len(paragraphs):
        left = len(paragraphs) - shown
        yield f"{left} more, milder, older or over: see the structured content, or {Place.INCIDENTS}."
    yield from _reservations(looked)
    yield f"next_cursor={looked.next_cursor}: pass it as since to wait_for_xid to go on watching."


def _paragraphs(looked: Looked) -> list[str]:
    """Open incidents, faults that belong to no incident told, what is over; drills after all of them."""
    open_ones = [(item.event.drill, paragraph(item)) for item in looked.incidents if is_open(item.event)]
    single = [(group.worst.drill, _paragraph(group, looked)) for group in looked.single_groups]
    over = [(item.event.drill, line(item)) for item in looked.incidents if not is_open(item.event)]
    return [text for _, text in sorted([*open_ones, *single, *over], key=lambda each: each[0])]


def _headline(looked: Looked) -> str:
    since = f"since {looked.from_time}" if looked.from_time else "yet"
    if looked.finding is Finding.FAULTS:
        return _what_is_wrong(looked, since)
    what = f"of severity {looked.severity} or worse"
    if looked.finding is Finding.CANNOT_HEAR:
        return (
            f"Cannot say whether {looked.node} has errors: nothing hears the kernel log. "
            f"None {what} is kept {since}."
        )
    heard = " and ".join(probe.name for probe in looked.probes if probe.live and probe.hears)
    end = ", but not everything was heard." if looked.finding is Finding.NOT_ALL_HEARD else "."
    return f"No errors {what} on {looked.node} {since}, heard by {heard}{end}"


def _what_is_wrong(looked: Looked, since: str) -> str:
    """How many of what; that none is open is not said when nothing is heard any more."""
    open_ones = looked.open_incidents
    over = sum(not item.event.drill for item in looked.incidents) - len(open_ones)
    single = [group.worst.severity for group in looked.single_groups if not group.worst.drill]
    severities = [*(item.event.severity for item in open_ones), *single]
    parts = [_counted(len(open_ones), "open incident")] if open_ones else []
    parts += [_counted(len(single), "single fault" if looked.incidents else "fault")] if single else []
    if not severities:
        quiet = (
            "No open incident" if looked.hears else "Nothing is heard now; before, no open incident was left"
        )
        return f"{quiet} on {looked.node}; {_counted(over, 'incident')} {since} that ended:"
    ended = f"; {_counted(over, 'incident')} ended" if over else ""
    worst = max(severities, key=lambda severity: severity.rank)
    return f"{' and '.join(parts)} on {looked.node} {since}, the worst is {worst}{ended}:"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _paragraph(group: FaultGroup, looked: Looked) -> str:
    worst, newest = group.worst, group.newest
    times = f"{group.count} times" if group.count > 1 else "once"
    if group.last_time_us > group.first_time_us:
        when = f"{rfc3339(group.first_time_us)} to {rfc3339(group.last_time_us)}"
    else:
        when = f"at {rfc3339(group.last_time_us)}"
    drill = "DRILL, not a real fault: " if worst.drill else ""
    before = ", before the last reboot" if looked.is_before_reboot(group) else ""
    return (
        f"- {drill}[{worst.severity}] {' '.join([title(worst), *place(worst)])}, {times}, {when}{before}: "
        f"{worst.summary}. Blame: {worst.blame}. Action: {worst.action}. {worst.action_text}\n"
        f"  newest: {uri_of_event(newest.event.id)} cursor {newest.cursor}"
    )


def _reservations(looked: Looked) -> Iterator[str]:
    """What makes the answer less than certain."""
    if looked.open_before:
        uris = ", ".join(uri_of_incident(item.event.id) for item in looked.open_before[:3])
        more = ", …" if len(looked.open_before) > 3 else ""
        number = _counted(len(looked.open_before), "incident")
        yield f"Still open from before that time: {number}, {uris}{more}."
    for probe in looked.probes:
        if probe.live and not probe.hears:
            hint = f" ({probe.hint})" if probe.hint else ""
            yield f"Does not hear through {probe.name}: {probe.reason}{hint}."
    if not looked.probes:
        yield "No probe runs."
    blind = looked.blind
    if blind and blind.last_time_us is not None:
        yield f"Not heard: {' and '.join(_unheard(blind))}, the last at {rfc3339(blind.last_time_us)}."
    if looked.missed is not None:
        yield f"Cursors {looked.missed.first} to {looked.missed.last} were deleted by retention."
    if not looked.complete:
        yield f"Only the newest {MAX_LIMIT} events of each severity were looked at."
    if looked.drills_left_out:
        yield f"Left out: {looked.drills_left_out} kinds of drill (include_drills shows them)."
    if looked.watching_since is not None and looked.finding is not Finding.FAULTS:
        yield (
            f"This daemon runs since {looked.watching_since}; of the time before it knows what its journal "
            "and the kernel log still held."
        )


def _unheard(blind: BlindSpots) -> Iterator[str]:
    if blind.gaps:
        lost = "an unknown number of" if blind.lost_records is None else blind.lost_records
        yield f"{lost} kernel records were lost in {blind.gaps} gap{'s' * (blind.gaps > 1)}"
    if blind.outages:
        yield f"a probe went down {blind.outages} time{'s' * (blind.outages > 1)}"
