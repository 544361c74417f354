"""OTLP traces: the way of an event as a span, and a queue that never wakes an idle process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from daemon.event import Event, Item, Kind, Witness
from daemon.otlp.target import OtlpTarget
from daemon.ring import Ring
from daemon.stream import EventStream
from tests.mcp_server.samples import revised, xid
from tests.support.waiting import DEADLINE_S

pytest.importorskip("opentelemetry.sdk", reason="the extra [otel] is not installed")
from daemon.otlp import traces as module
from daemon.otlp.log_records import trace_id
from daemon.otlp.traces import Traces
from tests.support.otlp_receiver import OtlpReceiver, attributes

TIME_US = 1_795_346_406_994_671
FAULT = replace(xid(), time_us=TIME_US, witnesses=(Witness("bpf", 0), Witness("kmsg", 1900)))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


def publish(stream: EventStream, *events: Event) -> None:
    first = stream.newest + 1
    stream.publish([Item.of(at, event, stored=True) for at, event in enumerate(events, first)])


def test_an_event_is_a_span_from_its_record_to_the_readers_in_the_trace_of_its_log_records() -> None:
    with OtlpReceiver() as receiver:

        async def main() -> None:
            stream = EventStream(Ring(64), first_cursor=1)
            where = OtlpTarget(receiver.endpoint, {"service.name": "xidwatch"}, {"x-key": "s3cret"})
            traces = Traces(where, stream, version="1", wall_us=lambda: TIME_US + 2_500)
            task = asyncio.create_task(traces.run())
            publish(stream, FAULT)
            await until(lambda: traces._cursor == stream.newest)
            stream.close()
            await task
            await traces.close()
            assert traces.health().delivered == 1

        asyncio.run(main())
        (span,) = receiver.spans()
        assert receiver.headers[0]["x-key"] == "s3cret"
    assert span.name == "xidwatch.xid"
    assert span.trace_id == trace_id(FAULT)
    assert span.start_time_unix_nano == TIME_US * 1000
    assert span.end_time_unix_nano == (TIME_US + 2_500) * 1000
    told = attributes(span.attributes)
    assert (told["xidwatch.code"], told["xidwatch.stored"]) == (79, True)
    heard = [(event.time_unix_nano // 1000 - TIME_US, attributes(event.attributes)) for event in span.events]
    assert heard == [(0, {"xidwatch.probe": "bpf"}), (1900, {"xidwatch.probe": "kmsg"})]


def traced(endpoint: str, *events: Event) -> Traces:
    """After these events, and the end."""

    async def main() -> Traces:
        stream = EventStream(Ring(64), first_cursor=1)
        traces = Traces(OtlpTarget(endpoint, {}), stream, version="1", wall_us=lambda: TIME_US)
        for at, event in enumerate(events):
            traces.trace(Item.of(at, event, stored=True), TIME_US)
        await traces.close()
        return traces

    return asyncio.run(main())


def test_what_is_no_news_or_has_no_known_time_has_no_span() -> None:
    estimate = replace(FAULT, time_is_estimate=True)
    with OtlpReceiver() as receiver:
        traced(receiver.endpoint, revised(FAULT, count=2), estimate, replace(FAULT, kind=Kind.INCIDENT))
        assert receiver.spans() == []


def test_spans_that_nobody_takes_are_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with OtlpReceiver() as receiver:
        receiver.statuses.append(503)
        health = traced(receiver.endpoint, FAULT, FAULT).health()
    assert health.reason == "the receiver does not take traces: 503 Service Unavailable"
    assert (health.up, health.dropped, health.failures) == (False, 2, 1)
    assert caplog.text.count("does not take traces") == 1


def test_more_spans_than_may_wait_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    with OtlpReceiver() as receiver:
        health = traced(receiver.endpoint, *[FAULT] * 5).health()
        assert (len(receiver.spans()), health.dropped, health.up) == (3, 2, True)


def test_nothing_is_scheduled_while_there_is_no_span() -> None:
    async def main() -> None:
        stream = EventStream(Ring(64), first_cursor=1)
        traces = Traces(OtlpTarget("http://none", {}), stream, version="1", wall_us=lambda: TIME_US)
        task = asyncio.create_task(traces.run())
        await asyncio.sleep(0)
        scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]  # asyncio's own list
        assert scheduled == []
        stream.close()
        await task
        await traces.close()

    asyncio.run(main())
