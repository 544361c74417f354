"""The incidents that are followed: bounded, written down, and published when they may speak.

Deadlines are arrival time. Owned by the incident table, not thread-safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from daemon.event import Event
from daemon.incidents.closing import LATE_US, READING_US, REBOOT_QUIET_US, end_by_silence, ends_at_us
from daemon.incidents.incident import Incident
from daemon.incidents.memory import Memory, Sighting
from daemon.incidents.outcome import RECOVERIES, Closing, How
from daemon.incidents.patterns import recovery_of, survived_reboot
from daemon.incidents.report import as_event
from daemon.incidents.saved import MEMBER, OPEN, SEEN, UNREAD, Written, dump, load

REVISION_INTERVAL_US = 1_000_000
"""Shortest time between two revisions of one incident, but for those that open or close it."""

MAX_INCIDENTS = 64
"""Incidents followed at once; beyond, the one that has been silent longest is let go."""

BOOTS_KNOWN = 16

_NEVER = float("inf")


class Register:
    """Incidents by id, with the revisions they still owe and the rows that are out of date."""

    def __init__(self, node: str) -> None:
        self.memory = Memory()
        self.now_us = 0
        """Arrival time of what is being processed."""
        self.deadline_us: int | None = None
        """When `end_silent` or `publish` next has something to do; None when there is nothing."""
        self._node = node
        self._incidents: dict[str, Incident] = {}
        self._boots: deque[str] = deque(maxlen=BOOTS_KNOWN)
        self._written = Written()
        self._touched: set[str] = set()
        self._forgotten: set[str] = set()
        self._urgent: set[str] = set()
        self._left: list[Incident] = []  # let go, and yet to say so
        self._is_deaf = False
        self._reading_until_us = 0

    def __iter__(self) -> Iterator[Incident]:
        """All that are followed, those closed a moment ago included."""
        return iter(self._incidents.values())

    def get(self, incident: str | None) -> Incident | None:
        """The incident of this id, if it is still followed."""
        return self._incidents.get(incident) if incident is not None else None

    # -- changing ----------------------------------------------------------------------------

    def add(self, incident: Incident) -> None:
        """Follow a new incident; where there are too many, one that is over or long silent makes room."""
        if len(self._incidents) >= MAX_INCIDENTS:
            oldest = min(self, key=lambda each: (each.is_open, each.heard_us))
            if oldest.is_open:
                why = f"more than {MAX_INCIDENTS} incidents are open: this one is not followed any more"
                self.close(oldest, Closing(How.CROWDED_OUT, why, None))
                self._left.append(oldest)
            self._forget(oldest)
        self._incidents[incident.id] = incident
        self.note(incident, urgent=True)

    def note(self, incident: Incident, *, urgent: bool = False) -> None:
        """It has changed; `urgent` when its next revision may not wait."""
        incident.changed = True
        self._touched.add(incident.id)
        if urgent:
            self._urgent.add(incident.id)

    def close(self, incident: Incident, closing: Closing) -> None:
        """It is over; a fault that recovered is remembered for the case that it comes back."""
        incident.close(closing, self.now_us)
        self.note(incident, urgent=True)
        device = incident.primary.device
        if incident.drill or device is None or closing.how not in RECOVERIES - {How.QUIET}:
            return
        place = recovery_of(incident.primary)
        self.memory.note(device, Sighting(place, closing.time_us or incident.last_time_us, incident.id))

    def merge(self, incident: Incident, other: Incident) -> None:
        """What belongs to the other incident belongs to this one."""
        for member in other.members:
            incident.take(member)
        self.note(incident)
        why = f"it is part of {incident.id}, which reaches several GPUs"
        self.close(other, Closing(How.MERGED, why, None))

    def note_boot(self, boot_id: str) -> None:
        """With the first word of another boot, what was open waits to see whether the reboot cured it."""
        if boot_id in self._boots:
            return
        self._boots.append(boot_id)
        for incident in list(self):
            if boot_id in (incident.boot_id, incident.quiet_in):
                continue
            if incident.is_open:
                self._wait_for_quiet(incident, boot_id)
            else:
                self._forget(incident)

    def _wait_for_quiet(self, incident: Incident, boot_id: str) -> None:
        incident.wait_for_quiet(boot_id, self.now_us + REBOOT_QUIET_US)
        self.note(incident)

    def note_hearing(self, *, hears: bool, others_hear: bool) -> None:
        """A probe of the kernel log went down, or hears again. While none hears, silence is no sign."""
        self._is_deaf = not hears and not others_hear
        if hears:
            self._reading_until_us = self.now_us + READING_US

    def end_silent(self) -> None:
        """Close what silence has ended, and forget what is over."""
        if self.deadline_us is not None and self.now_us - self.deadline_us > LATE_US:
            self._reading_until_us = self.now_us + READING_US
        for incident in list(self):
            if self.now_us < self._ends_at_us(incident):
                continue
            if incident.is_open:
                how, why = end_by_silence(incident)
                self.close(incident, Closing(how, why, None))
            else:
                self._forget(incident)

    def _forget(self, incident: Incident) -> None:
        del self._incidents[incident.id]
        self._touched.discard(incident.id)
        self._forgotten.add(incident.id)

    # -- going out ---------------------------------------------------------------------------

    def publish(self) -> list[Event]:
        """The next revisions of the incidents that have news and may speak."""
        news = [self._next_revision(incident) for incident in self._left]
        self._left.clear()
        for incident in self:
            if incident.changed and (incident.id in self._urgent or _due_us(incident) <= self.now_us):
                news.append(self._next_revision(incident))
                self._touched.add(incident.id)
        self._urgent.clear()
        self._set_deadline()
        return news

    def _next_revision(self, incident: Incident) -> Event:
        event = as_event(incident, self._node)
        incident.revision = event.revision
        incident.changed = False
        incident.published_us = self.now_us
        return event

    def _set_deadline(self) -> None:
        times = [self._ends_at_us(incident) for incident in self]
        times += [_due_us(incident) for incident in self if incident.changed]
        soonest = min(times, default=_NEVER)
        self.deadline_us = int(soonest) if soonest != _NEVER else None

    def _ends_at_us(self, incident: Incident) -> float:
        """As silence is told by the incident alone, but not before anybody can have heard otherwise."""
        if not incident.is_open:
            return ends_at_us(incident)
        return _NEVER if self._is_deaf else max(ends_at_us(incident), self._reading_until_us)

    # -- saved state ---------------------------------------------------------------------------

    @property
    def has_changes(self) -> bool:
        """True when `take_changes` has something to give."""
        return bool(self._touched or self._forgotten or self.memory.touched or self.memory.forgotten)

    def take_changes(self) -> tuple[dict[str, str], set[str]]:
        """Rows to write and keys to delete since the last call."""
        rows = {SEEN + device: self.memory.dump(device) for device in self.memory.touched}
        dropped = {SEEN + device for device in self.memory.forgotten}
        for key in self._touched:
            news, gone = self._written.changes(self._incidents[key])
            rows |= news
            dropped |= gone
        for key in self._forgotten:
            dropped |= self._written.forget(key)
        for changes in (self._touched, self._forgotten, self.memory.touched, self.memory.forgotten):
            changes.clear()
        return rows, dropped

    def snapshot(self) -> dict[str, str]:
        """All rows."""
        rows = {key: text for incident in self for key, text in dump(incident).items()}
        return rows | {SEEN + device: self.memory.dump(device) for device in self.memory}

    def restore(self, rows: Mapping[str, str], *, boot_id: str, now_us: int) -> list[str]:
        """Take up an earlier process's rows; gives back the keys of those that cannot be read."""
        self.now_us = now_us
        self._reading_until_us = now_us + READING_US
        incidents, bad = load(rows)
        for incident in incidents:
            self._incidents[incident.id] = incident
            self._written.note(incident)
        bad += self._restore_memory(rows)
        for incident in self:
            for known in (incident.boot_id, incident.quiet_in):
                if known is not None and known not in (boot_id, *self._boots):
                    self._boots.append(known)
        self.note_boot(boot_id)
        self._set_deadline()
        return bad

    def take_over(self, rows: Mapping[str, str]) -> None:
        """Follow the open incidents of a boot that is over, as a pipeline of its own found them, and
        remember what failed where.

        One that is followed already gets what is new of it.
        """
        for found in load(rows)[0]:
            if found.is_open:
                self._take_over(found)
        for key, text in rows.items():
            if key.startswith(SEEN):
                self.memory.add(key.removeprefix(SEEN), text)

    def _take_over(self, found: Incident) -> None:
        known = self._same_as(found)
        if known is None:
            self.add(found)
        elif not known.is_open or not known.take_earlier(found):
            return
        home = known or found
        ids = {member.id for member in home.members}
        for other in list(self):
            if other is not home and other.is_open and any(member.id in ids for member in other.members):
                self.merge(home, other)
        self.note(home, urgent=True)
        if home.boot_id not in found.boots:
            again = next(each for each in home.in_order if each.event.boot_id == home.boot_id)
            home.escalate(survived_reboot(again))
        elif home.boot_id != self._boots[-1]:
            self._wait_for_quiet(home, self._boots[-1])

    def _same_as(self, found: Incident) -> Incident | None:
        """The incident that is followed and is the same: by its id, by a member, or because the device
        went on failing before the end of the last boot had been read."""
        if found.id in self._incidents:
            return self._incidents[found.id]
        ids = {member.id for member in found.members}
        devices = {member.device for member in found.members if member.is_serious}
        for each in self:
            if each.drill != found.drill:
                continue
            if any(member.id in ids for member in each.members):
                return each
            if each.is_open and each.boot_id not in found.boots and devices & each.serious_on:
                return each
        return None

    def _restore_memory(self, rows: Mapping[str, str]) -> list[str]:
        """Remember what was saved of the devices; the keys of the rows that cannot be read."""
        bad = []
        for key, text in rows.items():
            if key.startswith((OPEN, MEMBER, UNREAD)):
                continue
            try:
                self.memory.load(key.removeprefix(SEEN), text)
            except (ValueError, TypeError, KeyError, AttributeError):
                bad.append(key)
        return bad


def _due_us(incident: Incident) -> int:
    return incident.published_us + REVISION_INTERVAL_US if incident.revision else 0
