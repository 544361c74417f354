"""Where a probe's records become kept and published events: probe → pipeline → store.

Each batch leads to at most one commit: the changed events, the state of every open fault that the
batch touched, and the resume point that covers exactly these records. Records that told nothing
move the resume point too, but lazily: it is written with the next event, a few seconds later, or
at the end, whichever comes first.

Belongs to the event loop's thread. No timer runs while nothing is pending.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from daemon.event import Event, Kind
from daemon.fault import Facts
from daemon.nvml_witness import NvmlEvent
from daemon.own_events import Operation
from daemon.passed import Passed
from daemon.pipeline import Pipeline, Snapshot
from daemon.store import StateChange, Store
from probes import procfs
from probes.health import ProbeHealth
from probes.kernel import Clock
from probes.klog import NAME as KLOG
from probes.klog import Look
from probes.kmsg import NAME as KMSG
from probes.line import Batch, KernelLine, LostRecords, Reached, ResumePoint

log = logging.getLogger(__name__)

PASSED_KEY = "passed"
"""Name of the row of state that says which lines without sequence numbers are done."""

GPUS_KEY = "gpus"
"""Name of the row of state that holds what is known of the GPUs, among those of open faults."""

SAVE_RESUME_POINT_AFTER_S = 5.0
"""How long a resume point that only passed over noise may stay unwritten. A crash in that time
re-reads the noise; only if the ring has been overwritten as well it shows as a gap that was none."""


class Intake:
    """The way in. `take` is the sink of every probe."""

    def __init__(
        self, pipeline: Pipeline, store: Store, *, boot_id: str, clock: Clock, proc: Path = procfs.ROOT
    ) -> None:
        self.failures = 0
        """Records that could not be processed because of a bug: skipped, logged with traceback."""
        self._pipeline = pipeline
        self._store = store
        self._boot_id = boot_id
        self._clock = clock
        self._proc = proc
        self._kept: ResumePoint | None = store.resume
        self._passed = Passed(boot_id, store.faults.get(PASSED_KEY))
        self._resume: ResumePoint | None = None
        self._unsaved = False
        self._tick: asyncio.TimerHandle | None = None
        self._tick_at = 0.0
        self._save: asyncio.TimerHandle | None = None
        self._listeners: list[Callable[[Sequence[Event]], None]] = []
        self._read_first: Callable[[], None] | None = None
        store.stream.number_by(pipeline.device_by_index)

    @property
    def saved_gpus(self) -> str | None:
        """What `save_gpus` was last given, by this process or an earlier one."""
        return self._store.faults.get(GPUS_KEY)

    def listen(self, heard: Callable[[Sequence[Event]], None]) -> None:
        """Have events told as they are published, in order, in the event loop; `heard` must not block."""
        self._listeners.append(heard)

    def read_first(self, read: Callable[[], None]) -> None:
        """Have `read` called before time passes for what is pending: it may bring what that waits for."""
        self._read_first = read

    def start(self) -> None:
        """Go on where the last process stopped."""
        faults = {key: text for key, text in self._store.faults.items() if key not in (GPUS_KEY, PASSED_KEY)}
        saved = Snapshot(faults, self._store.context)
        now_us = self._clock.monotonic_us()
        events = [*self._pipeline.restore(saved, boot_id=self._boot_id, now_us=now_us)]
        self._look_at_driver()
        self._keep([*events, *self._pipeline.tick(now_us)])

    def _look_at_driver(self) -> None:
        """Learn which GPUs the driver lists. It does so anew each time it was loaded, and what it says now
        is newer than anything saved."""
        self._pipeline.learn_from_proc(procfs.gpus(self._proc), procfs.driver_version(self._proc))

    def take(self, batch: Batch) -> None:
        """Process what a probe read. Never raises."""
        events: list[Event] = []
        for record in batch.items:
            events.extend(self._process(record))
        if any(event.kind is Kind.DRIVER_LOADED and not event.drill for event in events):
            self._look_at_driver()
        if batch.last_seq is not None and not self._is_kept(batch.boot_id, batch.last_seq):
            self._resume = ResumePoint(batch.boot_id, batch.last_seq)
            self._unsaved = True
        self._keep(events)

    def reached(self, reached: Reached | None) -> None:
        """Take how far /dev/kmsg was read, after what it brought (None: it is not heard). Never raises."""
        self._keep_what_comes_of(
            lambda now_us: self._pipeline.reached(reached, now_us), "lines that waited for the kernel log"
        )

    def probe_changed(self, health: ProbeHealth, others_hear: Sequence[str] = ()) -> None:
        """A probe stopped hearing, or hears again: an event. `others_hear`: those that do all the while."""
        now_us, wall_us = self._clock.monotonic_us(), self._clock.wall_us()
        events = self._pipeline.probe_changed(
            health, boot_id=self._boot_id, at_us=now_us, wall_us=wall_us, others_hear=others_hear
        )
        self._keep(events)

    def looked(self, look: Look) -> None:
        """Take what a look at the log showed of the lines that wait to be confirmed. Never raises."""

        def confirm(now_us: int) -> Sequence[Event]:
            confirmed, events = self._pipeline.looked(look, now_us)
            for line in confirmed:
                self._passed.note(line)
            return events

        self._keep_what_comes_of(confirm, "what the kernel log showed")

    def found_out(self, event_id: str, facts: Facts) -> None:
        """Add what was found out about an event after it was published."""
        self._keep(self._pipeline.found_out(event_id, facts, at_us=self._clock.monotonic_us()))

    def operated(self, operation: Operation) -> None:
        """Keep the record of what an operator tool did, or refused to do."""
        now_us, wall_us = self._clock.monotonic_us(), self._clock.wall_us()
        events = self._pipeline.operated(operation, boot_id=self._boot_id, at_us=now_us, wall_us=wall_us)
        self._keep(events)

    def nvml_said(self, event: NvmlEvent) -> None:
        """Take what NVML's event set told."""
        self._keep(self._pipeline.nvml_said(event))

    def save_gpus(self, text: str) -> None:
        """Write down what is known of the GPUs."""
        self._store.put((), StateChange({GPUS_KEY: text}, frozenset(), None))

    def keep(self, events: Sequence[Event]) -> None:
        """Commit events made elsewhere, with what the pipeline has to write by now."""
        self._keep(events)

    def close(self) -> None:
        """Write the resume point and the state as they are; the store is closed after this."""
        for timer in (self._tick, self._save):
            if timer is not None:
                timer.cancel()
        self._tick = self._save = None
        self._put(())

    def _process(self, record: KernelLine | LostRecords) -> Iterable[Event]:
        try:
            if isinstance(record, KernelLine) and self._is_done(record):
                self._pipeline.learn(record)
                return ()
            return self._pipeline.feed(record)
        except Exception:  # the boundary: one bad record must not cost the ones behind it
            self.failures += 1
            log.exception("a record could not be processed and was skipped: %r", record)
            return ()

    def _keep_what_comes_of(self, step: Callable[[int], Sequence[Event]], what: str) -> None:
        """Keep the events of one step of the pipeline, which is given the arrival time of now."""
        events: Sequence[Event] = ()
        try:
            events = step(self._clock.monotonic_us())
        except Exception:  # the boundary: what fails now must not cost what comes next
            self.failures += 1
            log.exception("%s could not be processed", what)
        self._keep(events)

    def _is_done(self, line: KernelLine) -> bool:
        """True for a line whose events were in the journal when this process started."""
        if line.probe not in (KLOG, KMSG):
            return False
        was_done = self._passed.was_done(line)
        if self._is_kept(line.boot_id, line.seq) or was_done:
            return True
        if line.probe == KLOG:
            self._passed.note(line)
        else:
            self._passed.shown(line)
        return False

    def _is_kept(self, boot_id: str, seq: int | None) -> bool:
        """True for a record whose events were in the journal when this process started."""
        kept = self._kept
        if kept is None or seq is None or kept.boot_id != boot_id:
            return False
        if seq > kept.seq:
            self._kept = None  # all of them were read again; a log that restarts its numbers is news
        return seq <= kept.seq

    def _keep(self, events: Sequence[Event]) -> None:
        """Commit what changed, now if it matters and soon if it is only the resume point."""
        if events or self._pipeline.has_changes or self._passed.is_pressing:
            self._put(events)
        elif self._unsaved and self._save is None:
            loop = asyncio.get_running_loop()
            self._save = loop.call_later(SAVE_RESUME_POINT_AFTER_S, self._save_resume_point)
        self._arm()

    def _put(self, events: Sequence[Event]) -> None:
        changes = self._pipeline.take_changes()
        faults = dict(changes.faults)
        if self._passed.changed:
            faults[PASSED_KEY] = self._passed.dump()
        state = StateChange(faults, changes.dropped, changes.context)
        self._store.put(events, state, self._resume)
        self._unsaved = False
        if not events:
            return
        for heard in self._listeners:
            try:
                heard(events)
            except Exception:  # the boundary: a listener must not cost what is heard next
                self.failures += 1
                log.exception("a listener failed")

    def _save_resume_point(self) -> None:
        self._save = None
        if self._unsaved:
            self._put(())

    def _arm(self) -> None:
        """See to it that `tick` comes when the pipeline next needs it, and not otherwise."""
        deadline = self._pipeline.next_deadline()
        if deadline is None:
            return
        at = deadline / 1_000_000  # the event loop's clock is CLOCK_MONOTONIC, as arrival time is
        if self._tick is not None:
            if self._tick_at <= at:
                return
            self._tick.cancel()
        self._tick_at = at
        self._tick = asyncio.get_running_loop().call_at(at, self._on_deadline)

    def _on_deadline(self) -> None:
        """Tick once what is readable now was read: in a process that was stopped for a while the timer
        comes before the records that have been waiting just as long."""
        self._tick = asyncio.get_running_loop().call_later(0, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        if self._read_first is not None:
            self._read_first()
        self._keep_what_comes_of(self._pipeline.tick, "pending events")
