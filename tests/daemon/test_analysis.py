"""Faults taken together, worst first; what could not be heard, summed up."""

from __future__ import annotations

from daemon.analysis import blind_spots, fault_groups
from daemon.event import Gpu, Kind, Severity
from tests.support.events import TIME_US, item

SECOND_US = 1_000_000


def test_events_of_one_fault_on_one_device_are_one_group() -> None:
    later = TIME_US + 60 * SECOND_US
    items = [
        item(1, id="ev_1", count=3),
        item(2, id="ev_2", time_us=later, last_time_us=later),
        item(3, id="ev_3", gpu=Gpu("0000:17:00.0")),
    ]
    both, other = sorted(fault_groups(items), key=lambda group: -group.events)
    assert (both.events, both.count) == (2, 4)
    assert (both.first_time_us, both.last_time_us) == (TIME_US, later)
    assert (both.newest.cursor, other.newest.cursor) == (2, 3)


def test_the_worst_come_first_then_the_newest_and_drills_last() -> None:
    later = TIME_US + SECOND_US
    items = [
        item(1, id="ev_1", code=31, severity=Severity.WARNING),
        item(2, id="ev_2", code=43, severity=Severity.WARNING, last_time_us=later),
        item(3, id="ev_3", code=79),
        item(4, id="ev_4", code=79, drill=True),
    ]
    groups = fault_groups(items)
    assert [(group.worst.code, group.worst.drill) for group in groups] == [
        (79, False),
        (43, False),
        (31, False),
        (79, True),
    ]


def test_the_worst_event_speaks_for_the_group() -> None:
    items = [
        item(1, id="ev_1", code=154, severity=Severity.FATAL, summary="reset"),
        item(2, id="ev_2", code=154, severity=Severity.INFO, summary="recovered", last_time_us=TIME_US + 1),
    ]
    (group,) = fault_groups(items)
    assert (group.worst.summary, group.newest.event.summary) == ("reset", "recovered")


def test_what_the_daemon_says_of_itself_is_no_fault() -> None:
    kinds = (Kind.GAP, Kind.PROBE, Kind.DRIVER_LOADED)
    assert fault_groups([item(1, id=kind, kind=kind, code=None) for kind in kinds]) == []


def test_codeless_faults_are_told_apart_by_their_name() -> None:
    items = [item(1, id=name, kind=Kind.NVRM, code=None, name=name) for name in ("A", "B", "A2")]
    assert len(fault_groups(items)) == 3


def test_gaps_and_outages_are_summed_up() -> None:
    found = blind_spots(
        [
            item(1, id="ev_1", kind=Kind.GAP, detail={"lost_records": 100}),
            item(2, id="ev_2", kind=Kind.GAP, detail={"lost_records": 20}, last_time_us=TIME_US + 5),
            item(3, id="ev_3", kind=Kind.PROBE, detail={"hears": False}),
            item(4, id="ev_4", kind=Kind.PROBE, detail={"hears": True}),
        ]
    )
    assert (found.gaps, found.lost_records, found.outages, found.last_time_us) == (2, 120, 1, TIME_US + 5)
    assert found


def test_a_second_witness_that_goes_is_no_time_that_could_not_be_heard() -> None:
    for name, could_not_hear in (("SECOND_WITNESS_DOWN", False), ("PROBE_DOWN", True)):
        gone = item(1, kind=Kind.PROBE, name=name, detail={"probe": "nvml", "hears": False})
        assert bool(blind_spots([gone])) is could_not_hear


def test_a_loss_that_cannot_be_counted_makes_the_total_unknown() -> None:
    gaps = [item(1, id="ev_1", kind=Kind.GAP, detail={"lost_records": n}) for n in (100, None)]
    assert blind_spots(gaps).lost_records is None


def test_nothing_unheard_is_false() -> None:
    assert not blind_spots([item(1)])
