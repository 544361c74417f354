"""What the daemon tells OpenTelemetry and Kubernetes by itself: from a kernel line to what a receiver has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import xidwatch
from tests.support.daemon import Daemon
from tests.support.kernel_log import FakeKernelLog
from tests.support.metrics import metric
from tests.support.tool_calls import call
from tests.support.waiting import wait_for

pytest.importorskip("opentelemetry.sdk", reason="the extra [otel] is not installed")
from tests.support.otlp_receiver import OtlpReceiver, attributes

FELL_OFF = "NVRM: Xid (PCI:0000:91:00): 79, pid=446, name=python3, GPU has fallen off the bus."


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


@pytest.fixture
def daemon(tmp_path: Path, kernel_log: FakeKernelLog, receiver: OtlpReceiver) -> Iterator[Daemon]:
    flags = ("--gpu", "off", "--otlp-endpoint", receiver.endpoint)
    running = Daemon(tmp_path, kmsg=kernel_log.path, flags=flags)
    try:
        yield running.start()
    finally:
        running.stop()
    assert "Traceback" not in running.log.read_text()


def codes(receiver: OtlpReceiver) -> list[int]:
    """Of the Xids that arrived, each event once."""
    found = {}
    for record in receiver.records():
        if record.event_name == "xidwatch.xid":
            told = attributes(record.attributes)
            found[told["xidwatch.event.id"]] = told["xidwatch.code"]
    return list(found.values())


def test_a_line_in_the_kernel_log_becomes_a_log_record(
    daemon: Daemon, kernel_log: FakeKernelLog, receiver: OtlpReceiver
) -> None:
    kernel_log.write(FELL_OFF)
    wait_for(lambda: codes(receiver) == [79], "the record")
    resource = attributes(receiver.logs[0].resource_logs[0].resource.attributes)
    assert resource["service.name"] == "xidwatch"
    wait_for(lambda: metric(daemon, 'xidwatch_outlet_delivered_total{outlet="otlp-logs"}') > 0, "the count")
    assert metric(daemon, 'xidwatch_outlet_up{outlet="otlp-logs"}') == 1


def test_what_happens_while_the_receiver_is_away_is_sent_when_it_is_back_also_after_a_kill(
    daemon: Daemon, kernel_log: FakeKernelLog, receiver: OtlpReceiver
) -> None:
    kernel_log.write(FELL_OFF.replace("79", "48"))
    wait_for(lambda: codes(receiver) == [48], "the first record")
    wait_for((daemon.state_dir / "outlets/otlp-logs.json").exists, "the cursor to be saved")
    receiver.statuses.extend([503] * 1000)
    kernel_log.write(FELL_OFF)
    wait_for(lambda: metric(daemon, 'xidwatch_outlet_up{outlet="otlp-logs"}') == 0, "the failure to show")
    daemon.kill()
    receiver.statuses.clear()
    daemon.start()
    wait_for(lambda: codes(receiver) == [48, 79], "the second record")


def test_a_node_outside_a_cluster_says_so_and_goes_on(tmp_path: Path, kernel_log: FakeKernelLog) -> None:
    running = Daemon(
        tmp_path, kmsg=kernel_log.path, flags=("--gpu", "off", "--node-reports", "events,conditions")
    )
    try:
        running.start()
        assert metric(running, 'xidwatch_outlet_up{outlet="node-condition"}') == 0
        assert metric(running, 'xidwatch_outlet_up{outlet="node-events"}') == 0
        assert "does not run in a Kubernetes pod" in running.log.read_text()
    finally:
        running.stop()


def test_an_endpoint_that_is_none_is_refused_at_start() -> None:
    refused = xidwatch("serve", "--otlp-endpoint", "collector:4317")
    assert refused.code == 2
    assert "not the URL of an OTLP/HTTP receiver" in refused.err
    refused = xidwatch("serve", "--node-reports", "event")
    assert refused.code == 2
    assert "did you mean 'events'?" in refused.err


def test_requests_tool_calls_and_events_are_traced_and_streams_are_not(
    daemon: Daemon, kernel_log: FakeKernelLog, receiver: OtlpReceiver
) -> None:
    call(daemon.url, "get_daemon_status")
    daemon.get("/events.json")
    daemon.get("/metrics")
    kernel_log.write(FELL_OFF)
    wait_for(lambda: "xidwatch.xid" in names(receiver), "the span of the event")
    daemon.stop()
    assert "GET /events.json" in names(receiver)
    assert any("tools/call" in name for name in names(receiver)), names(receiver)
    assert not any("/metrics" in name for name in names(receiver))
    (event,) = (span for span in receiver.spans() if span.name == "xidwatch.xid")
    assert event.trace_id in {record.trace_id for record in receiver.records()}


def names(receiver: OtlpReceiver) -> list[str]:
    """Of the spans that arrived."""
    return [span.name for span in receiver.spans()]
