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
revision is due. New revisions wait in `faults.take_published`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from daemon.allowance import Allowance
from daemon.catalog import Meaning
from daemon.decoded import Part
from daemon.event import Event, Kind, Process, Severity, Witness
from daemon.fault import Facts, OpenFault, Slot, Sufferer, Trust
from daemon.grammar import GSP_DUMP
from daemon.open_faults import OpenFaults
from daemon.overflow import as_overflow, fold
from probes.line import Origin

COMPLETE_AFTER_US = 100_000
"""Silence after which no more lines of an occurrence are expected."""

READING_AGAIN_US = 1_000_000
"""After a restart the further lines of an occurrence in progress may take so much longer to come:
they stand at the end of a log that is read again from its beginning."""

LONGEST_OCCURRENCE_US = 5_000_000
"""An occurrence ends here even if its lines never fall silent: on a slow serial console the driver
needs about 10 ms a line, so a fault of 300 lines is spread over seconds."""

FALLEN_OFF_THE_BUS = 79

_Device = tuple[Trust, str, str | None]
"""Trust, boot id and PCI address: lines of one fault have them in common."""

DUMP_CODES = frozenset({119, 120})
"""Xids that the driver follows with a dump of GSP state, in lines that name no device."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A decoded line with its meaning and its times, ready to be joined with others."""

    slot: Slot
    sufferer: Sufferer
    part: Part
    meaning: Meaning
    process: Process | None
    detail: Callable[[], Mapping[str, Any]]
    """Makes the decoded fields, cleaned; most repeats never need them."""
    text: str
    """The log line as it may leave the program: cleaned and cut."""
    at_us: int
    """Kernel time, or arrival time where the source has none."""
    wall_us: int
    arrival_us: int
    probe: str
    event: Callable[[], Event]
    """Makes the event (revision 0, count 1) whose first record this line is."""
    seq: int | None = None
    """kmsg sequence number, where the probe has one."""


class Coalescer:
    """Joins lines to faults and faults to events. Owned by the pipeline, not thread-safe."""

    def __init__(self, quiet_gap_us: int, allowance_of: Callable[[Slot], Hashable]) -> None:
        self.faults = OpenFaults(quiet_gap_us)
        self.unattached = 0
        """Continuation lines that belonged to no open fault: dropped, and counted here."""
        self._unfinished: dict[_Device, OpenFault] = {}
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
        unfinished = self._unfinished.get(_device(heard.slot))
        if unfinished is not None and not _belongs(unfinished, heard):
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
        fault = _opened_by(heard)
        fault.complete = False
        fault.openings.add(heard.text)
        fault.held = self._must_wait(heard)
        self._unfinished[_device(heard.slot)] = fault
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
        fault = _opened_by(heard)
        self._admit(fault, heard.arrival_us)
        return fault

    def _continue(self, heard: Heard) -> OpenFault | None:
        """Add a line that cannot open a fault to the one it can belong to, held or published."""
        unfinished = self._unfinished.get(_device(heard.slot))
        if unfinished is not None and unfinished.slot == heard.slot:
            self._join(unfinished, heard)
            return unfinished
        if heard.slot.device is None:  # a line of a dump, or of a failed start: whichever fault led to it
            known = self.faults.latest(heard.at_us, lambda slot: _leads_to(slot, heard.slot))
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
        if not _is_loss(heard.slot):
            return None
        known = self.faults.latest(heard.at_us, lambda slot: _tells_the_same_loss(slot, heard.slot))
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
        unfinished = self._unfinished.get(_device(heard.slot))
        if unfinished is not None and _belongs(unfinished, heard):
            return self.line(heard)
        if unfinished is not None:
            self._finish(unfinished, heard.arrival_us)
        first, before = _opened_by(heard), told.event
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
            self._unfinished[_device(heard.slot)] = told
        self.faults.revise(told, heard.arrival_us)
        return told

    def _extend(self, known: OpenFault, heard: Heard) -> OpenFault:
        """Add a line to an event that is already out."""
        _add(known, heard)
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
        _add(fault, heard)
        self.faults.touch(fault)

    # -- complete ----------------------------------------------------------------------------

    def _finish(self, fault: OpenFault, now_us: int) -> None:
        """No more lines of this occurrence: revision 2, or a held one finds out what it is."""
        del self._unfinished[_device(fault.slot)]
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

    def say_more(self, fault: OpenFault, now_us: int) -> None:
        """More is known of a gap or a probe event."""
        fault.changed = True
        self._revise_or_say(fault, now_us)

    def witness(self, home: OpenFault | None, probe: str, now_us: int, delay_us: int) -> None:
        """A second probe saw a record: the event it led to names it, once a probe."""
        home = _standing(home)
        if home is None or any(witness.probe == probe for witness in home.witnesses):
            return
        home.witnesses += (Witness(probe, delay_us),)
        home.changed = True
        self.faults.revise(home, now_us)

    def prove(self, home: OpenFault | None, heard: Heard, delay_us: int, known_as: str) -> bool:
        """The log shows the true form of a line which was published before, as `known_as`.

        An unconfirmed event is raised in place: from now on it says what the proved lines say, and no
        more. False when no event of its own came of the line: then it is to be taken as any other.
        """
        home = self._finished(home, heard.arrival_us)
        if home is None or home.event.revision == 0 or home.slot.kind is Kind.OVERFLOW:
            return False
        self.witness(home, heard.probe, heard.arrival_us, delay_us)
        if home.slot.trust is Trust.UNPROVED:
            self._raise(home, heard)
        elif home.slot.trust is Trust.PROVED:
            if not home.lines:  # told of without a line so far
                home.detail = {}
            home.correct_line(known_as, heard.text)
            self._name_process(home, heard)
            for name, value in heard.detail().items():
                home.detail.setdefault(name, value)
            if heard.meaning.severity.rank > home.event.severity.rank:
                home.take_meaning(heard.meaning)
            self._revise_or_say(home, heard.arrival_us)
        return True

    def raise_to(self, home: OpenFault, told: OpenFault, delay_us: int) -> OpenFault:
        """Raise an unconfirmed event to what another witness told of it, without a line; gives it back."""
        home = self._finished(home, told.last_arrival_us) or home
        before, [witness] = home.event, told.witnesses
        home.event = replace(
            told.event,
            id=before.id,
            revision=before.revision,
            time_us=before.time_us,
            incident=before.incident,
        )
        home.lines, home.lines_dropped, home.process, home.gpu = [], 0, None, None
        home.detail, home.unproved = dict(told.detail), 0
        home.witnesses += (Witness(witness.probe, delay_us),)
        home.changed = True
        self._move_or_end(home, told.slot, told.sufferer, told.last_us, told.last_arrival_us)
        return home

    def _move_or_end(self, home: OpenFault, slot: Slot, sufferer: Sufferer, at_us: int, now_us: int) -> None:
        """Publish a raised event in the place that is now its own."""
        if self.faults.holds(home) and self.faults.find(slot, sufferer, at_us) is None:
            self.faults.move(home, slot, sufferer)
            self.faults.publish(home, now_us)
            return
        # Another one has that place: they were told as two, and stay two.
        self.faults.end(home, now_us)
        home.slot, home.sufferer = slot, sufferer

    def _name_process(self, home: OpenFault, heard: Heard) -> None:
        """The line tells of a process, and what was published before did not."""
        if heard.process is None or home.process is not None:
            return
        home.process = heard.process
        home.changed = True
        if self.faults.holds(home) and self.faults.find(heard.slot, heard.sufferer, heard.at_us) is None:
            self.faults.move(home, heard.slot, heard.sufferer)

    def disprove(self, home: OpenFault | None, heard: Heard, delay_us: int) -> None:
        """The log shows that a process wrote a line which was published unconfirmed.

        An event of nothing else is taken back: it is a drill from now on, and says who wrote it.
        """
        home = self._finished(home, heard.arrival_us)
        if home is None or home.event.revision == 0 or home.slot.trust is Trust.DRILL:
            return
        home.unproved -= 1
        home.changed = True
        if home.slot.trust is Trust.UNPROVED and home.unproved <= 0:
            home.count += home.disproved
            home.event = replace(home.event, origin=Origin.USERSPACE, drill=True)
            self.witness(home, heard.probe, heard.arrival_us, delay_us)
            self.faults.end(home, heard.arrival_us)
        else:
            home.disproved += home.count > 1
            home.count = max(1, home.count - 1)
            self._revise_or_say(home, heard.arrival_us)

    def _finished(self, home: OpenFault | None, now_us: int) -> OpenFault | None:
        """The event that a line led to, with its first occurrence complete."""
        home = _standing(home)
        if home is not None and self._unfinished.get(_device(home.slot)) is home:
            self._finish(home, now_us)
        return _standing(home)

    def _raise(self, home: OpenFault, heard: Heard) -> None:
        named = heard.event()
        home.event = replace(
            home.event, origin=Origin.KERNEL, kmsg_seq=heard.seq, gpu=named.gpu, nvswitch=named.nvswitch
        )
        if home.gpu is not None and named.gpu is not None:
            home.gpu = replace(home.gpu, mig=named.gpu.mig)
        home.take_meaning(heard.meaning)
        home.lines, home.lines_dropped = [heard.text], 0
        home.detail = dict(heard.detail())
        if home.process is None or heard.process is None or home.process.pid != heard.process.pid:
            home.process = heard.process
        home.unproved -= 1
        home.changed = True
        self._move_or_end(home, heard.slot, heard.sufferer, heard.at_us, heard.arrival_us)

    def _revise_or_say(self, fault: OpenFault, now_us: int) -> None:
        """Publish what was learned, at once where the fault is no longer in the table."""
        if self.faults.holds(fault):
            self.faults.revise(fault, now_us)
        else:
            self.faults.end(fault, now_us)

    def learn(self, event_id: str, facts: Facts, now_us: int) -> None:
        """Something was found out about an event that is still open; of one that is over nothing changes."""
        found = next((fault for fault in self.faults if fault.event.id == event_id), None)
        if found is not None and found.learn(facts):
            self.faults.revise(found, now_us)

    # -- time --------------------------------------------------------------------------------

    def publish_due(self, now_us: int) -> None:
        """Publish the revisions that are due at arrival time `now_us`, before a record is looked at.

        Whether that record belongs to a fault in progress is for its kernel time to say: a reader that
        was held up reads lines late that were printed together.
        """
        due = self.faults.next_due_us()
        if due is not None and due <= now_us:
            self.faults.publish_due(now_us)

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
                self._unfinished[_device(fault.slot)] = fault
            if not fault.held:
                self.faults.add(fault)
                if fault.changed:
                    self.faults.revise(fault, fault.published_us)


def _device(slot: Slot) -> _Device:
    return (slot.trust, slot.boot_id, slot.device)


def _standing(fault: OpenFault | None) -> OpenFault | None:
    """The fault, or the one into which it was counted."""
    while fault is not None and fault.absorbed_by is not None:
        fault = fault.absorbed_by
    return fault


def _is_loss(slot: Slot) -> bool:
    return slot.kind is Kind.GPU_LOST or (slot.kind, slot.what) == (Kind.XID, FALLEN_OFF_THE_BUS)


def _tells_the_same_loss(slot: Slot, other: Slot) -> bool:
    """True for the two ways of telling one loss; two Xid 79s are compared by pid like any other fault."""
    both_79 = slot.kind is Kind.XID and other.kind is Kind.XID
    return _is_loss(slot) and _device(slot) == _device(other) and not both_79


def _leads_to(slot: Slot, later: Slot) -> bool:
    """True when a fault of `slot` can be the one that a line without a device goes on about."""
    if slot[:2] != later[:2]:  # trust, boot
        return False
    if later.what == GSP_DUMP:
        return slot.kind is Kind.XID and slot.what in DUMP_CODES
    return (slot.kind, slot.what) == (later.kind, later.what)


def _belongs(unfinished: OpenFault, heard: Heard) -> bool:
    """True when the line can be the next one of the occurrence in progress."""
    mig, pid = unfinished.sufferer
    return (
        unfinished.slot == heard.slot
        and mig == heard.sufferer.mig
        and (pid is None or heard.sufferer.pid is None or pid == heard.sufferer.pid)
        and heard.part is not Part.WHOLE
        and (heard.part is not Part.OPENING or heard.text not in unfinished.openings)
        and abs(heard.at_us - unfinished.began_us) <= LONGEST_OCCURRENCE_US
    )


def _opened_by(heard: Heard) -> OpenFault:
    event = heard.event()
    return OpenFault(
        slot=heard.slot,
        sufferer=heard.sufferer,
        event=event,
        count=1,
        began_us=heard.at_us,
        last_us=heard.at_us,
        last_time_us=heard.wall_us,
        last_arrival_us=heard.arrival_us,
        lines=[heard.text],
        process=heard.process,
        detail=dict(event.detail),
        witnesses=(Witness(heard.probe, 0),),
        unproved=_unproved(heard),
    )


def _unproved(heard: Heard) -> int:
    return int(heard.slot.trust is Trust.UNPROVED)


def _add(fault: OpenFault, heard: Heard) -> None:
    fault.add_line(heard.text)
    fault.unproved += _unproved(heard)
    if heard.meaning.severity.rank > fault.event.severity.rank:
        fault.take_meaning(heard.meaning)
    fault.heard(at_us=heard.at_us, wall_us=heard.wall_us, arrival_us=heard.arrival_us)
