"""Several lines, one fault; several faults of the same kind, one event.

Contract (each rule has its tests):

* Lines of one fault belong together by their form and order on one device. An opening line that
  was already heard in the same occurrence means that the fault happened again.
* The same fault again within the quiet gap of kernel time is a repeat: same kind, code, device,
  MIG instance and pid, where an unknown pid equals only an unknown pid.
* The first of a quiet period is published at once. While an event of the same code and device is
  inside its gap, an opening line is held until its fault is complete, then counted as a repeat if
  the pid is equal, else published.
* Revision 2 goes out when the fault is complete, later ones at most once a second per event; the
  last pending one always goes out.
* A device may cause 20 new events in 10 s, and as many that are critical or fatal; further ones
  fold into one overflow event per device and code.

No clock of its own: kernel time decides what belongs together, arrival time when a pending
revision is due. New revisions wait in `faults.take_published`. What is learned of an event after it went
out is `daemon.hindsight`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace

from daemon.allowance import Allowance
from daemon.decoded import Part
from daemon.event import Kind, Severity, Witness
from daemon.fault import OpenFault, Slot, Sufferer
from daemon.heard import Heard, add, opened_by
from daemon.occurrence import (
    Device,
    belongs,
    device_of,
    is_loss,
    leads_to,
    standing,
    tells_the_same_loss,
)
from daemon.open_faults import OpenFaults
from daemon.overflow import as_overflow, fold

COMPLETE_AFTER_US = 100_000
"""Silence after which no more lines of an occurrence are expected."""

READING_AGAIN_US = 1_000_000
"""After a restart the further lines of an occurrence in progress may take so much longer to come:
they stand at the end of a log that is read again from its beginning."""


class Coalescer:
    """Joins lines to faults and faults to events. Owned by the pipeline, not thread-safe."""

    def __init__(self, quiet_gap_us: int, allowance_of: Callable[[Slot], Hashable]) -> None:
        self.faults = OpenFaults(quiet_gap_us)
        self.unattached = 0
        """Continuation lines that belonged to no open fault: dropped, and counted here."""
        self._unfinished: dict[Device, OpenFault] = {}
        self._allowance = Allowance()
        self._allowance_of = allowance_of

    # -- lines -------------------------------------------------------------------------------

    def line(self, heard: Heard) -> OpenFault | None:
        """Take one decoded line, in the order of the log.

        Gives back the fault it became or was added to, None when it belonged to none.
        """
        self._finish_silent(heard.at_us)
        if heard.part is Part.CONTINUATION:
            return self._continue(heard)
        unfinished = self._unfinished.get(device_of(heard.slot))
        if unfinished is not None and not belongs(unfinished, heard):
            self._finish(unfinished, heard.arrival_us)
            unfinished = None
        if heard.part is Part.OPENING:
            return self._open(heard, unfinished)
        if heard.part is Part.CLOSING and unfinished is not None:
            self._join(unfinished, heard)
            self._finish(unfinished, heard.arrival_us)
            return unfinished
        return self._whole(heard)

    def _open(self, heard: Heard, unfinished: OpenFault | None) -> OpenFault:
        if unfinished is not None:
            self._join(unfinished, heard)
            unfinished.openings.add(heard.text)
            return unfinished
        fault = opened_by(heard)
        fault.complete = False
        fault.openings.add(heard.text)
        fault.held = self._must_wait(heard)
        self._unfinished[device_of(heard.slot)] = fault
        if fault.held:
            self.faults.touch(fault)
        else:
            self._admit(fault, heard.arrival_us)
        return fault

    def _must_wait(self, heard: Heard) -> bool:
        """True while an opening line may still turn out to be a repeat, or to be one fault too many."""
        busy = self.faults.recent_in(heard.slot, heard.at_us) is not None
        owner = self._owner(heard.slot, heard.meaning.severity)
        return busy or not self._allowance.has_room(owner, heard.at_us)

    def _whole(self, heard: Heard) -> OpenFault:
        known = self.faults.find(heard.slot, heard.sufferer, heard.at_us)
        if known is not None:
            known.count += 1
            return self._extend(known, heard)
        told = self._loss_already_told(heard)
        if told is not None:
            return told
        fault = opened_by(heard)
        self._admit(fault, heard.arrival_us)
        return fault

    def _continue(self, heard: Heard) -> OpenFault | None:
        """Add a line that cannot open a fault to the one it can belong to, held or published."""
        unfinished = self._unfinished.get(device_of(heard.slot))
        if unfinished is not None and unfinished.slot == heard.slot:
            self._join(unfinished, heard)
            return unfinished
        if heard.slot.device is None:  # a line of a dump, or of a failed start: whichever fault led to it
            known = self.faults.latest(heard.at_us, lambda slot: leads_to(slot, heard.slot))
            if known is None:
                self.unattached += 1
                return None
        else:
            known = self.faults.recent_in(heard.slot, heard.at_us)
            if known is None:  # its head was lost, but it still tells of the fault
                return self._whole(heard)
        return self._extend(known, heard)

    def _loss_already_told(self, heard: Heard) -> OpenFault | None:
        """Join the two ways in which the driver says that a GPU is gone, in either order.

        The bare "fallen off the bus" line after an Xid 79 adds nothing but itself; an Xid 79 after
        that line is the same loss under its proper name.
        """
        if not is_loss(heard.slot):
            return None
        known = self.faults.latest(heard.at_us, lambda slot: tells_the_same_loss(slot, heard.slot))
        if known is None:
            return None
        if heard.slot.kind is Kind.XID and known.slot.kind is Kind.GPU_LOST:
            named = heard.event()
            known.event = replace(
                known.event, kind=named.kind, code=named.code, name=named.name, gpu=named.gpu
            )
            known.take_meaning(heard.meaning)
            known.process = heard.process
            self.faults.move(known, heard.slot, heard.sufferer)
        return self._extend(known, heard)

    def adopt(self, told: OpenFault, heard: Heard) -> OpenFault | None:
        """Take the log's first line of a fault that another witness told of without one: from now on the
        event says what the log says, under the id with which it went out."""
        self._finish_silent(heard.at_us)
        unfinished = self._unfinished.get(device_of(heard.slot))
        if unfinished is not None and belongs(unfinished, heard):
            return self.line(heard)
        if unfinished is not None:
            self._finish(unfinished, heard.arrival_us)
        first, before = opened_by(heard), told.event
        self.faults.move(told, heard.slot, heard.sufferer)
        told.event = replace(
            first.event,
            id=before.id,
            revision=before.revision,
            time_us=min(before.time_us, first.event.time_us),
            incident=before.incident,
        )
        told.count, told.lines, told.detail, told.process = 1, first.lines, first.detail, first.process
        told.began_us = told.last_us = heard.at_us
        told.heard(at_us=heard.at_us, wall_us=heard.wall_us, arrival_us=heard.arrival_us)
        if all(witness.probe != heard.probe for witness in told.witnesses):
            told.witnesses += (Witness(heard.probe, max(0, heard.wall_us - before.time_us)),)
        if heard.part is Part.OPENING:
            told.complete = False
            told.openings.add(heard.text)
            self._unfinished[device_of(heard.slot)] = told
        self.faults.revise(told, heard.arrival_us)
        return told

    def _extend(self, known: OpenFault, heard: Heard) -> OpenFault:
        """Add a line to an event that is already out."""
        add(known, heard)
        self.faults.revise(known, heard.arrival_us)
        return known

    def _join(self, fault: OpenFault, heard: Heard) -> None:
        """Add a line to the occurrence in progress; the one that knows the pid gives it."""
        if fault.sufferer.pid is None and heard.sufferer.pid is not None:
            fault.process = heard.process
            if fault.held:
                fault.sufferer = heard.sufferer
            else:
                self.faults.move(fault, fault.slot, heard.sufferer)
        for name, value in heard.detail().items():
            fault.detail.setdefault(name, value)
        add(fault, heard)
        self.faults.touch(fault)

    # -- complete ----------------------------------------------------------------------------

    def _finish(self, fault: OpenFault, now_us: int) -> None:
        """No more lines of this occurrence: revision 2, or a held one finds out what it is."""
        del self._unfinished[device_of(fault.slot)]
        fault.complete = True
        fault.openings.clear()
        if not fault.held:
            if fault.changed:
                self.faults.publish(fault, now_us)
            return
        self.faults.drop_state(fault)
        fault.held = False
        known = self.faults.find(fault.slot, fault.sufferer, fault.began_us)
        if known is None:
            self._admit(fault, now_us)
        else:
            known.absorb(fault)
            self.faults.revise(known, now_us)

    def _finish_silent(self, at_us: int) -> None:
        """Finish what kernel time says is over, before the next line is looked at."""
        for fault in list(self._unfinished.values()):
            if abs(at_us - fault.last_us) > COMPLETE_AFTER_US:
                self._finish(fault, fault.last_arrival_us)

    def _admit(self, fault: OpenFault, now_us: int) -> None:
        """Publish a new event, or fold it into an overflow."""
        owner = self._owner(fault.slot, fault.event.severity)
        if self._allowance.take(owner, fault.began_us):
            self.faults.add(fault)
            self.faults.publish(fault, now_us)
            return
        slot = fault.slot._replace(kind=Kind.OVERFLOW)
        known = self.faults.find(slot, Sufferer(None, None), fault.began_us)
        if known is None and not self._allowance.take(("overflow", owner), fault.began_us):
            slot = slot._replace(what=None, device=None)  # too many codes or devices to tell apart as well
            known = self.faults.find(slot, Sufferer(None, None), fault.began_us)
        if known is None:
            overflow = as_overflow(fault, slot)
            self.faults.add(overflow)
            self.faults.publish(overflow, now_us)
        else:
            fold(known, fault)
            self.faults.revise(known, now_us)

    def _owner(self, slot: Slot, severity: Severity) -> Hashable:
        """Critical and fatal faults have an allowance beside the milder ones: a storm of application
        errors must not fold the GPU's own end into an overflow."""
        return (self._allowance_of(slot), severity.rank >= Severity.CRITICAL.rank)

    # -- what probes say of themselves ----------------------------------------------------------

    def report_in(self, slot: Slot, at_us: int) -> OpenFault | None:
        """The gap or probe event that a new report of this slot would add to."""
        return self.faults.find(slot, Sufferer(None, None), at_us)

    def report(self, fault: OpenFault, now_us: int) -> None:
        """Publish a gap or a probe event; it draws on no device's allowance."""
        self.faults.add(fault)
        self.faults.publish(fault, now_us)

    def report_again(self, fault: OpenFault, *, at_us: int, wall_us: int) -> None:
        """Count another report into a gap or probe event."""
        fault.count += 1
        fault.heard(at_us=at_us, wall_us=wall_us, arrival_us=at_us)
        self.faults.revise(fault, at_us)

    def finished(self, home: OpenFault | None, now_us: int) -> OpenFault | None:
        """The event that a line led to, with its first occurrence complete at arrival time `now_us`."""
        home = standing(home)
        if home is not None and self._unfinished.get(device_of(home.slot)) is home:
            self._finish(home, now_us)
        return standing(home)

    # -- time --------------------------------------------------------------------------------

    def publish_due(self, now_us: int) -> None:
        """Publish the revisions that are due at arrival time `now_us`, before a record is looked at.

        Whether that record belongs to a fault in progress is for its kernel time to say: a reader that
        was held up reads lines late that were printed together.
        """
        due = self.faults.next_due_us()
        if due is not None and due <= now_us:
            self.faults.publish_due(now_us)
        self.faults.sweep(now_us)

    def tick(self, now_us: int) -> None:
        """Publish what is due at arrival time `now_us`; by then all that was printed has been looked at."""
        for fault in list(self._unfinished.values()):
            if now_us - fault.last_arrival_us >= COMPLETE_AFTER_US:
                self._finish(fault, now_us)
        self.faults.publish_due(now_us)

    def next_deadline(self) -> int | None:
        """Arrival time at which `tick` next has something to do; None when nothing is pending."""
        due = self.faults.next_due_us()
        if not self._unfinished:
            return due
        silent = min(fault.last_arrival_us for fault in self._unfinished.values()) + COMPLETE_AFTER_US
        return silent if due is None else min(silent, due)

    def end_all(self, now_us: int, over: Callable[[Slot], bool]) -> None:
        """The open faults that are `over` (driver reloaded, another boot) say their last word."""
        for fault in [fault for fault in self._unfinished.values() if over(fault.slot)]:
            self._finish(fault, now_us)
        for fault in [fault for fault in self.faults if over(fault.slot)]:
            self.faults.end(fault, now_us)

    # -- saved state ---------------------------------------------------------------------------

    def open_faults(self) -> Iterable[OpenFault]:
        """Every open fault, held ones included."""
        yield from self.faults
        yield from (fault for fault in self._unfinished.values() if fault.held)

    def restore(self, faults: Iterable[OpenFault], now_us: int) -> None:
        """Go on with the open faults of an earlier process."""
        for fault in faults:
            if not fault.complete:
                fault.last_arrival_us = now_us + READING_AGAIN_US
                self._unfinished[device_of(fault.slot)] = fault
            if not fault.held:
                self.faults.add(fault)
                if fault.changed:
                    self.faults.revise(fault, fault.published_us)
