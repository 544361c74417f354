"""Traces over OTLP: HTTP requests, MCP calls, and the way of each event from its record to the readers.

The spans of requests and calls are made by Starlette and the MCP SDK, as soon as the process has a
tracer provider. The span of an event begins when its record arrived in the daemon and ends when the
stream's readers had their turn; `xidwatch.stored` says whether the journal had it by then. It carries
the trace id of the event's log records.

Traces are best effort: what the receiver does not take at the first try is dropped and
counted. The SDK's own processor wakes every five seconds for ever; this one only while there is a span.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from daemon.event import Event, Item, Kind
from daemon.filter import EVERYTHING
from daemon.otlp.log_records import SCOPE, trace_id
from daemon.otlp.receiver import Receiver
from daemon.otlp.target import OtlpTarget
from daemon.outlet import OutletHealth
from daemon.page import MAX_LIMIT
from daemon.stream import EventStream
from daemon.thread import ClosedError
from probes.errors import UserError

NAME: Final = "otlp-traces"
MOST_WAITING: Final = 2_048
"""Spans; the default of the specification's batch processor, as are the next two."""
MOST_AT_ONCE: Final = 512
"""Spans of one request: the default of the OpenTelemetry specification's batch processor."""
FLUSH_AFTER_S: Final = 5.0
"""How long the first span waits for others."""
CLOSE_S: Final = 0.5
"""How long the end of the process waits for the last export."""

_log = logging.getLogger(__name__)


class SpanQueue(SpanProcessor):
    """Takes spans that have ended and sends them. Belongs to the event loop it was made in; `on_end` may be
    called in any thread."""

    def __init__(self, receiver: Receiver) -> None:
        self.health = OutletHealth(NAME, up=True)
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[ReadableSpan] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._exporting: asyncio.Task[None] | None = None

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: a span is told when it has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take it, if it is sampled."""
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._take, span)

    def shutdown(self) -> None:
        """Nothing: `close` ends it."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Not offered: the loop exports by itself."""
        return False

    async def close(self) -> None:
        """Export what waits, if that works at once."""
        await asyncio.sleep(0)  # spans that ended a moment ago are on their way here
        if self._timer is not None:
            self._timer.cancel()
        self._flush()
        if self._exporting is not None:
            _, unfinished = await asyncio.wait({self._exporting}, timeout=CLOSE_S)
            for task in unfinished:
                task.cancel()
        await self._receiver.close()

    def _take(self, span: ReadableSpan) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self._note(dropped=1)
        self._waiting.append(span)
        if self._timer is None and self._exporting is None:
            self._timer = self._loop.call_later(FLUSH_AFTER_S, self._flush)

    def _flush(self) -> None:
        self._timer = None
        if self._waiting and self._exporting is None:
            self._exporting = self._loop.create_task(self._export(), name=NAME)

    async def _export(self) -> None:
        try:
            while self._waiting:
                size = min(MOST_AT_ONCE, len(self._waiting))
                batch = [self._waiting.popleft() for _ in range(size)]
                await self._send(batch)
        except ClosedError:  # we end
            return
        finally:
            self._exporting = None

    async def _send(self, batch: list[ReadableSpan]) -> None:
        try:
            body = encode_spans(batch).SerializeToString()
        except ValueError:  # of what a request held, such as half a character: protobuf takes none of it
            _log.exception("OTLP: %d spans cannot be encoded", len(batch))
            self._note(dropped=len(batch))
            return
        outcome = (await self._receiver.post(body)).outcome
        if outcome.is_delivered:
            self._note(delivered=1)
        else:
            self._note(dropped=len(batch), failed=outcome.said)

    def _note(self, *, delivered: int = 0, dropped: int = 0, failed: str | None = None) -> None:
        """`failed`: what came of a try that did not work."""
        known = self.health
        up = bool(delivered) or (known.up and failed is None)
        why = None if up else known.reason
        if failed is not None:
            why = f"the receiver does not take traces: {failed}"
        if up != known.up:
            _log.log(
                logging.INFO if up else logging.WARNING, "OTLP: %s", why or "the receiver takes traces again"
            )
        self.health = OutletHealth(
            NAME,
            up=up,
            reason=why,
            delivered=known.delivered + delivered,
            failures=known.failures + (failed is not None),
            dropped=known.dropped + dropped,
        )


class _Ids(RandomIdGenerator):
    """Random ids; the next trace may be given one."""

    next_trace: int | None = None

    def generate_trace_id(self) -> int:
        chosen, self.next_trace = self.next_trace, None
        return super().generate_trace_id() if chosen is None else chosen


class Traces:
    """The tracer provider of the process, and the spans of events. Belongs to the event loop."""

    def __init__(
        self,
        target: OtlpTarget,
        stream: EventStream,
        *,
        version: str,
        wall_us: Callable[[], int],
    ) -> None:
        self._queue = SpanQueue(Receiver(target, "traces", version=version))
        self._ids = _Ids()
        self.provider = TracerProvider(
            resource=Resource(target.resource), id_generator=self._ids, shutdown_on_exit=False
        )
        """To be made the process's own, so that the MCP SDK's spans go there."""
        self.provider.add_span_processor(self._queue)
        self._tracer = self.provider.get_tracer(SCOPE, version)
        self._stream = stream
        self._wall_us = wall_us
        self._cursor = stream.newest

    def health(self) -> OutletHealth:
        """How the export is doing."""
        return self._queue.health

    async def run(self) -> None:
        """Make a span of each new event until the stream closes."""
        while not self._stream.closed:
            await self._stream.wait_beyond(self._cursor)
            now_us = self._wall_us()
            try:
                page = await self._stream.page(self._cursor, MAX_LIMIT, EVERYTHING)
            except UserError:
                self._cursor = self._stream.newest  # said by those who must have every event
                continue
            for item in page.items:
                self.trace(item, now_us)
            self._cursor = page.next_cursor

    def trace(self, item: Item, now_us: int) -> None:
        """The span of an event that reached the readers at `now_us` (wall clock, µs since the Unix epoch);
        none for what is no news, and for a time that is only an estimate."""
        event = item.event
        if event.revision > 1 or event.kind is Kind.INCIDENT or event.time_is_estimate:
            return
        self._ids.next_trace = int.from_bytes(trace_id(event))
        span = self._tracer.start_span(
            f"xidwatch.{event.kind.value}",
            context=Context(),
            kind=trace.SpanKind.INTERNAL,
            attributes=_attributes(item),
            start_time=event.time_us * 1000,
        )
        for witness in event.witnesses:
            heard_us = event.time_us + max(0, witness.delay_us)
            span.add_event("heard", {"xidwatch.probe": witness.probe}, heard_us * 1000)
        span.end(max(now_us, event.time_us) * 1000)

    async def close(self) -> None:
        """Export what waits, and end."""
        await self._queue.close()


def _attributes(item: Item) -> Mapping[str, str | int | bool]:
    event: Event = item.event
    found = {
        "xidwatch.event.id": event.id,
        "xidwatch.code": event.code,
        "xidwatch.severity": event.severity.value,
        "xidwatch.gpu.pci": event.device,
        "xidwatch.drill": event.drill,
        "xidwatch.stored": item.stored,
    }
    return {key: value for key, value in found.items() if value is not None}
