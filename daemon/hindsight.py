"""What is learned of an event after it went out: another witness, who printed its lines, who suffered it.

* A second witness is named once a probe, with its delay.
* An event of unknown origin is raised in place once the log, or another witness, shows what is true of it,
  and says from then on what was proved, and no more. Where a process wrote its lines it is taken back.

Owned by the pipeline; no clock of its own. The coalescer holds the events.
"""

from __future__ import annotations

from dataclasses import replace

from daemon.coalesce import Coalescer
from daemon.event import Kind, Witness
from daemon.fault import Facts, OpenFault, Slot, Sufferer, Trust
from daemon.heard import Heard
from daemon.occurrence import standing
from probes.line import Origin


class Hindsight:
    """See the module's docstring."""

    def __init__(self, coalescer: Coalescer) -> None:
        self._coalescer = coalescer
        self._faults = coalescer.faults

    def witness(self, home: OpenFault | None, probe: str, now_us: int, delay_us: int) -> None:
        """A second probe saw a record: the event it led to names it, once a probe."""
        home = standing(home)
        if home is None or any(witness.probe == probe for witness in home.witnesses):
            return
        home.witnesses += (Witness(probe, delay_us),)
        home.changed = True
        self._faults.revise(home, now_us)

    def prove(self, home: OpenFault | None, heard: Heard, delay_us: int, known_as: str) -> bool:
        """The log shows the true form of a line which was published before, as `known_as`.

        An unconfirmed event is raised in place: from now on it says what the proved lines say, and no
        more. False when no event of its own came of the line: then it is to be taken as any other.
        """
        home = self._coalescer.finished(home, heard.arrival_us)
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
        home = self._coalescer.finished(home, told.last_arrival_us) or home
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

    def disprove(self, home: OpenFault | None, heard: Heard, delay_us: int) -> None:
        """The log shows that a process wrote a line which was published unconfirmed.

        An event of nothing else is taken back: it is a drill from now on, and says who wrote it.
        """
        home = self._coalescer.finished(home, heard.arrival_us)
        if home is None or home.event.revision == 0 or home.slot.trust is Trust.DRILL:
            return
        home.unproved -= 1
        home.changed = True
        if home.slot.trust is Trust.UNPROVED and home.unproved <= 0:
            home.count += home.disproved
            home.event = replace(home.event, origin=Origin.USERSPACE, drill=True)
            self.witness(home, heard.probe, heard.arrival_us, delay_us)
            self._faults.end(home, heard.arrival_us)
        else:
            home.disproved += home.count > 1
            home.count = max(1, home.count - 1)
            self._revise_or_say(home, heard.arrival_us)

    def learn(self, event_id: str, facts: Facts, now_us: int) -> None:
        """Something was found out about an event that is still open; of one that is over nothing changes."""
        found = next((fault for fault in self._faults if fault.event.id == event_id), None)
        if found is not None and found.learn(facts):
            self._faults.revise(found, now_us)

    def say_more(self, fault: OpenFault, now_us: int) -> None:
        """More is known of a gap or a probe event."""
        fault.changed = True
        self._revise_or_say(fault, now_us)

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

    def _move_or_end(self, home: OpenFault, slot: Slot, sufferer: Sufferer, at_us: int, now_us: int) -> None:
        """Publish a raised event in the place that is now its own."""
        if self._faults.holds(home) and self._faults.find(slot, sufferer, at_us) is None:
            self._faults.move(home, slot, sufferer)
            self._faults.publish(home, now_us)
            return
        # Another one has that place: they were told as two, and stay two.
        self._faults.end(home, now_us)
        home.slot, home.sufferer = slot, sufferer

    def _name_process(self, home: OpenFault, heard: Heard) -> None:
        """The line tells of a process, and what was published before did not."""
        if heard.process is None or home.process is not None:
            return
        home.process = heard.process
        home.changed = True
        if self._faults.holds(home) and self._faults.find(heard.slot, heard.sufferer, heard.at_us) is None:
            self._faults.move(home, heard.slot, heard.sufferer)

    def _revise_or_say(self, fault: OpenFault, now_us: int) -> None:
        """Publish what was learned, at once where the fault is no longer in the table."""
        if self._faults.holds(fault):
            self._faults.revise(fault, now_us)
        else:
            self._faults.end(fault, now_us)
