"""What comes of a line of the log, whoever heard it: who printed it, and which event it is of.

The same line is heard by several probes, and not all of them can tell who printed it. The first word of it
goes out; the others are witnesses of the same event, and raise it or take it back. The driver's own
tracepoint is one of them. Owned by the pipeline; no clock of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

from daemon.ahead import Ahead, Led
from daemon.coalesce import Coalescer
from daemon.confirmation import Confirmation, Proof
from daemon.counters import Counters
from daemon.decoded import Context, Fault
from daemon.driver_witness import PROBE as DRIVER
from daemon.driver_witness import DriverWitness, Told, names, names_at
from daemon.event import Kind
from daemon.fault import OpenFault, Trust
from daemon.grammar import find
from daemon.heard import Heard
from daemon.hearing import hear
from daemon.hindsight import Hindsight
from daemon.knowledge import Knowledge
from daemon.log_reading import LogReading
from daemon.placement import Placement
from daemon.recovered import Recovered
from daemon.text import clean
from daemon.witness import Sighting, Witnesses
from probes.bpf.probe import NAME as BPF
from probes.klog import Look
from probes.line import KernelLine, Origin


class Testimony:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        reading: LogReading,
        knowledge: Knowledge,
        coalescer: Coalescer,
        hindsight: Hindsight,
        placement: Placement,
        counters: Counters,
        node: str,
        allow_drills: bool,
    ) -> None:
        self._reading = reading
        self._knowledge = knowledge
        self._coalescer = coalescer
        self._hindsight = hindsight
        self._placement = placement
        self._counters = counters
        self._node = node
        self._allow_drills = allow_drills
        self.confirmation = Confirmation(reading)
        """What waits to be confirmed."""
        self.recovered = Recovered(reading)
        """What /dev/kmsg lost and eBPF heard."""
        self._driver = DriverWitness(reading.clock)
        self._witnesses = Witnesses()
        self._forged = Witnesses()  # apart: a flood of forged lines must not make true ones forgotten

    def take(self, line: KernelLine) -> None:
        """Take a line of any probe, in the order in which it brings them."""
        if find(line.text) is None:
            return
        if line.probe == DRIVER:
            self._driver_said(line)
            return
        for step in self.confirmation.take(line):
            if isinstance(step, Proof):
                self._settle(step)
            else:
                self._understand(step)
        if line.probe == BPF and not self._reading.hears:
            self._ask_driver()

    def expire(self, now_us: int) -> None:
        """What has waited long enough at arrival time `now_us` goes on as it is."""
        deadline = self.next_deadline()
        if deadline is not None and deadline <= now_us:
            self._ask_driver()
        for line in self.confirmation.expire(now_us):
            self._understand(line)
        for due in self._driver.due(now_us):
            if isinstance(due, KernelLine):
                self._counters.driver_alone += 1
                self._understand(due)
            else:
                self._driver_told_of(due[1], due[0])

    def looked(self, look: Look, now_us: int) -> Sequence[KernelLine]:
        """Take what one look at the log showed by arrival time `now_us`; gives back the lines that it
        confirmed, under the log's own time."""
        confirmed = self.confirmation.look(look, now_us)
        for line in confirmed:
            self._understand(line)
        return confirmed

    def next_deadline(self) -> int | None:
        """Arrival time at which `expire` is next needed; None when nothing waits."""
        waits_until = (self.confirmation.next_deadline(), self._driver.next_deadline())
        return min((due for due in waits_until if due is not None), default=None)

    def ahead(self) -> Iterator[Ahead]:
        """What went out before the log showed it, the last one first."""
        return chain(self._driver.ahead(), self.confirmation.ahead())

    def led_to(self, line: KernelLine) -> Led | None:
        """What a line led to; None when it led to no event."""
        home = self._witnesses.home_of(line)
        if home is None:
            return None
        is_proved = home.slot.trust is Trust.PROVED
        is_apart = is_proved and home.unproved > 0 and not self._coalescer.faults.holds(home)
        return Led(home.event.id, is_proved, home.dump() if is_apart else None)

    def restore(self, gone: Iterable[tuple[Ahead, Led | None]], *, boot_id: str, now_us: int) -> None:
        """Wait for the log to show what an earlier process heard ahead of it."""
        homes = {fault.event.id: fault for fault in self._coalescer.open_faults()}
        ended: dict[str, OpenFault] = {}
        mine = [(each, led) for each, led in gone if each.line.boot_id == boot_id]
        for each, led in mine:
            home = homes.get(led.event) if led is not None else None
            sighting = self._witnesses.see(each.line)
            sighting.home = home
            if home is None and led is not None and led.ended is not None:
                sighting.home = ended.setdefault(led.event, OpenFault.load(led.ended))
            sighting.is_over = led is not None and led.is_proved and home is None
            if home is not None:
                home.last_arrival_us = now_us  # it stays open until the log has been read again
            if each.line.probe == BPF:
                self.recovered.heard(each.line, sighting)
        self.confirmation.restore(each for each, _ in mine if each.line.probe == BPF)
        self._driver.restore(each for each, _ in mine if each.line.probe == DRIVER)

    # -- one line ----------------------------------------------------------------------------

    def _understand(self, line: KernelLine) -> None:
        decoded = find(line.text)
        if isinstance(decoded, Context):
            if line.origin is Origin.KERNEL:
                self._knowledge.learn_device(decoded)
        elif decoded is not None:
            self._fault(decoded, line)

    def _fault(self, fault: Fault, line: KernelLine) -> None:
        self._counters.faults += 1
        drill = fault.drill or line.origin is Origin.USERSPACE
        if drill and not self._allow_drills:
            self._counters.forged += not self._forged.see(line).is_repeated
            return
        sighting = self._witnesses.see(line)
        if sighting.is_repeated:
            self._counters.witnessed_again += 1
            self._hindsight.witness(sighting.home, line.probe, line.arrival_us, sighting.delay_us)
            return
        is_proved = line.origin is Origin.KERNEL and not fault.glued
        if not drill and line.probe != DRIVER and self._stood_alone(line, is_proved=is_proved):
            return
        self._counters.unconfirmed += line.probe == BPF and line.origin is Origin.UNKNOWN
        if fault.kind is Kind.DRIVER_LOADED and not drill and line.origin is Origin.KERNEL:
            self._knowledge.learn_driver(fault)
            self._coalescer.end_all(line.arrival_us, lambda slot: slot.trust is not Trust.DRILL)
        sighting.home = self._placement.place(self._heard(fault, line, drill))
        if line.probe == BPF:
            self.recovered.heard(line, sighting)
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

    def _settle(self, proof: Proof) -> None:
        """The log shows a line that went out before: raise what came of it, or take it back."""
        line, fault = proof.line, find(proof.line.text)
        sighting = self._witnesses.rename(proof.doubted, line) or self._forged.rename(proof.doubted, line)
        is_told = line.origin is not Origin.UNKNOWN
        if sighting is None or fault is None or isinstance(fault, Context) or fault.drill or not is_told:
            # Nothing came of it that could be wrong, or nothing is said of it: one more record of the log.
            if sighting is not None:
                self._hindsight.witness(sighting.home, line.probe, line.arrival_us, sighting.delay_us)
            else:
                self._understand(line)
            return
        self._counters.witnessed_again += 1
        was_doubted = proof.doubted.origin is Origin.UNKNOWN
        if line.origin is not Origin.KERNEL:
            self._disprove(fault, line, sighting, was_doubted=was_doubted)
            return
        self._counters.proved_late += was_doubted
        if was_doubted and line.probe != DRIVER:
            self._driver.told_alone(line)  # that word is told of by this: it is no other line's
        if was_doubted and fault.kind is Kind.DRIVER_LOADED:
            self._knowledge.learn_driver(fault)
        if sighting.is_over:
            return
        heard = self._heard(fault, line, drill=False)
        if heard.slot.trust is not Trust.PROVED:  # glued to other text: even the log does not prove it
            self._hindsight.witness(sighting.home, line.probe, line.arrival_us, sighting.delay_us)
        elif not self._hindsight.prove(sighting.home, heard, sighting.delay_us, _known_as(proof, sighting)):
            sighting.home = self._placement.place(heard)

    def _disprove(self, fault: Fault, line: KernelLine, sighting: Sighting, *, was_doubted: bool) -> None:
        """The log shows that a process wrote a line that went out before."""
        if not was_doubted:
            self._hindsight.witness(sighting.home, line.probe, line.arrival_us, sighting.delay_us)
            return
        self._counters.disproved += 1
        self._counters.forged += not self._allow_drills
        self._hindsight.disprove(sighting.home, self._heard(fault, line, drill=True), sighting.delay_us)

    # -- the driver's own word ----------------------------------------------------------------

    def _driver_said(self, report: KernelLine) -> None:
        """The driver's own word: of a line that is known, or of one that waits or is yet to come."""
        self._counters.driver_told += 1
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
        line = self.confirmation.give_up(partial(names_at, report))
        if line is None:
            return False
        alone = self._driver.stand_alone(report)
        self._understand(alone)
        sighting = self._heard_too(alone, replace(line, text=alone.text, kernel_us=alone.kernel_us))
        if sighting is not None:
            self.recovered.heard(line, sighting)
        return True

    def _heard_too(self, alone: KernelLine, line: KernelLine) -> Sighting | None:
        """An unproved line that the driver's word names is that record, heard by one more probe."""
        sighting = self._witnesses.rename(alone, line)
        if sighting is not None:
            self._counters.witnessed_again += 1
            self._hindsight.witness(sighting.home, line.probe, line.arrival_us, sighting.delay_us)
        return sighting

    def _driver_told_of(self, told: Told, report: KernelLine) -> None:
        """The driver's word is about a line that is out; where nobody had proved that one, the event says
        from now on what the driver says."""
        if told.is_proved:
            self._named_by_driver(told.sighting, report)
            return
        is_in_the_log = told.line.probe != BPF or told.line.origin is not Origin.UNKNOWN
        # Only what the log has not shown may be the line that it shows next: else a repeat would be lost.
        alone = self._driver.as_line(report) if is_in_the_log else self._driver.stand_alone(report)
        self._settle(Proof(told.line, alone))

    def _named_by_driver(self, sighting: Sighting, report: KernelLine) -> None:
        self._counters.witnessed_again += 1
        delay_us = max(0, report.arrival_us - sighting.first_arrival_us)
        self._hindsight.witness(sighting.home, DRIVER, report.arrival_us, delay_us)


def _known_as(proof: Proof, sighting: Sighting) -> str:
    """The line as the event shows it so far: in the driver's words, where these came first."""
    lines = sighting.home.lines if sighting.home is not None else ()
    said = (text for text in lines if text != proof.line.text and names(text, proof.line.text))
    return next(said, clean(proof.doubted.text))
