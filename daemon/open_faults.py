"""The table of open faults: who is inside its quiet gap, what is due to go out, what to write down.

Kernel time decides whether a fault is still inside its gap; arrival time decides when a pending
revision is due. Not thread-safe: the coalescer owns it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from daemon.event import Event
from daemon.fault import OpenFault, Slot, Sufferer

REVISION_INTERVAL_US = 1_000_000
"""Shortest time between two revisions of one event, but for the one that completes it."""

FORGET_AFTER_US = 30_000_000
"""Silence, in arrival time, after which a fault leaves memory: far beyond the quiet gap, so that
records read late still find the fault they repeat."""

LONGEST_SILENT_US = 15 * 60_000_000
"""The same where nothing was due meanwhile. Longer than programs' errors on one GPU may be apart and still be
one matter (`daemon.incidents.patterns.PROGRAMS_US`)."""
_SWEEP_EVERY_US = 60_000_000
"""A sweep looks at each open fault, so it is not done with every line."""


class OpenFaults:
    """Open faults by slot and sufferer, with the revisions they still owe."""

    def __init__(self, quiet_gap_us: int) -> None:
        self.quiet_gap_us = quiet_gap_us
        self._slots: dict[Slot, dict[Sufferer, OpenFault]] = {}
        self._pending: dict[str, OpenFault] = {}
        self._next_due_us: int | None = None
        self._next_due_is_stale = False
        self._next_sweep_us = 0
        self._published: list[tuple[OpenFault, Event]] = []
        self.touched: dict[str, OpenFault] = {}
        """Faults whose saved state is out of date, by state key."""
        self.forgotten: set[str] = set()
        """State keys of faults that are no longer open."""

    def __iter__(self) -> Iterator[OpenFault]:
        for sufferers in self._slots.values():
            yield from sufferers.values()

    # -- finding -----------------------------------------------------------------------------

    def is_recent(self, fault: OpenFault, at_us: int) -> bool:
        """True when a record of kernel time `at_us` falls inside the fault's quiet gap."""
        return abs(at_us - fault.last_us) <= self.quiet_gap_us

    def find(self, slot: Slot, sufferer: Sufferer, at_us: int) -> OpenFault | None:
        """The fault of which this would be a repeat."""
        fault = self._slots.get(slot, {}).get(sufferer)
        return fault if fault is not None and self.is_recent(fault, at_us) else None

    def recent_in(self, slot: Slot, at_us: int) -> OpenFault | None:
        """The fault of this slot that was heard last, whoever suffered it."""
        return self.latest(at_us, lambda candidate: candidate == slot)

    def latest(self, at_us: int, wanted: Callable[[Slot], bool]) -> OpenFault | None:
        """Of the recent faults in the slots that are `wanted`, the one heard last."""
        recent = (
            fault
            for slot, sufferers in self._slots.items()
            if wanted(slot)
            for fault in sufferers.values()
            if self.is_recent(fault, at_us)
        )
        return max(recent, key=lambda fault: fault.last_us, default=None)

    # -- changing ----------------------------------------------------------------------------

    def add(self, fault: OpenFault) -> None:
        """Put a fault in its place; an older one of the same place is over and says its last word."""
        sufferers = self._slots.setdefault(fault.slot, {})
        older = sufferers.get(fault.sufferer)
        if older is not None and older is not fault:
            self.end(older, older.last_arrival_us)
        self._slots.setdefault(fault.slot, {})[fault.sufferer] = fault
        self.touch(fault)

    def move(self, fault: OpenFault, slot: Slot, sufferer: Sufferer) -> None:
        """Put a fault in another place: its pid became known, or what it is."""
        self._unlink(fault)
        fault.slot, fault.sufferer = slot, sufferer
        self.add(fault)

    def end(self, fault: OpenFault, now_us: int) -> None:
        """The fault is over: its pending revision goes out, and it is forgotten."""
        if fault.changed:
            self.publish(fault, now_us)
        self._unlink(fault)
        self.drop_state(fault)

    def _unlink(self, fault: OpenFault) -> None:
        sufferers = self._slots.get(fault.slot, {})
        if sufferers.get(fault.sufferer) is fault:
            del sufferers[fault.sufferer]
            if not sufferers:
                del self._slots[fault.slot]

    def touch(self, fault: OpenFault) -> None:
        """Its saved state is out of date."""
        self.touched[fault.state_key] = fault
        self.forgotten.discard(fault.state_key)

    def drop_state(self, fault: OpenFault) -> None:
        """It has no saved state any more."""
        self._no_longer_pending(fault)
        self.touched.pop(fault.state_key, None)
        self.forgotten.add(fault.state_key)

    def holds(self, fault: OpenFault) -> bool:
        """True until the fault is over, held ones aside."""
        return self._slots.get(fault.slot, {}).get(fault.sufferer) is fault

    # -- publishing --------------------------------------------------------------------------

    def take_published(self) -> list[tuple[OpenFault, Event]]:
        """The revisions published since the last call, in order, each with its fault."""
        published, self._published = self._published, []
        return published

    def publish(self, fault: OpenFault, now_us: int) -> None:
        """The next revision goes out now."""
        self._published.append((fault, fault.next_revision(now_us)))
        self._no_longer_pending(fault)
        self.touch(fault)

    def revise(self, fault: OpenFault, now_us: int) -> None:
        """Something was learned: publish it as soon as the fault may speak again."""
        if fault.complete and self._due_us(fault) <= now_us:
            self.publish(fault, now_us)
            return
        if fault.state_key not in self._pending:
            self._pending[fault.state_key] = fault
            self._next_due_is_stale = True
        self.touch(fault)

    def _no_longer_pending(self, fault: OpenFault) -> None:
        if self._pending.pop(fault.state_key, None) is not None:
            self._next_due_is_stale = True

    @staticmethod
    def _due_us(fault: OpenFault) -> int:
        return fault.published_us + REVISION_INTERVAL_US

    def publish_due(self, now_us: int) -> None:
        """Publish every pending revision whose time has come, and forget what has long fallen silent."""
        for fault in [fault for fault in self._pending.values() if fault.complete]:
            if self._due_us(fault) <= now_us:
                self.publish(fault, now_us)
        self._forget_silent(now_us, FORGET_AFTER_US)

    def sweep(self, now_us: int) -> None:
        """Forget what is silent beyond measure; looks once a minute, so call it as often as you like."""
        if now_us >= self._next_sweep_us:
            self._next_sweep_us = now_us + _SWEEP_EVERY_US
            self._forget_silent(now_us, max(LONGEST_SILENT_US, self.quiet_gap_us))

    def _forget_silent(self, now_us: int, after_us: int) -> None:
        for fault in list(self):
            if not fault.changed and now_us - fault.last_arrival_us > after_us:
                self.end(fault, now_us)

    def next_due_us(self) -> int | None:
        """Arrival time at which the next pending revision is due; None when none is.

        Forgetting has no deadline of its own: it rides on the next call of `publish_due`, or `sweep`.
        """
        if self._next_due_is_stale:
            due = (self._due_us(fault) for fault in self._pending.values() if fault.complete)
            self._next_due_us = min(due, default=None)
            self._next_due_is_stale = False
        return self._next_due_us
