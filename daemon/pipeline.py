"""From a kernel record to events: decode → witness → coalesce → correlate.

Synchronous, and without a clock of its own: `feed` takes records in the order of the log, `nvml_said`
what NVML tells beside it, `tick` the time; all give back the events that are new or changed. Live reading,
replay, crash recovery and tests run this same object. `snapshot` and `restore` carry its state over a
restart.

Only the kernel can raise an alarm: what a user process wrote into the log becomes an event marked
as a drill where drills are allowed, and is else counted as forged; it never teaches the device map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from daemon.coalesce import Coalescer
from daemon.decoded import Context, Fault
from daemon.event import Event, Gpu, Kind
from daemon.fault import Facts, OpenFault, Trust
from daemon.grammar import find
from daemon.hearing import hear
from daemon.incidents import PREFIX, Incidents
from daemon.knowledge import Knowledge
from daemon.nvml_witness import PROBE as NVML
from daemon.nvml_witness import STATE_KEY as NVML_WAITING
from daemon.nvml_witness import NvmlEvent, NvmlWitness, delay_us, is_repeat, told_alone
from daemon.own_events import (
    Operation,
    Report,
    gap_detail,
    opened_by,
    operator_event,
    probe_detail,
    report_of_loss,
    report_of_probe,
)
from daemon.witness import Witnesses
from probes.health import ProbeHealth
from probes.line import KernelLine, LostRecords, Origin
from probes.procfs import ProcGpu


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the pipeline must find again after a restart."""

    faults: Mapping[str, str]
    """Open faults and incidents by state key, each as one JSON text."""
    context: str | None
    """Device map and driver version as one JSON text; None when nothing was saved yet."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What of the snapshot is different since it was last asked for."""

    faults: Mapping[str, str]
    dropped: frozenset[str]
    """State keys of faults and incidents that are no longer open."""
    context: str | None
    """None when it did not change."""


@dataclass(slots=True)
class Counters:
    """Lines the pipeline has looked at since start."""

    lines: int = 0
    faults: int = 0
    """Lines that told of a fault, or of a part of one."""
    forged: int = 0
    """Lines of userspace origin that looked like the driver's, while drills are not allowed."""
    witnessed_again: int = 0
    """Records that a second probe had seen too."""
    nvml_told: int = 0
    """What NVML's event set told."""
    nvml_alone: int = 0
    """Of that, faults of which the log had no line in time."""
    state_errors: int = 0
    """Saved open faults and incidents that could not be read back."""


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
        self._allow_drills = allow_drills
        self._incidents = Incidents(node)
        self._knowledge = Knowledge()
        self._witnesses = Witnesses()
        self._nvml = NvmlWitness()
        self._coalescer = Coalescer(quiet_gap_us, self._knowledge.allowance_of)

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
            self._report(report, known, gap_detail(known.detail if known else {}, record))
        else:
            self._line(record)
        return self._take(record.arrival_us)

    def nvml_said(self, event: NvmlEvent) -> Sequence[Event]:
        """Take what NVML tells, in the order in which it does; gives back new and changed events."""
        self.counters.nvml_told += 1
        self._coalescer.publish_due(event.arrival_us)
        home = self._nvml.said(event, self._coalescer.open_faults())
        if home is not None:
            self._nvml_told_of(home, event)
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
        self._coalescer.tick(now_us)
        for event in self._nvml.due(now_us):
            self._nvml_alone(event)
        return self._take(now_us)

    def next_deadline(self) -> int | None:
        """Arrival time at which `tick` is next needed; None when nothing is pending."""
        parts = (self._coalescer, self._incidents, self._nvml)
        return min((due for part in parts if (due := part.next_deadline()) is not None), default=None)

    def probe_changed(
        self, health: ProbeHealth, *, boot_id: str, at_us: int, wall_us: int
    ) -> Sequence[Event]:
        """Say that a probe stopped hearing, or hears again."""
        report = report_of_probe(health, boot_id=boot_id, at_us=at_us, wall_us=wall_us)
        known = self._coalescer.report_in(report.slot, report.at_us)
        self._report(report, known, probe_detail(health))
        return self._take(at_us)

    def found_out(self, event_id: str, facts: Facts, *, at_us: int) -> Sequence[Event]:
        """Take what was found out about an event after it was published (`at_us`: arrival time)."""
        self._coalescer.learn(event_id, facts, at_us)
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
        return Snapshot(
            {**faults, **self._incidents.snapshot(), **self._nvml.snapshot()}, self._knowledge.dump()
        )

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
        changes = Changes(
            {**{key: fault.dump() for key, fault in table.touched.items()}, **incidents, **waiting},
            frozenset(table.forgotten | ended | over),
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
        incidents = {key: text for key, text in saved.faults.items() if key.startswith(PREFIX)}
        unreadable = []
        for key in [key for key in saved.faults if key not in incidents]:
            try:
                if key == NVML_WAITING:
                    self._nvml.load(saved.faults[key], now_us)
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
        return self._take(now_us)

    def take_over(self, earlier: Snapshot, *, now_us: int) -> Sequence[Event]:
        """Follow the incidents that another pipeline found in the log of the boot before, where that was
        read only after this one began; gives back the incidents that changed.

        The faults are the caller's to publish. The snapshot must come from `snapshot`, not from a disk.
        """
        rows = {key: text for key, text in earlier.faults.items() if key.startswith(PREFIX)}
        return self._incidents.take_over(rows, now_us=now_us)

    # -- inside ------------------------------------------------------------------------------

    def _line(self, line: KernelLine) -> None:
        self.counters.lines += 1
        decoded = find(line.text)
        if isinstance(decoded, Context):
            if line.origin is Origin.KERNEL:
                self._knowledge.learn_device(decoded)
        elif decoded is not None:
            self._fault(decoded, line)

    def _fault(self, fault: Fault, line: KernelLine) -> None:
        self.counters.faults += 1
        drill = fault.drill or line.origin is Origin.USERSPACE
        if drill and not self._allow_drills:
            self.counters.forged += 1
            return
        sighting = self._witnesses.see(line)
        if sighting.is_repeated:
            self.counters.witnessed_again += 1
            self._coalescer.witness(sighting.home, line.probe, line.arrival_us, sighting.delay_us)
            return
        if fault.kind is Kind.DRIVER_LOADED and not drill and line.origin is Origin.KERNEL:
            self._knowledge.learn_driver(fault)
            self._coalescer.end_all(line.arrival_us, lambda slot: slot.trust is not Trust.DRILL)
        heard = hear(fault, line, self._knowledge, node=self._node, drill=drill)
        told = self._nvml.told_before(heard, self._coalescer.faults.holds)
        sighting.home = (
            self._coalescer.adopt(told, heard) if told is not None else self._coalescer.line(heard)
        )
        if sighting.home is not None:
            for event in self._nvml.line_read(sighting.home):
                home = self._nvml.known(event, self._coalescer.open_faults())
                self._nvml_told_of(home or sighting.home, event)

    def _nvml_told_of(self, home: OpenFault, event: NvmlEvent) -> None:
        """NVML's word belongs to a fault that is known: one more witness of it."""
        if is_repeat(event, home):
            self._coalescer.report_again(home, at_us=event.arrival_us, wall_us=event.wall_us)
        else:
            self._coalescer.witness(home, NVML, event.arrival_us, delay_us(event, home))

    def _nvml_alone(self, event: NvmlEvent) -> None:
        """The log has had its time: what NVML said is an event of its own, or one more of the last one."""
        home = self._nvml.known(event, self._coalescer.open_faults())
        if home is not None:
            self._nvml_told_of(home, event)
            return
        self.counters.nvml_alone += 1
        gpu = self._knowledge.devices.gpu(event.pci, event.mig)
        fault = told_alone(event, gpu, node=self._node, driver_version=self.driver_version)
        self._coalescer.report(fault, event.arrival_us)
        self._nvml.stands_alone(fault)

    def _report(self, report: Report, known: OpenFault | None, detail: dict[str, object]) -> None:
        """Publish what a probe has to say of itself, or add it to what it said within the quiet gap."""
        if known is None:
            fault = opened_by(report, detail, node=self._node, driver_version=self.driver_version)
            self._coalescer.report(fault, report.at_us)
        else:
            known.detail = detail
            self._coalescer.report_again(known, at_us=report.at_us, wall_us=report.wall_us)

    def _take(self, now_us: int) -> Sequence[Event]:
        """What is new by arrival time `now_us`, with what it means for incidents."""
        published = self._coalescer.faults.take_published()
        ended = self._incidents.tick(now_us)
        if not published:
            return ended
        known_gpus = len(self._knowledge.devices.gpus())
        faults = self._coalescer.faults
        return (*ended, *self._incidents.take(published, faults, now_us=now_us, known_gpus=known_gpus))
