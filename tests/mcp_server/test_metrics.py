"""/metrics: what is counted, under which labels, and what never becomes a series."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from dataclasses import replace

import pytest
from mcp_types import TextContent
from prometheus_client.parser import text_string_to_metric_families

from daemon.event import Event, Gpu, Item, Kind, Severity
from daemon.gpu.mock import MockFleet, MockSource, parse
from daemon.gpu.source import SourceState
from daemon.outlet import OutletHealth
from daemon.reader import Reader
from daemon.ring import Ring
from daemon.stream import EventStream
from mcp_server.event_tally import MAX_DEVICES, EventTally, Labels
from probes.health import ProbeHealth
from tests.mcp_server.samples import revised, xid
from tests.mcp_server.serving import Served
from tests.support import tool_calls
from tests.support.waiting import DEADLINE_S, wait_for


def samples(served: Served) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = served.get("/metrics").body.decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(served: Served, name: str, **labels: str) -> float | None:
    return samples(served).get((name, frozenset(labels.items())))


XID_79 = {"kind": "xid", "code": "79", "severity": "fatal", "gpu": "0000:91:00.0"}


def test_repeats_are_counted_by_how_much_the_count_grew(served: Served) -> None:
    event = xid()
    served.publish(event)
    wait_for(lambda: value(served, "xidwatch_events_total", **XID_79) == 1, "the event to be counted")
    served.publish(revised(event, count=41))
    wait_for(lambda: value(served, "xidwatch_events_total", **XID_79) == 41, "its repeats to be counted")


def test_drills_never_touch_the_series_that_alerts_look_at(served: Served) -> None:
    served.publish(replace(xid(), drill=True))
    wait_for(lambda: value(served, "xidwatch_drill_events_total", **XID_79) == 1, "the drill to be counted")
    assert value(served, "xidwatch_events_total", **XID_79) is None


def test_probes_clients_and_losses_are_shown(served: Served) -> None:
    with served.events():
        assert value(served, "xidwatch_clients", transport="events") == 1
    assert value(served, "xidwatch_probe_up", probe="kmsg") == 1
    assert value(served, "xidwatch_kernel_records_lost_total") == 3
    assert value(served, "xidwatch_forged_lines_total") == 2
    assert value(served, "xidwatch_nvml_workers_abandoned_total") == 0
    assert value(served, "xidwatch_gpus_left_alone") == 0
    assert value(served, "xidwatch_build_info", version="0.0.test", node="gpu-17") == 1
    wait_for(lambda: value(served, "xidwatch_clients", transport="events") == 0, "the reader to be gone")


def test_the_delivery_lag_of_a_new_event_is_measured(served: Served) -> None:
    served.publish(xid())
    wait_for(lambda: value(served, "xidwatch_delivery_lag_seconds_count") == 1, "the lag to be measured")
    assert value(served, "xidwatch_delivery_lag_seconds_bucket", le="+Inf") == 1


def test_no_series_tells_when_a_counter_was_created(served: Served) -> None:
    assert b"_created" not in served.get("/metrics").body


def taken(counted: EventTally, *events: Event, stored: bool = True) -> EventTally:
    for event in events:
        counted.take(Item.of(1, event, stored=stored))
    return counted


def labels(event: Event) -> Labels:
    (only,) = taken(EventTally(unused()), event).real
    return only


def unused() -> EventStream:
    """The stream of a tally that is given its items by hand."""
    return EventStream(Ring(1), first_cursor=1)


def test_an_event_whose_first_revision_was_skipped_is_counted_whole() -> None:
    event = revised(xid(), count=7)
    assert sum(taken(EventTally(unused()), event).real.values()) == 7


def test_a_code_that_no_catalogue_lists_is_other() -> None:
    assert labels(xid(54321)).code == "other"


def test_a_device_that_never_matched_a_real_gpu_is_unknown() -> None:
    assert labels(replace(xid(), gpu=Gpu(pci="0000:de:ad.0"))).gpu == "unknown"


def test_an_event_of_the_node_has_no_device() -> None:
    assert labels(replace(xid(), gpu=None)).gpu == ""


def test_the_number_of_device_labels_is_bounded() -> None:
    counted = EventTally(unused())
    for number in range(2 * MAX_DEVICES):
        gpu = Gpu(pci=f"{number:04x}:00:00.0", uuid=f"GPU-{number}")
        taken(counted, replace(xid(number=number), gpu=gpu))
    assert len({key.gpu for key in counted.real}) == MAX_DEVICES + 1
    assert sum(counted.real.values()) == 2 * MAX_DEVICES


def test_an_estimated_time_says_nothing_about_the_lag() -> None:
    counted = taken(EventTally(unused()), replace(xid(), time_is_estimate=True))
    assert sum(counted.lag_buckets) == 0


def test_the_lag_falls_into_its_bucket_and_is_never_negative() -> None:
    now = time.time()
    counted = EventTally(unused(), clock=lambda: now)
    taken(counted, replace(xid(number=1), time_us=int(now * 1e6) + 5_000_000))
    taken(counted, replace(xid(number=2), time_us=int((now - 100) * 1e6)))
    assert (counted.lag_buckets[0], counted.lag_buckets[-1]) == (1, 1)
    assert 99 < counted.lag_sum_s < 101


def test_items_the_journal_did_not_have_yet_are_counted() -> None:
    assert taken(EventTally(unused()), xid(), stored=False).not_stored == 1


def publish(stream: EventStream, *events: Event) -> None:
    first = stream.newest + 1
    stream.publish([Item.of(cursor, event, stored=True) for cursor, event in enumerate(events, first)])


def test_what_was_there_before_the_start_is_the_baseline_and_not_a_count() -> None:
    old = replace(xid(number=1), count=40)
    stream = EventStream(Ring(16), first_cursor=1)
    publish(stream, old, xid(31))
    counted = EventTally(stream)

    async def main() -> None:
        counting = asyncio.create_task(counted.run())
        await asyncio.sleep(0)  # its first step: the baseline
        publish(stream, revised(old, count=42))
        async with asyncio.timeout(DEADLINE_S):
            while not counted.real:
                await asyncio.sleep(0)
        stream.close()
        await counting

    asyncio.run(main())
    assert {key.code: count for key, count in counted.real.items()} == {"79": 2}


def test_a_journal_that_cannot_be_read_does_not_end_the_counting(caplog: pytest.LogCaptureFixture) -> None:
    def unreadable() -> Reader:
        raise sqlite3.OperationalError("disk I/O error")

    ring = Ring(16)
    stream = EventStream(ring, first_cursor=1, open_reader=unreadable)
    counted = EventTally(stream)
    publish(stream, xid(13))
    ring.complete_after = 1

    async def main() -> None:
        counting = asyncio.create_task(counted.run())
        async with asyncio.timeout(DEADLINE_S):
            while "missing from the metrics" not in caplog.text:
                await asyncio.sleep(0)
            publish(stream, xid(79))
            while not counted.real:
                await asyncio.sleep(0)
        stream.close()
        await counting

    asyncio.run(main())
    assert {key.code: count for key, count in counted.real.items()} == {"79": 1}
    assert "events up to cursor 1 are missing from the metrics" in caplog.text


class _LeftBehind(MockSource):
    """Whose readings have cost two processes."""

    def state(self) -> SourceState:
        return replace(super().state(), abandoned=2)


def test_processes_that_nvml_did_not_give_back_are_counted() -> None:
    with Served(gpus_of=_LeftBehind(MockFleet(parse('[[gpu]]\nstate = "hung"')))) as served:
        assert value(served, "xidwatch_nvml_workers_abandoned_total") == 2
        assert value(served, "xidwatch_gpus_left_alone") == 1
        told = tool_calls.call(served.url, "get_daemon_status").content[0]
    assert isinstance(told, TextContent)
    assert "2 processes that read GPUs left behind since the start" in told.text


def test_a_fault_that_turns_out_worse_is_counted_as_what_it_is() -> None:
    mild = replace(xid(), severity=Severity.WARNING, count=2)
    worse = replace(revised(mild, count=3), severity=Severity.FATAL)
    counted = taken(EventTally(unused()), mild, worse, revised(worse, count=4))
    assert {key.severity: count for key, count in counted.real.items()} == {"warning": 2, "fatal": 4}


def test_a_fault_that_is_told_milder_and_worse_again_is_not_counted_twice() -> None:
    bad = xid()
    milder = replace(revised(bad, count=1), severity=Severity.WARNING)
    counted = taken(EventTally(unused()), bad, milder, replace(milder, revision=3, severity=Severity.FATAL))
    assert sum(counted.real.values()) == 1


def incident(state: str, *, revision: int = 1, drill: bool = False) -> Event:
    return replace(
        xid(), id="inc_1", kind=Kind.INCIDENT, revision=revision, drill=drill, detail={"state": state}
    )


def test_an_incident_is_a_gauge_that_goes_back_to_zero_when_it_ends(served: Served) -> None:
    where = {"severity": "fatal", "gpu": "0000:91:00.0"}
    served.publish(incident("open"))
    wait_for(lambda: value(served, "xidwatch_open_incidents", **where) == 1, "the incident to be seen")
    served.publish(incident("recovered", revision=2))
    wait_for(lambda: value(served, "xidwatch_open_incidents", **where) == 0, "its end to be seen")


def test_an_incident_of_an_earlier_run_is_still_open_and_a_drill_never_is() -> None:
    stream = EventStream(Ring(16), first_cursor=1)
    publish(stream, incident("open"), replace(incident("open", drill=True), id="inc_2"))
    counted = EventTally(stream)

    async def main() -> None:
        counting = asyncio.create_task(counted.run())
        async with asyncio.timeout(DEADLINE_S):
            while not counted.open_incidents():
                await asyncio.sleep(0)
        stream.close()
        await counting

    asyncio.run(main())
    assert dict(counted.open_incidents()) == {("fatal", "0000:91:00.0"): 1}
    assert not counted.real


def test_hearing_means_a_live_source_and_one_that_was_told_to_be_silent_says_so(served: Served) -> None:
    assert value(served, "xidwatch_hearing") == 1
    served.health = (
        ProbeHealth("driver", hears=True, live=False),
        ProbeHealth("kmsg", hears=False, live=True, reason="closed"),
        ProbeHealth("nvml", hears=False, live=False, on_request=True),
    )
    assert value(served, "xidwatch_hearing") == 0
    assert value(served, "xidwatch_probe_released", probe="nvml") == 1
    assert value(served, "xidwatch_probe_released", probe="kmsg") == 0


def test_a_gpu_that_the_kernel_lost_is_shown_by_name_until_it_is_back(served: Served) -> None:
    served.publish(replace(xid(), boot_id=""))
    assert value(served, "xidwatch_gpu_lost", gpu="0000:91:00.0") == 1
    assert value(served, "xidwatch_gpus_expected") == 1


def test_invented_gpus_are_told_from_real_ones() -> None:
    with Served(gpus_of=MockSource(MockFleet(parse("[[gpu]]")))) as served:
        assert value(served, "xidwatch_gpus_are_mock") == 1
        assert value(served, "xidwatch_nvml_state", state="ok") == 1
        assert value(served, "xidwatch_nvml_state", state="hung") == 0


def test_each_way_out_is_shown_with_what_became_of_it(served: Served) -> None:
    served.outlets = (
        OutletHealth("otlp logs", up=True, delivered=7),
        OutletHealth("node events", up=False, reason="403", failures=3, dropped=1),
    )
    assert value(served, "xidwatch_outlet_up", outlet="otlp logs") == 1
    assert value(served, "xidwatch_outlet_delivered_total", outlet="otlp logs") == 7
    assert value(served, "xidwatch_outlet_up", outlet="node events") == 0
    assert value(served, "xidwatch_outlet_failures_total", outlet="node events") == 3
    assert value(served, "xidwatch_outlet_dropped_total", outlet="node events") == 1
