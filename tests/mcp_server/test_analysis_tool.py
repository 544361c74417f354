"""`analyze_xid_errors`: what is wrong, and never "no errors" of a time that was not heard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CallToolResult

from daemon.event import Blame, Event, Kind, NvSwitch, Process, Severity, parse_rfc3339, rfc3339
from daemon.page import Marks
from mcp_server.quote import tokens
from mcp_server.wire_analysis import AnalysisOut
from probes.health import ProbeHealth
from tests.mcp_server.incident_samples import memory_error, page_fault
from tests.mcp_server.samples import GPU_UUID, STATUS, revised, xid
from tests.mcp_server.serving import Served
from tests.support import tool_calls
from tests.support.waiting import DEADLINE_S

DAY_S = 86_400
DEAF = ProbeHealth("kmsg", hears=False, live=True, reason="no permission", hint="grant CAP_SYSLOG")
APP_ERROR = replace(
    xid(31, severity=Severity.WARNING), name="FAULT", summary="Bad address", blame=Blame.APPLICATION
)
GAP = replace(
    xid(number=900, severity=Severity.WARNING),
    kind=Kind.GAP,
    code=None,
    gpu=None,
    process=None,
    detail={"lost_records": 120},
)


def call(served: Served, **arguments: Any) -> CallToolResult:
    return tool_calls.call(served.url, "analyze_xid_errors", **arguments)


def analysis(served: Served, era: str = "legacy", **arguments: Any) -> tuple[dict[str, Any], str]:
    return tool_calls.answer(served.url, "analyze_xid_errors", AnalysisOut, era, **arguments)


def earlier(event: Event, seconds: float) -> Event:
    time_us = int((time.time() - seconds) * 1e6)
    return replace(event, time_us=time_us, last_time_us=time_us)


def numbered(event: Event, numbers: Sequence[int]) -> list[Event]:
    return [replace(event, id=f"ev_{event.code}_{number}", kmsg_seq=number) for number in numbers]


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
def test_faults_are_grouped_by_device_worst_first(served: Served, era: str) -> None:
    cursor = served.publish(*numbered(APP_ERROR, [1, 2, 3]), revised(xid(79), count=4))
    data, text = analysis(served, era)
    assert (data["finding"], data["groups_total"], data["next_cursor"]) == ("faults", 2, cursor)
    worst, mild = data["groups"]
    assert (worst["code"], worst["severity"], worst["events"], worst["count"]) == (79, "fatal", 1, 4)
    assert (mild["code"], mild["blame"], mild["events"], mild["count"]) == (31, "application", 3, 3)
    assert worst["events_uri"] == f"gpu://{GPU_UUID}/events"
    assert mild["newest"] == {"event_id": "ev_31_3", "cursor": cursor - 1, "uri": "xid://events/ev_31_3"}
    assert text.startswith("2 faults on gpu-17 since ")
    assert text.index("Xid 79") < text.index("Xid 31")
    assert f"next_cursor={cursor}" in text


def test_no_errors_says_since_when_and_who_heard(served: Served) -> None:
    data, text = analysis(served)
    assert (data["finding"], data["groups"], data["from_time"]) == (
        "no_faults",
        [],
        "2026-11-22T10:00:00.000000Z",
    )
    assert text.startswith(
        "No errors of severity warning or worse on gpu-17 since 2026-11-22T10:00:00Z, heard by kmsg."
    )


def test_no_errors_is_not_said_when_nothing_hears(served: Served) -> None:
    served.health = (DEAF,)
    data, text = analysis(served)
    assert (data["finding"], data["hearing"]["hears"]) == ("cannot_hear", False)
    assert text.startswith("Cannot say whether gpu-17 has errors: nothing hears the kernel log.")
    assert "Does not hear through kmsg: no permission (grant CAP_SYSLOG)." in text
    served.health = ()
    assert "No probe runs." in analysis(served)[1]


def test_a_gap_qualifies_the_answer(served: Served) -> None:
    served.publish(GAP)
    data, text = analysis(served)
    assert data["finding"] == "no_faults_but_not_all_heard"
    assert (data["hearing"]["gaps"], data["hearing"]["lost_records"]) == (1, 120)
    assert "but not everything was heard" in text
    assert "120 kernel records were lost in 1 gap" in text
    served.publish(replace(GAP, id="ev_gap_2", detail={"lost_records": None}))
    assert analysis(served)[0]["hearing"]["lost_records"] is None


def test_an_outage_qualifies_the_answer_and_a_probe_that_came_back_does_not(served: Served) -> None:
    up = replace(GAP, kind=Kind.PROBE, severity=Severity.INFO, detail={"probe": "kmsg", "hears": True})
    served.publish(up)
    assert analysis(served)[0]["finding"] == "no_faults"
    served.publish(replace(up, id="ev_down", severity=Severity.WARNING, detail={"hears": False}))
    assert analysis(served)[0]["hearing"]["outages"] == 1


def test_drills_are_left_out_unless_asked_for_and_never_mixed(served: Served) -> None:
    served.publish(replace(xid(number=1), drill=True), xid(number=2))
    data, text = analysis(served)
    assert (data["groups_total"], data["groups"][0]["events"], data["drills_left_out"]) == (1, 1, 1)
    assert "Left out: 1" in text
    data, text = analysis(served, include_drills=True)
    assert [group["drill"] for group in data["groups"]] == [False, True]
    assert "DRILL, not a real fault: [fatal]" in text


def test_a_drill_alone_is_no_fault_even_when_it_is_shown(served: Served) -> None:
    served.publish(replace(xid(), drill=True))
    data, text = analysis(served, include_drills=True)
    assert (data["finding"], data["groups_total"]) == ("no_faults", 1)
    assert text.startswith("No errors of severity warning or worse on gpu-17")
    assert "DRILL, not a real fault" in text


def test_it_can_be_asked_of_one_gpu_or_of_the_bad_ones(served: Served) -> None:
    switch = replace(
        xid(number=2), kind=Kind.SXID, code=20034, gpu=None, nvswitch=NvSwitch("0000:a9:00.0", 3)
    )
    served.publish(APP_ERROR, switch)
    assert [group["code"] for group in analysis(served, gpu="3")[0]["groups"]] == [31]
    assert [group["code"] for group in analysis(served, severity="critical")[0]["groups"]] == [20034]
    assert "on NVSwitch 0000:a9:00.0" in analysis(served, severity="fatal")[1]


def test_it_can_be_asked_since_a_time_or_a_cursor(served: Served) -> None:
    first = served.publish(earlier(xid(79), 7200))
    served.publish(APP_ERROR)
    assert [group["code"] for group in analysis(served, since="1h")[0]["groups"]] == [31]
    assert [group["code"] for group in analysis(served, since="3h")[0]["groups"]] == [79, 31]
    assert [group["code"] for group in analysis(served, since=first)[0]["groups"]] == [31]
    assert [group["code"] for group in analysis(served, since="2020-01-01")[0]["groups"]] == [79, 31]


@pytest.mark.parametrize("since", ["yesterday", 10**15, "5", "-1h"])
def test_a_beginning_that_makes_no_sense_is_a_tool_error(served: Served, since: object) -> None:
    assert call(served, since=since).is_error is (since != "5")


def test_what_retention_deleted_since_the_cursor_is_said(served: Served) -> None:
    served.publish(xid())
    served.stream.journal_reaches(Marks(0, 0, 900))
    data, text = analysis(served, since=500)
    assert data["missed"] == {"first": 501, "last": 900}
    assert "Cursors 501 to 900 were deleted by retention." in text


def test_a_fault_before_the_last_boot_is_marked(served: Served) -> None:
    served.publish(replace(earlier(xid(79), 60), boot_id="older"), APP_ERROR)
    data, text = analysis(served)
    assert [group["before_reboot"] for group in data["groups"]] == [True, False]
    assert text.count("before the last reboot") == 1


def test_a_storm_of_mild_faults_does_not_hide_a_bad_one(served: Served) -> None:
    served.publish(xid(79), *numbered(APP_ERROR, range(1_100)))
    data, text = analysis(served)
    assert [group["code"] for group in data["groups"]] == [79, 31]
    assert data["complete"] is False
    assert "Only the newest 1000 events of each severity were looked at." in text


def test_the_text_is_short_whatever_happened(served: Served) -> None:
    served.publish(*(xid(code, number=code) for code in range(1, 120)))
    data, text = analysis(served)
    assert data["groups_total"] == 119
    assert len(data["groups"]) == 50
    assert tokens(text) <= 600
    assert "more" in text


def test_log_text_is_quoted(served: Served) -> None:
    served.publish(replace(xid(), process=Process(None, 'x"\nOBEY')))
    assert 'by an unknown pid named "x\\"\\\\x0aOBEY"' in analysis(served)[1]


def test_open_incidents_come_before_single_faults_and_what_is_over_after_them(served: Served) -> None:
    served.publish(xid(79), *memory_error(), *page_fault(is_over=True))
    data, text = analysis(served)
    assert [(each["code"], each["state"]) for each in data["incidents"]] == [(48, "open"), (31, "recovered")]
    assert (data["finding"], data["open_incidents"], data["incidents_total"]) == ("faults", 1, 2)
    assert text.startswith("1 open incident and 1 single fault on gpu-17 since ")
    assert "the worst is fatal; 1 incident ended:" in text.splitlines()[0]
    assert text.index("OPEN incident [critical]") < text.index("Xid 79") < text.index("recovered incident")
    assert f"xid://incidents/{data['incidents'][0]['id']}" in text


def test_a_fault_that_an_incident_explains_is_not_told_twice(served: Served) -> None:
    served.publish(*memory_error())
    data, text = analysis(served)
    assert {group["code"] for group in data["groups"]} == {48, 63}
    assert text.splitlines()[0].startswith("1 open incident on gpu-17 since ")
    assert sum(line.startswith("- ") for line in text.splitlines()) == 1


def test_when_all_is_over_it_says_so_and_what_was(served: Served) -> None:
    served.publish(*page_fault(is_over=True))
    data, text = analysis(served)
    assert (data["finding"], data["open_incidents"]) == ("faults", 0)
    assert text.startswith("No open incident on gpu-17; 1 incident since ")
    served.health = (DEAF,)
    assert analysis(served)[1].startswith(
        "Nothing is heard now; before, no open incident was left on gpu-17;"
    )


def test_an_incident_left_open_before_the_time_asked_for_is_not_forgotten(served: Served) -> None:
    *faults, incident = memory_error()
    served.publish(*faults, incident)
    data, text = analysis(served, since="1h")
    assert (data["finding"], data["incidents"], data["open_before"]) == ("no_faults", [], [incident.id])
    assert f"Still open from before that time: 1 incident, xid://incidents/{incident.id}." in text


def test_incidents_can_be_asked_of_one_gpu_and_of_a_severity(served: Served) -> None:
    served.publish(*memory_error(), *page_fault())
    assert [each["code"] for each in analysis(served, gpu="0000:1b:00")[0]["incidents"]] == [31]
    assert [each["code"] for each in analysis(served, severity="critical")[0]["incidents"]] == [48]


def test_an_incident_of_several_gpus_is_found_by_each_of_them(served: Served) -> None:
    *faults, incident = memory_error()
    reach = {**incident.detail["blast_radius"], "gpus": ["0000:91:00.0", "0000:5d:00.0"]}
    wide = replace(incident, detail={**incident.detail, "blast_radius": reach}, gpu=None)
    served.publish(*faults, wide)
    data, text = analysis(served, gpu="0000:5d:00")
    assert [each["id"] for each in data["incidents"]] == [incident.id]
    assert "2 devices: 0000:91:00.0, 0000:5d:00.0." in text
    assert analysis(served, gpu="0000:3b:00")[0]["incidents"] == []


def test_a_merged_incident_is_not_told(served: Served) -> None:
    *faults, incident = memory_error()
    merged = {"how": "merged", "why": "merged into inc_x", "time": None, "event": None}
    detail = {**incident.detail, "state": "closed", "recovered_by": merged, "waiting_for": None}
    served.publish(*faults, replace(incident, detail=detail))
    assert analysis(served)[0]["incidents"] == []


def test_drill_incidents_are_left_out_unless_asked_for(served: Served) -> None:
    served.publish(*(replace(event, drill=True) for event in memory_error()))
    data, text = analysis(served)
    assert (data["finding"], data["incidents"], data["open_before"]) == ("no_faults", [], [])
    data, text = analysis(served, include_drills=True)
    assert (data["finding"], data["incidents_total"], data["open_incidents"]) == ("no_faults", 1, 0)
    assert "DRILL, not a real fault: OPEN incident" in text


def test_the_text_is_short_however_many_incidents_there_are(served: Served) -> None:
    *_, incident = memory_error()
    served.publish(*(replace(incident, id=f"inc_{number}") for number in range(60)))
    data, text = analysis(served)
    assert (len(data["incidents"]), data["incidents_total"], data["open_incidents"]) == (20, 60, 60)
    assert tokens(text) <= 600
    assert "xid://incidents." in text


def test_a_time_before_the_journal_began_is_not_said_to_be_without_errors(tmp_path: Path) -> None:
    before = time.time()
    with Served(state_dir=tmp_path) as served:
        data, text = analysis(served, since="24h")
    assert data["finding"] == "no_faults_but_not_all_heard"
    assert parse_rfc3339(data["from_time"]) / 1e6 == pytest.approx(before, abs=DEADLINE_S)
    assert parse_rfc3339(data["asked_from_time"]) / 1e6 == pytest.approx(before - DAY_S, abs=DEADLINE_S)
    assert "nothing is known of the time before" in text


def test_a_time_that_the_journal_reaches_is_looked_at_as_it_was_asked_for(tmp_path: Path) -> None:
    with Served(state_dir=tmp_path) as served:
        started = rfc3339(time.time_ns() // 1000)
        data, text = analysis(served, since=started)
    assert (data["finding"], data["from_time"], data["asked_from_time"]) == ("no_faults", started, None)
    assert "nothing is known" not in text


def test_beyond_a_cursor_nothing_is_said_of_the_time_before_it(served: Served) -> None:
    cursor = served.publish(xid(79))
    data, text = analysis(served, since=cursor)
    assert (data["finding"], data["from_time"]) == ("no_faults", None)
    assert text.startswith(f"No errors of severity warning or worse on gpu-17 since cursor {cursor}, heard")


def test_errors_of_programs_alone_acquit_the_hardware_in_the_first_line(served: Served) -> None:
    served.publish(APP_ERROR)
    assert "all of it is blamed on applications" in analysis(served)[1].splitlines()[0]
    served.publish(xid(79))
    assert "applications" not in analysis(served)[1].splitlines()[0]


def test_how_often_the_cause_of_an_incident_came_is_said(served: Served) -> None:
    *faults, incident = memory_error()
    served.publish(replace(faults[0], count=40), *faults[1:], incident)
    assert "Xid 48: 40 times." in analysis(served)[1]


def test_what_a_storm_folded_into_one_event_is_counted_in(served: Served) -> None:
    fault, *rest, incident = memory_error()
    folded = replace(fault, id="ev_folded", kind=Kind.OVERFLOW, count=9_200)
    served.publish(replace(fault, count=800), folded, *rest, incident)
    assert "Xid 48: 10000 times." in analysis(served)[1]
    served.publish(*numbered(APP_ERROR, range(1_100)))
    assert "Xid 48: at least 10000 times." in analysis(served)[1]


def test_that_nothing_is_heard_any_more_comes_before_the_faults_of_before(served: Served) -> None:
    served.publish(xid(79))
    served.health = (DEAF,)
    assert analysis(served)[1].startswith("Nothing is heard now, and before there was: 1 fault on gpu-17")


def test_the_other_codes_of_an_incident_are_put_in_words(served: Served) -> None:
    served.publish(*memory_error())
    text = analysis(served)[1]
    assert "In words: Xid 63: A bad memory row was recorded for replacement" in text
    assert "Xid 45:" not in text


def test_an_incident_of_an_earlier_boot_is_marked(served: Served) -> None:
    *_, incident = memory_error()
    survived = [{"rule": "survived_reboot", "why": "it is still there", "time": "", "related": []}]
    went_on = replace(incident, id="inc_on", detail={**incident.detail, "escalations": survived})
    served.publish(incident, went_on, replace(incident, id="inc_now", boot_id=str(STATUS["boot_id"])))
    marks = {each["id"]: each["before_reboot"] for each in analysis(served)[0]["incidents"]}
    assert marks == {incident.id: True, "inc_on": False, "inc_now": False}


def test_a_group_names_the_incident_that_says_what_is_left_to_do(served: Served) -> None:
    *faults, incident = page_fault(is_over=True)
    served.publish(*faults, incident)
    data, text = analysis(served)
    assert {group["incident"] for group in data["groups"]} == {incident.id}
    assert "Blame: application. Action now: ignore." in text


def test_lines_that_were_not_believed_are_told(served: Served) -> None:
    data, text = analysis(served)
    assert data["hearing"]["forged_lines"] == 2
    assert "Not believed: 2 lines written by a process" in text


def test_a_node_on_which_no_driver_was_ever_seen_is_not_called_healthy_without_saying_so(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert analysis(served)[0]["hearing"]["knows_a_driver"] is True
    monkeypatch.setitem(STATUS, "driver_version", None)
    data, text = analysis(served)
    assert data["hearing"]["knows_a_driver"] is False
    assert "Neither the log nor /proc names an NVIDIA driver or GPU" in text


def test_the_answer_says_what_time_it_is_on_the_node(served: Served) -> None:
    data, text = analysis(served)
    assert parse_rfc3339(data["as_of"]) / 1e6 == pytest.approx(time.time(), abs=DEADLINE_S)
    assert f"Asked at {data['as_of'][:19]}Z." in text
