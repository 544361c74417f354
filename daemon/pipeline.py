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
from dataclasses import replace
from functools import partial
from itertools import chain

from daemon import ahead
from daemon.coalesce import Coalescer, Heard
from daemon.confirmation import Confirmation, Proof
from daemon.counters import Counters
from daemon.decoded import Context, Fault
from daemon.driver_witness import PROBE as DRIVER
from daemon.driver_witness import DriverWitness, Told, names, names_at
from daemon.event import Event, Gpu, Kind
from daemon.fault import Facts, OpenFault, Trust
from daemon.grammar import find
from daemon.hearing import hear
from daemon.incidents import PREFIX, Incidents
from daemon.knowledge import Knowledge
from daemon.log_reading import LogReading
from daemon.nvml_witness import PROBE as NVML
from daemon.nvml_witness import STATE_KEY as NVML_WAITING
from daemon.nvml_witness import NvmlEvent, NvmlWitness, delay_us, is_repeat, told_alone
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
from daemon.recovered import Recovered
from daemon.snapshot import Changes, Snapshot
from daemon.text import clean
from daemon.witness import Sighting, Witnesses
from probes.bpf.probe import NAME as BPF
from probes.health import ProbeHealth
from probes.klog import Look
from probes.kmsg import NAME as KMSG
from probes.line import KernelLine, LostRecords, Origin, Reached
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
        self._allow_drills = allow_drills
        self._incidents = Incidents(node)
        self._knowledge = Knowledge()
        self._reading = LogReading()
        self._confirmation = Confirmation(self._reading)
        self._recovered = Recovered(self._reading)
        self._driver = DriverWitness(self._reading.clock)
        self._ahead: str | None = None
        self._witnesses = Witnesses()
        self._forged = Witnesses()  # apart: a flood of forged lines must not make true ones forgotten
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
            event = self._report(report, known, gap_detail(known.detail if known else {}, record))
            if record.probe == KMSG:
                self._reading.lost()
                self._recovered.lost(record, event)
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
        self._expire(now_us)
        self._coalescer.tick(now_us)
        for event in self._nvml.due(now_us):
            self._nvml_alone(event)
        return self._take(now_us)

    def begin_to_confirm(self, newest_us: int) -> None:
        """Say how far the log goes (kernel time of its newest line), before eBPF hears anything."""
        self._confirmation.begin(newest_us)

    def log_clock(self, offset_us: int, at_us: int) -> None:
        """Say how far CLOCK_MONOTONIC is ahead of the log's clock, measured at arrival time `at_us`."""
        self._reading.clock.measured(at_us, offset_us)

    def reached(self, reached: Reached | None, now_us: int) -> Sequence[Event]:
        """Take how far /dev/kmsg has been read by arrival time `now_us` (None: it is not heard), after what
        it brought; gives back what came of lines that need not wait for it any longer."""
        self._reading.reached(reached)
        self._expire(now_us)
        for event, is_proved in self._recovered.due():
            self.counters.recovered += is_proved
            self.counters.recovered_unproved += not is_proved
            note_recovered(event, is_proved=is_proved)
            self._coalescer.say_more(event, now_us)
        return self._take(now_us)

    def unconfirmed(self) -> Collection[str]:
        """Texts of lines that wait to be confirmed: a look at the log can tell who printed them."""
        return self._confirmation.waiting()

    def looked(self, look: Look, now_us: int) -> tuple[Sequence[KernelLine], Sequence[Event]]:
        """Take what one look at the log showed of those lines, by arrival time `now_us`.

        Gives back the lines that it confirmed, under the log's own time, and what came of them.
        """
        confirmed = self._confirmation.look(look, now_us)
        for line in confirmed:
            self._understand(line)
        return confirmed, self._take(now_us)

    def next_deadline(self) -> int | None:
        """Arrival time at which `tick` is next needed; None when nothing is pending."""
        parts = (self._confirmation, self._coalescer, self._incidents, self._nvml, self._driver)
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
        gone = self._ahead_of_the_log()
        return Snapshot(
            {
                **faults,
                **self._incidents.snapshot(),
                **self._nvml.snapshot(),
                **({ahead.STATE_KEY: gone} if gone is not None else {}),
            },
            self._knowledge.dump(),
        )

    def _ahead_of_the_log(self) -> str | None:
        gone = chain(self._driver.ahead(), self._confirmation.ahead())
        return ahead.dump(gone, self._witnesses.led_to)

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
        before, self._ahead = self._ahead, self._ahead_of_the_log()
        if self._ahead is None and before is not None:
            over |= {ahead.STATE_KEY}
        elif self._ahead is not None and self._ahead != before:
            waiting = {**waiting, ahead.STATE_KEY: self._ahead}
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
        gone: list[tuple[ahead.Ahead, ahead.Led | None]] = []
        incidents = {key: text for key, text in saved.faults.items() if key.startswith(PREFIX)}
        unreadable = []
        for key in [key for key in saved.faults if key not in incidents]:
            try:
                if key == NVML_WAITING:
                    self._nvml.load(saved.faults[key], now_us)
                elif key == ahead.STATE_KEY:
                    self._ahead, gone = saved.faults[key], ahead.load(saved.faults[key])
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
        self._restore_ahead(gone, boot_id, now_us)
        return self._take(now_us)

    def _restore_ahead(
        self, gone: Iterable[tuple[ahead.Ahead, ahead.Led | None]], boot_id: str, now_us: int
    ) -> None:
        """Wait for the log to show what an earlier process heard ahead of it."""
        homes = {fault.event.id: fault for fault in self._coalescer.open_faults()}
        mine = [(each, led) for each, led in gone if each.line.boot_id == boot_id]
        for each, led in mine:
            home = homes.get(led.event) if led is not None else None
            sighting = self._witnesses.see(each.line)
            sighting.home = home
            sighting.is_over = led is not None and led.is_proved and home is None
            if home is not None:
                home.last_arrival_us = now_us  # it stays open until the log has been read again
            if each.line.probe == BPF:
                self._recovered.heard(each.line, sighting)
        self._confirmation.restore(each for each, _ in mine if each.line.probe == BPF)
        self._driver.restore(each for each, _ in mine if each.line.probe == DRIVER)

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
        if find(line.text) is None:
            return
        if line.probe == DRIVER:
            self._driver_said(line)
            return
        for step in self._confirmation.take(line):
            if isinstance(step, Proof):
                self._settle(step)
            else:
                self._understand(step)
        if line.probe == BPF and not self._reading.hears:
            self._ask_driver()

    def _expire(self, now_us: int) -> None:
        """What has waited long enough goes on as it is."""
        waits_until = (self._confirmation.next_deadline(), self._driver.next_deadline())
        if any(deadline is not None and deadline <= now_us for deadline in waits_until):
            self._ask_driver()
        for line in self._confirmation.expire(now_us):
            self._understand(line)
        for due in self._driver.due(now_us):
            if isinstance(due, KernelLine):
                self.counters.driver_alone += 1
                self._understand(due)
            else:
                self._driver_told_of(due[1], due[0])

    def _understand(self, line: KernelLine) -> None:
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
            self.counters.forged += not self._forged.see(line).is_repeated
            return
        sighting = self._witnesses.see(line)
        if sighting.is_repeated:
            self.counters.witnessed_again += 1
            self._coalescer.witness(sighting.home, line.probe, line.arrival_us, sighting.delay_us)
            return
        is_proved = line.origin is Origin.KERNEL and not fault.glued
        if not drill and line.probe != DRIVER and self._stood_alone(line, is_proved=is_proved):
            return
        self.counters.unconfirmed += line.probe == BPF and line.origin is Origin.UNKNOWN
        if fault.kind is Kind.DRIVER_LOADED and not drill and line.origin is Origin.KERNEL:
            self._knowledge.learn_driver(fault)
            self._coalescer.end_all(line.arrival_us, lambda slot: slot.trust is not Trust.DRILL)
        sighting.home = self._place(self._heard(fault, line, drill))
        if line.probe == BPF:
            self._recovered.heard(line, sighting)
        if not drill and line.probe != DRIVER:
            said = self._driver.line_read(line, sighting, is_proved=is_proved)
            if said is not None:
                self._driver_told_of(Told(line, sighting, "", is_proved), said)

    def _stood_alone(self, line: KernelLine, *, is_proved: bool) -> bool:
        """True for a line of which the driver's word is out already; an unproved one adds nothing but who
        heard it."""
        if is_proved:
            alone = self._driver.told_alone(line)
            if alone is not None:
                self._settle(Proof(alone, line))
            return alone is not None
        alone = self._driver.named_alone(line)
        if alone is not None:
            self._heard_too(alone, line)
        return alone is not None

    def _heard(self, fault: Fault, line: KernelLine, drill: bool) -> Heard:
        return hear(fault, line, self._knowledge, node=self._node, drill=drill)

    def _place(self, heard: Heard) -> OpenFault | None:
        """Count a line to its fault, the one that NVML told of before included; gives back the fault."""
        told = self._nvml.told_before(heard, self._coalescer.faults.holds)
        home = self._coalescer.adopt(told, heard) if told is not None else self._coalescer.line(heard)
        if home is not None:
            for event in self._nvml.line_read(home):
                self._nvml_told_of(self._nvml.known(event, self._coalescer.open_faults()) or home, event)
        return home

    def _settle(self, proof: Proof) -> None:
        """The log shows a line that went out before: raise what came of it, or take it back."""
        line, fault = proof.line, find(proof.line.text)
        sighting = self._witnesses.rename(proof.doubted, line) or self._forged.rename(proof.doubted, line)
        is_told = line.origin is not Origin.UNKNOWN
        if sighting is None or fault is None or isinstance(fault, Context) or fault.drill or not is_told:
            # Nothing came of it that could be wrong, or nothing is said of it: one more record of the log.
            if sighting is not None:
                self._coalescer.witness(sighting.home, line.probe, line.arrival_us, sighting.delay_us)
            else:
                self._understand(line)
            return
        self.counters.witnessed_again += 1
        was_doubted = proof.doubted.origin is Origin.UNKNOWN
        if line.origin is not Origin.KERNEL:
            self._disprove(fault, line, sighting, was_doubted=was_doubted)
            return
        self.counters.proved_late += was_doubted
        if was_doubted and line.probe != DRIVER:
            self._driver.told_alone(line)  # that word is told of by this: it is no other line's
        if was_doubted and fault.kind is Kind.DRIVER_LOADED:
            self._knowledge.learn_driver(fault)
        if sighting.is_over:
            return
        heard = self._heard(fault, line, drill=False)
        if heard.slot.trust is not Trust.PROVED:  # glued to other text: even the log does not prove it
            self._coalescer.witness(sighting.home, line.probe, line.arrival_us, sighting.delay_us)
        elif not self._coalescer.prove(sighting.home, heard, sighting.delay_us, _known_as(proof, sighting)):
            sighting.home = self._place(heard)

    def _disprove(self, fault: Fault, line: KernelLine, sighting: Sighting, *, was_doubted: bool) -> None:
        """The log shows that a process wrote a line that went out before."""
        if not was_doubted:
            self._coalescer.witness(sighting.home, line.probe, line.arrival_us, sighting.delay_us)
            return
        self.counters.disproved += 1
        self.counters.forged += not self._allow_drills
        self._coalescer.disprove(sighting.home, self._heard(fault, line, drill=True), sighting.delay_us)

    def _driver_said(self, report: KernelLine) -> None:
        """The driver's own word: of a line that is known, or of one that waits or is yet to come."""
        self.counters.driver_told += 1
        told = self._driver.said_close(report)
        # The log tells more of a line that still waits than the driver's word: pid and name.
        if told is None and not self._reading.hears and self._speak_of_waiting(report):
            return
        told = told or self._driver.said(report)
        if told is not None:
            self._driver_told_of(told, report)
        else:
            self._driver.wait(report)

    def _ask_driver(self) -> None:
        """Let the driver's word speak of lines of which nobody could tell who printed them."""
        for report in list(self._driver.waiting):
            if self._speak_of_waiting(report):
                self._driver.gone(report)

    def _speak_of_waiting(self, report: KernelLine) -> bool:
        """The driver's word goes out for a line that waits to be confirmed, where it names one."""
        line = self._confirmation.give_up(partial(names_at, report))
        if line is None:
            return False
        alone = self._driver.stand_alone(report)
        self._understand(alone)
        sighting = self._heard_too(alone, replace(line, text=alone.text, kernel_us=alone.kernel_us))
        if sighting is not None:
            self._recovered.heard(line, sighting)
        return True

    def _heard_too(self, alone: KernelLine, line: KernelLine) -> Sighting | None:
        """An unproved line that the driver's word names is that record, heard by one more probe."""
        sighting = self._witnesses.rename(alone, line)
        if sighting is not None:
            self.counters.witnessed_again += 1
            self._coalescer.witness(sighting.home, line.probe, line.arrival_us, sighting.delay_us)
        return sighting

    def _driver_told_of(self, told: Told, report: KernelLine) -> None:
        """The driver's word is about a line that is out; where nobody had proved that one, the event says
        from now on what the driver says."""
        if told.is_proved:
            self._named_by_driver(told.sighting, report)
        else:
            self._settle(Proof(told.line, self._driver.stand_alone(report)))

    def _named_by_driver(self, sighting: Sighting, report: KernelLine) -> None:
        self.counters.witnessed_again += 1
        delay_us = max(0, report.arrival_us - sighting.first_arrival_us)
        self._coalescer.witness(sighting.home, DRIVER, report.arrival_us, delay_us)

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
        gpu = self._knowledge.devices.gpu(event.pci, event.mig)
        doubted = self._nvml.unproved(event, self._coalescer.open_faults())
        fault = told_alone(
            event,
            gpu,
            node=self._node,
            driver_version=self.driver_version,
            has_line=doubted is not None,
        )
        if doubted is not None:
            fault = self._coalescer.raise_to(doubted, fault, delay_us(event, doubted))
        else:
            self.counters.nvml_alone += 1
            self._coalescer.report(fault, event.arrival_us)
        self._nvml.stands_alone(fault)

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


def _known_as(proof: Proof, sighting: Sighting) -> str:
    """The line as the event shows it so far: in the driver's words, where these came first."""
    lines = sighting.home.lines if sighting.home is not None else ()
    said = (text for text in lines if text != proof.line.text and names(text, proof.line.text))
    return next(said, clean(proof.doubted.text))
