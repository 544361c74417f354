"""An event as an OTLP log record.

`event_name` is `xidwatch.` and the kind, the body is the summary in plain words, the severity number is
that of OpenTelemetry (fatal 21, critical 17, warning 13, info 9; a drill is never above 9). What its
semantic conventions have a name for has that name (`hw.*`, `process.*`, `container.id`,
`log.record.original`), the rest is `xidwatch.*`. What is not known has no attribute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    InstrumentationScope,
    KeyValue,
    KeyValueList,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from daemon.event import Event, Item, Severity
from daemon.page import Missed
from daemon.sinks.batch import Batch, sentence_of_missed

SCOPE: Final = "xidwatch"
_NUMBERS: Final = {
    Severity.FATAL: SeverityNumber.SEVERITY_NUMBER_FATAL,
    Severity.CRITICAL: SeverityNumber.SEVERITY_NUMBER_ERROR,
    Severity.WARNING: SeverityNumber.SEVERITY_NUMBER_WARN,
    Severity.INFO: SeverityNumber.SEVERITY_NUMBER_INFO,
}
_INT64: Final = range(-(2**63), 2**63)


def request(batch: Batch, resource: Mapping[str, str], *, version: str) -> ExportLogsServiceRequest:
    """One export."""
    records = [record(item, observed_us=batch.sent_us) for item in batch.items]
    if batch.missed is not None:
        records.insert(0, record_of_missed(batch.missed, observed_us=batch.sent_us))
    scope = ScopeLogs(scope=InstrumentationScope(name=SCOPE, version=version), log_records=records)
    who = Resource(attributes=_pairs(resource))
    return ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=who, scope_logs=[scope])])


def record_of_missed(missed: Missed, *, observed_us: int) -> LogRecord:
    """The record that says that some are missing. `observed_us` as in `record`."""
    return LogRecord(
        time_unix_nano=observed_us * 1000,
        observed_time_unix_nano=observed_us * 1000,
        severity_number=SeverityNumber.SEVERITY_NUMBER_WARN,
        severity_text=Severity.WARNING.value,
        event_name="xidwatch.missed",
        body=AnyValue(string_value=sentence_of_missed(missed)),
        attributes=_pairs({"xidwatch.missed.first": missed.first, "xidwatch.missed.last": missed.last}),
    )


def record(item: Item, *, observed_us: int) -> LogRecord:
    """The record of this revision of an event. `observed_us`: when it is made, wall clock, µs since the Unix
    epoch."""
    event = item.event
    number = SeverityNumber.SEVERITY_NUMBER_INFO if event.drill else _NUMBERS[event.severity]
    return LogRecord(
        time_unix_nano=event.time_us * 1000,
        observed_time_unix_nano=observed_us * 1000,
        severity_number=number,
        severity_text=event.severity.value,
        event_name=f"xidwatch.{event.kind.value}",
        body=AnyValue(string_value=_utf8(event.summary)),
        attributes=_pairs({**_of_event(item), **_of_device(event), **_of_process(event)}),
        trace_id=trace_id(event),
    )


def trace_id(event: Event) -> bytes:
    """The trace of an event: what is told of one fault, in logs and traces, has one id."""
    return hashlib.blake2b(event.id.encode(), digest_size=16).digest()


def _of_event(item: Item) -> dict[str, Any]:
    event = item.event
    return {
        "xidwatch.cursor": item.cursor,
        "xidwatch.event.id": event.id,
        "xidwatch.event.revision": event.revision,
        "xidwatch.event.count": event.count,
        "xidwatch.event.last_time_unix_us": event.last_time_us,
        "xidwatch.kind": event.kind.value,
        "xidwatch.code": event.code,
        "xidwatch.name": event.name,
        "xidwatch.severity": event.severity.value,
        "xidwatch.blame": event.blame.value,
        "xidwatch.action": event.action.value,
        "xidwatch.action_text": event.action_text,
        "xidwatch.origin": event.origin,
        "xidwatch.drill": event.drill,
        "xidwatch.time_is_estimate": event.time_is_estimate,
        "xidwatch.incident": event.incident,
        "xidwatch.boot_id": event.boot_id or None,
        "xidwatch.driver_version": event.driver_version,
        "xidwatch.witnesses": [witness.probe for witness in event.witnesses] or None,
        "xidwatch.detail": dict(event.detail) or None,
        "xidwatch.lines_dropped": event.lines_dropped or None,
        "log.record.original": "\n".join(event.lines) or None,
    }


def _of_device(event: Event) -> dict[str, Any]:
    gpu, switch = event.gpu, event.nvswitch
    if gpu is not None:
        return {
            "hw.id": gpu.uuid or gpu.pci,
            "hw.type": "gpu",
            "hw.vendor": "NVIDIA",
            "hw.model": gpu.name,
            "hw.serial_number": gpu.serial,
            "xidwatch.gpu.pci": gpu.pci,
            "xidwatch.gpu.uuid": gpu.uuid,
            "xidwatch.gpu.index": gpu.index,
            "xidwatch.gpu.mig.gi": None if gpu.mig is None else gpu.mig.gi,
            "xidwatch.gpu.mig.ci": None if gpu.mig is None else gpu.mig.ci,
        }
    if switch is not None:
        return {
            "hw.id": switch.pci,
            "hw.vendor": "NVIDIA",
            "xidwatch.nvswitch.pci": switch.pci,
            "xidwatch.nvswitch.instance": switch.instance,
        }
    return {}


def _of_process(event: Event) -> dict[str, Any]:
    process = event.process
    if process is None:
        return {}
    return {
        "process.pid": process.pid,
        "process.executable.name": process.name,
        "process.exit.code": process.exit_code,
        "process.owner": process.user,
        "container.id": process.container_id,
        "k8s.pod.name": process.pod,
    }


def _pairs(values: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any(value)) for key, value in values.items() if value is not None]


def _utf8(text: str) -> str:
    """Protobuf refuses a lone surrogate, which a byte of a line or of a name may have become."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _any(value: Any) -> AnyValue:
    """JSON as OTLP holds it. An integer beyond 64 bits, such as a cut word of a line, becomes text."""
    found = AnyValue()
    match value:
        case None:
            pass
        case bool():
            found.bool_value = value
        case int() if value in _INT64:
            found.int_value = value
        case float():
            found.double_value = value
        case Mapping():
            pairs = [KeyValue(key=_utf8(str(key)), value=_any(each)) for key, each in value.items()]
            found.kvlist_value.CopyFrom(KeyValueList(values=pairs))
        case list() | tuple():
            found.array_value.CopyFrom(ArrayValue(values=[_any(each) for each in value]))
        case _:
            found.string_value = _utf8(str(value))
    return found
