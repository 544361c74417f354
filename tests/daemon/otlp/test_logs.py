"""OTLP logs: what a real receiver decodes, and what becomes of its answers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from daemon.event import Event, Item, Kind, Mig, Severity
from daemon.otlp.logs import OtlpLogs
from daemon.otlp.target import OtlpTarget, parse_endpoint, target
from daemon.page import Missed
from daemon.sinks.batch import Batch
from daemon.sinks.outcome import Fate, Outcome
from probes.errors import UserError
from tests.mcp_server.samples import FELL_OFF, GPU_UUID, xid

pytest.importorskip("opentelemetry.sdk", reason="the extra [otel] is not installed")
from tests.support.otlp_receiver import OtlpReceiver, attributes

TIME_US = 1_795_346_406_994_671
FAULT = replace(xid(), time_us=TIME_US, last_time_us=TIME_US)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


def to(receiver: OtlpReceiver, **environ: str) -> OtlpTarget:
    return target(receiver.endpoint, node="gpu-17", version="1.2.3", environ=environ)


def send(where: OtlpTarget, *events: Event, missed: Missed | None = None) -> Outcome:
    async def main() -> Outcome:
        logs = OtlpLogs(where, version="1.2.3")
        try:
            items = [Item.of(at, event, stored=True) for at, event in enumerate(events, 1)]
            return await logs.send(Batch("otlp-logs", "gpu-17", TIME_US + 10, items, missed))
        finally:
            await logs.close()

    return asyncio.run(main())


def test_an_event_arrives_as_a_log_record(receiver: OtlpReceiver) -> None:
    assert send(to(receiver), replace(FAULT, detail={"words": [1, 2**70], "fatal": True})).is_delivered
    (record,) = receiver.records()
    assert record.time_unix_nano == TIME_US * 1000
    assert record.observed_time_unix_nano == (TIME_US + 10) * 1000
    assert (record.severity_number, record.severity_text) == (21, "fatal")
    assert record.event_name == "xidwatch.xid"
    assert record.body.string_value == FAULT.summary
    assert len(record.trace_id) == 16
    found = attributes(record.attributes)
    expected = {
        "xidwatch.event.id": FAULT.id,
        "xidwatch.code": 79,
        "xidwatch.blame": "hardware",
        "xidwatch.action": "reboot_node",
        "xidwatch.drill": False,
        "xidwatch.detail": {"words": [1, str(2**70)], "fatal": True},
        "hw.id": GPU_UUID,
        "hw.type": "gpu",
        "xidwatch.gpu.pci": "0000:91:00.0",
        "xidwatch.gpu.index": 3,
        "process.pid": 446,
        "log.record.original": FELL_OFF,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert "xidwatch.gpu.mig.gi" not in found
    assert "xidwatch.incident" not in found


@pytest.mark.parametrize(
    ("severity", "number"),
    [(Severity.FATAL, 21), (Severity.CRITICAL, 17), (Severity.WARNING, 13), (Severity.INFO, 9)],
)
def test_severities_are_those_of_opentelemetry_and_a_drill_alarms_nobody(
    receiver: OtlpReceiver, severity: Severity, number: int
) -> None:
    event = replace(FAULT, severity=severity)
    assert send(to(receiver), event, replace(event, id="ev_drill", drill=True)).is_delivered
    assert [record.severity_number for record in receiver.records()] == [number, 9]


def test_every_kind_of_event_has_a_record(receiver: OtlpReceiver) -> None:
    bare = replace(FAULT, gpu=None, process=None, code=None, name=None, lines=(), witnesses=())
    assert FAULT.gpu is not None
    mig = replace(FAULT, gpu=replace(FAULT.gpu, mig=Mig(5, None)))
    assert send(to(receiver), mig, *(replace(bare, kind=kind) for kind in Kind)).is_delivered
    names = [record.event_name for record in receiver.records()]
    assert names == ["xidwatch.xid", *(f"xidwatch.{kind}" for kind in Kind)]
    assert attributes(receiver.records()[0].attributes)["xidwatch.gpu.mig.gi"] == 5


def test_the_resource_says_who_sends_and_headers_come_from_the_standard_variables(
    receiver: OtlpReceiver,
) -> None:
    where = to(
        receiver,
        KUBERNETES_SERVICE_HOST="10.96.0.1",
        OTEL_RESOURCE_ATTRIBUTES="k8s.cluster.name=blue,deployment.environment=prod",
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20s3cret,x-scope-orgid=gpu",
    )
    assert "s3cret" not in repr(where)
    assert send(where, FAULT).is_delivered
    resource = attributes(receiver.logs[0].resource_logs[0].resource.attributes)
    assert resource["service.name"] == "xidwatch"
    assert resource["service.version"] == "1.2.3"
    assert resource["k8s.node.name"] == "gpu-17"
    assert resource["k8s.cluster.name"] == "blue"
    assert resource["host.name"]
    (headers,) = receiver.headers
    assert headers["authorization"] == "Bearer s3cret"
    assert headers["x-scope-orgid"] == "gpu"
    assert headers["content-type"] == "application/x-protobuf"


@pytest.mark.parametrize(
    ("status", "fate"), [(503, Fate.AWAY), (429, Fate.AWAY), (401, Fate.CLOSED), (400, Fate.REFUSED)]
)
def test_a_refusal_is_told_for_what_it_is(receiver: OtlpReceiver, status: int, fate: Fate) -> None:
    receiver.statuses.append(status)
    assert send(to(receiver), FAULT).fate is fate
    assert receiver.records() == []


def test_records_that_the_receiver_does_not_keep_are_said(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.reject_logs = 1
    assert send(to(receiver), FAULT).is_delivered
    assert "1 log records were rejected: too old" in caplog.text


def test_events_that_were_deleted_before_they_could_be_sent_are_a_record_too(receiver: OtlpReceiver) -> None:
    assert send(to(receiver), FAULT, missed=Missed(7, 9)).is_delivered
    first, _ = receiver.records()
    assert (first.event_name, first.severity_number) == ("xidwatch.missed", 13)
    assert attributes(first.attributes) == {"xidwatch.missed.first": 7, "xidwatch.missed.last": 9}


def test_a_receiver_that_is_not_there_is_away() -> None:
    nowhere = OtlpTarget("http://127.0.0.1:9", {})
    assert send(nowhere, FAULT).fate is Fate.AWAY


def test_an_endpoint_is_a_base_url() -> None:
    assert parse_endpoint("http://collector:4318/") == "http://collector:4318"
    assert parse_endpoint("none") is None
    with pytest.raises(UserError) as signal:
        parse_endpoint("http://collector:4318/v1/logs")
    assert signal.value.hint == "give the base URL: http://collector:4318"
    for bad in (
        *("collector:4318", "grpc://collector:4317", "http://", "http://c/?x=1"),
        *("http://[::1", "http://c:port", "http://c:99999"),
    ):
        with pytest.raises(UserError, match="not the URL of an OTLP/HTTP receiver"):
            parse_endpoint(bad)


def test_without_the_extra_the_endpoint_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto", None)
    monkeypatch.delitem(sys.modules, "opentelemetry.exporter.otlp.proto.common", raising=False)
    with pytest.raises(UserError, match=r"opentelemetry\.exporter\.otlp\.proto\.common") as refused:
        target("http://collector:4318", node="gpu-17", version="1", environ={})
    assert refused.value.hint == "pip install 'xidwatch[otel]'"


def test_what_is_printed_of_an_endpoint_holds_no_credentials() -> None:
    assert OtlpTarget("https://user:pass@collector:4318/t0ken", {}).shown == "https://collector:4318"


def test_half_a_character_in_a_line_stops_nothing(receiver: OtlpReceiver) -> None:
    odd = replace(FAULT, lines=("\udcff",), summary="a\ud800", detail={"\udcfe": "\udcfd"})
    assert send(to(receiver), odd).is_delivered
    (record,) = receiver.records()
    assert attributes(record.attributes)["log.record.original"] == r"\udcff"
    assert record.body.string_value == r"a\ud800"
