"""A fault that is still open: the event it became, and what has been heard since.

Open faults are the pipeline's only state besides the device map. Each can be written down as one
JSON text and restored from it, so that a restart goes on counting where the last process stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple

from daemon.catalog import Meaning
from daemon.event import Event, Gpu, Kind, Mig, Process, Witness, from_dict

MAX_LINES = 32
"""Distinct log lines an event carries; further ones are counted in `lines_dropped`."""

MAX_PIDS = 1024
"""Distinct pids an overflow event tells apart."""


class Trust(StrEnum):
    """How far a fault can be believed. Faults of different trust never join: text that a user process
    smuggles into a kernel line must not change what the kernel itself said."""

    PROVED = "proved"
    """The kernel printed it, and nothing but it."""
    UNPROVED = "unproved"
    """Found behind other text, or heard by a probe that cannot tell who printed it."""
    DRILL = "drill"


class Slot(NamedTuple):
    """What the lines of one fault, and every repeat of it, have in common whatever their pid."""

    trust: Trust
    boot_id: str
    kind: Kind
    what: int | str | None
    """The code, or what stands in for it: a name, or the digits of a code beyond 32 bits."""
    device: str | None


class Sufferer(NamedTuple):
    """Who the fault happened to, within its slot. An unknown pid equals only an unknown pid."""

    mig: Mig | None
    pid: int | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about an event after it was published. None: nothing."""

    process: Process | None = None
    """Who its process is, and how it ended; only taken by an event that names the same pid. What is None here
    leaves what was found out before."""
    gpu: Gpu | None = None
    """Who its GPU is; only taken by an event about the same address."""
    telemetry: Mapping[str, Any] | None = None


@dataclass(slots=True, eq=False)
class OpenFault:
    """A fault inside its quiet gap. Mutable: only the coalescer touches it.

    `event` is the value as it was last published (revision 0: not yet); the other fields are what
    the next revision will say.
    """

    slot: Slot
    sufferer: Sufferer
    event: Event
    count: int
    last_us: int
    """Kernel time of the last record (arrival time where the source has none): the quiet gap's clock."""
    last_time_us: int
    """Wall clock of the last record, µs since the Unix epoch."""
    last_arrival_us: int
    """Arrival time of the last record, µs of CLOCK_MONOTONIC."""
    lines: list[str]
    lines_dropped: int = 0
    process: Process | None = None
    gpu: Gpu | None = None
    """Who the GPU is, once more is known of it than when the event was made; None until then."""
    telemetry: Mapping[str, Any] | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    complete: bool = True
    """False while more lines of its first occurrence may come."""
    held: bool = False
    """Not an event yet: it may turn out to be a repeat of one that is inside its gap."""
    openings: set[str] = field(default_factory=set)
    """Opening lines of the occurrence in progress; one of them again means that it happened again."""
    began_us: int = 0
    """Kernel time of the first line of the occurrence in progress."""
    changed: bool = False
    """Something was learned that no published revision says."""
    published_us: int = 0
    """Arrival time at which the last revision went out."""
    witnesses: tuple[Witness, ...] = ()
    """Probes that saw it, the first one first."""
    unproved: int = 0
    """Of its lines, those of which nobody has shown yet who printed them."""
    disproved: int = 0
    """Lines that `count` no longer counts, because a process wrote them."""
    absorbed_by: OpenFault | None = None
    """The event this occurrence was counted into; None while it stands for itself."""
    pids: set[int] = field(default_factory=set)
    """For an overflow event: the distinct pids folded into it."""

    @property
    def state_key(self) -> str:
        """Name of its row among the saved states. A held fault may share its id with the event it repeats."""
        return f"held {self.event.id}" if self.held else self.event.id

    def add_line(self, text: str) -> None:
        """Keep a log line if it is new and there is room, else count it."""
        if len(self.lines) < MAX_LINES and text not in self.lines:
            self.lines.append(text)
        else:
            self.lines_dropped += 1
        self.changed = True

    def correct_line(self, known_as: str, text: str) -> None:
        """A line is known in its true form now."""
        if known_as in self.lines and text not in self.lines:
            self.lines[self.lines.index(known_as)] = text
            self.changed = True
        elif text not in self.lines:
            self.add_line(text)

    def heard(self, *, at_us: int, wall_us: int, arrival_us: int) -> None:
        """Move the quiet gap on to a record just heard."""
        self.last_us = max(self.last_us, at_us)
        self.last_time_us = max(self.last_time_us, wall_us)
        self.last_arrival_us = max(self.last_arrival_us, arrival_us)
        self.changed = True

    def add_pid(self, pid: int | None) -> None:
        """Note who suffered a fault that was folded into this overflow."""
        if pid is not None and len(self.pids) < MAX_PIDS:
            self.pids.add(pid)

    def take_meaning(self, meaning: Meaning) -> None:
        """What the fault means, by a line that tells more than the ones before it."""
        self.event = replace(
            self.event,
            name=meaning.name,
            summary=meaning.summary,
            severity=meaning.severity,
            blame=meaning.blame,
            action=meaning.action,
            action_text=meaning.action_text,
        )

    def learn(self, facts: Facts) -> bool:
        """Take what was found out; True when it was new."""
        before = (self.process, self.gpu, self.telemetry)
        if facts.process is not None and self.process is not None and facts.process.pid == self.process.pid:
            self.process = _joined(self.process, facts.process)
        if facts.gpu is not None and self.event.gpu is not None and facts.gpu.pci == self.event.gpu.pci:
            self.gpu = replace(facts.gpu, mig=self.event.gpu.mig)
        self.telemetry = facts.telemetry or self.telemetry
        is_new = before != (self.process, self.gpu, self.telemetry)
        self.changed |= is_new
        return is_new

    def absorb(self, other: OpenFault) -> None:
        """Count a completed occurrence of the same fault as a repeat of this one."""
        other.absorbed_by = self
        self.count += other.count
        self.unproved += other.unproved
        self.disproved += other.disproved
        for text in other.lines:
            self.add_line(text)
        self.lines_dropped += other.lines_dropped
        self.heard(at_us=other.last_us, wall_us=other.last_time_us, arrival_us=other.last_arrival_us)

    def current(self) -> Event:
        """The event with everything heard so far, at the revision last published."""
        return self._at_revision(self.event.revision) if self.changed else self.event

    def _at_revision(self, revision: int) -> Event:
        return replace(
            self.event,
            revision=revision,
            count=self.count,
            last_time_us=self.last_time_us,
            process=self.process,
            gpu=self.gpu or self.event.gpu,
            telemetry=self.telemetry,
            detail=dict(self.detail),
            lines=tuple(self.lines),
            lines_dropped=self.lines_dropped,
            witnesses=self.witnesses,
        )

    def next_revision(self, now_us: int) -> Event:
        """Publish: everything heard so far becomes the next revision. `now_us` is arrival time."""
        self.event = self._at_revision(self.event.revision + 1)
        self.changed = False
        self.published_us = now_us
        return self.event

    def dump(self) -> str:
        """The state as one line of JSON."""
        state = json.dumps(
            {
                "slot": [*self.slot],
                "last_us": self.last_us,
                "last_arrival_us": self.last_arrival_us,
                "complete": self.complete,
                "held": self.held,
                "openings": sorted(self.openings),
                "began_us": self.began_us,
                "changed": self.changed,
                "published_us": self.published_us,
                "pids": sorted(self.pids),
                "unproved": self.unproved,
                "disproved": self.disproved,
            }
        )
        return f'{state[:-1]}, "event": {self.current().to_json()}}}'

    @classmethod
    def load(cls, text: str) -> OpenFault:
        """The fault of a dumped state. Raises KeyError, TypeError or ValueError on anything else."""
        data: Mapping[str, Any] = json.loads(text)
        event = from_dict(data["event"])
        trust, boot_id, kind, what, device = data["slot"]
        mig = event.gpu.mig if event.gpu is not None else None
        pid = event.process.pid if event.process is not None else None
        return cls(
            slot=Slot(Trust(trust), boot_id, Kind(kind), what, device),
            sufferer=Sufferer(mig, pid),
            event=event,
            count=event.count,
            last_us=data["last_us"],
            last_time_us=event.last_time_us,
            last_arrival_us=data["last_arrival_us"],
            lines=list(event.lines),
            lines_dropped=event.lines_dropped,
            process=event.process,
            telemetry=event.telemetry,
            detail=dict(event.detail),
            witnesses=event.witnesses,
            complete=data["complete"],
            held=data["held"],
            openings=set(data["openings"]),
            began_us=data["began_us"],
            changed=data["changed"],
            published_us=data["published_us"],
            pids=set(data["pids"]),
            unproved=data.get("unproved", 0),  # 0.1.0 saved neither
            disproved=data.get("disproved", 0),
        )


def _joined(known: Process, found: Process) -> Process:
    """What is known of a process, with what else was found out; its name is as the driver printed it."""
    news = {each.name: value for each in fields(found) if (value := getattr(found, each.name)) is not None}
    return replace(known, **{**news, "name": known.name or found.name})
