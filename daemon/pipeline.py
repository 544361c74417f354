"""From a kernel record to events: decode → confirm → witness → coalesce → correlate.

Synchronous, and without a clock of its own: `feed` takes records in the order of the log, `nvml_said`
what NVML tells beside it, `tick` the time; all give back the events that are new or changed. Live reading,
replay, crash recovery and tests run this same object. `snapshot` and `restore` carry its state over a
restart.

Only the kernel can raise an alarm: what a user process wrote into the log becomes an event marked
as a drill where drills are allowed, and is else counted as forged; it never teaches the device map.
A line from a probe that cannot tell waits for one that can (`daemon.confirmation`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from daemon import ahead
from daemon.coalesce import Coalescer
from daemon.counters import Counters
from daemon.event import Event, Gpu
from daemon.fault import Facts, OpenFault
from daemon.hindsight import Hindsight
from daemon.incidents import PREFIX, Incidents
from daemon.knowledge import Knowledge
from daemon.log_reading import LogReading
from daemon.nvml_witness import STATE_KEY as NVML_WAITING
from daemon.nvml_witness import NvmlEvent
from daemon.own_events import (
    Operation,
    Report,
    gap_detail,
    note_recovered,
    opened_by,
    operator_event,
    probe_detail,
    report_of_loss,
    report_of_probe,
)
from daemon.placement import Placement
from daemon.snapshot import Changes, Snapshot
from daemon.testimony import Testimony
from probes.health import ProbeHealth
from probes.klog import Look
from probes.kmsg import NAME as KMSG
from probes.line import KernelLine, LostRecords, Reached
from probes.procfs import ProcGpu

__all__ = ["Changes", "Counters", "Pipeline", "Snapshot"]


class Pipeline:
    """One node's records in, events out. Not thread-safe: it lives in the event loop's thread."""

    def __init__(
        self,
        *,
        node: str,
        quiet_gap_us: int = 5_000_000,
        allow_drills: bool = False,
    ) -> None:
        self.counters = Counters()
        self._node = node
        self._incidents = Incidents(node)
        self._knowledge = Knowledge()
        self._reading = LogReading()
        self._coalescer = Coalescer(quiet_gap_us, self._knowledge.allowance_of)
        self._hindsight = Hindsight(self._coalescer)
        self._placement = Placement(
            self._coalescer, self._hindsight, self._knowledge, self.counters, node=node
        )
        self._nvml = self._placement.nvml
        self._testimony = Testimony(
            reading=self._reading,
            knowledge=self._knowledge,
            coalescer=self._coalescer,
            hindsight=self._hindsight,
            placement=self._placement,
            counters=self.counters,
            node=node,
            allow_drills=allow_drills,
        )
        self._ahead = ahead.SavedAhead(self._testimony.ahead, self._testimony.led_to)

    @property
    def driver_version(self) -> str | None:
        """Version of the NVIDIA driver, as the log or /proc gave it last, or else NVML."""
        return self._knowledge.driver_version

    @property
    def gpus(self) -> Sequence[Gpu]:
        """The GPUs of this node, as far as the log or /proc have named them."""
        return self._knowledge.devices.gpus()

    def device_by_index(self) -> Mapping[int, str]:
        """NVML index → PCI address of the GPU that has it, or had it last."""
        return {gpu.index: gpu.pci for gpu in self.gpus if gpu.index is not None}

    def reserve_key(self, event: Event) -> str:
        """In whose name an event is kept when retention deletes others."""
        return self._knowledge.reserve_key(event)

    @property
    def unattached(self) -> int:
        """Continuation lines whose fault is not known: dropped, and counted here."""
        return self._coalescer.unattached

    # -- input -------------------------------------------------------------------------------

    def feed(self, record: KernelLine | LostRecords) -> Sequence[Event]:
        """Take one record in the order of the log; gives back new and changed events."""
        self._coalescer.publish_due(record.arrival_us)
        if isinstance(record, LostRecords):
            report = report_of_loss(record)
            known = self._coalescer.report_in(report.slot, report.at_us)
            event = self._report(report, known, gap_detail(known.detail if known else {}, record))
            if record.probe == KMSG:
                self._reading.lost()
                self._testimony.recovered.lost(record, event)
        else:
            self.counters.lines += 1
            self._testimony.take(record)
        return self._take(record.arrival_us)

    def nvml_said(self, event: NvmlEvent) -> Sequence[Event]:
        """Take what NVML tells, in the order in which it does; gives back new and changed events."""
        self._coalescer.publish_due(event.arrival_us)
        self._placement.nvml_said(event)
        return self._take(event.arrival_us)

    def learn(self, line: KernelLine) -> None:
        """Take a record whose events are already kept: only for what later ones need to know."""
        self._knowledge.learn(line)

    def learn_from_proc(self, gpus: Iterable[ProcGpu], driver_version: str | None) -> None:
        """Take what the driver shows under /proc/driver/nvidia."""
        self._knowledge.learn_from_proc(gpus, driver_version)

    def learn_from_nvml(self, gpus: Iterable[Gpu], driver_version: str | None = None) -> None:
        """Take who the GPUs are and the driver's version, as NVML names them."""
        self._knowledge.learn_from_nvml(gpus, driver_version)

    def tick(self, now_us: int) -> Sequence[Event]:
        """Let time pass up to `now_us` (arrival time); gives back the revisions that were due."""
        self._testimony.expire(now_us)
        self._coalescer.tick(now_us)
        self._placement.tick(now_us)
        return self._take(now_us)

    def begin_to_confirm(self, newest_us: int) -> None:
        """Say how far the log goes (kernel time of its newest line), before eBPF hears anything."""
        self._testimony.confirmation.begin(newest_us)

    def log_clock(self, offset_us: int, at_us: int) -> None:
        """Say how far CLOCK_MONOTONIC is ahead of the log's clock, measured at arrival time `at_us`."""
        self._reading.clock.measured(at_us, offset_us)

    def reached(self, reached: Reached | None, now_us: int) -> Sequence[Event]:
        """Take how far /dev/kmsg has been read by arrival time `now_us` (None: it is not heard), after what
        it brought; gives back what came of lines that need not wait for it any longer."""
        self._reading.reached(reached)
        self._testimony.expire(now_us)
        for event, is_proved in self._testimony.recovered.due():
            self.counters.recovered += is_proved
            self.counters.recovered_unproved += not is_proved
            note_recovered(event, is_proved=is_proved)
            self._hindsight.say_more(event, now_us)
        return self._take(now_us)

    def unconfirmed(self) -> Collection[str]:
        """Texts of lines that wait to be confirmed: a look at the log can tell who printed them."""
        return self._testimony.confirmation.waiting()

    def looked(self, look: Look, now_us: int) -> tuple[Sequence[KernelLine], Sequence[Event]]:
        """Take what one look at the log showed of those lines, by arrival time `now_us`.

        Gives back the lines that it confirmed, under the log's own time, and what came of them.
        """
        confirmed = self._testimony.looked(look, now_us)
        return confirmed, self._take(now_us)

    def next_deadline(self) -> int | None:
        """Arrival time at which `tick` is next needed; None when nothing is pending."""
        parts = (self._testimony, self._coalescer, self._incidents, self._nvml)
        return min((due for part in parts if (due := part.next_deadline()) is not None), default=None)

    def probe_changed(
        self,
        health: ProbeHealth,
        *,
        boot_id: str,
        at_us: int,
        wall_us: int,
        others_hear: Sequence[str] = (),
    ) -> Sequence[Event]:
        """Say that a probe stopped hearing, or hears again; `others_hear` are those that do all the while."""
        report = report_of_probe(health, boot_id=boot_id, at_us=at_us, wall_us=wall_us)
        known = self._coalescer.report_in(report.slot, report.at_us)
        self._report(report, known, probe_detail(health, others_hear))
        return self._take(at_us)

    def found_out(self, event_id: str, facts: Facts, *, at_us: int) -> Sequence[Event]:
        """Take what was found out about an event after it was published (`at_us`: arrival time)."""
        self._hindsight.learn(event_id, facts, at_us)
        return self._take(at_us)

    def operated(self, operation: Operation, *, boot_id: str, at_us: int, wall_us: int) -> Sequence[Event]:
        """Say what an operator tool did or refused to do: the audit record."""
        gpu = self._knowledge.devices.gpu(operation.pci, None) if operation.pci is not None else None
        fault = operator_event(operation, gpu, node=self._node, boot_id=boot_id, at_us=at_us, wall_us=wall_us)
        self._coalescer.report(fault, at_us)
        return self._take(at_us)

    # -- state -------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The whole state."""
        faults = {fault.state_key: fault.dump() for fault in self._coalescer.open_faults()}
        rows = (faults, self._incidents.snapshot(), self._nvml.snapshot(), self._ahead.snapshot())
        return Snapshot({key: row for each in rows for key, row in each.items()}, self._knowledge.dump())

    @property
    def has_changes(self) -> bool:
        """True when `take_changes` has something to give."""
        table = self._coalescer.faults
        is_changed = table.touched or table.forgotten or self._knowledge.changed or self._nvml.changed
        return bool(is_changed) or self._incidents.has_changes

    def take_changes(self) -> Changes:
        """What of the state changed since the last call: to be written with the events it led to."""
        table = self._coalescer.faults
        incidents, ended = self._incidents.take_changes()
        waiting, over = self._nvml.take_changes()
        gone, shown = self._ahead.take_changes()
        faults = {key: fault.dump() for key, fault in table.touched.items()}
        changes = Changes(
            {**faults, **incidents, **waiting, **gone},
            frozenset(table.forgotten | ended | over | shown),
            self._knowledge.dump() if self._knowledge.changed else None,
        )
        table.touched.clear()
        table.forgotten.clear()
        return changes

    def restore(self, saved: Snapshot, *, boot_id: str, now_us: int) -> Sequence[Event]:
        """Take up an earlier process's state; gives back the last word of faults of another boot.

        What cannot be read is counted and left out: losing a count is better than not starting.
        """
        self._knowledge.boot_id = boot_id
        try:
            if saved.context is not None:
                self._knowledge.load(saved.context)
        except (ValueError, TypeError, KeyError, AttributeError):
            self.counters.state_errors += 1
        faults = []
        gone: list[tuple[ahead.Ahead, ahead.Led | None]] = []
        incidents = {key: text for key, text in saved.faults.items() if key.startswith(PREFIX)}
        unreadable = []
        for key in [key for key in saved.faults if key not in incidents]:
            try:
                if key == NVML_WAITING:
                    self._nvml.load(saved.faults[key], now_us)
                elif key == ahead.STATE_KEY:
                    self._ahead.restored(saved.faults[key])
                    gone = ahead.load(saved.faults[key])
                else:
                    faults.append(OpenFault.load(saved.faults[key]))
            except (ValueError, TypeError, KeyError, AttributeError):
                unreadable.append(key)
        unreadable += self._incidents.restore(incidents, boot_id=boot_id, now_us=now_us)
        self.counters.state_errors += len(unreadable)
        self._coalescer.faults.forgotten.update(unreadable)
        self._coalescer.restore(faults, now_us)
        self._coalescer.end_all(now_us, lambda slot: slot.boot_id != boot_id)
        self._nvml.restore(self._coalescer.open_faults())
        self._testimony.restore(gone, boot_id=boot_id, now_us=now_us)
        return self._take(now_us)

    def take_over(self, earlier: Snapshot, *, now_us: int) -> Sequence[Event]:
        """Follow the incidents that another pipeline found in the log of the boot before, where that was
        read only after this one began; gives back the incidents that changed.

        The faults are the caller's to publish. The snapshot must come from `snapshot`, not from a disk.
        """
        rows = {key: text for key, text in earlier.faults.items() if key.startswith(PREFIX)}
        return self._incidents.take_over(rows, now_us=now_us)

    # -- inside ------------------------------------------------------------------------------

    def _report(self, report: Report, known: OpenFault | None, detail: dict[str, object]) -> OpenFault:
        """Publish what a probe has to say of itself, or add it to what it said within the quiet gap; gives
        back the event."""
        if known is None:
            fault = opened_by(report, detail, node=self._node, driver_version=self.driver_version)
            self._coalescer.report(fault, report.at_us)
            return fault
        known.detail = detail
        self._coalescer.report_again(known, at_us=report.at_us, wall_us=report.wall_us)
        return known

    def _take(self, now_us: int) -> Sequence[Event]:
        """What is new by arrival time `now_us`, with what it means for incidents."""
        published = self._coalescer.faults.take_published()
        ended = self._incidents.tick(now_us)
        if not published:
            return ended
        known_gpus = len(self._knowledge.devices.gpus())
        faults = self._coalescer.faults
        return (*ended, *self._incidents.take(published, faults, now_us=now_us, known_gpus=known_gpus))
