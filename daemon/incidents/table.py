"""Takes the events that changed, and says which incidents they belong to.

Contract:

* Every event belongs to at most one incident at a time. An event that joins one says so in the same
  revision if it is just going out, in a further one if it went out before.
* A serious fault, the driver's wish for recovery, or a lasting condition is an incident at once; an
  application error only together with what it led to, or as part of a pattern
  (`daemon.incidents.rules`, `daemon.incidents.patterns`).
* The first revision of an incident, and one that opens or closes it, goes out at once; others at most
  once a second, the last pending one always.
* Drills make incidents of drills, apart from the real ones, and are never remembered.
* Bounded: incidents, members, devices, processes, what is remembered. No clock of its own.

Only changed events come here; what one costs grows with the incidents that are open.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter

from daemon.event import Event, Kind
from daemon.fault import OpenFault
from daemon.incidents import patterns
from daemon.incidents.incident import Incident, incident_id
from daemon.incidents.member import Member, can_belong, proved
from daemon.incidents.memory import Sighting, places
from daemon.incidents.nearby import Part, errors_like, loose, same_on_many_gpus
from daemon.incidents.outcome import Closing, Escalation
from daemon.incidents.placing import rank_in, went_on
from daemon.incidents.recovery import Ending, ending
from daemon.incidents.register import Register
from daemon.incidents.rules import opens_incident, tie
from daemon.incidents.saved import PREFIX
from daemon.incidents.signs import NVLINK, PROGRAM_ERROR
from daemon.open_faults import OpenFaults
from daemon.own_events import is_of_the_log

__all__ = ["PREFIX", "Incidents"]

COMPLETE_REVISION = 2
"""Revision by which an event is complete: a mild one that is in no incident by then stays alone."""


class Incidents:
    """See the module's docstring. Owned by the pipeline, not thread-safe."""

    def __init__(self, node: str) -> None:
        self._register = Register(node)
        self._faults: OpenFaults
        self._speaking: OpenFault | None = None
        self._known_gpus = 0

    def take(
        self,
        published: Iterable[tuple[OpenFault, Event]],
        faults: OpenFaults,
        *,
        now_us: int,
        known_gpus: int = 0,
    ) -> Sequence[Event]:
        """Take new revisions in the order in which they were published; gives them back, each with its
        incident, and then the incidents that changed.

        `faults` are the coalescer's: an open one that joins an incident is given a further revision.
        `now_us` is arrival time, `known_gpus` how many GPUs the node is known to have (0: unknown).
        """
        self._faults, self._known_gpus = faults, known_gpus
        self._register.now_us = now_us
        waiting = deque(published)
        news: list[Event] = []
        while waiting:
            self._speaking, event = fault, _ = waiting.popleft()
            is_newest = fault.event is event
            self._look_at(fault, event)
            self._speaking = None
            home = fault.event.incident
            if event.incident != home:
                event = fault.event if is_newest else replace(event, incident=home)
            news.append(event)
            waiting.extend(faults.take_published())
        return news + self._register.publish()

    def tick(self, now_us: int) -> Sequence[Event]:
        """Let time pass up to `now_us` (arrival time); gives back the incidents that it changed."""
        register = self._register
        if register.deadline_us is None or now_us < register.deadline_us:
            return ()
        register.now_us = now_us
        register.end_silent()
        return register.publish()

    def next_deadline(self) -> int | None:
        """Arrival time at which `tick` next has something to do; None when there is nothing."""
        return self._register.deadline_us

    # -- where an event belongs ----------------------------------------------------------------

    def _look_at(self, fault: OpenFault, event: Event) -> None:
        if event.kind is Kind.PROBE:
            if is_of_the_log(event):
                heard, others = event.detail["hears"] is True, event.detail.get("others_hear")
                self._register.note_hearing(hears=heard, others_hear=bool(others))
            return
        is_reload = event.kind is Kind.DRIVER_LOADED and proved(event) and not event.drill
        if not is_reload and not can_belong(event):
            return
        self._register.note_boot(event.boot_id)
        member = Member.of(fault, event)
        if fault.event.incident is not None:
            self._update(member, fault.event.incident)
        else:
            self._place(member, fault)
        if not is_reload:
            self._look_for_patterns(member, fault, event)

    def _update(self, member: Member, home: str) -> None:
        """A later revision of a member."""
        incident = self._register.get(home)
        known = incident.member(member.id) if incident is not None else None
        if incident is None or known is None:
            return
        if went_on(incident, known, member):
            incident.reopen()
            why = "it went on after it had seemed over"
            incident.escalate(Escalation(patterns.WENT_ON, why, member.event.last_time_us))
            self._register.note(incident, urgent=True)
        self._add(incident, member)

    def _place(self, member: Member, fault: OpenFault) -> None:
        """Find the incident of an event that has none, or open one."""
        if member.event.revision > COMPLETE_REVISION and not opens_incident(member):
            return
        ends = ending(member, list(self._register)) if member.event.revision == 1 else None
        if ends is not None:
            self._end(ends, member, fault)
            return
        home = self._home_of(member)
        if home is not None:
            self._join(home, member, fault)
            self._pull(home, member)
            if home.pattern == patterns.MANY_GPUS and home.primary.what == member.what:
                return  # it is one of the many already
        if not self._is_on_many_gpus(member, fault) and home is None:
            self._open(member, fault)

    def _home_of(self, member: Member) -> Incident | None:
        """The open incident to which it is tied best; of several the one heard of last. None also when an
        event of its own process that is in no incident yet tells more of it."""
        ranked = [
            (rank, -incident.heard_us, incident.id)
            for incident in self._register
            if incident.is_open
            and incident.drill == member.event.drill
            and (rank := rank_in(incident, member)) is not None
        ]
        if not ranked:
            return None
        rank, _, best = min(ranked)
        home = self._register.get(best)
        if home is None or home.is_application_error or member.pid is None or member.pid in home.processes:
            return home
        return None if self._has_partner_before(rank, member) else home

    def _has_partner_before(self, rank: int, member: Member) -> bool:
        """True when a rule above that of `rank` makes an incident of it and an event that is in none."""
        return any(
            (found := tie(other, member)) is not None and found.rule.opens and found.rank < rank
            for other, _ in loose(self._faults, member)
        )

    def _open(self, member: Member, fault: OpenFault) -> None:
        """Open an incident if the event is one by itself, or together with one that has none."""
        is_one = opens_incident(member)
        partners = [
            (other, partner)
            for other, partner in loose(self._faults, member)
            if (found := tie(other, member)) is not None and (is_one or found.rule.opens)
        ]
        if is_one or partners:
            self._open_with([*partners, (member, fault)])

    def _open_with(self, parts: Collection[Part]) -> Incident:
        """A new incident of these events, the earliest of which gives it its id."""
        first = min((member for member, _ in parts), key=attrgetter("first_us"))
        incident = Incident(incident_id(first.id), first.event.boot_id, first.event.drill)
        for member, fault in parts:
            self._join(incident, member, fault)
        self._register.add(incident)
        primary = incident.primary
        if primary.device is not None and not incident.drill:
            seen = self._register.memory.of(primary.device)
            back = patterns.came_back(seen, primary)
            if back is not None:
                incident.escalate(back)
        return incident

    def _pull(self, incident: Incident, member: Member) -> None:
        """Events heard earlier that the newest member ties to the incident join it."""
        for other, fault in loose(self._faults, member):
            if tie(member, other) is not None:
                self._join(incident, other, fault)

    def _join(self, incident: Incident, member: Member, fault: OpenFault) -> None:
        """The event belongs to the incident from now on."""
        if incident.boot_id != member.event.boot_id:
            incident.goes_on_in(member.event.boot_id)
            incident.escalate(patterns.survived_reboot(member))
        self._stamp(fault, incident.id)
        self._add(incident, member)
        if incident.pattern == patterns.MANY_GPUS:
            self._count_gpus(incident)

    def _stamp(self, fault: OpenFault, home: str) -> None:
        """All its further revisions name the incident; one goes out for that unless one is on its way."""
        fault.event = replace(fault.event, incident=home)
        if fault is not self._speaking and self._faults.holds(fault):
            fault.changed = True
            self._faults.revise(fault, self._register.now_us)

    def _add(self, incident: Incident, member: Member) -> None:
        incident.take(member.slim())
        if incident.is_open:
            incident.hear(self._register.now_us)
        if self._register.get(incident.id) is incident:
            self._register.note(incident)

    # -- several GPUs at once --------------------------------------------------------------------

    def _is_on_many_gpus(self, member: Member, fault: OpenFault) -> bool:
        """The same fault on several GPUs at once is one incident of the node; True when this made it one."""
        peers = same_on_many_gpus(self._faults, member, fault, self._known_gpus)
        return bool(peers) and self._unite(member, peers)

    def _unite(self, member: Member, faults: Sequence[OpenFault]) -> bool:
        """Make one incident of faults like this member's on several GPUs, earliest first; False when
        each of them follows from something else."""
        homes = [self._register.get(fault.event.incident) for fault in faults]
        about = [
            home for home in homes if home is not None and home.is_open and home.primary.what == member.what
        ]
        free = [(Member.of(fault, fault.event), fault) for fault in faults if fault.event.incident is None]
        if not about and len(free) < 2:
            return False
        incident = about[0] if about else self._open_with(free)
        is_news = incident.pattern != patterns.MANY_GPUS
        incident.pattern = patterns.MANY_GPUS
        for other in about:
            if other is not incident and other.is_open:
                self._merge(incident, other)
        for each, fault in free:
            if fault.event.incident is None:
                self._join(incident, each, fault)
        self._count_gpus(incident)
        self._register.note(incident, urgent=is_news)
        return True

    def _merge(self, incident: Incident, other: Incident) -> None:
        """The events of the other incident belong to this one."""
        for fault in list(self._faults):
            if fault.event.incident == other.id:
                self._stamp(fault, incident.id)
        self._register.merge(incident, other)

    def _count_gpus(self, incident: Incident) -> None:
        primary = incident.primary
        gpus = len({member.device for member in incident.members if member.what == primary.what})
        latest = max(member.event.time_us for member in incident.members)
        told = patterns.at_once(
            primary.label,
            gpus,
            self._known_gpus,
            latest,
            primary.event.blame,
            is_of_link=primary.sign in NVLINK,
        )
        incident.escalate(told)

    # -- patterns ----------------------------------------------------------------------------

    def _look_for_patterns(self, member: Member, fault: OpenFault, event: Event) -> None:
        """Remember where it failed, and see whether that makes a pattern with what failed before."""
        device, uuid = event.device, event.gpu.uuid if event.gpu is not None else None
        if device is None or event.drill:
            return
        memory = self._register.memory
        process = event.process.name if event.process is not None else None
        found = list(places(event))
        if member.pid is not None and (member.sign in PROGRAM_ERROR or member.xid == 43):
            found.append("program")
        for place in found:
            sighting = Sighting(place, event.time_us, event.id, member.pid, process)
            if memory.note(device, sighting, uuid=uuid):
                escalation = patterns.found_in(memory.of(device), sighting)
                if escalation is not None:
                    self._escalate(escalation, member, fault)

    def _escalate(self, escalation: Escalation, member: Member, fault: OpenFault) -> None:
        """Take it more seriously; what is in no incident yet becomes one."""
        if fault.event.incident is None:
            self._open_with([*errors_like(self._faults, member), (member, fault)])
        incident = self._register.get(fault.event.incident)
        if incident is not None and incident.is_open:
            if incident.pattern != patterns.MANY_GPUS:
                incident.pattern = escalation.rule
            incident.escalate(escalation)
            self._register.note(incident)

    # -- recovery ----------------------------------------------------------------------------

    def _end(self, ends: Ending, member: Member, fault: OpenFault) -> None:
        """Close incidents by an event. It joins the one that it closes; of several it is only named."""
        if len(ends.over) == 1:
            self._join(ends.over[0], member, fault)
            ends.over[0].recovered_by(member.id)
        for incident in ends.partly:
            incident.recovers_on(member.device or "", member.first_us)
            self._register.note(incident)
        event = member.event
        for incident in ends.over:
            closing = Closing(ends.how, ends.why, event.time_us, event.id, member.first_us)
            self._register.close(incident, closing)

    # -- saved state ---------------------------------------------------------------------------

    @property
    def has_changes(self) -> bool:
        """True when `take_changes` has something to give."""
        return self._register.has_changes

    def take_changes(self) -> tuple[dict[str, str], set[str]]:
        """Rows to write and keys to delete since the last call; every key begins with `PREFIX`."""
        return self._register.take_changes()

    def snapshot(self) -> dict[str, str]:
        """All rows."""
        return self._register.snapshot()

    def restore(self, rows: Mapping[str, str], *, boot_id: str, now_us: int) -> list[str]:
        """Take up an earlier process's rows; gives back the keys of those that cannot be read."""
        return self._register.restore(rows, boot_id=boot_id, now_us=now_us)

    def take_over(self, rows: Mapping[str, str], *, now_us: int) -> Sequence[Event]:
        """Follow what a pipeline of its own found in the log of the boot before, read after this one began;
        `rows` are its snapshot. Gives back the incidents that changed."""
        self._register.now_us = now_us
        self._register.take_over(rows)
        return self._register.publish()
