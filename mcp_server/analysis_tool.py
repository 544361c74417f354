"""`analyze_xid_errors`: what is wrong on this node, whose fault, what now, from the events kept.

Open incidents come first, then faults that belong to none, then what is over. Its text fits
600 tokens; cursors and resource URIs lead to the rest. "No errors" always comes with the time that
was heard, and is not said of a time that was not.
"""

from __future__ import annotations

from typing import Any, Final

from daemon.analysis import FaultGroup
from daemon.event import rfc3339, to_dict
from mcp_server.addresses import uri_of_event, uri_of_gpu_events
from mcp_server.analysis_text import told
from mcp_server.incidents import brief
from mcp_server.node_analysis import Looked, NodeAnalysis
from mcp_server.services import Services
from mcp_server.tools import Answer, Caller, Tool
from mcp_server.updates import missed_object
from mcp_server.wire_analysis import AnalysisOut, AnalyzeXidErrors

MOST_GROUPS: Final = 50
"""In the structured content; the text has fewer."""
MOST_INCIDENTS: Final = 20
"""In the structured content; the text has fewer."""


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
        return Answer(told(looked), _data(looked))

    async def text(self, asked: AnalyzeXidErrors) -> str:
        """The tool's text alone. Raises UserError as the tool does."""
        return told(await self._analysis.look(asked))


def _data(looked: Looked) -> dict[str, Any]:
    blind = looked.blind
    return {
        "node": looked.node,
        "finding": looked.finding,
        "as_of": rfc3339(looked.as_of_us),
        "from_time": _time(looked.from_us),
        "asked_from_time": _time(looked.asked_from_us),
        "complete": looked.complete,
        "missed": looked.missed and missed_object(looked.missed),
        "incidents": [brief(item, looked.boot_id) for item in looked.incidents[:MOST_INCIDENTS]],
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
            "last_time": _time(blind.last_time_us),
            "forged_lines": looked.forged_lines,
            "knows_a_driver": looked.knows_a_driver,
            "watching_since": looked.watching_since,
        },
        "next_cursor": looked.next_cursor,
    }


def _time(time_us: int | None) -> str | None:
    return None if time_us is None else rfc3339(time_us)


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
        "incident": newest.event.incident,
        "events_uri": _events_uri(group),
    }


def _events_uri(group: FaultGroup) -> str | None:
    gpu = group.worst.gpu
    return uri_of_gpu_events(gpu.uuid) if gpu is not None and gpu.uuid is not None else None
