"""Which incidents are open, as a reader of the stream knows them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from daemon.event import Event, Item, Kind
from daemon.open_incidents import MOST, OpenIncidents
from daemon.ring import Ring
from daemon.stream import EventStream
from tests.mcp_server.incident_samples import memory_error, page_fault


def ids(known: OpenIncidents) -> list[str]:
    return [event.id for event in known]


def test_an_incident_is_open_until_a_revision_says_that_it_ended() -> None:
    known = OpenIncidents()
    known.take([*memory_error(), *page_fault()])
    assert len(ids(known)) == 2
    known.take(page_fault(is_over=True))
    assert ids(known) == [memory_error()[-1].id]


def test_faults_and_drills_are_no_open_incidents() -> None:
    *faults, incident = memory_error()
    known = OpenIncidents()
    known.take([*faults, replace(incident, drill=True)])
    assert ids(known) == []


def test_an_incident_that_turns_out_to_be_a_drill_is_not_open_any_more() -> None:
    incident = memory_error()[-1]
    known = OpenIncidents()
    known.take([incident, replace(incident, revision=9, drill=True)])
    assert ids(known) == []


def test_what_the_stream_has_kept_is_learned() -> None:
    stream = EventStream(Ring(64), first_cursor=1)
    events: list[Event] = memory_error()
    stream.publish([Item.of(at, event, stored=True) for at, event in enumerate(events, 1)])
    known = OpenIncidents()
    asyncio.run(known.learn(stream))
    assert ids(known) == [events[-1].id]


def test_their_number_is_bounded_and_the_newest_stay() -> None:
    incident = memory_error()[-1]
    known = OpenIncidents()
    known.take(replace(incident, id=f"inc_{number}") for number in range(MOST + 5))
    assert (len(ids(known)), ids(known)[-1]) == (MOST, f"inc_{MOST + 4}")


def closed(how: str) -> Event:
    incident = memory_error()[-1]
    return replace(incident, revision=9, detail={"state": "closed", "recovered_by": {"how": how}})


def test_one_that_was_closed_without_a_recovery_is_kept_until_something_says_that_it_is_over() -> None:
    known = OpenIncidents()
    known.take([closed("not_heard_again")])
    assert (ids(known), [event.id for event in known.given_up]) == ([], [closed("").id])
    other = replace(page_fault(is_over=True)[-1], gpu=None)
    forged = replace(closed(""), id="ev_1", kind=Kind.DRIVER_LOADED, origin="userspace", drill=True)
    known.take([other, forged])
    assert known.given_up
    recovered = replace(closed(""), id="inc_later", detail={"state": "recovered"})
    known.take([recovered])
    assert not known.given_up
    known.take([closed("crowded_out"), replace(forged, origin="kernel", drill=False)])
    assert not known.given_up


def test_one_that_was_merged_lives_on_in_the_other() -> None:
    known = OpenIncidents()
    known.take([closed("merged")])
    assert not known.given_up
