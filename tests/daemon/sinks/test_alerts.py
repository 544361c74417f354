"""Which alerts fire at an Alertmanager."""

from __future__ import annotations

import json
from typing import Any

from daemon.event import Item, Kind, Severity, parse_rfc3339
from daemon.filter import EVERYTHING, EventFilter
from daemon.page import Missed
from daemon.sinks.alerts import MOST_FIRING, NOTICE_US, AlertBook
from daemon.sinks.batch import Batch, Skipped
from tests.support.events import TIME_US, item

NOW_US = TIME_US + 2_000_000
HOLD_US = 3_600_000_000
Alert = dict[str, Any]


def book(**labels: str) -> AlertBook:
    return AlertBook(labels, hold_us=HOLD_US, drills=False)


def incident(cursor: int, state: str = "open", **changes: Any) -> Item:
    fields = {"id": "in_1", "kind": Kind.INCIDENT, "detail": {"state": state}, **changes}
    return item(cursor, revision=cursor, **fields)


def posted(
    memory: AlertBook, *items: Item, now_us: int = NOW_US, match: EventFilter = EVERYTHING
) -> list[Alert]:
    """What goes out for these, one page; it is taken."""
    chosen = memory.select(items, match)
    alerts = memory.alerts(Batch("am", "test-node", now_us, chosen))
    memory.note(chosen)
    return alerts


def fires(alert: Alert, now_us: int = NOW_US) -> bool:
    return parse_rfc3339(alert["endsAt"]) > now_us


def test_an_open_incident_fires_once_and_is_resolved_with_the_same_labels() -> None:
    memory = book(cluster="a")
    (alert,) = posted(memory, incident(1))
    assert fires(alert)
    assert alert["labels"]["alertname"] == "XidwatchIncident"
    assert alert["labels"]["cluster"] == "a"
    assert parse_rfc3339(alert["startsAt"]) == TIME_US
    assert parse_rfc3339(alert["endsAt"]) == NOW_US + HOLD_US
    assert posted(memory, incident(2)) == [], "nothing changed"
    (resolved,) = posted(memory, incident(3, "recovered"), now_us=NOW_US + 5)
    assert resolved["labels"] == alert["labels"]
    assert not fires(resolved, NOW_US + 6)
    assert "RECOVERED" in resolved["annotations"]["summary"]
    assert memory.firing == []


def test_a_fault_of_an_incident_makes_no_alert_of_its_own_and_other_events_fire_for_a_while() -> None:
    memory = book()
    assert posted(memory, item(1, incident="in_1")) == []
    (alert,) = posted(memory, item(2, kind=Kind.GAP, code=None, gpu=None, severity=Severity.WARNING))
    assert alert["labels"] == {
        "alertname": "XidwatchGap",
        "severity": "warning",
        "node": "test-node",
        "kind": "gap",
    }
    assert parse_rfc3339(alert["endsAt"]) == NOW_US + NOTICE_US
    assert memory.firing == []


def test_an_incident_that_gets_worse_resolves_its_alert_and_fires_another() -> None:
    memory = book()
    (mild,) = posted(memory, incident(1, severity=Severity.WARNING))
    resolved, worse = posted(memory, incident(2, severity=Severity.FATAL))
    assert resolved["labels"] == mild["labels"]
    assert not fires(resolved, NOW_US + 1)
    assert worse["labels"]["severity"] == "fatal"
    assert fires(worse)


def test_an_alert_that_two_incidents_share_is_resolved_with_the_second() -> None:
    memory = book()
    posted(memory, incident(1), incident(2, id="in_2"))
    assert posted(memory, incident(3, "recovered")) == []
    (resolved,) = posted(memory, incident(4, "recovered", id="in_2"))
    assert not fires(resolved, NOW_US + 1)


def test_what_opened_and_ended_in_one_page_fires_nothing_and_what_moved_to_drills_is_resolved() -> None:
    memory = book()
    assert posted(memory, incident(1, "recovered")) == []
    posted(memory, incident(2))
    (resolved,) = posted(memory, incident(3, drill=True))
    assert not fires(resolved, NOW_US + 1)
    assert "drill" not in resolved["labels"]


def test_an_incident_that_fires_is_seen_to_its_end_whatever_the_filter_says_then() -> None:
    memory = book()
    only = EventFilter.parse("critical", code=["79"])
    assert posted(memory, incident(1, code=31), match=only) == []
    assert len(posted(memory, incident(2), match=only)) == 1
    (resolved,) = posted(memory, incident(3, "recovered", code=31), match=only)
    assert resolved["labels"]["code"] == "79"


def test_what_fires_is_sent_again_and_lives_as_long_after_it() -> None:
    memory = book()
    posted(memory, incident(1), incident(2, id="in_2", code=48))
    later = NOW_US + 300_000_000
    again = memory.refreshed(later)
    assert [alert["labels"]["code"] for alert in again] == ["79", "48"]
    assert all(parse_rfc3339(alert["endsAt"]) == later + HOLD_US for alert in again)
    memory.drop("in_1")
    assert [alert["labels"]["code"] for alert in memory.refreshed(later)] == ["48"]


def test_what_fires_survives_a_restart() -> None:
    before = book()
    posted(before, incident(1))
    after = book()
    after.load(json.loads(json.dumps(before.dump())))
    assert after.refreshed(NOW_US) == before.refreshed(NOW_US)
    assert len(posted(after, incident(2, "recovered"))) == 1


def test_what_was_missed_or_given_up_is_an_alert() -> None:
    batch = Batch("am", "test-node", NOW_US, missed=Missed(3, 9), skipped=[Skipped(1, "ev_1", "400")])
    (alert,) = book().alerts(batch)
    assert alert["labels"]["alertname"] == "XidwatchAlarmsLost"
    assert "3 to 9" in alert["annotations"]["summary"]
    assert "ev_1 was given up: 400" in alert["annotations"]["summary"]


def test_the_number_of_alerts_that_are_sent_again_is_bounded() -> None:
    memory = book()
    for number in range(MOST_FIRING + 20):
        posted(memory, incident(number + 1, id=f"in_{number}", code=number))
    assert len(memory.firing) == MOST_FIRING


def test_incidents_of_before_the_sink_was_set_up_fire_only_when_they_go_on() -> None:
    memory = book()
    memory.pass_over([incident(1)])
    assert posted(memory, incident(2)) == []
    assert len(posted(memory, incident(3, last_time_us=TIME_US + 1))) == 1


def test_what_is_over_does_not_fire_on_when_the_clock_was_set_back() -> None:
    memory = book()
    posted(memory, incident(1))
    earlier_us = TIME_US - 3_600_000_000
    (resolved,) = posted(memory, incident(2, "recovered"), now_us=earlier_us)
    assert not fires(resolved, earlier_us)
    assert resolved["startsAt"] <= resolved["endsAt"]
