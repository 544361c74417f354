"""`GET /metrics`: Prometheus text, from counts that are kept or read when it is asked for.

Events are counted by `EventTally`, a reader of the stream like any other. The stream is
compacted, so it may never see revision 1 of an event: it counts by how much `count` has grown
since the last revision it saw. What was in the stream before it started is its baseline, not a
count: every `_total` here is since the start of the process.

Label values are bounded: a code the catalogue does not list is `other`, a device that never
matched a real GPU is `unknown`, no device is "". Drills have a series of their own, so that no
alert fires on them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from daemon.catalog import lookup
from daemon.event import Event, Item, Kind
from daemon.filter import EVERYTHING
from daemon.stream import EventStream
from mcp_server.reading import follow_pages
from mcp_server.services import Services
from probes.errors import UserError

log = logging.getLogger(__name__)

REMEMBERED_EVENTS: Final = 8_192
"""Events whose last count is remembered: twice the default ring, so that whatever may still grow is."""
BASELINE_ITEMS: Final = 1_000
MAX_DEVICES: Final = 256
"""Distinct device labels; later ones are `other`. No node has so many: this bounds nonsense."""
LAG_BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_EVENT_LABELS: Final = ("kind", "code", "severity", "gpu")


class Labels(NamedTuple):
    """Labels of the event counters."""

    kind: str
    code: str
    severity: str
    gpu: str


class EventTally:
    """What went through the stream since start. Belongs to the event loop."""

    def __init__(self, stream: EventStream, clock: Callable[[], float] = time.time) -> None:
        self._stream = stream
        self._start = stream.newest
        self._clock = clock
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._devices: set[str] = set()
        self.real: Counter[Labels] = Counter()
        """Faults by label, each repeat counted."""
        self.drills: Counter[Labels] = Counter()
        self.not_stored = 0
        """Items that went out before the journal had them."""
        self.lag_buckets = [0] * (len(LAG_BOUNDS_S) + 1)
        """Events by time from the arrival of their record to the readers' turn, one bucket a bound."""
        self.lag_sum_s = 0.0

    async def run(self) -> None:
        """Count what came since this object was made, for as long as the stream is open."""
        await self._learn_baseline()
        since = self._start
        while not self._stream.closed:
            try:
                async for page in follow_pages(self._stream, since, EVERYTHING):
                    await asyncio.sleep(0)  # the push goes first: readers were woken in the same turn
                    for item in page.items:
                        self.take(item)
                    since = page.next_cursor
            except UserError as error:
                since = self._stream.newest
                log.warning("events up to cursor %d are missing from the metrics: %s", since, error.message)

    async def _learn_baseline(self) -> None:
        try:
            kept = await self._stream.page(None, BASELINE_ITEMS, EVERYTHING)
        except UserError as error:
            log.warning("repeats of older events will be counted as new: %s", error.message)
            return
        for item in kept.items:
            if item.cursor <= self._start:
                self._remember(item.event)

    def take(self, item: Item) -> None:
        """Count one item."""
        event = item.event
        fresh = event.id not in self._counts
        grown = event.count - self._counts.get(event.id, 0)
        self._remember(event)
        if not item.stored:
            self.not_stored += 1
        if grown > 0:
            (self.drills if event.drill else self.real)[self._labels(event)] += grown
        # An incident's time is that of its first member: it says nothing about delivery.
        is_timed = event.kind is not Kind.INCIDENT and not event.time_is_estimate
        if fresh and event.count == 1 and is_timed:
            self._take_lag(max(0.0, self._clock() - event.time_us / 1e6))

    def _take_lag(self, seconds: float) -> None:
        self.lag_buckets[bisect_left(LAG_BOUNDS_S, seconds)] += 1
        self.lag_sum_s += seconds

    def _remember(self, event: Event) -> None:
        self._counts[event.id] = event.count
        self._counts.move_to_end(event.id)
        if len(self._counts) > REMEMBERED_EVENTS:
            self._counts.popitem(last=False)

    def _labels(self, event: Event) -> Labels:
        if event.code is None:
            code = ""
        else:
            code = str(event.code) if lookup(event.kind, event.code) is not None else "other"
        return Labels(event.kind, code, event.severity, self._device_label(event))

    def _device_label(self, event: Event) -> str:
        device, gpu = event.device, event.gpu
        if device is None:
            return ""
        if gpu is not None and gpu.uuid is None and gpu.index is None:
            return "unknown"
        if device not in self._devices and len(self._devices) >= MAX_DEVICES:
            return "other"
        self._devices.add(device)
        return device


class Metrics(Collector):
    """The endpoint, and the collector behind it."""

    def __init__(self, services: Services, tally: EventTally) -> None:
        self._services = services
        self._tally = tally
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def __call__(self, request: Request) -> Response:
        """Everything, in the format the scraper prefers."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": content_type})

    def collect(self) -> Iterable[Metric]:
        """One family after the other. Counters carry no `_created` series."""
        yield from self._events()
        yield from self._hearing()
        yield from self._reading()
        yield from self._serving()

    def _events(self) -> Iterator[Metric]:
        tally = self._tally
        events = CounterMetricFamily("xidwatch_events", "Faults, repeats included.", labels=_EVENT_LABELS)
        for labels, count in tally.real.items():
            events.add_metric(labels, count)
        yield events
        drills = CounterMetricFamily("xidwatch_drill_events", "Test faults.", labels=_EVENT_LABELS)
        for labels, count in tally.drills.items():
            drills.add_metric(labels, count)
        yield drills
        yield CounterMetricFamily(
            "xidwatch_not_stored_events", "Items that went out before the journal had them.", tally.not_stored
        )
        yield HistogramMetricFamily(
            "xidwatch_delivery_lag_seconds",
            "From the arrival of a new event's record in the daemon to the turn of its readers.",
            buckets=_cumulative(tally.lag_buckets),
            sum_value=tally.lag_sum_s,
        )

    def _hearing(self) -> Iterator[Metric]:
        probes = self._services.health()
        up = GaugeMetricFamily("xidwatch_probe_up", "1 while records reach us this way.", labels=("probe",))
        for probe in probes:
            up.add_metric((probe.name,), int(probe.hears))
        yield up
        for name, counter, text in (
            ("xidwatch_kernel_records", "records", "Kernel log records examined."),
            ("xidwatch_kernel_records_lost", "lost", "Kernel log records overwritten before we read them."),
            ("xidwatch_kernel_records_malformed", "malformed", "Kernel log records that did not parse."),
        ):
            yield CounterMetricFamily(name, text, sum(probe.counters.get(counter, 0) for probe in probes))
        yield CounterMetricFamily(
            "xidwatch_forged_lines",
            "Fault lines that a user process wrote.",
            self._services.counters().forged_lines,
        )

    def _reading(self) -> Iterator[Metric]:
        state = self._services.watch.state()
        yield CounterMetricFamily(
            "xidwatch_nvml_workers_abandoned",
            "Processes left behind because an NVML call in them did not return.",
            state.abandoned,
        )
        yield GaugeMetricFamily(
            "xidwatch_gpus_left_alone",
            "GPUs on which a call hung or crashed NVML, so that they are not asked.",
            len({call.gpu for call in state.hung if call.gpu is not None}),
        )

    def _serving(self) -> Iterator[Metric]:
        clients = GaugeMetricFamily("xidwatch_clients", "Clients connected now.", labels=("transport",))
        for transport, count in self._services.clients.counts().items():
            clients.add_metric((transport,), count)
        yield clients
        yield GaugeMetricFamily("xidwatch_newest_cursor", "Newest cursor.", self._services.stream.newest)
        build = GaugeMetricFamily("xidwatch_build_info", "Always 1.", labels=("version",))
        build.add_metric((self._services.version,), 1)
        yield build


def _cumulative(counts: Iterable[int]) -> list[tuple[str, float]]:
    """Counts by bucket as Prometheus wants them: everything up to and including each bound."""
    total, buckets = 0, []
    for bound, count in zip([*map(str, LAG_BOUNDS_S), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
