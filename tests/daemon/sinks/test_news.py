"""Which revisions of an event are told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.event import Action, Item, Kind, Severity
from daemon.filter import EVERYTHING, EventFilter
from daemon.sinks.news import REMEMBERED, News, Updates
from tests.support.events import TIME_US, item


def news(updates: Updates = Updates.IMPORTANT, *, drills: bool = False) -> News:
    return News(EVERYTHING, updates, drills=drills)


def told(memory: News, *items: Item, match: EventFilter = EVERYTHING) -> list[int]:
    """The cursors of what is news, one page after the other; all of it is taken."""
    found: list[int] = []
    for each in items:
        chosen = memory.select([each], match)
        memory.note(chosen)
        found += [one.cursor for one in chosen]
    return found


def incident(cursor: int, state: str = "open", **changes: Any) -> Item:
    return item(cursor, id="in_1", kind=Kind.INCIDENT, revision=cursor, detail={"state": state}, **changes)


def test_an_event_is_told_when_it_first_matches_and_not_at_each_revision() -> None:
    memory = news()
    assert told(memory, item(1), item(2, revision=2, count=5), item(3, revision=3, count=9)) == [1]


def test_an_event_that_matches_only_later_is_told_then() -> None:
    severe = EventFilter.parse("critical")
    mild, worse = item(1, severity=Severity.WARNING), item(2, revision=2, severity=Severity.FATAL)
    assert told(news(), mild, worse, match=severe) == [2]


def test_an_event_that_got_worse_than_what_was_told_is_told_again_and_one_that_got_milder_is_not() -> None:
    memory = news()
    steps = (Severity.WARNING, Severity.CRITICAL, Severity.WARNING, Severity.CRITICAL, Severity.FATAL)
    items = [item(n, revision=n, severity=severity) for n, severity in enumerate(steps, 1)]
    assert told(memory, *items) == [1, 2, 5]


def test_an_incident_is_told_when_it_opens_is_over_opens_again_and_when_its_advice_changes() -> None:
    memory = news()
    steps = (
        incident(1),
        incident(2),
        incident(3, action=Action.RESET_GPU),
        incident(4, "recovered", action=Action.RESET_GPU),
        incident(5, "recovered", action=Action.RESET_GPU),
        incident(6, action=Action.RESET_GPU),
    )
    assert told(memory, *steps) == [1, 3, 4, 6]


def test_drills_are_told_only_where_asked_for_but_an_alarm_that_was_one_is_taken_back() -> None:
    assert told(news(), item(1, drill=True)) == []
    assert told(news(drills=True), item(1, drill=True)) == [1]
    assert told(news(), item(1), item(2, revision=2, drill=True)) == [1, 2]


@pytest.mark.parametrize(
    ("updates", "cursors"), [(Updates.NONE, [1]), (Updates.IMPORTANT, [1, 3]), (Updates.ALL, [1, 2, 3])]
)
def test_more_or_fewer_updates_can_be_asked_for(updates: Updates, cursors: list[int]) -> None:
    steps = (
        item(1, severity=Severity.CRITICAL),
        item(2, revision=2, severity=Severity.CRITICAL),
        item(3, revision=3, severity=Severity.FATAL),
    )
    assert told(news(updates), *steps) == cursors


def test_what_happened_before_the_sink_was_set_up_is_told_only_when_it_goes_on() -> None:
    memory = news()
    memory.pass_over([item(1)])
    assert told(memory, item(2, revision=2, severity=Severity.FATAL)) == []
    assert told(memory, item(3, revision=3, count=2, last_time_us=TIME_US + 1)) == [3]


def test_what_was_told_survives_a_restart() -> None:
    before = news()
    assert told(before, item(1, severity=Severity.CRITICAL), incident(2)) == [1, 2]
    after = news()
    after.load(json.loads(json.dumps(before.dump())))
    assert told(after, item(3, severity=Severity.CRITICAL), incident(4)) == []
    assert told(after, item(5, severity=Severity.FATAL), incident(6, "recovered")) == [5, 6]


def test_memory_is_bounded_and_keeps_the_newest() -> None:
    memory = news()
    count = REMEMBERED + 10
    told(memory, *(item(n, id=f"ev_{n}") for n in range(1, count + 1)))
    assert len(memory.dump()["told"]) == REMEMBERED
    assert told(memory, item(count + 1, id=f"ev_{count}", revision=2)) == []


@pytest.mark.parametrize(
    "bad", [{}, {"told": {"ev": [1]}}, {"told": [1]}, {"told": {"ev": {"x": 1}}}, {"told": None}]
)
def test_a_saved_memory_that_is_none_is_refused_and_changes_nothing(bad: dict[str, Any]) -> None:
    memory = news()
    told(memory, item(1))
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        memory.load(bad)
    assert told(memory, item(2, revision=2)) == []
