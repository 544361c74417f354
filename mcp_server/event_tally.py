"""Counts what goes through the stream, for `GET /metrics`.

`EventTally` is a reader of the stream like any other. The stream is compacted, so it may never see
revision 1 of an event: it counts by how much `count` has grown since the last revision it saw. A
fault that turns out to be worse than it was told is counted again, whole, under its new severity:
whoever is called for fatal faults must hear of it. What was in the stream before it started is its
baseline, not a count; only incidents that are still open are taken over from there.

Label values are bounded: a code the catalogue does not list is `other`, a device that never
matched a real GPU is `unknown`, no device is "".
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from daemon.catalog import lookup
from daemon.event import Event, Item, Kind, Severity
from daemon.filter import EVERYTHING
from daemon.open_incidents import OpenIncidents
from daemon.stream import EventStream
from mcp_server.reading import follow_pages
from probes.errors import UserError

log = logging.getLogger(__name__)

REMEMBERED_EVENTS: Final = 8_192
"""Events whose last count is remembered: twice the default ring, so that whatever may still grow is."""
BASELINE_ITEMS: Final = 1_000
"""The longest page. What is older and grows once more is counted as if it were new."""
MAX_DEVICES: Final = 256
"""Distinct device labels; later ones are `other`. No node has so many: this bounds nonsense."""
LAG_BOUNDS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


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
        self._known: OrderedDict[str, tuple[int, Severity]] = OrderedDict()
        self._devices: set[str] = set()
        self._incidents = OpenIncidents()
        self._incident_labels: set[tuple[str, str]] = set()
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
        try:
            await self._incidents.learn(self._stream)
        except UserError as error:
            log.warning("incidents of an earlier run are not in the metrics: %s", error.message)

    def take(self, item: Item) -> None:
        """Count one item."""
        event = item.event
        fresh = event.id not in self._known
        count, severity = self._known.get(event.id, (0, event.severity))
        grown = event.count if event.severity.rank > severity.rank else event.count - count
        self._remember(event)
        self._incidents.take((event,))
        if not item.stored:
            self.not_stored += 1
        if grown > 0:
            (self.drills if event.drill else self.real)[self._labels(event)] += grown
        # An incident's time is that of its first member: it says nothing about delivery.
        is_timed = event.kind is not Kind.INCIDENT and not event.time_is_estimate
        if fresh and event.count == 1 and is_timed:
            self._take_lag(max(0.0, self._clock() - event.time_us / 1e6))

    def open_incidents(self) -> Counter[tuple[str, str]]:
        """Incidents that are open now, by severity and device label; 0 where one was open before."""
        counts = Counter((event.severity.value, self._device_label(event)) for event in self._incidents)
        self._incident_labels |= counts.keys()
        return Counter({labels: counts[labels] for labels in sorted(self._incident_labels)})

    def _take_lag(self, seconds: float) -> None:
        self.lag_buckets[bisect_left(LAG_BOUNDS_S, seconds)] += 1
        self.lag_sum_s += seconds

    def _remember(self, event: Event) -> None:
        _, worst = self._known.get(event.id, (0, event.severity))
        self._known[event.id] = (event.count, max(worst, event.severity, key=lambda each: each.rank))
        self._known.move_to_end(event.id)
        if len(self._known) > REMEMBERED_EVENTS:
            self._known.popitem(last=False)

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
