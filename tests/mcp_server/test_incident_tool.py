"""`get_incident_report`: one incident as the person on call needs it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from mcp_types import CallToolResult, TextContent

from daemon.event import Action
from mcp_server.wire_incidents import IncidentReportOut
from probes.health import ProbeHealth
from tests.mcp_server.incident_samples import PAGE_FAULT_EVENTS, memory_error, page_fault
from tests.mcp_server.samples import xid
from tests.mcp_server.serving import Served
from tests.support import tool_calls

DEAF = ProbeHealth("kmsg", hears=False, live=True, reason="no permission", hint=None)


def call(served: Served, **arguments: Any) -> CallToolResult:
    return tool_calls.call(served.url, "get_incident_report", **arguments)


def report(served: Served, era: str = "legacy", **arguments: Any) -> tuple[dict[str, Any], str]:
    return tool_calls.answer(served.url, "get_incident_report", IncidentReportOut, era, **arguments)


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
def test_it_tells_the_cause_the_reasons_the_evidence_and_what_to_do(served: Served, era: str) -> None:
    *faults, incident = memory_error()
    cursor = served.publish(*faults, incident)
    data, text = report(served, era)
    assert data["incident"]["id"] == incident.id
    assert (data["uri"], data["next_cursor"]) == (f"xid://incidents/{incident.id}", cursor)
    assert [event["id"] for event in data["events"]] == [event.id for event in faults]
    assert text.startswith("OPEN incident [critical], ")
    for told in (
        "Cause: Xid 48, because Xid 63: it tells what became of that memory error",
        "Not Xid 63: follows from Xid 48",
        "Open until: Xid 154 to None",
        'pid 1 named "a"',
        'log line (untrusted data): "NVRM: Xid (PCI:0000:91:00): 48',
        f"xid://events/{faults[0].id}",
    ):
        assert told in text


def test_what_to_do_and_what_to_collect_is_the_page_of_the_cause(served: Served) -> None:
    served.publish(*memory_error())
    data, text = report(served)
    assert data["page"]["title"].startswith("Xid 48")
    first_step = data["page"]["now"].split("\n")[0].removeprefix("* ")
    assert f"What to do now: {first_step}" in text
    assert "Collect before a reset: " in text


def test_without_a_name_the_open_one_comes_before_one_that_is_over(served: Served) -> None:
    served.publish(*memory_error(), *page_fault(is_over=True))
    data, text = report(served)
    assert (data["incident"]["code"], data["other_open"]) == (48, [])
    over = page_fault(is_over=True)[-1].id
    data, text = report(served, incident=over)
    assert (data["incident"]["code"], data["incident"]["detail"]["state"]) == (31, "recovered")
    assert [each["code"] for each in data["other_open"]] == [48]
    assert "Recovered" in text
    assert "What to do now" not in text
    assert "Further open incidents: 1" in text


def test_an_incident_is_found_by_its_id_its_uri_and_an_event_in_it(served: Served) -> None:
    *faults, incident = memory_error()
    served.publish(*faults, incident)
    for named in (
        incident.id,
        f"xid://incidents/{incident.id}",
        faults[1].id,
        f"xid://events/{faults[1].id}",
    ):
        assert report(served, incident=named)[0]["incident"]["id"] == incident.id


def test_an_unknown_incident_is_a_tool_error(served: Served) -> None:
    served.publish(xid(number=1))
    for named in ("inc_none", "ev_79_1", "", "'; --"):
        result = call(served, incident=named)
        assert result.is_error
        assert isinstance(result.content[0], TextContent)
        assert "there is no incident" in result.content[0].text


def test_it_can_be_asked_of_one_gpu(served: Served) -> None:
    served.publish(*memory_error(), *page_fault())
    assert report(served, gpu="0000:1b:00.0")[0]["incident"]["code"] == 31
    assert report(served, gpu="0000:91:00")[0]["incident"]["code"] == 48
    assert report(served, gpu="GPU-00000000-2222-3333-4444-555555555555")[0]["incident"]["code"] == 48
    assert report(served, gpu="0000:ff:00")[0]["incident"] is None


def test_no_incident_is_not_said_to_be_no_fault(served: Served) -> None:
    data, text = report(served)
    assert (data["incident"], data["events"], data["hears"]) == (None, [], True)
    assert text.startswith("No incident is known on gpu-17.")
    served.health = (DEAF,)
    data, text = report(served)
    assert data["hears"] is False
    assert "Nothing hears the kernel log now, so that says little." in text


def test_a_report_says_when_nothing_is_heard_any_more(served: Served) -> None:
    served.publish(*memory_error())
    served.health = (DEAF,)
    assert "Nothing hears the kernel log now" in report(served)[1]


def test_events_that_are_no_longer_kept_are_said_to_be_gone(served: Served) -> None:
    *faults, incident = memory_error()
    served.publish(faults[0], incident)
    data, text = report(served)
    assert len(data["events"]) == 1
    assert text.count("no longer kept") == len(faults) - 1


def test_a_drill_is_named_as_one_and_comes_last(served: Served) -> None:
    drill = [replace(event, drill=True) for event in memory_error()]
    served.publish(*drill, *page_fault(is_over=True))
    assert report(served)[0]["incident"]["code"] == 31
    data, text = report(served, incident=drill[-1].id)
    assert data["incident"]["drill"] is True
    assert text.startswith("DRILL, not a real fault: ")


def test_log_text_is_quoted_and_the_text_is_short(served: Served) -> None:
    name = "x\nOBEY " * 3
    served.publish(*page_fault(name=name))
    data, text = report(served)
    assert "\nOBEY" not in text
    assert len(data["events"]) == PAGE_FAULT_EVENTS
    assert len(text) < 3_500


def test_nothing_is_to_be_done_where_a_reboot_has_done_it(served: Served) -> None:
    *faults, incident = memory_error()
    served.publish(*faults, replace(incident, action=Action.IGNORE, action_text="Nothing to do."))
    text = report(served)[1]
    assert text.startswith("OPEN incident")
    assert "What to do now" not in text
    assert "Collect before a reset" not in text
