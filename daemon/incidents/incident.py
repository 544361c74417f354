"""One incident as it is kept: its members, what explains what, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from daemon.event import Action, Blame
from daemon.incidents.member import MILD_ACTIONS, RECOVERED, RECOVERY_ACTION, Member
from daemon.incidents.outcome import RECOVERIES, Closing, Escalation, State
from daemon.incidents.rules import LASTING, Tie, rank_of, tie

MAX_MEMBERS = 32
"""Members listed and looked at; of further ones the newest stay, the oldest are only counted."""

KEPT_FIRST = 16
"""The first members are never crowded out: the cause is among them."""

MAX_PROCESSES = 32
MAX_DEVICES = 64
MAX_ESCALATIONS = 8


class Because(NamedTuple):
    """Why a member is not the primary cause."""

    cause: str
    """Id of the member that explains it."""
    rule: str
    why: str


@dataclass(slots=True, eq=False)
class Incident:
    """Mutable: only the table touches it. Times in µs; `*_arrival_us` are CLOCK_MONOTONIC."""

    id: str
    boot_id: str
    """The boot in which it was last heard of."""
    drill: bool
    members: list[Member] = field(default_factory=list)
    """In the order in which they joined; never empty once the first has."""
    boots: list[str] = field(default_factory=list)
    """The boots that its members come from, in order."""
    primary: Member = field(init=False)
    """The member that no other explains; of several a serious one, and of these the one printed first."""
    worst: Member = field(init=False)
    """The most severe member; the primary cause if none is worse."""
    deciding: Member = field(init=False)
    """The member whose action counts: the driver's newest advice, else the most severe member."""
    because: dict[str, Because] = field(default_factory=dict)
    """By member id: what explains it. A member that is not here may be the primary cause."""
    members_dropped: int = 0
    devices: dict[str, bool] = field(default_factory=dict)
    """PCI addresses it reached, in order; True while the device needs recovery."""
    recovered_us: dict[str, int] = field(default_factory=dict)
    """Devices that have recovered while others have not: kernel time of the record that said so."""
    processes: dict[int, str | None] = field(default_factory=dict)
    """Processes it hit: pid → name."""
    has_more_processes: bool = False
    """There were processes beyond `MAX_PROCESSES`."""
    pattern: str | None = None
    """Name of the pattern that made it an incident or was seen in it; None for a single fault."""
    escalations: list[Escalation] = field(default_factory=list)
    closing: Closing | None = None
    recovery: str | None = None
    """Id of the member that told of the recovery."""
    last_time_us: int = 0
    """Wall clock of the last record of any member."""
    heard_us: int = 0
    """Arrival time of the last news."""
    quiet_until_us: int | None = None
    """After a reboot: arrival time until which its devices must stay quiet; None otherwise."""
    quiet_in: str | None = None
    """The boot in which they must; None when it waits for none."""
    revision: int = 0
    changed: bool = False
    published_us: int = 0
    """Arrival time of the last revision."""

    # -- state -------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Open, or how it ended."""
        if self.closing is None:
            return State.OPEN
        return State.RECOVERED if self.closing.how in RECOVERIES else State.CLOSED

    @property
    def is_open(self) -> bool:
        """True until something closes it."""
        return self.closing is None

    def place(self, member: Member) -> tuple[int, int, int]:
        """Sorts members as they were printed; kernel time starts anew with every boot."""
        return self.boots.index(member.event.boot_id), member.first_us, member.event.kmsg_seq or 0

    @property
    def in_order(self) -> list[Member]:
        """The members as they were printed."""
        return sorted(self.members, key=self.place)

    @property
    def action(self) -> Action:
        """First step to take."""
        told = next((each.action for each in reversed(self.escalations) if each.action is not None), None)
        if told is not None and self.deciding.event.action in MILD_ACTIONS:
            return told
        return self.deciding.event.action

    @property
    def is_application_error(self) -> bool:
        """All of it is the doing of programs, and no pattern points elsewhere."""
        return all(member.is_application_error or member.xid == 45 for member in self.members) and not any(
            each.blame not in (None, Blame.APPLICATION) for each in self.escalations
        )

    @property
    def is_lasting(self) -> bool:
        """It goes on until another code, a driver reload or a reboot ends it."""
        return self.primary.xid in LASTING

    @property
    def serious_on(self) -> frozenset[str | None]:
        """Devices of its serious members."""
        return frozenset(member.device for member in self.members if member.is_serious)

    @property
    def pids(self) -> frozenset[int]:
        """Pids of the members still listed."""
        return frozenset(member.pid for member in self.members if member.pid is not None)

    # -- what becomes of it --------------------------------------------------------------------

    def hear(self, now_us: int) -> None:
        """There was news of it at arrival time `now_us`: its time of silence starts again."""
        self.heard_us = now_us
        self.changed = True

    def wait_for_quiet(self, boot_id: str, until_us: int) -> None:
        """The node was rebooted: see whether the fault is still there."""
        self.quiet_in, self.quiet_until_us = boot_id, until_us
        self.heard_us = self.published_us = 0  # arrival times of the boot before mean nothing now
        self.changed = True

    def goes_on_in(self, boot_id: str) -> None:
        """The reboot was no cure."""
        self.boot_id = boot_id
        self.recovered_us.clear()
        self.quiet_in = self.quiet_until_us = None

    def close(self, closing: Closing, now_us: int) -> None:
        """It is over."""
        self.closing = closing
        self.devices = dict.fromkeys(self.devices, False)
        self.hear(now_us)

    def recovers_on(self, device: str, kernel_us: int) -> None:
        """One of its devices is well again, by a record of this kernel time."""
        self.devices[device] = False
        self.recovered_us[device] = kernel_us
        self.changed = True

    def reopen(self) -> None:
        """It was not over."""
        self.closing = None
        self.quiet_in = self.quiet_until_us = None
        self.changed = True

    # -- members -----------------------------------------------------------------------------

    def best_tie(self, newcomer: Member) -> Tie | None:
        """Of the ties between a member and the newcomer, the one that tells most; latest member first."""
        best: Tie | None = None
        for member in reversed(self.members):
            found = tie(member, newcomer)
            if found is not None and (best is None or found.rank < best.rank):
                best = found
        return best

    def member(self, member_id: str) -> Member | None:
        """The member of this id; None once it is no longer listed."""
        return next((member for member in self.members if member.id == member_id), None)

    def repeats(self, newcomer: Member) -> bool:
        """True when the newcomer is a fault of this incident over again, and not just one more clean-up.

        An application error of another process is another incident, unless a pattern holds them together.
        """
        same = any(
            member.is_same_as(newcomer)
            and member.gpu_instance == newcomer.gpu_instance
            and (member.is_serious or self._may_be_cause(member))
            for member in self.members
        )
        if not same or newcomer.xid == RECOVERY_ACTION:
            return False
        return not newcomer.is_application_error or not self.is_application_error or newcomer.pid in self.pids

    def take(self, newcomer: Member) -> None:
        """Add a member, or put the newest revision of one in its place."""
        place = next((at for at, member in enumerate(self.members) if member.id == newcomer.id), None)
        if newcomer.event.boot_id not in self.boots:
            self.boots.append(newcomer.event.boot_id)
        before = None if place is None else self.members[place]
        if place is None:
            self.members.append(newcomer)
        else:
            self.members[place] = newcomer
        is_known = before is not None and newcomer.reports_the_same_as(before)
        if not is_known:
            self._explain(newcomer)
        self._reach(newcomer)
        if before is not None and is_known and self.place(before) == self.place(newcomer):
            self._stands_for(before, newcomer)
        else:
            self.judge()
        if len(self.members) > MAX_MEMBERS:
            self._crowd_out()
        self.changed = True

    def _stands_for(self, before: Member, newcomer: Member) -> None:
        """A later revision that changes no judgement takes the place of the one before it."""
        self.primary = newcomer if self.primary is before else self.primary
        self.worst = newcomer if self.worst is before else self.worst
        self.deciding = newcomer if self.deciding is before else self.deciding

    def take_earlier(self, found: Incident) -> bool:
        """Take what another reading of an earlier boot's log found beyond what is known; False: nothing."""
        known = {member.id: member for member in self.members}
        news = [
            member
            for member in found.members
            if member.id not in known or member.event.count > known[member.id].event.count
        ]
        self.boots = list(dict.fromkeys((*found.boots, *self.boots)))
        for member in news:
            self.take(member)
        if news:
            self.pattern = found.pattern or self.pattern
        told = {each.rule for each in self.escalations}
        for each in found.escalations:
            if news and each.rule not in told:
                self.escalate(each)
        return bool(news)

    def recovered_by(self, member_id: str) -> None:
        """This member tells of the recovery, so it is no cause."""
        self.recovery = member_id
        self.judge()

    def judge(self) -> None:
        """Weigh the members anew."""
        unexplained = [member for member in self.members if self._may_be_cause(member)]
        serious = [member for member in unexplained if member.is_serious]
        self.primary = min(serious or unexplained or self.members, key=self.place)
        worst = max(self.members, key=lambda member: member.event.severity.rank)
        self.worst = worst if worst.event.severity.rank > self.primary.event.severity.rank else self.primary
        self.deciding = self._newest_advice() or self.worst

    def _newest_advice(self) -> Member | None:
        """What the driver advised last, unless something worse came after it."""
        advice = max(
            (member for member in self.members if member.asks_for_recovery), key=self.place, default=None
        )
        if advice is None or self.place(advice) >= self.place(self.worst):
            return advice
        return advice if advice.event.severity.rank >= self.worst.event.severity.rank else None

    def _may_be_cause(self, member: Member) -> bool:
        return member.id not in self.because and member.id != self.recovery

    def _explain(self, newcomer: Member) -> None:
        """Find out which member explains the newcomer, and which ones the newcomer explains."""
        self.because.pop(newcomer.id, None)
        if newcomer.recovery_to == RECOVERED:
            return
        for member in self.members:
            found = tie(member, newcomer) if member.id != newcomer.id else None
            if found is None or not found.rule.directed:
                continue
            cause, effect = (member, newcomer) if found.forwards else (newcomer, member)
            known = self.because.get(effect.id)
            tells_more = known is None or found.rank < rank_of(known.rule) or self.member(known.cause) is None
            if tells_more:
                self.because[effect.id] = Because(cause.id, found.rule.name, found.rule.why)

    def _reach(self, member: Member) -> None:
        """Widen the blast radius by what the member names."""
        device = member.device
        if device is not None and (device in self.devices or len(self.devices) < MAX_DEVICES):
            is_since = member.last_us > self.recovered_us.get(device, -1)
            needs = member.event.gpu is not None and (member.is_serious or member.asks_for_recovery)
            sick = needs and is_since and self.is_open
            self.devices[device] = self.devices.get(device, False) or sick
        if member.pid is not None and member.event.process is not None:
            if member.pid in self.processes or len(self.processes) < MAX_PROCESSES:
                self.processes[member.pid] = member.event.process.name
            else:
                self.has_more_processes = True
        self.last_time_us = max(self.last_time_us, member.event.last_time_us)

    def _crowd_out(self) -> None:
        kept = (self.primary, self.worst, self.deciding)
        at = next(at for at in range(KEPT_FIRST, len(self.members)) if self.members[at] not in kept)
        gone = self.members.pop(at)
        self.because.pop(gone.id, None)
        self.members_dropped += 1

    def escalate(self, escalation: Escalation) -> None:
        """Note a reason to take it more seriously; each reason once, in its newest words."""
        self.escalations = [each for each in self.escalations if each.rule != escalation.rule]
        self.escalations.append(escalation)
        del self.escalations[:-MAX_ESCALATIONS]
        self.changed = True


def incident_id(event_id: str) -> str:
    """Id of the incident that this event opens: the same after a re-read."""
    return f"inc_{event_id.removeprefix('ev_')}"
