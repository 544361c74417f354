"""Old records played into the pipeline: the same events and incidents as if they had been heard live.

Time passes as it did: what the pipeline would have said between two records it says here, and each boot
is begun as a daemon begins it, from the state that the boot before left behind. A log often does not show
who printed a line. Whoever replays one decides to take it at its word, so such a line counts like the
kernel's; its events, and the incidents they cause, are marked with origin `unknown`. A line that a user
process wrote for certain is treated as live: forged, or a drill.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from daemon.decoded import Fault
from daemon.event import Event, Kind, event_id
from daemon.grammar import find
from daemon.pipeline import Pipeline
from probes.line import KernelLine, Origin
from probes.procfs import ProcGpu

AFTERMATH_US = 60_000_000
"""How long after the last record of a boot its events may still be revised."""

MOST_DEVICES = 64
"""GPUs taken for real because a line names them. Live, /proc tells which are; garbage addresses in a log
must not each get an allowance of events."""

_ON_A_GPU = (Kind.XID, Kind.GPU_LOST)
_REMEMBERED = 4096
"""Unproved records remembered until the event that one of them opens is published."""
_MOST_MARKED = 200_000


class Playback:
    """Plays records in their order. `forged` counts the lines that a user process had written."""

    def __init__(self, make_pipeline: Callable[[], Pipeline]) -> None:
        self.forged = 0
        self._make_pipeline = make_pipeline
        self._pipeline: Pipeline | None = None
        self._boot_id: str | None = None
        self._devices: set[str] = set()
        self._last_us = 0
        self._unproved: OrderedDict[str, None] = OrderedDict()
        self._marked_ids: set[str] = set()

    def play(self, line: KernelLine) -> Sequence[Event]:
        """New and changed events up to and including this record."""
        events = self._begin(line.boot_id, line.arrival_us)
        pipeline = self._pipeline
        assert pipeline is not None
        events += self._pass_time(pipeline, line.arrival_us)
        line = self._believed(line)
        self._learn_device(pipeline, line)
        events += pipeline.feed(line)
        self._last_us = line.arrival_us
        return self._marked(events)

    def learn(self, line: KernelLine) -> Sequence[Event]:
        """Take a record only for what later ones need to know: which GPU is where, which driver runs.

        Gives back the last word of the boot before, if another one begins here.
        """
        events = self._begin(line.boot_id, line.arrival_us)
        assert self._pipeline is not None
        self._pipeline.learn(self._believed(line))
        self._last_us = line.arrival_us
        return self._marked(events)

    def end(self, after_us: int = AFTERMATH_US) -> Sequence[Event]:
        """No more records for so long: what was still pending. Can be called once."""
        if self._pipeline is None:
            return ()
        events = self._pass_time(self._pipeline, self._last_us + max(after_us, AFTERMATH_US))
        self.forged += self._pipeline.counters.forged
        self._pipeline = None
        return self._marked(events)

    def next_boot(self, boot_id: str) -> Sequence[Event]:
        """Another boot is known to have followed, though nothing was said in it: what that tells of the
        one before. Nothing happens where nothing was played."""
        if self._pipeline is None:
            return ()
        self._last_us += AFTERMATH_US
        return self._marked(self._begin(boot_id, self._last_us))

    def _begin(self, boot_id: str, at_us: int) -> list[Event]:
        """Another boot begins with another pipeline, as it would with another daemon."""
        before = self._pipeline
        if before is not None and boot_id == self._boot_id:
            return []
        events: list[Event] = []
        self._pipeline = self._make_pipeline()
        self._devices.clear()
        if before is not None:
            end_us = min(self._last_us + AFTERMATH_US, at_us)
            events += self._pass_time(before, end_us)
            self.forged += before.counters.forged
            events += self._pipeline.restore(before.snapshot(), boot_id=boot_id, now_us=at_us)
        self._boot_id = boot_id
        return events

    @staticmethod
    def _pass_time(pipeline: Pipeline, until_us: int) -> list[Event]:
        """Tick as the daemon's timer would."""
        events: list[Event] = []
        while (deadline := pipeline.next_deadline()) is not None and deadline <= until_us:
            events += pipeline.tick(deadline)
            if pipeline.next_deadline() == deadline:  # nothing came of it: do not wait for ever
                break
        return events

    def _learn_device(self, pipeline: Pipeline, line: KernelLine) -> None:
        if line.origin is not Origin.KERNEL or len(self._devices) >= MOST_DEVICES:
            return
        fault = find(line.text)
        if not isinstance(fault, Fault) or fault.kind not in _ON_A_GPU or fault.pci is None:
            return
        if fault.pci not in self._devices and not fault.glued and not fault.drill:
            self._devices.add(fault.pci)
            pipeline.learn_from_proc([ProcGpu(fault.pci, None, None, None, None)], None)

    def _believed(self, line: KernelLine) -> KernelLine:
        if line.origin is not Origin.UNKNOWN:
            return line
        self._unproved[event_id(line.boot_id, line.kernel_us, line.text)] = None
        if len(self._unproved) > _REMEMBERED:
            self._unproved.popitem(last=False)
        return replace(line, origin=Origin.KERNEL)

    def _marked(self, events: Sequence[Event]) -> Sequence[Event]:
        return [
            replace(event, origin=Origin.UNKNOWN) if self._is_unproved(event) else event for event in events
        ]

    def _is_unproved(self, event: Event) -> bool:
        if event.kind is Kind.INCIDENT:
            primary = event.detail.get("primary") or {}
            identity = str(primary.get("id"))
        else:
            identity = event.id
        if identity in self._marked_ids:
            return True
        if identity not in self._unproved:
            return False
        if len(self._marked_ids) < _MOST_MARKED:
            self._marked_ids.add(identity)
        return True
