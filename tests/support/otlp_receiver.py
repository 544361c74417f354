"""An OTLP/HTTP receiver on a real socket, which decodes what it is sent with OpenTelemetry's own messages."""

from __future__ import annotations

import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span


def plain(value: AnyValue) -> Any:
    """A value of OTLP as JSON."""
    match value.WhichOneof("value"):
        case None:
            return None
        case "kvlist_value":
            return attributes(value.kvlist_value.values)
        case "array_value":
            return [plain(each) for each in value.array_value.values]
        case kind:
            return getattr(value, kind)


def attributes(pairs: Any) -> dict[str, Any]:
    """Key-value pairs as a dict."""
    found: list[KeyValue] = list(pairs)
    return {pair.key: plain(pair.value) for pair in found}


class OtlpReceiver:
    """What came in, in order."""

    def __init__(self) -> None:
        self.logs: list[ExportLogsServiceRequest] = []
        self.traces: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.statuses: deque[int] = deque()
        """Answers out of the ordinary, taken one a request."""
        self.reject_logs = 0
        """How many log records an answer says were rejected."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                status = receiver.statuses.popleft() if receiver.statuses else 200
                answer = receiver.take(self.path, body) if status == 200 else b""
                self.send_response(status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def take(self, path: str, body: bytes) -> bytes:
        """Decode one export, and answer it."""
        if path == "/v1/logs":
            self.logs.append(ExportLogsServiceRequest.FromString(body))
            answer = ExportLogsServiceResponse()
            if self.reject_logs:
                answer.partial_success.rejected_log_records = self.reject_logs
                answer.partial_success.error_message = "too old"
            return bytes(answer.SerializeToString())
        assert path == "/v1/traces", path
        self.traces.append(ExportTraceServiceRequest.FromString(body))
        return bytes(ExportTraceServiceResponse().SerializeToString())

    def records(self) -> list[LogRecord]:
        """All log records, in order."""
        return [
            record
            for export in self.logs
            for resource in export.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def spans(self) -> list[Span]:
        """All spans, in order."""
        return [
            span
            for export in self.traces
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def __enter__(self) -> OtlpReceiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
